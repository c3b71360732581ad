//! SIGKILL at every commit point of keygen and of signing: no wallet is lost, nothing is paid twice (a17).
//!
//! Two ways to die, and together they cover each point from both sides:
//! - before a request is looked at: the wallet's progress report kills the process;
//! - after a transaction is written and before anybody is told: a [`Trap`] kills the process at the commit that brings a
//!   session into a state, and the next start finds the transaction.

use std::sync::{Arc, Mutex};

use countersign_client::ClientError;
use countersign_client::flows::Step;
use countersign_client::flows::create::create_wallet;
use countersign_client::flows::payment::{Resumed, resume};
use countersign_client::flows::send::{self, Sent};
use countersign_client::keystore::{Wallet, WalletState};
use countersign_mpc::envelope::MessageType;
use serde_json::json;

use crate::support::trap::Trap;
use crate::support::wallet::{address, intent, mined, passphrase, profile, try_create};
use crate::support::{Appliance, Node, Signing, wallet_of};

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
        "SELECT s.profile_id FROM key_shares s JOIN profiles p USING (profile_id) \
         WHERE s.state = 'pending' AND p.state <> 'pending'",
        "SELECT session_id FROM transactions WHERE state NOT IN ('prepared', 'released') AND raw IS NULL",
    ] {
        assert_eq!(database.rows(query), Vec::<String>::new(), "{query}");
    }
}

/// The active profile that has this address.
fn active_profile(appliance: &Appliance, address: &str) -> Option<String> {
    let digits = address.trim_start_matches("0x").to_lowercase();
    let query = format!(
        "SELECT profile_id FROM profiles WHERE state = 'active' AND lower(hex(address)) = '{digits}'"
    );
    appliance.database().rows(&query).pop()
}

/// The newest session; ids ascend with time.
const NEWEST: &str = "SELECT COALESCE(MAX(session_id), '') FROM sessions";

/// Opens a wallet that an interrupted run left behind, if there is one.
fn reopen(appliance: &Appliance, name: &str) -> Option<Wallet> {
    let name = name.parse().unwrap();
    let keystore = appliance.keystore();
    keystore
        .contains(&name)
        .then(|| keystore.open(&name, &passphrase()).unwrap())
}

