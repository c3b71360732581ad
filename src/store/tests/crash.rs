//! A process that is killed at any moment leaves whole operations behind.
//!
//! A child works on a database until it is killed. Each of its operations writes three rows in three tables, and its
//! record; afterwards every operation must be found in all of them or in none, and those that were answered in all.
#![expect(clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::super::engine::Connection;
use super::super::idempotency::{self, Kept, Scope};
use super::super::{
    AuditEvent, AuditRecord, CommitError, Key, Location, Operation, Store, Tx, decisions, profiles,
};
use super::AddProfile;
use super::database::Database;
use crate::audit::{Verified, catch_up, verify};
use crate::domain::{DecisionId, IdempotencyKey, OperationId, ProfileId, TenantId};
use crate::store::decisions::DecisionRow;
use crate::store::profiles::KeyRow;

const KILLS: usize = 12;
const WORKERS: usize = 12;
const PROFILES: usize = 3;
/// Tells the child its database.
const VARIABLE: &str = "STORE_CRASH_TEST_DATABASE";

/// Counts in the profile, and leaves its id in two more tables.
struct Everywhere(ProfileId);

impl Operation for Everywhere {
    type Output = OperationId;
    type Refusal = ();

    fn key(&self) -> Key {
        Key::profile(self.0)
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<(OperationId, AuditRecord), CommitError<()>> {
        let id = tx.operation_id();
        let row = profiles::find(tx, self.0).await?.unwrap();
        let before = row.key();
        let after = KeyRow {
            suspect_events: before.suspect_events + 1,
            ..before
        };
        assert!(profiles::set_key(tx, self.0, &before, &after).await?);
        let decision = DecisionRow {
            decision_id: DecisionId::parse(&id.to_string()).unwrap(),
            profile_id: self.0,
            action: "crash",
            allowed: true,
            rules: String::new(),
            bundle_hash: [0; 32],
            bundle_version: String::new(),
            inputs_hash: [0; 32],
            reason: "",
            inputs: String::new(),
            expires_at: tx.now(),
            second_factor: false,
        };
        decisions::insert(tx, &decision).await?;
        let scope = Scope {
            tenant: &TenantId::parse("default").unwrap(),
            holder: "c".repeat(43),
            route: "crash",
            key: &IdempotencyKey::parse(&id.to_string()).unwrap(),
        };
        idempotency::insert(tx, &scope, &[0; 32], &id.to_string(), Kept::ForEver).await?;
        let record = AuditRecord::done(AuditEvent::StepConcluded).profile(self.0);
        Ok((id, record))
    }
}

async fn texts(connection: &mut Connection, sql: &'static str) -> Vec<String> {
    let rows = connection.query(sql, &[]).await.unwrap();
    rows.into_iter()
        .map(|row| row.of("rows").text("id").unwrap())
        .collect()
}

/// Works until it is killed, and prints the id of each operation that was answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the other tests of this file start it"]
async fn the_child_that_is_killed() {
    let Some(name) = std::env::var_os(VARIABLE) else {
        return;
    };
    let location = match name.to_str() {
        Some(path) if path.starts_with('/') => Location::Sqlite(PathBuf::from(path)),
        Some(name) => Location::Postgres(super::database::server(name)),
        None => panic!("no database"),
    };
    let mut connection = Connection::writer(&location).await.unwrap();
    let profiles = texts(
        &mut connection,
        "SELECT profile_id FROM profiles ORDER BY profile_id",
    )
    .await;
    let profiles: Vec<ProfileId> = profiles
        .iter()
        .map(|id| ProfileId::parse(id).unwrap())
        .collect();
    drop(connection);
    let store = Store::open(location).await.unwrap();
    for worker in 0..WORKERS {
        let (store, profile) = (store.clone(), profiles[worker % profiles.len()]);
        tokio::spawn(async move {
            loop {
                if let Ok(committed) = store.commit(Everywhere(profile)).await {
                    print_line(committed.into_inner());
                }
            }
        });
    }
    loop {
        catch_up(&store).await.unwrap();
    }
}

#[expect(clippy::print_stdout, reason = "what the parent reads")]
fn print_line(id: OperationId) {
    println!("done {id}");
}

/// Starts a child, kills it soon after so many answers; the operations it was answered.
fn work_and_die(database: &str, answers: usize) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::crash::the_child_that_is_killed"])
        .args(["--ignored", "--nocapture"])
        .env(VARIABLE, database)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let answered = |line: std::io::Result<String>| {
        let line = line.unwrap();
        line.split("done ").nth(1).map(str::to_owned)
    };
    let mut lines = lines.filter_map(answered);
    let mut done: Vec<String> = lines.by_ref().take(answers).collect();
    assert_eq!(done.len(), answers, "the child ended before it was killed");
    // Answers come right after a COMMIT; this is for the moments between two.
    std::thread::sleep(Duration::from_micros(u64::from(child.id() % 64) * 100));
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());
    // The last line may be cut off.
    done.extend(lines.filter(|id| OperationId::parse(id).is_ok()));
    done
}

