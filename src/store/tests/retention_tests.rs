//! What is deleted by its age, and what never is.

use super::database::Database;
use super::{Location, Store, add, commit};
use crate::audit::{Verified, catch_up, verify};
use crate::domain::InstanceId;
use crate::store::Reads;
use crate::store::engine::Connection;
use crate::store::retention::{Aged, Retention, oldest};
use crate::telemetry::metrics::AgedTable;

on_both_engines![
    old_rows_go_and_what_is_still_asked_for_stays,
    a_large_backlog_goes_in_small_batches,
    one_process_at_a_time_deletes_old_rows,
];

const HOUR: i64 = 3600;
const KEPT: Retention = Retention {
    idempotency: 24 * HOUR,
    sessions: 240 * HOUR,
    steps: 240 * HOUR,
    denials: 240 * HOUR,
};

/// Deletes until nothing more goes; the rows, in batches.
async fn prune(store: &Store, aged: Aged) -> Vec<u64> {
    let holder = InstanceId::parse("01931111-1111-7111-8111-111111111111").unwrap();
    let mut batches = Vec::new();
    loop {
        let deleted = store.prune(aged, KEPT, holder).await.unwrap();
        let rows = deleted.unwrap().iter().map(|(_, rows)| rows).sum();
        if rows == 0 {
            break;
        }
        batches.push(rows);
    }
    batches
}

async fn count(database: &Database, sql: &'static str) -> i64 {
    let mut connection = Connection::writer(&database.location()).await.unwrap();
    let rows = Reads::query(&mut connection, sql, &[]).await.unwrap();
    let row = rows.into_iter().next().unwrap();
    row.of("count").int("count").unwrap()
}

/// A profile, and sessions of it: `id` is a hexadecimal digit, the age is in hours.
struct Past<'a> {
    database: &'a Database,
    profile: String,
}

impl Past<'_> {
    async fn session(&self, id: u8, state: &str, transaction: Option<&str>, age: i64) {
        let (profile, zero) = match *self.database.location() {
            Location::Sqlite(_) => (&self.profile, "zeroblob"),
            Location::Postgres(_) => (&self.profile, "zero"),
        };
        let now = crate::clock::now().plus_seconds(-age * HOUR).as_micros();
        // An identifier of that time, as the service makes them.
        let (high, low) = ((now / 1000) >> 16, (now / 1000) & 0xffff);
        let uuid = |kind: u8| format!("{high:08x}-{low:04x}-7000-8000-0000000000{kind}{id:x}");
        let (session, decision, step) = (uuid(1), uuid(2), uuid(3));
        let mut sql = format!(
            "INSERT INTO decisions VALUES ('{decision}', '{profile}', 'sign', 'allowed', '', {zero}(32), {zero}(32), {now}, {now}, '', '', '', NULL); \
             INSERT INTO sessions VALUES ('{session}', 'sign', '{profile}', 'k', {zero}(32), '{state}', 1, 1, {zero}(32), '{decision}', 'i', NULL, {now}, {now}, {now}); \
             INSERT INTO steps VALUES ('{step}', '{session}', 1, 1, 'done', {now}, {now});"
        );
        if let Some(state) = transaction {
            let transaction = uuid(4);
            sql += &format!(
                "INSERT INTO transactions VALUES ('{transaction}', '{session}', '{profile}', 1, {zero}(20), {id}, {zero}(1), {zero}(32), '{state}', NULL, NULL, NULL, 0, {now}, {now}, {now})"
            );
        }
        self.database.tamper(&sql).await;
    }

    async fn denial(&self, id: u8, age: i64) {
        let zero = self.zero();
        let now = crate::clock::now().plus_seconds(-age * HOUR).as_micros();
        let profile = &self.profile;
        let sql = format!(
            "INSERT INTO decisions VALUES ('denial{id}', '{profile}', 'sign', 'denied', '', {zero}(32), {zero}(32), {now}, {now}, '', '', '', NULL)"
        );
        self.database.tamper(&sql).await;
    }

    async fn key(&self, id: u8, spend: u8, age: i64) {
        let zero = self.zero();
        let now = crate::clock::now().plus_seconds(-age * HOUR).as_micros();
        let sql = format!(
            "INSERT INTO idempotency VALUES ('t', 'k', 'r', '{id}', {zero}(32), 's', {spend}, {now})"
        );
        self.database.tamper(&sql).await;
    }

    /// A nonce that ended `age` hours ago.
    async fn nonce(&self, id: u8, age: i64) {
        let zero = self.zero();
        let until = crate::clock::now().plus_seconds(-age * HOUR).as_micros();
        let sql = format!("INSERT INTO request_nonces VALUES ('k{id}', {zero}(16), {until})");
        self.database.tamper(&sql).await;
    }

    /// A request that stopped being remembered `age` hours ago.
    async fn event(&self, id: u8, age: i64) {
        let until = crate::clock::now().plus_seconds(-age * HOUR).as_micros();
        let sql =
            format!("INSERT INTO rate_events VALUES ('signing', 's', {until}, 'o', {id}, {until})");
        self.database.tamper(&sql).await;
    }

    fn zero(&self) -> &'static str {
        match *self.database.location() {
            Location::Sqlite(_) => "zeroblob",
            Location::Postgres(_) => "zero",
        }
    }
}

