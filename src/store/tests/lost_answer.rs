//! A COMMIT that happened and whose answer never came.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::super::engine::Connection;
use super::super::replay::Spending;
use super::super::{CommitError, Key, Location, Operation, PostgresOptions, Reads};
use super::database::{self, Database};
use super::replay_tests::Spend;
use super::{ProfileId, Store, Verified, add, catch_up, exists, verify};

/// Held by the test for as long as no COMMIT may end.
const GATE: i64 = 424_242;

/// A network between the store and its server, which can be cut.
struct Network {
    port: u16,
    listener: AbortHandle,
    connections: Arc<tokio::sync::Mutex<JoinSet<()>>>,
}

impl Network {
    async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(tokio::sync::Mutex::new(JoinSet::new()));
        let all = Arc::clone(&connections);
        let listener = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                all.lock().await.spawn(async move {
                    let mut server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                    drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
                });
            }
        });
        Self {
            port,
            listener: listener.abort_handle(),
            connections,
        }
    }

    /// Cuts what is connected now; new connections are let through.
    async fn cut(&self) {
        self.connections.lock().await.shutdown().await;
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// From now on every COMMIT of a record waits at the gate.
async fn close_gate(database: &Database) -> Connection {
    database
        .tamper(&format!(
            "CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN PERFORM pg_advisory_xact_lock({GATE}); RETURN NULL; END'; \
             CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON audit_records DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION wait_at_gate()"
        ))
        .await;
    let mut keeper = database.connection().await;
    keeper.begin(&[GATE]).await.unwrap();
    keeper
}

async fn somebody_waits(keeper: &mut Connection) {
    for _ in 0..200 {
        let waiting = Reads::query_one(
            keeper,
            "SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted \
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            &[],
        );
        let row = waiting.await.unwrap().unwrap();
        if row.of("pg_locks").int("count").unwrap() > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody reached COMMIT");
}

/// A store, and what became of an operation whose COMMIT happened without a word of it.
async fn committed_unheard<O: Operation>(
    database: &Database,
    operation: O,
) -> (Store, Result<(), CommitError<O::Refusal>>) {
    drop(database.store().await);
    let server = database::server(&database.name());
    let network = Network::to(server.port).await;
    let location = Location::Postgres(PostgresOptions {
        port: network.port,
        ..server
    });
    let store = Store::open(location).await.unwrap();
    let mut keeper = close_gate(database).await;

    let asking = tokio::spawn({
        let store = store.clone();
        async move { store.commit(operation).await.map(|_| ()) }
    });
    somebody_waits(&mut keeper).await;
    network.cut().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    // The server has not noticed: it commits, and has nobody to tell.
    keeper.script("ROLLBACK").await.unwrap();
    let answer = asking.await.unwrap();
    // Without a network of its own from here on.
    drop(store);
    (database.store().await, answer)
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_looked_up_and_not_repeated() {
    let database = Database::postgres().await;
    let operation = add(false);
    let (store, answer) = committed_unheard(&database, operation).await;
    assert!(answer.is_ok(), "{answer:?}");
    assert!(exists(&store, operation.id).await);
    catch_up(&store).await.unwrap();
    assert_eq!(verify(&store).await.unwrap(), Verified::Intact(1));
}

/// The nonce is spent then, by this very operation: it must not take itself for a replay. The key that every operation
/// for a request has makes the look-up wait for the end of its transaction.
#[tokio::test]
async fn s4_a_request_whose_commit_is_looked_up_is_not_refused_as_its_own_replay() {
    let database = Database::postgres().await;
    let spend = Spend {
        nonce: [9; 16],
        enrolled: false,
        refuse: false,
        key: Key::profile(ProfileId::generate()),
    };
    let (store, answer) = committed_unheard(&database, spend).await;
    assert!(answer.is_ok(), "{answer:?}");
    let again = store.commit(spend).await.map(|_| ());
    let replayed = Some(Spending::Replayed);
    assert!(matches!(again, Err(CommitError::Refused(reason)) if reason == replayed));
}
