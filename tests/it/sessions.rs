//! Signing sessions under a wallet that does not follow the protocol.

use alloy_consensus::{SignableTransaction, TxEnvelope};
use alloy_eips::Decodable2718;
use countersign_client::api;
use countersign_mpc::envelope::MessageType;
use k256::ecdsa::{RecoveryId, Signature, VerifyingKey};
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::signing::{fresh_key, get, json_of, post, refusal, transaction};
use crate::support::wallet::{address, profile};
use crate::support::{Appliance, Node, Signing, eventually, wallet_of};

/// The suspect events and failed signatures of a profile, and the state of its key.
pub(crate) fn standing(appliance: &Appliance, profile: &str) -> String {
    appliance.database().value(&format!(
        "SELECT key_state || ' ' || suspect_events || ' ' || failed_signatures || ' ' || \
         CASE WHEN checking IS NULL THEN 1 ELSE 0 END FROM profiles WHERE profile_id = '{profile}'"
    ))
}

pub(crate) const UNTOUCHED: &str = "stable 0 0 1";

#[tokio::test(flavor = "multi_thread")]
async fn a08_digest() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "a08").await;
    let mut signing = Signing::prepare(&appliance, &wallet, 1).await;

    let mut binding = signing.binding();
    binding.digest = [0x42; 32];
    let (_, message) = signing.first_bound_to(binding);
    let (reply, _) = signing.post_first(&message).await;

    assert_eq!(refusal(&reply), (500, "MPC_SIGNING_FAILED".to_owned()));
    assert_eq!(json_of(&reply)["details"], "Round 1 failed");
    assert_eq!(standing(&appliance, &profile(&wallet)), UNTOUCHED);
    assert_eq!(
        appliance
            .database()
            .number("SELECT COUNT(*) FROM transactions WHERE raw IS NOT NULL"),
        0
    );

    assert_eq!(signing.restart().await.status, 200);
    let hash = signing.complete().await;
    assert_eq!(node.receipt(&hash).await["status"], "0x1");
    assert_eq!(node.nonce(&address(&wallet)).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a08_no_route_takes_a_digest() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "a08").await;
    let signing = Signing::prepare(&appliance, &wallet, 1).await;
    let path = api::transactions_path(&profile(&wallet));
    let session = &signing.prepared.session_id;
    for field in ["digest", "hash", "raw", "unsignedTx", "message", "signHash"] {
        let mut body = transaction(1);
        body[field] = json!(format!("0x{}", "42".repeat(32)));
        let reply = post(&appliance, &wallet, &path, &body, Some(&fresh_key())).await;
        assert_eq!(
            refusal(&reply),
            (400, "INVALID_REQUEST".to_owned()),
            "{field}"
        );
        let mut body = json!({"sessionId": session, "p1SignatureShare": "mw1.sg1.x.y"});
        body[field] = json!(format!("0x{}", "42".repeat(32)));
        let reply = post(&appliance, &wallet, api::SIGN, &body, None).await;
        assert_eq!(
            refusal(&reply),
            (400, "INVALID_REQUEST".to_owned()),
            "{field}"
        );
    }
    assert_eq!(signing.state().await, "CREATED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a15_p2_last() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "a15").await;
    let signing = Signing::prepare(&appliance, &wallet, 1).await;

    let (state, message) = signing.first();
    let (answer, opener) = signing.post_first(&message).await;
    let body = json_of(&answer);
    let mut fields: Vec<&String> = body.as_object().unwrap().keys().collect();
    fields.sort();
    assert_eq!(fields, ["mpcMessage", "sessionId", "status"]);
    // Exactly P2's first and second message with their header; its third, 66 bytes, is not here.
    let theirs = opener.open(body["mpcMessage"].as_str().unwrap()).unwrap();
    assert_eq!(theirs.len(), 82_176);

    let share = wallet.current_share().unwrap();
    let second = state.round_2(&share, &theirs).unwrap();
    let (sealed, opener) = signing.sealed(MessageType::Sign2, &second).await;
    let answer = signing.post(&sealed).await;
    let body = json_of(&answer);
    let mut fields: Vec<&String> = body.as_object().unwrap().keys().collect();
    fields.sort();
    assert_eq!(fields, ["sessionId", "status", "txHash"]);
    assert_eq!(body["txHash"].as_str().unwrap().len(), 2 + 64);
    drop(opener);

    let session = get(
        &appliance,
        &wallet,
        &api::session_path(&signing.prepared.session_id),
    )
    .await;
    let raw = appliance
        .database()
        .value("SELECT lower(hex(raw)) FROM transactions");
    let signature = &raw[raw.len() - 2 * 66..];
    for reply in [&answer, &session] {
        let text = String::from_utf8_lossy(&reply.body).to_lowercase();
        assert!(
            !text.contains(&signature[2..66]),
            "r is not ours to tell: {text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a07_replay_round() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "a07").await;
    let signing = Signing::prepare(&appliance, &wallet, 1).await;
    let steps = r#"countersign_mpc_steps_total{result="done",step="sign_"#;

    let (state, message) = signing.first();
    let (sealed, opener) = signing.sealed(MessageType::Sign1, &message).await;
    let answer = signing.post(&sealed).await;
    assert_eq!(answer.status, 202);
    assert_eq!(
        signing.post(&sealed).await.body,
        answer.body,
        "the identical answer"
    );
    assert_eq!(appliance.metric(&format!("{steps}1\"}}")).await, 1.0);

    let theirs = opener
        .open(json_of(&answer)["mpcMessage"].as_str().unwrap())
        .unwrap();
    let second = state
        .round_2(&wallet.current_share().unwrap(), &theirs)
        .unwrap();
    let (sealed, _) = signing.sealed(MessageType::Sign2, &second).await;
    let (one, two) = tokio::join!(signing.post(&sealed), signing.post(&sealed));
    let again = signing.post(&sealed).await;
    assert_eq!(again.status, 200);
    for reply in [&one, &two] {
        // The one that came second may have met the check of the first; nothing else may happen.
        let busy = reply.status == 409 && json_of(reply)["retry"] == "same";
        assert!(busy || json_of(reply)["txHash"] == json_of(&again)["txHash"]);
    }
    assert_eq!(appliance.metric(&format!("{steps}2\"}}")).await, 1.0);

    let (other, _) = signing.sealed(MessageType::Sign2, &second).await;
    let reply = signing.post(&other).await;
    assert_eq!(refusal(&reply), (409, "SESSION_STATE_CONFLICT".to_owned()));
    assert_eq!(refusal(&signing.post_first(&message).await.0).0, 409);
    assert_eq!(signing.state().await, "SIGNED");
    assert_eq!(node.nonce(&address(&wallet)).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a06_messages_of_other_sessions_rounds_and_wallets_change_nothing() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "mine").await;
    let other = wallet_of(&appliance, &node, "other").await;
    let mut signing = Signing::prepare(&appliance, &wallet, 1).await;
    let neighbour = Signing::prepare(&appliance, &wallet, 2).await;
    let foreign = Signing::prepare(&appliance, &other, 3).await;
    let before = standing(&appliance, &profile(&wallet));
    assert_eq!(before, UNTOUCHED);

    // Sealed to another session of the same wallet, and to a session of another wallet.
    let (_, message) = signing.first();
    for session in [&neighbour, &foreign] {
        let (sealed, _) = session.sealed(MessageType::Sign1, &message).await;
        let reply = signing.post(&sealed).await;
        assert_eq!(refusal(&reply), (400, "INVALID_KEY_SHARE".to_owned()));
    }
    // Cut, damaged, of an unknown key.
    let (sealed, _) = signing.sealed(MessageType::Sign1, &message).await;
    let mut damaged = sealed.clone().into_bytes();
    let middle = damaged.len() / 2;
    damaged[middle] = if damaged[middle] == b'A' { b'B' } else { b'A' };
    let kid = sealed.split('.').nth(2).unwrap();
    for text in [
        sealed[..sealed.len() - 40].to_owned(),
        String::from_utf8(damaged).unwrap(),
        sealed.replace(kid, "nobody"),
        "mw1.sg1".to_owned(),
        String::new(),
    ] {
        let reply = signing.post(&text).await;
        assert_eq!(
            refusal(&reply),
            (400, "INVALID_KEY_SHARE".to_owned()),
            "{text:.40}"
        );
    }
    // Another version, and a round that is not due.
    let version = sealed.replacen("mw1", "mw2", 1);
    let reply = signing.post(&version).await;
    assert_eq!(
        refusal(&reply),
        (400, "UNSUPPORTED_PROTOCOL_VERSION".to_owned())
    );
    let (early, _) = signing.sealed(MessageType::Sign2, &message).await;
    let reply = signing.post(&early).await;
    assert_eq!(refusal(&reply), (409, "SESSION_STATE_CONFLICT".to_owned()));
    let (keygen, _) = signing.sealed(MessageType::Keygen3, &message).await;
    assert_eq!(refusal(&signing.post(&keygen).await).0, 409);

    // A session of somebody else is no session.
    let body = json!({"sessionId": foreign.prepared.session_id, "p1SignatureShare": sealed});
    let reply = post(&appliance, &wallet, api::SIGN, &body, None).await;
    assert_eq!(refusal(&reply), (404, "NOT_FOUND".to_owned()));

    assert_eq!(standing(&appliance, &profile(&wallet)), before);
    for session in [&signing, &neighbour, &foreign] {
        assert_eq!(session.state().await, "CREATED");
    }
    // Attempt 1's message in attempt 2 does not open either, and the honest wallet is not disturbed.
    let (sealed_1, _) = signing.sealed(MessageType::Sign1, &message).await;
    let mut wrong = signing.binding();
    wrong.digest = [1; 32];
    let (_, bad) = signing.first_bound_to(wrong);
    assert_eq!(signing.post_first(&bad).await.0.status, 500);
    assert_eq!(signing.restart().await.status, 200);
    assert_eq!(
        refusal(&signing.post(&sealed_1).await),
        (400, "INVALID_KEY_SHARE".to_owned())
    );
    signing.complete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a01_a_wallet_that_cheats_in_the_oblivious_transfer_is_banned_for_good() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "cheat").await;
    let honest = wallet_of(&appliance, &node, "honest").await;
    let waiting = Signing::prepare(&appliance, &wallet, 2).await.prepared;
    {
        let signing = Signing::prepare(&appliance, &wallet, 1).await;
        let (_, mut message) = signing.first();
        // Somewhere in the matrix `u`, which is three quarters of the message.
        message[9_000] ^= 1;
        let (reply, _) = signing.post_first(&message).await;
        assert_eq!(refusal(&reply), (500, "MPC_SIGNING_FAILED".to_owned()));
        assert_eq!(json_of(&reply)["details"], "Round 1 failed");
        assert_eq!(signing.state().await, "BANNED");
    }
    let quarantined = async |appliance: &Appliance| {
        let path = api::transactions_path(&profile(&wallet));
        let prepare = post(
            appliance,
            &wallet,
            &path,
            &transaction(1),
            Some(&fresh_key()),
        )
        .await;
        let body = json!({"sessionId": waiting.session_id, "p1SignatureShare": "mw1.sg1.k.x"});
        let sign = post(appliance, &wallet, api::SIGN, &body, None).await;
        let body = json!({"sessionId": waiting.session_id, "restart": true});
        let restart = post(appliance, &wallet, api::SIGN, &body, None).await;
        for reply in [prepare, sign, restart] {
            assert_eq!(refusal(&reply), (403, "KEY_QUARANTINED".to_owned()));
        }
        let shown = get(appliance, &wallet, &api::profile_path(&profile(&wallet))).await;
        assert_eq!(json_of(&shown)["keyState"], "QUARANTINED");
    };
    quarantined(&appliance).await;
    appliance.crash_and_restart().await;
    quarantined(&appliance).await;
    let database = appliance.database();
    assert_eq!(
        database.number("SELECT COUNT(*) FROM transactions WHERE raw IS NOT NULL"),
        0
    );
    assert_eq!(
        database.number("SELECT COUNT(*) FROM audit_records WHERE event = 'counterparty_banned' AND outcome = 'denied'"),
        1
    );
    Signing::prepare(&appliance, &honest, 1)
        .await
        .complete()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a05_two_sessions() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "a05").await;
    let first = Signing::prepare(&appliance, &wallet, 1).await;
    let second = Signing::prepare(&appliance, &wallet, 2).await;

    let (answer, kept) = first.round_1().await;
    assert_eq!(answer.status, 202);
    let (busy, _) = second.round_1().await;
    assert_eq!(refusal(&busy), (409, "SESSION_STATE_CONFLICT".to_owned()));
    assert_eq!(json_of(&busy)["retry"], "same");
    assert_eq!(busy.retry_after, Some(std::time::Duration::from_secs(1)));
    assert_eq!(second.state().await, "CREATED");

    tokio::time::sleep(std::time::Duration::from_millis(5_200)).await;
    second.complete().await;
    assert_eq!(first.state().await, "ABORTED");
    let late = first.round_2(kept, &answer).await;
    assert_eq!(refusal(&late), (409, "SESSION_STATE_CONFLICT".to_owned()));
    assert_eq!(standing(&appliance, &profile(&wallet)), UNTOUCHED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a02_parallel_first_messages_of_one_key_are_checked_one_at_a_time() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "a02").await;
    let mut messages = Vec::new();
    for wei in 1..=8 {
        let signing = Signing::prepare(&appliance, &wallet, wei).await;
        let (_, mut message) = signing.first();
        message[9_000] ^= 1;
        let (sealed, _) = signing.sealed(MessageType::Sign1, &message).await;
        messages.push((signing, sealed));
    }
    let posts = messages
        .iter()
        .map(|(signing, sealed)| signing.post(sealed));
    let replies = join_all(posts).await;

    let caught = replies.iter().filter(|reply| reply.status == 500).count();
    assert_eq!(caught, 1, "one check, then the ban");
    for reply in replies.iter().filter(|reply| reply.status != 500) {
        assert!([403, 409].contains(&refusal(reply).0));
    }
    let checks = r#"countersign_mpc_steps_total{result="ban",step="sign_1"}"#;
    assert_eq!(appliance.metric(checks).await, 1.0);
    assert_eq!(
        appliance.metric("countersign_share_unwraps_total").await,
        2.0,
        "keygen and one check"
    );
}

