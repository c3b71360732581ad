//! Transactions and connections that are lost in the middle: every operation is answered once and by what happened.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::engine::Connection;
use super::super::{Location, PostgresOptions};
use super::database::{self, Database};
use super::{
    AuditEvent, AuditRecord, CommitError, Key, NewProfile, Operation, OwnerId, ProfileId, Store,
    StoreError, TenantId, Tx, Verified, add, catch_up, exists, profiles, verify,
};

/// Longest wait for an answer that says no.
const PROMPT: Duration = Duration::from_secs(6);

/// Adds a profile of this name, and then agrees or refuses.
struct AddNamed {
    id: ProfileId,
    name: &'static str,
}

impl AddNamed {
    fn new(name: &'static str) -> Self {
        Self {
            id: ProfileId::generate(),
            name,
        }
    }
}

impl Operation for AddNamed {
    type Output = ();
    type Refusal = ();

    fn key(&self) -> Key {
        Key::ENVIRONMENT
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<()>> {
        let profile = NewProfile {
            profile_id: self.id,
            tenant: &TenantId::parse("default").unwrap(),
            owner_id: OwnerId::generate(),
            name: self.name,
        };
        profiles::insert(tx, &profile).await?;
        if self.name == "refused" {
            return Err(CommitError::Refused(()));
        }
        let record = AuditRecord::done(AuditEvent::KeygenRequested).profile(self.id);
        Ok(((), record))
    }
}

/// From now on a profile named `poison` ends the whole transaction in which it is added, as a full disk or a
/// killed server does.
async fn poison(database: &Database) {
    database
        .tamper(match &*database.location() {
            Location::Sqlite(_) => {
                "CREATE TRIGGER poison BEFORE INSERT ON profiles WHEN NEW.name = 'poison' \
                 BEGIN SELECT RAISE(ROLLBACK, 'poison'); END"
            }
            Location::Postgres(_) => {
                "CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS \
                 $$BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END$$; \
                 CREATE TRIGGER poison BEFORE INSERT ON profiles FOR EACH ROW WHEN (NEW.name = 'poison') \
                 EXECUTE FUNCTION poison()"
            }
        })
        .await;
}

async fn a_lost_transaction_takes_nobody_with_it(database: Database) {
    let store = database.store().await;
    poison(&database).await;
    let names = ["good", "refused", "poison", "good"];
    let handed_over: Vec<_> = (0..10)
        .flat_map(|_| names)
        .map(|name| {
            let store = store.clone();
            tokio::spawn(async move {
                let operation = AddNamed::new(name);
                let id = operation.id;
                (name, id, store.commit(operation).await.map(|_| ()))
            })
        })
        .collect();
    for task in handed_over {
        let (name, id, answer) = task.await.unwrap();
        match name {
            "good" => assert!(answer.is_ok(), "{answer:?}"),
            "refused" => assert!(matches!(answer, Err(CommitError::Refused(())))),
            _ => assert!(matches!(
                answer,
                Err(CommitError::Store(StoreError::Unavailable(_)))
            )),
        }
        assert_eq!(exists(&store, id).await, name == "good", "{name}");
    }
    catch_up(&store).await.unwrap();
    assert_eq!(verify(&store).await.unwrap(), Verified::Intact(20));
    // Every place in the queue was given back.
    let places: Vec<_> = (0..1024).map(|_| store.reserve().unwrap()).collect();
    assert!(store.reserve().is_err());
    drop(places);
    store.ping().await.unwrap();
}

#[tokio::test]
async fn a_lost_transaction_takes_nobody_with_it_on_sqlite() {
    a_lost_transaction_takes_nobody_with_it(Database::sqlite()).await;
}

#[tokio::test]
async fn a_lost_transaction_takes_nobody_with_it_on_postgres() {
    a_lost_transaction_takes_nobody_with_it(Database::postgres().await).await;
}

/// The administrator of the server that has `database`.
struct Administrator {
    connection: Connection,
    database: String,
}

impl Administrator {
    async fn of(database: &Database) -> Self {
        let Location::Postgres(options) = &*database.location() else {
            panic!("on a server");
        };
        let server = Location::Postgres(database::server("postgres"));
        Self {
            connection: Connection::writer(&server).await.unwrap(),
            database: options.database.clone(),
        }
    }

    async fn run(&mut self, sql: &str) {
        let sql = sql.replace("DATABASE_NAME", &self.database);
        self.connection.script(&sql).await.unwrap();
    }