/// The creation is run again. What comes out signs. A key whose canary the wallet has not seen with its own eyes is
/// given up, whatever the appliance says of it: nobody was shown its address.
async fn finish_creation(appliance: &Appliance, node: &Node, name: &str) {
    let interrupted = reopen(appliance, name);
    let shown = interrupted
        .as_ref()
        .is_some_and(|wallet| wallet.current().is_ok());
    assert!(!shown, "a wallet shows its address when it is done");
    let unseen = interrupted.and_then(|wallet| Some(wallet.staged()?.address()));
    let wallet = try_create(appliance, name).await.unwrap();
    assert_eq!(wallet.state(), WalletState::Active);
    let address = address(&wallet);
    assert_eq!(active_profile(appliance, &address), Some(profile(&wallet)));
    assert_ne!(unseen, Some(address.clone()));
    node.fund(&address).await;
    let hash = Signing::prepare(appliance, &wallet, 1)
        .await
        .complete()
        .await;
    assert_eq!(node.receipt(&hash).await["status"], "0x1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a17_keygen_crash_before_each_request() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    for (index, fatal) in [Step::Keygen(2), Step::Keygen(3)].into_iter().enumerate() {
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
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a17_keygen_crash_after_each_commit() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    for state in [
        "r1_checking",
        "r1_done",
        "r2_checking",
        "r2_done",
        "r3_checking",
        "completed",
    ] {
        let before = appliance.database().value(NEWEST);
        let new =
            format!("SELECT state FROM sessions WHERE kind = 'keygen' AND session_id > '{before}'");
        let trap = Trap::arm(&appliance, &new, state);
        let died = appliance
            .while_it_lives(try_create(&appliance, state))
            .await;
        drop(trap);
        assert!(died.is_none(), "lived through {state}");
        appliance.kill();
        assert_eq!(appliance.database().rows(&new).first().unwrap(), state);
        appliance.serve().await;
        consistent(&appliance);
        finish_creation(&appliance, &node, state).await;
    }
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

/// The key under which the wallet asked for its last payment.
fn last_payment(wallet: &Wallet) -> Option<String> {
    Some(wallet.payment()?.idempotency_key.clone())
}

/// The payment that followed `earlier` is gone on with; exactly one transaction of it is mined.
async fn finish_payment(
    wallet: &mut Wallet,
    appliance: &Appliance,
    node: &Node,
    earlier: Option<&String>,
    nonce: u64,
) {
    let known = wallet
        .payment()
        .filter(|payment| Some(&payment.idempotency_key) != earlier)
        .and_then(|payment| payment.tx_hash.clone());
    let hash = match known {
        Some(hash) => hash,
        None => pay(wallet, appliance, 1).await.unwrap().tx_hash,
    };
    assert_eq!(node.receipt(&hash).await["status"], "0x1");
    assert_eq!(node.nonce(&address(wallet)).await, nonce + 1, "paid once");
    let pool = node.call("txpool_status", json!([])).await;
    assert_eq!(pool, json!({"pending": "0x0", "queued": "0x0"}));
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
            None,
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
    let mut wallet = wallet_of(&appliance, &node, "w0").await;
    for state in [
        "created prepared",
        "r1_checking prepared",
        "r1_done prepared",
        "r2_checking prepared",
        "signed broadcasting",
        "signed submitted",
    ] {
        let nonce = node.nonce(&address(&wallet)).await;
        let earlier = last_payment(&wallet);
        let before = appliance.database().value(NEWEST);
        let new = format!(
            "SELECT s.state || ' ' || t.state FROM sessions s JOIN transactions t USING (session_id) \
             WHERE s.session_id > '{before}'"
        );
        let trap = Trap::arm(&appliance, &new, state);
        let payment = async {
            let sent = pay(&mut wallet, &appliance, 1).await?;
            mined(&wallet, &appliance, &sent).await
        };
        let died = appliance.while_it_lives(payment).await;
        drop(trap);
        assert!(died.is_none(), "lived through {state}");
        appliance.kill();
        assert_eq!(appliance.database().rows(&new).first().unwrap(), state);
        appliance.serve().await;
        consistent(&appliance);
        finish_payment(&mut wallet, &appliance, &node, earlier.as_ref(), nonce).await;
    }
    // The two checks that died count against the key; a third would ask for new shares.
    let standing = "SELECT key_state || ' ' || suspect_events FROM profiles";
    assert_eq!(appliance.database().value(standing), "stable 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a03_three_checks_that_died_ask_for_new_shares() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let mut wallet = wallet_of(&appliance, &node, "w").await;
    let standing = "SELECT key_state || ' ' || suspect_events FROM profiles";
    for expected in ["stable 1", "stable 2", "refresh_required 3"] {
        {
            let signing = Signing::prepare(&appliance, &wallet, 1).await;
            let (_, message) = signing.first();
            let (sealed, _) = signing.sealed(MessageType::Sign1, &message).await;
            let checking = "SELECT COUNT(*) FROM sessions WHERE state = 'r1_checking'";
            let _trap = Trap::arm(&appliance, checking, "1");
            let died = appliance.while_it_lives(signing.try_post(&sealed)).await;
            assert!(died.is_none(), "lived through its check");
        }
        appliance.kill();
        appliance.serve().await;
        consistent(&appliance);
        assert_eq!(appliance.database().value(standing), expected);
    }
    let refused = pay(&mut wallet, &appliance, 1).await.err().unwrap();
    assert_eq!(refused.server_code(), Some("KEY_REFRESH_REQUIRED"));
    appliance.crash_and_restart().await;
    let refused = pay(&mut wallet, &appliance, 1).await.err().unwrap();
    assert_eq!(refused.server_code(), Some("KEY_REFRESH_REQUIRED"));
}
