//! The audit chain: who extends it, what it costs, and what verification finds.
#![expect(
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a measurement, which prints what it found"
)]

use std::time::Instant;

use super::database::Database;
use super::{Location, Store, add, commit};
use crate::audit::verify::{From, verify as verify_from};
use crate::audit::{Break, Flaw, Verified, catch_up, link_hash, turn, verify};
use crate::domain::InstanceId;
use crate::store::Reads;
use crate::store::audit::inspect::links_after;
use crate::store::engine::{Connection, values};

on_both_engines![
    a36_verification_names_the_first_bad_position,
    a36_a_record_that_is_chained_twice_is_found,
    a36_verification_may_start_at_the_last_checkpoint,
    a36_a_record_whose_mark_was_reset_does_not_stop_the_chain,
    a36_checkpoints_are_made_by_number_and_by_age,
    a36_a_lost_chain_is_found_by_the_marks_of_its_records,
    one_process_at_a_time_extends_the_chain,
    #[ignore = "a measurement"]
    what_chaining_costs,
];

/// Eight links with checkpoints at 3 and 6.
async fn eight_links(database: &Database) -> Store {
    let store = database.store().await;
    // A time in the past makes the next checkpoint due, one in the future does not.
    for (count, at) in [(3, 0), (3, i64::MAX), (2, 0)] {
        for _ in 0..count {
            commit(&store, add(false)).await;
        }
        catch_up(&store).await.unwrap();
        let sql = format!("UPDATE audit_checkpoints SET at = {at}");
        database.tamper(&sql).await;
    }
    store
}

/// The record that the link at a position covers.
async fn record_at(store: &Store, position: i64) -> String {
    let mut reader = store.reader().await.unwrap();
    let links = links_after(&mut reader, position - 1).await.unwrap();
    links.into_iter().next().unwrap().0.operation_id
}

/// Somebody who may do anything to the database, also what its constraints forbid.
async fn violate(database: &Database, sql: &str) {
    let unbound = match *database.location() {
        Location::Sqlite(_) => "PRAGMA foreign_keys = OFF",
        Location::Postgres(_) => "SET session_replication_role = replica",
    };
    database.tamper(&format!("{unbound}; {sql}")).await;
}

