//! Wallets and audit records in bulk, by SQL. Wallet `n` is the same everywhere, also for pgbench.

use countersign::domain::{ProfileId, SessionId};

use crate::database::{Database, Engine};
use crate::operation::Wallet;

/// What a wallet's ids begin with; the rest is its number in hexadecimal.
pub(crate) const PROFILE: &str = "01900000-0000-7000-8000-";
pub(crate) const SESSION: &str = "01900000-0000-7001-8000-";
/// The process that all sessions belong to; it lives.
pub(crate) const INSTANCE: &str = "01900000-0000-7003-8000-000000000001";
const RECORD: &str = "01900000-0000-7002-8000-";

/// Wallet `n`, from 1.
pub(crate) fn wallet(n: u64) -> Wallet {
    Wallet {
        profile: ProfileId::parse(&format!("{PROFILE}{n:012x}")).unwrap(),
        session: SessionId::parse(&format!("{SESSION}{n:012x}")).unwrap(),
    }
}

/// What differs between the engines when rows are made from numbers.
struct Dialect {
    rows: String,
    hex: &'static str,
    hash: &'static str,
    tidy: &'static str,
}

impl Dialect {
    fn new(engine: &Engine, rows: u64) -> Self {
        match engine {
            Engine::Sqlite(_) => Self {
                rows: format!(
                    "(WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {rows}) SELECT n FROM c)"
                ),
                hex: "printf('%012x', n)",
                hash: "zeroblob(32)",
                tidy: "ANALYZE; PRAGMA wal_checkpoint(TRUNCATE)",
            },
            Engine::Postgres(_) => Self {
                rows: format!("(SELECT n FROM generate_series(1, {rows}) AS g(n)) AS r"),
                hex: "lpad(to_hex(n), 12, '0')",
                hash: "decode(repeat('00', 32), 'hex')",
                tidy: "CHECKPOINT",
            },
        }
    }
}

/// Adds wallets 1 to `count`, each with a session that waits for its first message.
pub(crate) fn wallets(database: &Database<'_>, count: u64) {
    let Dialect {
        rows,
        hex,
        hash,
        tidy,
    } = Dialect::new(database.engine, count);
    let device = "k".repeat(43);
    database.run(&format!(
        "INSERT INTO profiles (profile_id, tenant, owner_id, name, state, key_state, generation, created_at, updated_at) \
         SELECT '{PROFILE}' || {hex}, 'default', '{PROFILE}' || {hex}, 'fixture', 'active', 'stable', 1, 0, 0 FROM {rows};\n\
         INSERT INTO sessions (session_id, kind, profile_id, device_key_id, certificate_spki, state, attempt, generation, \
         server_nonce, decision_id, instance_id, created_at, updated_at, expires_at) \
         SELECT '{SESSION}' || {hex}, 'sign', '{PROFILE}' || {hex}, '{device}', {hash}, 'created', 1, 1, \
         {hash}, '{PROFILE}' || {hex}, '{INSTANCE}', 0, 0, 9000000000000000 FROM {rows};\n\
         INSERT INTO instances (instance_id, tag, boot_id, started_at, lease_until) \
         VALUES ('{INSTANCE}', '0123456789', 'hidden', 0, 9000000000000000);"
    ));
    settle(database, tidy);
}

/// Adds `count` audit records that are in the chain.
pub(crate) fn records(database: &Database<'_>, count: u64) {
    let Dialect {
        rows,
        hex,
        hash,
        tidy,
    } = Dialect::new(database.engine, count);
    database.run(&format!(
        "INSERT INTO audit_records (operation_id, at, event, outcome, profile_id, session_id, detail, chained) \
         SELECT '{RECORD}' || {hex}, n, 'step_permitted', 'done', '{PROFILE}000000000001', \
         '{SESSION}000000000001', 'attempt 1 step 1', 1 FROM {rows};\n\
         INSERT INTO audit_chain (position, operation_id, previous_hash, hash) \
         SELECT n, '{RECORD}' || {hex}, {hash}, {hash} FROM {rows};"
    ));
    settle(database, tidy);
}

fn settle(database: &Database<'_>, tidy: &str) {
    if matches!(database.engine, Engine::Postgres(_)) {
        database.run("VACUUM ANALYZE");
    }
    database.run(tidy);
}