/// Polls all futures at once.
pub(crate) async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        for (future, output) in &mut pending {
            if output.is_none()
                && let std::task::Poll::Ready(done) = future.as_mut().poll(context)
            {
                *output = Some(done);
            }
        }
        if pending.iter().all(|(_, output)| output.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    pending
        .into_iter()
        .filter_map(|(_, output)| output)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a28_parallel_transactions_take_distinct_nonces() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "a28").await;
    let path = api::transactions_path(&profile(&wallet));
    let mut requests = JoinSet::new();
    for wei in 1..=20 {
        let request = countersign_client::transport::Request::post(&path, &transaction(wei))
            .unwrap()
            .with_idempotency_key(fresh_key());
        let transport = appliance.client.transport().clone();
        let request = transport.sign(&request, wallet.device()).unwrap();
        requests.spawn(async move { transport.send(&request).await.unwrap() });
    }
    let mut nonces = Vec::new();
    for reply in requests.join_all().await {
        let body = json_of(&reply);
        assert_eq!(reply.status, 200, "{body}");
        let nonce = body["unsignedTx"]["nonce"].as_str().unwrap().to_owned();
        nonces.push(u64::from_str_radix(nonce.trim_start_matches("0x"), 16).unwrap());
    }
    nonces.sort_unstable();
    assert_eq!(nonces, (0..20).collect::<Vec<u64>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a10_fifty_signatures_of_one_wallet_are_low_s_and_recover_to_it() {
    signatures_are_sound(50).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: run by `make test-long`"]
async fn a10_two_thousand_signatures_of_one_wallet_are_low_s_recover_to_it_and_repeat_no_r() {
    signatures_are_sound(2_000).await;
}

/// So many signatures of one wallet, one after another.
async fn signatures_are_sound(count: usize) {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "a10").await;
    let start = std::time::Instant::now();
    for wei in 1..=count {
        let wei = u64::try_from(wei).unwrap();
        let signing = Signing::prepare(&appliance, &wallet, wei).await;
        signing.complete().await;
    }
    let took = start.elapsed().as_secs_f64();
    let rows = appliance
        .database()
        .rows("SELECT hex(raw) FROM transactions");
    let mut points = std::collections::BTreeSet::new();
    for row in &rows {
        let raw = hex::decode(row).unwrap();
        let TxEnvelope::Eip1559(signed) = TxEnvelope::decode_2718(&mut raw.as_slice()).unwrap()
        else {
            panic!("not of type 2: {row}");
        };
        let bytes = signed.signature().as_rsy();
        let signature = Signature::from_slice(&bytes[..64]).unwrap();
        assert_eq!(signature.normalize_s(), signature, "high s: {row}");
        let parity = RecoveryId::new(signed.signature().v(), false);
        let digest = signed.tx().signature_hash();
        let key =
            VerifyingKey::recover_from_prehash(digest.as_slice(), &signature, parity).unwrap();
        let point = key.to_sec1_point(false);
        let hash = alloy_primitives::keccak256(&point.as_bytes()[1..]);
        let sender = alloy_primitives::Address::from_slice(&hash[12..]);
        assert_eq!(sender.to_string(), address(&wallet));
        points.insert(bytes[..32].to_vec());
    }
    assert_eq!(
        (rows.len(), points.len()),
        (count, count),
        "a nonce point comes once (a39)"
    );
    eprintln!(
        "{count} signatures in {took:.0} s: all low-s, all recover to the wallet, {} different r",
        points.len()
    );
    eventually("all are mined", 60, async || {
        let mined = node.nonce(&address(&wallet)).await;
        (mined == u64::try_from(count).unwrap()).then_some(())
    })
    .await;
}
