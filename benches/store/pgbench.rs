//! The same statements by pgbench, which is as fast as a client of PostgreSQL gets without pipelining.

use crate::fixture::{INSTANCE, PROFILE, SESSION};
use crate::operation::OPERATIONS;
use crate::server::Server;

/// An admission and a conclusion, as `operation.rs` has them; each client has a wallet of its own.
fn script() -> String {
    let profile = format!("'{PROFILE}' || lpad(to_hex(:client_id::bigint + 1), 12, '0')");
    let session = format!("'{SESSION}' || lpad(to_hex(:client_id::bigint + 1), 12, '0')");
    let find_session = format!(
        "SELECT session_id, kind, profile_id, device_key_id, certificate_spki, state, attempt, generation, \
         server_nonce, decision_id, instance_id, request_hash, expires_at FROM sessions WHERE session_id = {session};\n"
    );
    let record = |event: &str| {
        format!(
            "INSERT INTO audit_records (operation_id, at, event, outcome, profile_id, session_id, detail) \
             VALUES (gen_random_uuid()::text, 1, '{event}', 'done', {profile}, {session}, 'attempt 1 step 1');\n"
        )
    };
    let advance = |from: &str, to: &str| {
        format!(
            "UPDATE sessions SET state = '{to}', attempt = 1, server_nonce = decode(repeat('00', 32), 'hex'), \
             instance_id = '{INSTANCE}', request_hash = NULL, expires_at = 9000000000000000, updated_at = 1, \
             certificate_spki = decode(repeat('00', 32), 'hex') \
             WHERE session_id = {session} AND state = '{from}' AND attempt = 1 \
             AND instance_id = '{INSTANCE}';\n"
        )
    };
    [
        "BEGIN;\n".to_owned(),
        find_session.clone(),
        format!(
            "SELECT profile_id, tenant, owner_id, name, state, key_state, generation, address, checking, \
             suspect_events, failed_signatures, created_at FROM profiles WHERE profile_id = {profile};\n\
             UPDATE profiles SET checking = {session} WHERE profile_id = {profile} AND checking IS NULL \
             AND EXISTS (SELECT 1 FROM instances WHERE instance_id = '{INSTANCE}' AND ended_at IS NULL);\n"
        ),
        advance("created", "r1_checking"),
        format!(
            "INSERT INTO steps (permit_id, session_id, attempt, step, outcome, started_at) \
             VALUES (gen_random_uuid()::text, {session}, 1, 1, 'open', 1) RETURNING permit_id \\gset\n"
        ),
        record("step_permitted"),
        "COMMIT;\nBEGIN;\n".to_owned(),
        "UPDATE steps SET outcome = 'done', ended_at = 1 WHERE permit_id = :permit_id AND outcome = 'open';\n".to_owned(),
        find_session,
        advance("r1_checking", "created"),
        format!("UPDATE profiles SET checking = NULL WHERE profile_id = {profile} AND checking = {session};\n"),
        record("step_concluded"),
        "COMMIT;\n".to_owned(),
    ]
    .concat()
}

/// Operations per second.
pub(crate) fn rate(server: &Server, database: &str, clients: u64, seconds: f64) -> f64 {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script()).unwrap();
    let threads = clients.min(2);
    // A run ends anywhere, also while it holds locks.
    let reset = "UPDATE profiles SET checking = NULL; UPDATE sessions SET state = 'created'";
    server.run(database, reset);
    server.run(database, "VACUUM ANALYZE");
    let output = server
        .program("pgbench", database)
        .args(["-n", "-M", "prepared", "-f"])
        .arg(file.path())
        .args(["-c", &clients.to_string(), "-j", &threads.to_string()])
        .args(["-T", &format!("{:.0}", seconds.ceil())])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complaint}");
    let rate = said.lines().find_map(|line| {
        let rate = line.strip_prefix("tps = ")?.split_whitespace().next()?;
        rate.parse::<f64>().ok()
    });
    rate.unwrap() * OPERATIONS as f64
}