/// Every operation is everywhere or nowhere.
async fn check(database: &Database, answered: &[String]) {
    let mut connection = database.connection().await;
    let recorded = "SELECT operation_id FROM audit_records WHERE event = 'step_concluded'";
    let recorded: BTreeSet<String> = texts(&mut connection, recorded).await.into_iter().collect();
    for sql in [
        "SELECT decision_id FROM decisions WHERE action = 'crash'",
        "SELECT resource_id FROM idempotency WHERE route = 'crash'",
    ] {
        let found = texts(&mut connection, sql).await;
        let found: BTreeSet<String> = found.into_iter().collect();
        assert!(found == recorded, "half an operation: {sql}");
    }
    let sql = "SELECT profile_id, suspect_events, (SELECT COUNT(*) FROM audit_records AS r \
         WHERE r.profile_id = profiles.profile_id AND r.event = 'step_concluded') FROM profiles";
    for row in connection.query(sql, &[]).await.unwrap() {
        let mut row = row.of("profiles");
        let profile = row.text("profile_id").unwrap();
        let (counted, records) = (row.int("suspect_events"), row.int("records"));
        assert_eq!(
            counted.unwrap(),
            records.unwrap(),
            "half an operation on {profile}"
        );
    }
    let lost: Vec<&String> = answered
        .iter()
        .filter(|id| !recorded.contains(*id))
        .collect();
    assert!(lost.is_empty(), "answered and lost: {lost:?}");
}

async fn killed_at_any_moment(database: Database) {
    let store = database.store().await;
    for _ in 0..PROFILES {
        let profile = AddProfile {
            id: ProfileId::generate(),
            refuse: false,
        };
        assert!(store.commit(profile).await.is_ok());
    }
    drop(store);
    let (mut answered, mut store) = (Vec::new(), None);
    for kill in 0..KILLS {
        drop(store.take());
        database.unlocked().await;
        // Among the first operations, and among many.
        let (name, answers) = (database.name(), kill * kill / 2 + 1);
        let work = std::thread::spawn(move || work_and_die(&name, answers));
        while !work.is_finished() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        answered.extend(work.join().unwrap());
        database.left_alone().await;
        check(&database, &answered).await;
        let opened = Store::open(database.location()).await.unwrap();
        catch_up(&opened).await.unwrap();
        let verified = verify(&opened).await.unwrap();
        assert!(matches!(verified, Verified::Intact(_)), "{verified:?}");
        store = Some(opened);
    }
}

#[tokio::test]
async fn a_killed_process_leaves_no_half_operation_on_sqlite() {
    killed_at_any_moment(Database::sqlite()).await;
}

#[tokio::test]
async fn a_killed_process_leaves_no_half_operation_on_postgres() {
    killed_at_any_moment(Database::postgres().await).await;
}
