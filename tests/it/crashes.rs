//! SIGKILL at every commit point of keygen and of signing: no wallet is lost, nothing is paid twice (a17).
//!
//! Two ways to die, and together they cover each point from both sides:
//! - before a request is looked at: the wallet's progress report kills the process;
//! - after a transaction is written and before anybody is told: `strace` kills the process as it enters the n-th
//!   sync of the database. The bytes are in the file by then, so the next start finds the transaction.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use countersign_client::ClientError;
use countersign_client::flows::Step;
use countersign_client::flows::create::create_wallet;
use countersign_client::flows::payment::{Resumed, resume};
use countersign_client::flows::send::{self, Sent};
use countersign_client::keystore::{Wallet, WalletState};

use crate::support::wallet::{
    address, intent, mined, passphrase, profile, send_and_mine, try_create,
};
use crate::support::{Appliance, Node, eventually, wallet_of};

/// Kills a process when it syncs its database for the n-th time from now on.
struct KillAtSync(Child);

impl KillAtSync {
    fn arm(pid: u32, sync: u32) -> Self {
        let mut strace = Command::new("strace")
            .args(["-f", "-o", "/dev/null", "-e", "trace=fsync,fdatasync"])
            .args([
                "-e",
                &format!("inject=fsync,fdatasync:signal=KILL:when={sync}"),
            ])
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace must be installed: run scripts/setup.sh");
        let mut said = BufReader::new(strace.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert!(
            line.contains("attached"),
            "strace cannot watch the appliance: {line}"
        );
        // It must be able to go on talking.
        std::thread::spawn(move || drop(std::io::copy(&mut said, &mut std::io::sink())));
        Self(strace)
    }
}

impl Drop for KillAtSync {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Checks what must hold after every crash: nothing checks, nothing is locked, no active profile without its share.
fn consistent(appliance: &Appliance) {
    let database = appliance.database();
    for query in [
        "SELECT session_id FROM sessions WHERE state LIKE '%checking'",
        "SELECT profile_id FROM profiles WHERE checking IS NOT NULL",
        "SELECT permit_id FROM steps WHERE outcome = 'open'",
        "SELECT p.profile_id FROM profiles p WHERE p.state = 'active' AND NOT EXISTS \
         (SELECT 1 FROM key_shares s WHERE s.profile_id = p.profile_id AND s.state = 'active')",
        "SELECT s.profile_id FROM key_shares s JOIN profiles p USING (profile_id) WHERE p.state = 'destroyed'",
        "SELECT session_id FROM transactions WHERE state NOT IN ('prepared', 'released') AND raw IS NULL",
    ] {
        assert_eq!(database.rows(query), Vec::<String>::new(), "{query}");
    }
}

/// Opens a wallet that an interrupted run left behind, if there is one.
fn reopen(appliance: &Appliance, name: &str) -> Option<Wallet> {
    let name = name.parse().unwrap();
    let keystore = appliance.keystore();
    keystore
        .contains(&name)
        .then(|| keystore.open(&name, &passphrase()).unwrap())
}

/// The creation is run again until it is done; the wallet must then sign.
async fn finish_creation(appliance: &Appliance, node: &Node, name: &str) -> Wallet {
    let before = reopen(appliance, name);
    let staged = before
        .as_ref()
        .and_then(|wallet| Some(wallet.staged()?.address()));
    drop(before);
    let mut wallet = try_create(appliance, name).await.unwrap();
    assert_eq!(wallet.state(), WalletState::Active);
    let active = format!(
        "SELECT profile_id FROM profiles WHERE state = 'active' AND lower(hex(address)) = '{}'",
        address(&wallet).trim_start_matches("0x").to_lowercase()
    );
    assert_eq!(appliance.database().value(&active), profile(&wallet));
    if staged.as_ref() == Some(&address(&wallet)) {
        println!("{name}: the same wallet");
    }
    node.fund(&address(&wallet)).await;
    send_and_mine(&mut wallet, appliance, 1).await;
    wallet
}

#[tokio::test(flavor = "multi_thread")]
async fn a17_keygen_crash_before_each_request() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    for (index, fatal) in [Step::Keygen(1), Step::Keygen(2), Step::Keygen(3)]
        .into_iter()
        .enumerate()
    {
        let name = format!("w{index}");
        let (keystore, client) = (appliance.keystore(), appliance.client.clone());
        let shared = Arc::new(Mutex::new(appliance));
        let killer = Arc::clone(&shared);
        let mut progress = move |step: Step| {
            if step == fatal {
                killer.lock().unwrap().kill();
            }
        };
        let parsed = name.parse().unwrap();
        let outcome =
            create_wallet(&keystore, &client, &parsed, &passphrase(), &mut progress).await;
        assert!(
            matches!(outcome, Err(ClientError::Call(_))),
            "the appliance is gone"
        );
        drop(progress);
        appliance = Arc::into_inner(shared).unwrap().into_inner().unwrap();
        appliance.serve().await;
        consistent(&appliance);
        finish_creation(&appliance, &node, &name).await;
    }
    let database = appliance.database();
    assert_eq!(
        database.number("SELECT COUNT(*) FROM profiles WHERE state = 'active'"),
        3
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a17_keygen_crash_after_each_commit() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let mut died_in = BTreeSet::new();
    let mut sync = 1;
    loop {
        let name = format!("w{sync}");
        let trap = KillAtSync::arm(appliance.pid(), sync);
        let outcome = try_create(&appliance, &name).await.map(drop);
        drop(trap);
        if appliance.is_running() {
            outcome.unwrap();
            break;
        }
        let last = "SELECT state FROM sessions WHERE kind = 'keygen' ORDER BY created_at DESC, rowid DESC LIMIT 1";
        died_in.extend(appliance.database().rows(last));
        appliance.kill();
        appliance.serve().await;
        consistent(&appliance);
        finish_creation(&appliance, &node, &name).await;
        sync += 1;
        assert!(sync < 40, "a key generation does not end");
    }
    let expected = [
        "r1_checking",
        "r1_done",
        "r2_checking",
        "r2_done",
        "r3_checking",
        "completed",
    ];
    for state in expected {
        assert!(
            died_in.contains(state),
            "not killed in {state}: {died_in:?}"
        );
    }
    // The share's row, its sealed bytes and its state were one transaction.
    assert_eq!(
        appliance
            .database()
            .number("SELECT COUNT(*) FROM key_shares WHERE state = 'pending'"),
        0
    );
}

/// Sends, or goes on with what an earlier run began.
async fn pay(wallet: &mut Wallet, appliance: &Appliance, wei: u64) -> Result<Sent, ClientError> {
    let client = &appliance.client;
    let proposal = match wallet.payment().filter(|payment| payment.is_open()) {
        None => send::propose(wallet, client, intent(wei)).await?,
        Some(_) => match resume(wallet, client, &mut |_| ()).await? {
            Resumed::Sent(sent) => return Ok(sent),
            Resumed::Proposal(proposal) => proposal,
        },
    };
    send::sign(wallet, client, &proposal, &mut |_| ()).await
}

/// The payment is gone on with; exactly one transaction of it is mined.
async fn finish_payment(wallet: &mut Wallet, appliance: &Appliance, node: &Node, nonce: u64) {
    let sent = pay(wallet, appliance, 1).await.unwrap();
    mined(wallet, appliance, &sent).await;
    assert_eq!(node.receipt(&sent.tx_hash).await["status"], "0x1");
    assert_eq!(node.nonce(&address(wallet)).await, nonce + 1, "paid once");
    let pool = node.call("txpool_status", serde_json::json!([])).await;
    assert_eq!(
        (&pool["pending"], &pool["queued"]),
        (&"0x0".into(), &"0x0".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a17_signing_crash_before_each_request() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let mut wallet = wallet_of(&appliance, &node, "w").await;
    for (nonce, fatal) in [Step::Signing(1, 1), Step::Signing(2, 1)]
        .into_iter()
        .enumerate()
    {
        let client = appliance.client.clone();
        let proposal = send::propose(&mut wallet, &client, intent(1))
            .await
            .unwrap();
        let shared = Arc::new(Mutex::new(appliance));
        let killer = Arc::clone(&shared);
        let mut progress = move |step: Step| {
            if step == fatal {
                killer.lock().unwrap().kill();
            }
        };
        let outcome = send::sign(&mut wallet, &client, &proposal, &mut progress).await;
        assert!(
            matches!(outcome, Err(ClientError::Call(_))),
            "the appliance is gone"
        );
        drop(progress);
        appliance = Arc::into_inner(shared).unwrap().into_inner().unwrap();
        appliance.serve().await;
        consistent(&appliance);
        finish_payment(
            &mut wallet,
            &appliance,
            &node,
            u64::try_from(nonce).unwrap(),
        )
        .await;
    }
    let suspects = appliance
        .database()
        .number("SELECT suspect_events FROM profiles");
    assert_eq!(suspects, 0, "no check was running");
}

#[tokio::test(flavor = "multi_thread")]
async fn a17_signing_crash_after_each_commit() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let mut died_in = BTreeSet::new();
    let mut wallet = wallet_of(&appliance, &node, "w0").await;
    let mut sync = 1;
    loop {
        let nonce = node.nonce(&address(&wallet)).await;
        let trap = KillAtSync::arm(appliance.pid(), sync);
        let outcome = pay(&mut wallet, &appliance, 1).await;
        if let Ok(sent) = &outcome {
            // The last commits come with the settlement.
            drop(eventually("the payment settles or the trap strikes", 10, async || {
                let settled = node.nonce(&address(&wallet)).await > nonce
                    && appliance.database().rows("SELECT state FROM transactions WHERE state IN ('broadcasting', 'submitted')").is_empty();
                (settled || !appliance.is_running()).then_some(sent)
            }).await);
        }
        drop(trap);
        if appliance.is_running() {
            break;
        }
        let last = "SELECT s.state || ' ' || t.state FROM sessions s JOIN transactions t USING (session_id) \
                    ORDER BY s.created_at DESC LIMIT 1";
        died_in.extend(appliance.database().rows(last));
        appliance.kill();
        appliance.serve().await;
        consistent(&appliance);
        finish_payment(&mut wallet, &appliance, &node, nonce).await;
        // A check that died counts against the key; three would ask for new shares, as they should.
        let standing = format!(
            "SELECT suspect_events FROM profiles WHERE profile_id = '{}'",
            profile(&wallet)
        );
        if appliance.database().number(&standing) == 2 {
            wallet = wallet_of(&appliance, &node, &format!("w{sync}")).await;
        }
        sync += 1;
        assert!(sync < 40, "a payment does not end");
    }
    for state in [
        "created prepared",
        "r1_checking prepared",
        "r1_done prepared",
        "r2_checking prepared",
        "signed broadcasting",
    ] {
        assert!(
            died_in.contains(state),
            "not killed in {state}: {died_in:?}"
        );
    }
    let quarantined = "SELECT COUNT(*) FROM profiles WHERE key_state <> 'stable'";
    assert_eq!(appliance.database().number(quarantined), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a03_three_checks_that_died_ask_for_new_shares() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let mut wallet = wallet_of(&appliance, &node, "w").await;
    let standing = "SELECT key_state || ' ' || suspect_events FROM profiles";
    let mut sync = 1;
    while appliance.database().value(standing) != "refresh_required 3" {
        let before = appliance.database().value(standing);
        let trap = KillAtSync::arm(appliance.pid(), sync);
        let outcome = pay(&mut wallet, &appliance, 1).await;
        drop(trap);
        // Sync by sync until the first check is on disk and has no verdict; that one is the right one from then on.
        if appliance.is_running() {
            outcome.unwrap();
        } else {
            appliance.kill();
            appliance.serve().await;
            consistent(&appliance);
        }
        if appliance.database().value(standing) == before {
            sync = sync % 3 + 1;
        }
    }
    let refused = pay(&mut wallet, &appliance, 1).await.err().unwrap();
    assert_eq!(refused.server_code(), Some("KEY_REFRESH_REQUIRED"));
    appliance.crash_and_restart().await;
    let refused = pay(&mut wallet, &appliance, 1).await.err().unwrap();
    assert_eq!(refused.server_code(), Some("KEY_REFRESH_REQUIRED"));
}