async fn past<'a>(database: &'a Database, store: &Store) -> Past<'a> {
    let profile = add(false);
    commit(store, profile).await;
    if let Location::Postgres(_) = *database.location() {
        let sql = "CREATE FUNCTION zero(length INT) RETURNS BYTEA LANGUAGE sql IMMUTABLE \
                   AS $$ SELECT decode(repeat('00', length), 'hex') $$";
        database.tamper(sql).await;
    }
    let profile = profile.id.to_string();
    Past { database, profile }
}

async fn old_rows_go_and_what_is_still_asked_for_stays(database: Database) {
    let store = database.store().await;
    let past = past(&database, &store).await;
    let old = 241;
    past.session(1, "aborted", Some("released"), old).await;
    past.session(2, "expired", Some("released"), old).await;
    past.session(3, "aborted", Some("released"), 239).await;
    past.session(4, "signed", Some("mined"), old).await;
    past.session(5, "banned", Some("released"), old).await;
    past.session(6, "completed", None, old).await;
    // Never so by our hand; whatever made it, a signed transaction stays with its session.
    past.session(7, "aborted", Some("broadcasting"), old).await;
    past.session(8, "created", Some("prepared"), old).await;
    past.denial(1, old).await;
    past.denial(2, 239).await;
    past.key(1, 0, 25).await;
    past.key(2, 0, 23).await;
    // The key of a spend: its request never spends again.
    past.key(3, 1, 10_000).await;
    past.nonce(1, 1).await;
    past.nonce(2, -1).await;
    past.event(1, 1).await;
    past.event(2, -1).await;

    assert_eq!(prune(&store, Aged::Idempotency).await, [1]);
    assert_eq!(prune(&store, Aged::Nonces).await, [1]);
    assert_eq!(prune(&store, Aged::RateEvents).await, [1]);
    // Two sessions, each with its transaction, its decision and its step.
    assert_eq!(prune(&store, Aged::Sessions).await, [8]);
    assert_eq!(prune(&store, Aged::Denials).await, [1]);
    // Sessions 4 to 8; the third is too young.
    assert_eq!(prune(&store, Aged::Steps).await, [5]);

    assert_eq!(count(&database, "SELECT COUNT(*) FROM sessions").await, 6);
    assert_eq!(
        count(&database, "SELECT COUNT(*) FROM transactions").await,
        5
    );
    assert_eq!(count(&database, "SELECT COUNT(*) FROM decisions").await, 7);
    assert_eq!(count(&database, "SELECT COUNT(*) FROM steps").await, 1);
    assert_eq!(
        count(&database, "SELECT COUNT(*) FROM idempotency").await,
        2
    );
    let nonces = "SELECT COUNT(*) FROM request_nonces";
    assert_eq!(count(&database, nonces).await, 1);
    catch_up(&store).await.unwrap();
    assert_eq!(verify(&store).await.unwrap(), Verified::Intact(1));
    let mut reader = store.reader().await.unwrap();
    let oldest = oldest(&mut reader).await.unwrap();
    assert_eq!(oldest.map(|(table, _)| table)[1], AgedTable::Sessions);
    assert!(oldest.iter().all(|(_, at)| at.is_some()));
}

async fn a_large_backlog_goes_in_small_batches(database: Database) {
    let store = database.store().await;
    let past = past(&database, &store).await;
    let zero = past.zero();
    let sql = format!(
        "INSERT INTO idempotency (tenant, scope, route, key, body_hash, resource_id, spend, created_at) \
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200) \
         SELECT 't', 'k', 'r', CAST(i AS TEXT), {zero}(32), 's', 0, i FROM n"
    );
    database.tamper(&sql).await;
    assert_eq!(prune(&store, Aged::Idempotency).await, [500, 500, 200]);
    // A session whose key is still remembered stays with it.
    past.session(1, "expired", Some("released"), 300).await;
    past.key(1, 0, 301).await;
    assert_eq!(prune(&store, Aged::Sessions).await, [0; 0]);
    assert_eq!(prune(&store, Aged::Idempotency).await, [1]);
    assert_eq!(prune(&store, Aged::Sessions).await, [4]);
}

async fn one_process_at_a_time_deletes_old_rows(database: Database) {
    let store = database.store().await;
    let (one, two) = (InstanceId::generate(), InstanceId::generate());
    let turn = async |holder| {
        let deleted = store.prune(Aged::Steps, KEPT, holder).await.unwrap();
        deleted.is_some()
    };
    assert!(turn(one).await);
    assert!(!turn(two).await);
    assert!(turn(one).await);
    database.tamper("UPDATE leases SET until = 0").await;
    assert!(turn(two).await);
    assert!(!turn(one).await);
}
