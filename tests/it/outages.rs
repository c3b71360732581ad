//! What the appliance needs is away: the HSM, the node. Clear errors, nothing lost, and it goes on by itself.

use std::fs;
use std::time::{Duration, Instant};

use countersign_client::api;
use countersign_client::flows::payment::{Resumed, resume};
use countersign_client::flows::send;
use countersign_mpc::envelope::MessageType;

use crate::support::fault::Hang;
use crate::support::signing::{fresh_key, json_of, post, refusal, transaction};
use crate::support::wallet::{address, intent, mined, profile, try_create};
use crate::support::{Appliance, Node, Signing, eventually, wallet_of};

const STANDING: &str =
    "SELECT key_state || ' ' || suspect_events || ' ' || failed_signatures FROM profiles";

async fn ready(appliance: &Appliance, status: u16) {
    eventually("readiness follows", 20, async || {
        let reply = appliance.operator("/readyz").await.unwrap();
        (reply.status == status).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hsm_away_is_503_and_nothing_is_lost() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let mut wallet = wallet_of(&appliance, &node, "w").await;
    let tokens = appliance.token.tokens();
    let away = tokens.with_file_name("tokens-away");

    let proposal = send::propose(&mut wallet, &appliance.client, intent(7))
        .await
        .unwrap();
    fs::rename(&tokens, &away).unwrap();
    let error = send::sign(&mut wallet, &appliance.client, &proposal, &mut |_| ()).await;
    assert_eq!(
        error.unwrap_err().server_code(),
        Some("DUO_NODE_UNAVAILABLE")
    );
    {
        let signing = Signing::prepare(&appliance, &wallet, 1).await;
        let (reply, _) = signing.round_1().await;
        assert_eq!(refusal(&reply), (503, "DUO_NODE_UNAVAILABLE".to_owned()));
        let body = json_of(&reply);
        assert_eq!(
            (&body["retry"], body.get("details")),
            (&"same".into(), None)
        );
        assert_eq!(signing.state().await, "CREATED", "back where it was");
    }
    // No new wallet either, and no trace of half a one.
    let error = try_create(&appliance, "late").await.err().unwrap();
    assert_eq!(error.server_code(), Some("DUO_NODE_UNAVAILABLE"));
    ready(&appliance, 503).await;
    assert!(appliance.is_running());

    // SoftHSM does not see its files again before it is loaded again.
    fs::rename(&away, &tokens).unwrap();
    appliance.crash_and_restart().await;
    let resumed = resume(&mut wallet, &appliance.client, &mut |_| ())
        .await
        .unwrap();
    let Resumed::Proposal(again) = resumed else {
        panic!("nothing was signed yet");
    };
    assert_eq!(
        again.agreed, proposal.agreed,
        "the same transaction, the same nonce"
    );
    let sent = send::sign(&mut wallet, &appliance.client, &again, &mut |_| ())
        .await
        .unwrap();
    mined(&wallet, &appliance, &sent).await.unwrap();
    assert_eq!(node.nonce(&address(&wallet)).await, 1);
    let standing = format!("{STANDING} WHERE profile_id = '{}'", profile(&wallet));
    assert_eq!(appliance.database().value(&standing), "stable 0 0");
    try_create(&appliance, "late").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hsm_that_hangs_is_503_in_time_and_used_again_afterwards() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let signing = Signing::prepare(&appliance, &wallet, 1).await;
    let (_, message) = signing.first();
    let (first, _) = signing.sealed(MessageType::Sign1, &message).await;
    let hang = Hang::of(&appliance);
    let started = Instant::now();
    let reply = signing.post(&first).await;
    assert_eq!(refusal(&reply), (503, "DUO_NODE_UNAVAILABLE".to_owned()));
    assert!(
        started.elapsed() < Duration::from_secs(8),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(signing.state().await, "CREATED");
    drop(hang);
    let (answer, kept) = eventually("the token is used again", 20, async || {
        let (answer, kept) = signing.round_1().await;
        (answer.status == 202).then_some((answer, kept))
    })
    .await;

    // Between the rounds: what is kept in memory stays there, and the same message is good again.
    let message = signing.second(kept, &answer);
    let (second, _) = signing.sealed(MessageType::Sign2, &message).await;
    let hang = Hang::of(&appliance);
    let reply = signing.post(&second).await;
    assert_eq!(refusal(&reply), (503, "DUO_NODE_UNAVAILABLE".to_owned()));
    assert_eq!(signing.state().await, "R1_DONE");
    drop(hang);
    let reply = eventually("the same message again", 20, async || {
        let reply = signing.post(&second).await;
        (reply.status == 200).then_some(reply)
    })
    .await;
    let hash = json_of(&reply)["txHash"].as_str().unwrap().to_owned();
    assert_eq!(node.receipt(&hash).await["status"], "0x1");
    assert_eq!(appliance.database().value(STANDING), "stable 0 0");
    ready(&appliance, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a28_a_node_that_is_away_after_signing_gets_the_same_bytes_later() {
    let mut node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let path = api::transactions_path(&profile(&wallet));
    let hash = {
        let signing = Signing::prepare(&appliance, &wallet, 1).await;
        let (answer, kept) = signing.round_1().await;
        node.stop().await;

        let before = post(
            &appliance,
            &wallet,
            &path,
            &transaction(9),
            Some(&fresh_key()),
        )
        .await;
        assert_eq!(refusal(&before), (503, "CHAIN_UNAVAILABLE".to_owned()));
        assert_eq!(json_of(&before)["retry"], "same");

        let message = signing.second(kept, &answer);
        let (sealed, _) = signing.sealed(MessageType::Sign2, &message).await;
        let reply = signing.post(&sealed).await;
        assert_eq!(
            (reply.status, &json_of(&reply)["status"]),
            (200, &"broadcasting".into())
        );
        let again = signing.post(&sealed).await;
        assert_eq!(json_of(&again)["txHash"], json_of(&reply)["txHash"]);
        assert_eq!(signing.state().await, "SIGNED");
        json_of(&reply)["txHash"].as_str().unwrap().to_owned()
    };
    let signed_bytes = || {
        appliance
            .database()
            .value("SELECT lower(hex(raw)) FROM transactions")
    };
    let raw = signed_bytes();
    // Also over a crash: the bytes are in the database.
    appliance.crash_and_restart().await;
    node.start_again().await;

    assert_eq!(node.receipt(&hash).await["status"], "0x1");
    assert_eq!(node.raw(&hash).await, format!("0x{raw}"));
    assert_eq!(
        appliance
            .database()
            .value("SELECT lower(hex(raw)) FROM transactions"),
        raw
    );
    eventually("the session says so", 10, async || {
        let state = appliance.database().value("SELECT state FROM transactions");
        (state == "mined").then_some(())
    })
    .await;
    assert_eq!(node.nonce(&address(&wallet)).await, 1);
    Signing::prepare(&appliance, &wallet, 2)
        .await
        .complete()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a29_a_node_of_another_chain_is_not_believed() {
    let mainnet = Node::of_chain(1).await;
    let appliance = Appliance::start(&mainnet).await;
    let wallet = wallet_of(&appliance, &mainnet, "w").await;
    let path = api::transactions_path(&profile(&wallet));
    let reply = post(
        &appliance,
        &wallet,
        &path,
        &transaction(1),
        Some(&fresh_key()),
    )
    .await;
    assert_eq!(refusal(&reply), (503, "CHAIN_UNAVAILABLE".to_owned()));
    assert_eq!(
        appliance
            .database()
            .number("SELECT COUNT(*) FROM transactions"),
        0
    );
}
