//! Key generation and signing as users do them: the client library over mTLS.

use std::time::{Duration, Instant};

use alloy_primitives::{Bytes, U256};
use countersign_client::Keystore;
use countersign_client::flows::create::create_wallet;
use countersign_client::flows::send;
use countersign_client::keystore::{KdfParams, Passphrase, Wallet};
use countersign_client::tx::{DEFAULT_FEE_CAP, Intent};

use crate::machine::{median, percentile, process_cpu};
use crate::rig::{CHAIN, RECIPIENT, Rig, Server};
use crate::table::Table;

/// How long the server is watched while it does nothing.
const IDLE: Duration = Duration::from_secs(10);
/// After this, the last transactions are mined and the server has seen it.
const SETTLED: Duration = Duration::from_secs(4);

/// Makes wallets and says what one costs.
pub(crate) async fn make_wallets(
    rig: &Rig,
    server: &Server,
    count: usize,
    table: &mut Table,
) -> Vec<Wallet> {
    // The least passphrase cost that is allowed: hashing passphrases is not measured here.
    let keystore = Keystore::new(rig.path("wallets")).with_cost(KdfParams::FLOOR);
    let passphrase = Passphrase::new("correct horse battery staple".to_owned().into());
    let (mut wallets, mut walls) = (vec![], vec![]);
    let before = server.cpu();
    for number in 0..count {
        let name = format!("wallet-{number}").parse().unwrap();
        let start = Instant::now();
        let made = create_wallet(&keystore, &rig.client, &name, &passphrase, &mut |_| ()).await;
        walls.push(start.elapsed().as_secs_f64() * 1e3);
        let wallet = made.unwrap();
        rig.fund(&wallet.current().unwrap().1.address()).await;
        wallets.push(wallet);
    }
    let cpu = (server.cpu() - before) / count as f64;
    table.row("key generation, server CPU per wallet", cpu, "ms", "");
    table.row("key generation, wall, median", median(&mut walls), "ms", "");
    wallets
}

/// Signs `count` transactions, one after another, by all wallets in turn.
pub(crate) async fn measure(
    rig: &Rig,
    server: &Server,
    wallets: &mut [Wallet],
    count: usize,
    table: &mut Table,
) {
    for wallet in wallets.iter_mut() {
        sign(rig, wallet).await;
    }
    tokio::time::sleep(SETTLED).await;
    let idle = idle_share(server).await;
    table.row("idle CPU of the server", idle * 100.0, "%", "");

    let records = || rig.number("SELECT COUNT(*) FROM audit_records");
    let (records_before, start) = (records(), Instant::now());
    let (server_before, client_before) = (server.cpu(), process_cpu(std::process::id()));
    let (mut walls, mut prepares) = (vec![], vec![]);
    let wallet_count = wallets.len();
    for number in 0..count {
        let wallet = &mut wallets[number % wallet_count];
        let (prepare, whole) = sign(rig, wallet).await;
        prepares.push(prepare);
        walls.push(whole);
    }
    let client = process_cpu(std::process::id()) - client_before;
    tokio::time::sleep(SETTLED).await;
    let elapsed = start.elapsed().as_secs_f64() * 1e3;
    let used = server.cpu() - server_before - idle * elapsed;
    let per_signature = |total: f64| total / count as f64;
    let unsettled =
        rig.number("SELECT COUNT(*) FROM transactions WHERE state NOT IN ('mined', 'released')");
    assert_eq!(unsettled, 0, "transactions that are not mined");
    table.server(per_signature(used));
    table.row("client CPU per signature", per_signature(client), "ms", "");
    let operations = per_signature((records() - records_before) as f64);
    table.row("durable operations per signature", operations, "", "");
    table.row(
        &format!("memory after {count} signatures"),
        server.rss_mib(),
        "MiB",
        "",
    );
    table.row("prepare, wall, p50", median(&mut prepares), "ms", "");
    table.row("prepare and sign, wall, p50", median(&mut walls), "ms", "");
    table.row(
        "prepare and sign, wall, p99",
        percentile(&mut walls, 99),
        "ms",
        "",
    );
}

/// Milliseconds until the transaction is prepared, and until it is signed and broadcast.
async fn sign(rig: &Rig, wallet: &mut Wallet) -> (f64, f64) {
    let intent = Intent {
        to: RECIPIENT.parse().unwrap(),
        value: U256::from(1_000_000_u64),
        chain_id: CHAIN,
        data: Bytes::new(),
        gas: None,
        max_fee_per_gas: None,
        max_priority_fee_per_gas: None,
        fee_cap: DEFAULT_FEE_CAP,
    };
    let start = Instant::now();
    let milliseconds = || start.elapsed().as_secs_f64() * 1e3;
    let proposal = send::propose(wallet, &rig.client, intent).await.unwrap();
    let prepared = milliseconds();
    let sent = send::sign(wallet, &rig.client, &proposal, &mut |_| ()).await;
    assert_eq!(sent.unwrap().status, "submitted");
    (prepared, milliseconds())
}

/// The share of one CPU that the server uses while nobody asks it anything.
async fn idle_share(server: &Server) -> f64 {
    let before = server.cpu();
    tokio::time::sleep(IDLE).await;
    (server.cpu() - before) / (IDLE.as_secs_f64() * 1e3)
}
