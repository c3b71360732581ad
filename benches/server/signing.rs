//! Key generation and signing as users do them: the client library over mTLS.

use std::time::{Duration, Instant};

use alloy_primitives::{Bytes, U256};
use countersign_client::flows::create::create_wallet;
use countersign_client::flows::send;
use countersign_client::keystore::{KdfParams, Passphrase, Wallet};
use countersign_client::tx::{DEFAULT_FEE_CAP, Intent};
use countersign_client::{Appliance, Keystore};

use crate::machine::{median, percentile, process_cpu};
use crate::rig::{CHAIN, RECIPIENT, Rig, Server};
use crate::table::Table;
use crate::{COMPARED, WALLETS};

/// How long the server is watched while it does nothing.
const IDLE: Duration = Duration::from_secs(10);
/// After this, the last transactions are mined and the server has seen it.
const SETTLED: Duration = Duration::from_secs(4);

/// Makes wallets and says what one costs.
pub(crate) async fn make_wallets(
    rig: &Rig,
    server: &Server,
    table: &mut Table,
) -> [Wallet; WALLETS] {
    // The least passphrase cost that is allowed: hashing passphrases is not measured here.
    let keystore = Keystore::new(rig.path("wallets")).with_cost(KdfParams::FLOOR);
    let passphrase = Passphrase::new("correct horse battery staple".to_owned().into());
    let (mut wallets, mut walls) = (vec![], vec![]);
    let before = server.cpu();
    for number in 0..WALLETS {
        let name = format!("wallet-{number}").parse().unwrap();
        let start = Instant::now();
        let made = create_wallet(&keystore, &rig.client, &name, &passphrase, &mut |_| ()).await;
        walls.push(start.elapsed().as_secs_f64() * 1e3);
        let wallet = made.unwrap();
        rig.fund(&wallet.current().unwrap().1.address()).await;
        wallets.push(wallet);
    }
    let cpu = (server.cpu() - before) / WALLETS as f64;
    table.row("key generation, server CPU per wallet", cpu, "ms", "");
    table.row("key generation, wall, median", median(&mut walls), "ms", "");
    wallets.try_into().ok().unwrap()
}

/// What `count` signatures cost.
struct Cost {
    server: f64,
    client: f64,
    operations: f64,
    prepares: Vec<f64>,
    walls: Vec<f64>,
}

/// Signs `count` transactions, first one after another, then by all wallets at once.
pub(crate) async fn measure(
    rig: &Rig,
    server: &Server,
    wallets: &mut [Wallet; COMPARED],
    count: usize,
    table: &mut Table,
) {
    for wallet in wallets.iter_mut() {
        sign(&rig.client, wallet).await;
    }
    tokio::time::sleep(SETTLED).await;
    let idle = idle_share(server).await;
    table.row("idle CPU of the server", idle * 100.0, "%", "");

    let one = cost(rig, server, idle, async || {
        in_turn(rig, wallets, count).await
    });
    let mut one = one.await;
    let (p50, p99) = (median(&mut one.walls), percentile(&mut one.walls, 99));
    table.server("one wallet at a time", one.server);
    table.row("client CPU per signature", one.client, "ms", "");
    table.row("durable operations per signature", one.operations, "", "");
    table.row("prepare, wall, p50", median(&mut one.prepares), "ms", "");
    table.row("prepare and sign, wall, p50", p50, "ms", "");
    table.row("prepare and sign, wall, p99", p99, "ms", "");

    let all = cost(rig, server, idle, async || {
        at_once(rig, wallets, count).await
    });
    let mut all = all.await;
    table.server("five wallets at once", all.server);
    let p50 = median(&mut all.walls);
    table.row("five at once: prepare and sign, wall, p50", p50, "ms", "");
    let what = format!("memory after {} signatures", 2 * count);
    table.row(&what, server.rss_mib(), "MiB", "");
}

