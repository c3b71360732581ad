//! The whole appliance against the bare protocol: CPU per signature, memory, start-up and key generation.
//!
//! `cargo bench --bench server [-- SIGNATURES]`. It starts a real countersignd with SoftHSM, SQLite and anvil on
//! loopback and talks to it over mTLS with the client library. Linux only: figures come from `/proc`.
//! Needs softhsm2, sqlite3 and anvil (`scripts/setup.sh softhsm peers`, or `COUNTERSIGN_ANVIL`).
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::panic,
    reason = "a program for people that prints its result and stops at the first error"
)]

mod bare;
mod dealt;
mod front_door;
mod handshakes;
mod machine;
mod rig;
mod sessions;
mod signing;
mod table;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rig::Rig;
use table::Table;

/// Wallets made over mTLS, which then sign.
const WALLETS: usize = 10;
/// Wallets whose signatures are compared with the bare protocol.
const COMPARED: usize = 5;
/// Signing sessions held open at once.
const OPEN_SESSIONS: usize = 1_000;
/// Starts per measurement of start-up.
const STARTS: usize = 7;

fn main() {
    match std::env::var_os("PIN_FILE") {
        Some(_) => measure(),
        None => with_token(),
    }
}

/// SoftHSM finds its configuration by an environment variable, so the benchmark starts itself again.
fn with_token() {
    let directory = tempfile::tempdir().unwrap();
    let setup = Path::new(env!("CARGO_MANIFEST_DIR")).join("softhsm/setup.sh");
    let made = Command::new(setup).arg(directory.path()).output().unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}");
    let status = Command::new("sh")
        .args(["-c", ". \"$1\"; shift; exec \"$@\"", "sh"])
        .arg(directory.path().join("env"))
        .args(std::env::args_os())
        .status();
    assert!(status.unwrap().success());
}

#[tokio::main(flavor = "current_thread")]
async fn measure() {
    let signatures = std::env::args().find_map(|argument| argument.parse().ok());
    let signatures = signatures.unwrap_or(200);
    let mut table = Table::new();
    let dealt = dealt::key();
    let mut rig = Rig::new();

    let server = rig.start().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    table.row("idle memory, no wallet", server.rss_mib(), "MiB", "<= 64");
    let mut wallets = signing::make_wallets(&rig, &server, &mut table).await;
    let before = bare::signatures(&dealt, signatures / 2);
    let compared = wallets.first_chunk_mut().unwrap();
    signing::measure(&rig, &server, compared, signatures, &mut table).await;
    let after = bare::signatures(&dealt, signatures - signatures / 2);
    table.ratio(&[before, after].concat());
    signing::parallel(&rig, &server, &mut wallets, signatures, &mut table);
    server.stop().await;

    let fixtures = dealt::Fixtures::new(&rig, dealt).await;
    front_door::measure(&rig, &fixtures, &mut table).await;
    handshakes::measure(&rig, &mut table).await;
    start_up(&mut rig, WALLETS, &mut table).await;
    sessions::measure(&mut rig, &fixtures, OPEN_SESSIONS, &mut table).await;
    fixtures.fill_up(&rig, 10_000);
    start_up(&mut rig, 10_000, &mut table).await;
    println!("{}", machine::describe());
}

/// From exec to the line `listening`, and to the first 200 of `/readyz`, which asks token, database and node.
async fn start_up(rig: &mut Rig, wallets: usize, table: &mut Table) {
    let found = rig.number("SELECT COUNT(*) FROM key_shares WHERE state = 'active'");
    assert_eq!(found, wallets);
    let (mut listening, mut ready, mut memory) = (vec![], vec![], 0.0);
    for _ in 0..STARTS {
        let server = rig.start().await;
        listening.push(server.listening);
        ready.push(server.ready);
        memory = server.rss_mib();
        server.stop().await;
    }
    let of = |what: &str| format!("{what}, {wallets} wallets");
    table.row(
        &of("start to listening"),
        machine::median(&mut listening),
        "ms",
        "",
    );
    table.row(&of("start to ready"), machine::median(&mut ready), "ms", "");
    table.row(&of("memory after start"), memory, "MiB", "<= 64");
}