    async fn kill_connections(&mut self) {
        self.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'DATABASE_NAME'",
        )
        .await;
    }
}

#[tokio::test]
async fn killed_connections_lose_no_operation_and_repeat_none() {
    let database = Database::postgres().await;
    let store = database.store().await;
    let mut administrator = Administrator::of(&database).await;
    let writers: Vec<_> = (0..16)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut answers = Vec::new();
                for _ in 0..20 {
                    let operation = add(false);
                    answers.push((operation.id, store.commit(operation).await.map(|_| ())));
                }
                answers
            })
        })
        .collect();
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        administrator.kill_connections().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (mut done, mut lost) = (0, 0);
    for writer in writers {
        for (id, answer) in writer.await.unwrap() {
            let found = exists(&store, id).await;
            match answer {
                Ok(()) => {
                    assert!(found, "told, and not there");
                }
                Err(CommitError::Store(StoreError::OutcomeUnknown(_))) => {}
                Err(CommitError::Store(_)) => {
                    assert!(!found, "there, and denied");
                    lost += 1;
                }
                Err(CommitError::Refused(refused)) => panic!("{refused}"),
            }
            done += i64::from(found);
        }
    }
    assert!(lost < 160, "half of it should survive: {lost}");
    catch_up(&store).await.unwrap();
    assert_eq!(verify(&store).await.unwrap(), Verified::Intact(done));
}

async fn recovered(store: &Store) {
    let end = Instant::now() + Duration::from_secs(10);
    while let Err(error) = store.ping().await {
        assert!(Instant::now() < end, "{error:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(store.commit(add(false)).await.is_ok());
}

#[tokio::test]
async fn a_server_that_is_away_is_an_answer_in_time_and_used_again_afterwards() {
    let database = Database::postgres().await;
    let store = database.store().await;
    let mut administrator = Administrator::of(&database).await;
    administrator
        .run("ALTER DATABASE DATABASE_NAME ALLOW_CONNECTIONS false")
        .await;
    administrator.kill_connections().await;
    let asked = Instant::now();
    let waiting: Vec<_> = (0..100)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.commit(add(false)).await.map(|_| ()) })
        })
        .collect();
    for answer in waiting {
        let answer = answer.await.unwrap();
        assert!(matches!(
            answer,
            Err(CommitError::Store(StoreError::Unavailable(_)))
        ));
    }
    assert!(store.ping().await.is_err());
    assert!(asked.elapsed() < PROMPT, "{:?}", asked.elapsed());
    administrator
        .run("ALTER DATABASE DATABASE_NAME ALLOW_CONNECTIONS true")
        .await;
    recovered(&store).await;
    catch_up(&store).await.unwrap();
    assert_eq!(verify(&store).await.unwrap(), Verified::Intact(1));
}

#[tokio::test]
async fn a_server_without_a_free_connection_is_an_answer_in_time_and_used_again_afterwards() {
    let database = Database::postgres().await;
    drop(database.store().await);
    let mut administrator = Administrator::of(&database).await;
    let shared = database::server("postgres");
    let password = shared.password.as_ref().unwrap().expose();
    administrator
        .run(&format!(
            "CREATE ROLE DATABASE_NAME LOGIN PASSWORD '{password}' CONNECTION LIMIT 5; \
             GRANT ALL ON ALL TABLES IN SCHEMA public TO DATABASE_NAME"
        ))
        .await;
    let name = administrator.database.clone();
    let mut own = Administrator {
        connection: Connection::writer(&database.location()).await.unwrap(),
        database: name.clone(),
    };
    own.run("GRANT ALL ON ALL TABLES IN SCHEMA public TO DATABASE_NAME")
        .await;
    let location = Arc::new(Location::Postgres(PostgresOptions {
        user: name.clone(),
        connections: 2,
        ..database::server(&name)
    }));
    let store = Store::open(location).await.unwrap();
    // Two connections write, one renews leases and two are for freezes, so none is left to read.
    assert!(store.commit(add(false)).await.is_ok());
    let asked = Instant::now();
    assert!(store.ping().await.is_err());
    assert!(asked.elapsed() < PROMPT, "{:?}", asked.elapsed());
    administrator
        .run("ALTER ROLE DATABASE_NAME CONNECTION LIMIT 7")
        .await;
    recovered(&store).await;
}