/// Signatures per second: of one wallet, whose steps wait for each other by design, and of ten at once.
pub(crate) fn parallel(
    rig: &Rig,
    server: &Server,
    wallets: &mut [Wallet; WALLETS],
    count: usize,
    table: &mut Table,
) {
    let one = rate(rig, server, &mut wallets[..1], count, table);
    let ten = rate(rig, server, wallets, count / 4, table);
    table.row("ten wallets / one", ten / one, "", "");
}

/// What these wallets get per second when each signs `each` times, one after another, in a thread of its own: a wallet
/// computes on its caller's thread and waits there for its disk.
fn rate(rig: &Rig, server: &Server, wallets: &mut [Wallet], each: usize, table: &mut Table) -> f64 {
    let busy = || server.cpu() + process_cpu(std::process::id());
    let (number, start, before) = (wallets.len(), Instant::now(), busy());
    std::thread::scope(|scope| {
        for wallet in wallets {
            let client = Appliance::new(rig.client.config().clone()).unwrap();
            scope.spawn(move || {
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = runtime.enable_all().build().unwrap();
                runtime.block_on(async {
                    for _ in 0..each {
                        sign(&client, wallet).await;
                    }
                });
            });
        }
    });
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    let rate = (number * each) as f64 * 1e3 / milliseconds;
    let cores = (busy() - before) / milliseconds;
    table.row(&format!("wallets at once: {number}"), rate, "/s", "");
    table.row("cores that both sides keep busy then", cores, "", "");
    rate
}

/// What `work`, which says how long each signature took, costs per signature.
async fn cost(
    rig: &Rig,
    server: &Server,
    idle: f64,
    work: impl AsyncFnOnce() -> Vec<(f64, f64)>,
) -> Cost {
    let records = || rig.number("SELECT COUNT(*) FROM audit_records");
    let (records_before, start) = (records(), Instant::now());
    let (server_before, client_before) = (server.cpu(), process_cpu(std::process::id()));
    let (prepares, walls): (Vec<_>, Vec<_>) = work().await.into_iter().unzip();
    let client = process_cpu(std::process::id()) - client_before;
    tokio::time::sleep(SETTLED).await;
    let elapsed = start.elapsed().as_secs_f64() * 1e3;
    let used = server.cpu() - server_before - idle * elapsed;
    let unsettled =
        rig.number("SELECT COUNT(*) FROM transactions WHERE state NOT IN ('mined', 'released')");
    assert_eq!(unsettled, 0, "transactions that are not mined");
    let per_signature = |total: f64| total / walls.len() as f64;
    Cost {
        server: per_signature(used),
        client: per_signature(client),
        operations: per_signature((records() - records_before) as f64),
        prepares,
        walls,
    }
}

async fn in_turn(rig: &Rig, wallets: &mut [Wallet], count: usize) -> Vec<(f64, f64)> {
    let (mut times, turns) = (vec![], wallets.len());
    for number in 0..count {
        times.push(sign(&rig.client, &mut wallets[number % turns]).await);
    }
    times
}

async fn at_once(rig: &Rig, wallets: &mut [Wallet; COMPARED], count: usize) -> Vec<(f64, f64)> {
    let [a, b, c, d, e] = wallets.each_mut().map(std::slice::from_mut);
    let each = |wallet| in_turn(rig, wallet, count / COMPARED);
    let (a, b, c, d, e) = tokio::join!(each(a), each(b), each(c), each(d), each(e));
    [a, b, c, d, e].concat()
}

/// Milliseconds until the transaction is prepared, and until it is signed and broadcast.
async fn sign(client: &Appliance, wallet: &mut Wallet) -> (f64, f64) {
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
    let proposal = send::propose(wallet, client, intent).await.unwrap();
    let prepared = milliseconds();
    let sent = send::sign(wallet, client, &proposal, &mut |_| ()).await;
    assert_eq!(sent.unwrap().status, "submitted");
    (prepared, milliseconds())
}

/// The share of one CPU that the server uses while nobody asks it anything.
async fn idle_share(server: &Server) -> f64 {
    let before = server.cpu();
    tokio::time::sleep(IDLE).await;
    (server.cpu() - before) / (IDLE.as_secs_f64() * 1e3)
}