type Tampered = (&'static str, i64, fn(String) -> Flaw);

/// What somebody does to the chain of [`eight_links`], and the first position that is wrong then.
const TAMPERED: &[Tampered] = &[
    (
        "UPDATE audit_chain SET hash = previous_hash WHERE position = 4",
        4,
        Flaw::Altered,
    ),
    (
        "UPDATE audit_chain SET previous_hash = hash WHERE position = 4",
        4,
        Flaw::Altered,
    ),
    ("DELETE FROM audit_chain WHERE position = 4", 4, |_| {
        Flaw::Missing
    }),
    ("DELETE FROM audit_chain WHERE position = 1", 1, |_| {
        Flaw::Missing
    }),
    (
        "DELETE FROM audit_records WHERE operation_id = (SELECT operation_id FROM audit_chain WHERE position = 4)",
        4,
        Flaw::RecordDeleted,
    ),
    (
        "UPDATE audit_chain SET position = 100 WHERE position = 4; \
         UPDATE audit_chain SET position = 4 WHERE position = 5; \
         UPDATE audit_chain SET position = 5 WHERE position = 100",
        4,
        Flaw::OutOfOrder,
    ),
    (
        "DELETE FROM audit_records WHERE operation_id = (SELECT operation_id FROM audit_chain WHERE position = 4); \
         DELETE FROM audit_chain WHERE position = 4; \
         UPDATE audit_chain SET position = 4 WHERE position = 5; \
         UPDATE audit_chain SET position = 5 WHERE position = 6; \
         UPDATE audit_chain SET position = 6 WHERE position = 7; \
         UPDATE audit_chain SET position = 7 WHERE position = 8",
        4,
        Flaw::OutOfOrder,
    ),
    (
        "UPDATE audit_records SET chained = 0 WHERE operation_id = \
         (SELECT operation_id FROM audit_chain WHERE position = 4)",
        4,
        Flaw::MarkReset,
    ),
    (
        "DELETE FROM audit_chain WHERE position >= 7",
        7,
        Flaw::LinkDeleted,
    ),
    (
        "DELETE FROM audit_records WHERE operation_id IN \
         (SELECT operation_id FROM audit_chain WHERE position >= 5); \
         DELETE FROM audit_chain WHERE position >= 5",
        5,
        |_| Flaw::Truncated(6),
    ),
    (
        "UPDATE audit_checkpoints SET hash = (SELECT hash FROM audit_chain WHERE position = 1) WHERE position = 3",
        3,
        |_| Flaw::Checkpoint,
    ),
    (
        "DELETE FROM audit_checkpoints WHERE position = 3",
        6,
        |_| Flaw::Checkpoint,
    ),
    (
        "UPDATE audit_checkpoints SET position = 4 WHERE position = 3",
        4,
        |_| Flaw::Checkpoint,
    ),
];

/// What somebody writes into the record of the fourth link.
const EDITS: &[&str] = &[
    "at = at + 1",
    "event = 'kem_rotated'",
    "outcome = 'denied'",
    "profile_id = NULL",
    "session_id = profile_id",
    "detail = 'x'",
];

async fn a36_verification_names_the_first_bad_position(database: Database) {
    for (sql, position, flaw) in TAMPERED {
        finds(&database, sql, *position, *flaw).await;
    }
    for edit in EDITS {
        let sql = format!(
            "UPDATE audit_records SET {edit} WHERE operation_id = \
             (SELECT operation_id FROM audit_chain WHERE position = 4)"
        );
        finds(&database, &sql, 4, Flaw::Altered).await;
    }
}

async fn finds(database: &Database, sql: &str, position: i64, flaw: fn(String) -> Flaw) {
    let database = database.another().await;
    let store = eight_links(&database).await;
    assert_eq!(verify(&store).await.unwrap(), Verified::Intact(8));
    let record = record_at(&store, position).await;
    violate(&database, sql).await;
    let found = verify(&store).await.unwrap();
    // Of links that changed places, the one that stands there now is named.
    let record = match &found {
        Verified::Broken(Break {
            flaw: Flaw::OutOfOrder(there),
            ..
        }) => there.clone(),
        _ => record,
    };
    let flaw = flaw(record);
    assert_eq!(found, Verified::Broken(Break { position, flaw }), "{sql}");
}

async fn a36_a_record_that_is_chained_twice_is_found(database: Database) {
    let store = eight_links(&database).await;
    let mut reader = store.reader().await.unwrap();
    let last = links_after(&mut reader, 7).await.unwrap().remove(0).0;
    let (link, record) = links_after(&mut reader, 3).await.unwrap().remove(0);
    drop(reader);
    let unbound = match *database.location() {
        Location::Sqlite(_) => {
            "ALTER TABLE audit_chain RENAME TO old; CREATE TABLE audit_chain AS SELECT * FROM old; \
             DROP TABLE audit_checkpoints; \
             CREATE TABLE audit_checkpoints (position INTEGER, hash BLOB, at INTEGER, links INTEGER)"
        }
        Location::Postgres(_) => {
            "ALTER TABLE audit_chain DROP CONSTRAINT audit_chain_operation_id_key"
        }
    };
    violate(&database, unbound).await;
    let mut connection = Connection::writer(&database.location()).await.unwrap();
    let hash = link_hash(&last.hash, &record.unwrap());
    let id = link.operation_id;
    let sql = "INSERT INTO audit_chain (position, operation_id, previous_hash, hash) VALUES (9, $1, $2, $3)";
    connection
        .execute(sql, values![id.as_str(), &last.hash, &hash])
        .await
        .unwrap();
    let expected = Break {
        position: 9,
        flaw: Flaw::Repeated(id),
    };
    assert_eq!(verify(&store).await.unwrap(), Verified::Broken(expected));
}

async fn a36_verification_may_start_at_the_last_checkpoint(database: Database) {
    let store = eight_links(&database).await;
    let late = async || {
        let mut reader = store.reader().await.unwrap();
        let mut pages = Vec::new();
        let found = verify_from(&mut reader, From::LastCheckpoint, |page| pages.push(page));
        (found.await.unwrap(), pages)
    };
    let edit = |position| {
        format!(
            "UPDATE audit_records SET detail = 'x' WHERE operation_id = \
             (SELECT operation_id FROM audit_chain WHERE position = {position})"
        )
    };
    let (found, pages) = late().await;
    assert_eq!(found, Verified::Intact(8));
    assert_eq!(pages.last().unwrap().records, 2, "only what is newer");
    // What lies before the checkpoint is believed.
    database.tamper(&edit(2)).await;
    assert_eq!(late().await.0, Verified::Intact(8));
    database.tamper(&edit(8)).await;
    let flaw = Flaw::Altered(record_at(&store, 8).await);
    let expected = Break { position: 8, flaw };
    assert_eq!(late().await.0, Verified::Broken(expected));
    database
        .tamper("UPDATE audit_chain SET hash = previous_hash WHERE position = 6")
        .await;
    let expected = Break {
        position: 6,
        flaw: Flaw::Checkpoint,
    };
    assert_eq!(late().await.0, Verified::Broken(expected));
}

async fn a36_a_record_whose_mark_was_reset_does_not_stop_the_chain(database: Database) {
    let store = eight_links(&database).await;
    violate(&database, "UPDATE audit_records SET chained = 0").await;
    commit(&store, add(false)).await;
    catch_up(&store).await.unwrap();
    let mut reader = store.reader().await.unwrap();
    assert_eq!(links_after(&mut reader, 8).await.unwrap().len(), 1);
    drop(reader);
    let flaw = Flaw::MarkReset(record_at(&store, 1).await);
    let expected = Break { position: 1, flaw };
    assert_eq!(verify(&store).await.unwrap(), Verified::Broken(expected));
}

async fn a36_checkpoints_are_made_by_number_and_by_age(database: Database) {
    let store = database.store().await;
    let positions = async || {
        let mut reader = store.reader().await.unwrap();
        let sql = "SELECT position FROM audit_checkpoints ORDER BY position";
        let rows = reader.query(sql, &[]).await.unwrap();
        let rows = rows.into_iter();
        rows.map(|row| row.of("audit_checkpoints").int("position").unwrap())
            .collect::<Vec<_>>()
    };
    leave_records(&database, 2600).await;
    catch_up(&store).await.unwrap();
    assert_eq!(positions().await, [256, 1280, 2304]);
    // Nothing new, and the last links have waited long enough.
    let holder = InstanceId::generate();
    turn(&store, holder).await.unwrap();
    assert_eq!(positions().await.len(), 3);
    database
        .tamper("UPDATE audit_checkpoints SET at = at - 60000000")
        .await;
    turn(&store, holder).await.unwrap();
    assert_eq!(positions().await, [256, 1280, 2304, 2600]);
    turn(&store, holder).await.unwrap();
    assert_eq!(positions().await.len(), 4);
    assert_eq!(verify(&store).await.unwrap(), Verified::Intact(2600));
}

async fn a36_a_lost_chain_is_found_by_the_marks_of_its_records(database: Database) {
    let store = eight_links(&database).await;
    violate(
        &database,
        "DELETE FROM audit_chain; DELETE FROM audit_checkpoints",
    )
    .await;
    let Verified::Broken(found) = verify(&store).await.unwrap() else {
        panic!("not found");
    };
    assert_eq!(found.position, 1);
    assert!(matches!(found.flaw, Flaw::LinkDeleted(_)));
}

async fn one_process_at_a_time_extends_the_chain(database: Database) {
    let store = database.store().await;
    // Two processes on a server; a file has one, and there it is only the lease that is tried.
    let other = match *database.location() {
        Location::Sqlite(_) => store.clone(),
        Location::Postgres(_) => Store::open(database.location()).await.unwrap(),
    };
    let (first_id, two) = (InstanceId::generate(), InstanceId::generate());
    let (one, two) = (
        async || turn(&store, first_id).await.unwrap(),
        async || turn(&other, two).await.unwrap(),
    );
    let more = async || commit(&store, add(false)).await;
    more().await;
    assert_eq!(one().await, 0);
    more().await;
    assert_eq!(two().await, 1, "one has it");
    assert_eq!(one().await, 0);
    // It falls silent.
    database
        .tamper("UPDATE leases SET until = until - 5000000")
        .await;
    more().await;
    assert_eq!(two().await, 0);
    more().await;
    assert_eq!(one().await, 1);
    // A clock that was far ahead.
    database
        .tamper("UPDATE leases SET until = until + 3600000000")
        .await;
    assert_eq!(one().await, 0);
    more().await;
    assert_eq!(two().await, 1);
    // At its end a process chains what it left, and lets go.
    catch_up(&store).await.unwrap();
    store.release_chain(first_id).await.unwrap();
    more().await;
    assert_eq!(two().await, 0);
    leave_records(&database, 5_000).await;
    let (first, second) = tokio::join!(catch_up(&store), catch_up(&other));
    first.and(second).unwrap();
    assert_eq!(verify(&other).await.unwrap(), Verified::Intact(5_006));
}

#[tokio::test]
async fn a36_a_record_that_commits_late_is_chained() {
    let database = Database::postgres().await;
    let store = database.store().await;
    let mut late = Connection::writer(&database.location()).await.unwrap();
    late.begin(&[]).await.unwrap();
    late.script(
        "INSERT INTO audit_records (operation_id, at, event, outcome, detail) \
         VALUES ('00000000-0000-7000-8000-000000000000', 1, 'kem_rotated', 'done', '')",
    )
    .await
    .unwrap();
    for _ in 0..3 {
        commit(&store, add(false)).await;
    }
    catch_up(&store).await.unwrap();
    assert_eq!(verify(&store).await.unwrap(), Verified::Intact(3));
    late.script("COMMIT").await.unwrap();
    catch_up(&store).await.unwrap();
    assert_eq!(verify(&store).await.unwrap(), Verified::Intact(4));
    assert!(record_at(&store, 4).await.starts_with("00000000"));
}

/// Writes records as if operations had left them.
async fn leave_records(database: &Database, count: i64) {
    database
        .tamper(&format!(
            "INSERT INTO audit_records (operation_id, at, event, outcome, profile_id, session_id, detail) \
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) \
             SELECT '0192' || CAST(1000 + i / 1000000 AS TEXT) || '-' || CAST(100000000 + i AS TEXT) || '-7000-8000-000000000000', \
             1700000000000000 + i, 'step_concluded', 'done', '01931111-1111-7111-8111-111111111111', \
             '01931111-1111-7111-8111-222222222222', 'attempt 1 step 2' FROM n"
        ))
        .await;
}

/// User and system time of this process, in seconds.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

async fn what_chaining_costs(database: Database) {
    const RECORDS: i64 = 50_000;
    let store = database.store().await;
    leave_records(&database, RECORDS).await;
    let (started, before) = (Instant::now(), cpu());
    catch_up(&store).await.unwrap();
    let each = |seconds: f64| seconds * 1e6 / RECORDS as f64;
    println!(
        "chaining: {:.1} µs of this process and {:.1} µs in all for each record",
        each(cpu() - before),
        each(started.elapsed().as_secs_f64())
    );
    let (started, before) = (Instant::now(), cpu());
    assert_eq!(verify(&store).await.unwrap(), Verified::Intact(RECORDS));
    println!(
        "verifying: {:.1} µs of this process and {:.1} µs in all for each record",
        each(cpu() - before),
        each(started.elapsed().as_secs_f64())
    );
}
