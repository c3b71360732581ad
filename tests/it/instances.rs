//! Two instances on one PostgreSQL database: a key is checked by one at a time, a session goes on where its state is, and
//! what a dead instance left behind is ended by the other. These need the server of `scripts/with-postgres.sh`, whatever
//! engine the other tests run on.

use countersign_client::api;
use countersign_client::transport::{Reply, Request};
use countersign_mpc::envelope::MessageType;
use serde_json::json;

use crate::a01_probing::fifty_at_once;
use crate::front_door::instance_of;
use crate::rates;
use crate::sessions::join_all;
use crate::spending;
use crate::support::signing::{json_of, refusal, signed};
use crate::support::trap::Trap;
use crate::support::wallet::{address, profile, send_and_mine};
use crate::support::{Appliance, Node, Signing, eventually, wallet_of};

/// Longest time from the death of an instance to the end of its checks, in seconds: its lease lapses after 10, and the
/// others look every 2.
const UNTIL_REAPED: u64 = 20;

async fn sum(instances: [&Appliance; 2], metric: &str) -> f64 {
    instances[0].metric(metric).await + instances[1].metric(metric).await
}

fn conflict(reply: &Reply) -> String {
    assert_eq!(refusal(reply), (409, "SESSION_STATE_CONFLICT".to_owned()));
    json_of(reply)["details"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a02_parallel() {
    let node = Node::start().await;
    let one = Appliance::start_on_postgres(&node).await;
    let two = one.another().await;
    fifty_at_once(&[&one, &two], &node).await;
    let state = one.database().value("SELECT key_state FROM profiles");
    assert_eq!(state, "quarantined");
}

#[tokio::test(flavor = "multi_thread")]
async fn a07_a_second_message_sent_to_two_instances_runs_once() {
    let node = Node::start().await;
    let one = Appliance::start_on_postgres(&node).await;
    let two = one.another().await;
    let wallet = wallet_of(&one, &node, "a07").await;
    for first in [&one, &two] {
        let before = sum([&one, &two], SECOND_STEPS).await;
        let other = if std::ptr::eq(first, &one) {
            &two
        } else {
            &one
        };
        let signing = Signing::prepare(&one, &wallet, 7).await.at(first);
        let (answer, kept) = signing.round_1().await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let second = signing.second(kept, &answer);
        let (sealed, _) = signing.sealed(MessageType::Sign2, &second).await;
        let body = json!({"sessionId": signing.prepared.session_id, "p1SignatureShare": sealed});
        let request = Request::post(api::SIGN, &body).unwrap();
        let posts = [first, other, first, other].map(|appliance| {
            let (transport, request) = (
                appliance.client.transport().clone(),
                signed(appliance, &wallet, &request),
            );
            async move { transport.send(&request).await.unwrap() }
        });
        let replies = join_all(posts.into_iter()).await;
        let signed: Vec<_> = replies.iter().filter(|reply| reply.status == 200).collect();
        assert!(!signed.is_empty());
        for reply in replies.iter().filter(|reply| reply.status != 200) {
            conflict(reply);
        }
        let late = signing.at(other).post(&sealed).await;
        for reply in signed.into_iter().chain([&late]) {
            assert_eq!(json_of(reply)["txHash"], json_of(&late)["txHash"]);
        }
        assert_eq!(sum([&one, &two], SECOND_STEPS).await, before + 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a25_rate() {
    let node = Node::start().await;
    let mut one = Appliance::init_on_postgres(&node.url());
    one.limit(&rates::rates(&rates::TEN[1..]));
    one.serve().await;
    let two = one.another().await;
    let wallet = wallet_of(&one, &node, "w").await;
    rates::fifty_at_once(&[&one, &two], &wallet).await;
    let other = wallet_of(&one, &node, "other").await;
    assert_eq!(rates::prepare(&two, &other).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a25_rate_of_signatures_on_two_instances() {
    let node = Node::start().await;
    let mut one = Appliance::init_on_postgres(&node.url());
    one.limit(&rates::rates(&rates::TEN[..1]));
    one.serve().await;
    let two = one.another().await;
    let wallet = wallet_of(&one, &node, "w").await;
    rates::starts_at_once(&[&one, &two], &wallet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a26_of_two_transactions_at_two_instances_exactly_one_passes() {
    let node = Node::start().await;
    let mut one = Appliance::init_on_postgres(&node.url());
    one.limit(&spending::limits(&[
        &spending::coin("day", "profile", spending::ONE),
        &spending::coin("tenants", "tenant", "1100000000000000000"),
    ]));
    one.serve().await;
    let two = one.another().await;
    let wallet = wallet_of(&one, &node, "w").await;
    let other = wallet_of(&one, &node, "other").await;
    spending::two_at_once(&[&one, &two], &[&wallet, &wallet], "day").await;
    spending::two_at_once(&[&one, &two], &[&wallet, &other], "tenants").await;
}

const SECOND_STEPS: &str = r#"countersign_mpc_steps_total{result="done",step="sign_2"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_on_only_where_its_state_is_and_starts_again_anywhere() {
    let node = Node::start().await;
    let one = Appliance::start_on_postgres(&node).await;
    let two = one.another().await;
    let wallet = wallet_of(&one, &node, "w").await;
    let (tag, other) = (instance_of(&one), instance_of(&two));
    assert_ne!(tag, other);
    assert_eq!(two.metric("countersign_instances_alive").await, 2.0);

    // Prepared at one, begun at the other: whoever begins it, holds it.
    let signing = Signing::prepare(&two, &wallet, 5).await.at(&one);
    let (answer, kept) = signing.round_1().await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let second = signing.second(kept, &answer);
    let (sealed, _) = signing.sealed(MessageType::Sign2, &second).await;
    let mut signing = signing.at(&two);
    let elsewhere = signing.post(&sealed).await;
    assert_eq!(conflict(&elsewhere), format!("Instance {tag}"));
    assert_eq!(json_of(&elsewhere)["retry"], "same");
    // The first answer does not wait for its record.
    eventually("its state stands", 5, async || {
        (signing.state().await == "R1_DONE").then_some(())
    })
    .await;

    // An orderly stop ends the lease at once.
    one.terminate();
    eventually("it has stopped", 20, async || {
        (!one.is_running()).then_some(())
    })
    .await;
    let lost = signing.post(&sealed).await;
    assert_eq!(refusal(&lost), (409, "SESSION_LOST".to_owned()));
    assert_eq!(signing.restart().await.status, 200);
    let hash = signing.complete().await;
    assert_eq!(node.receipt(&hash).await["status"], "0x1");
    let suspect = two.database().number("SELECT suspect_events FROM profiles");
    assert_eq!(suspect, 0, "no check was cut off");
}

#[tokio::test(flavor = "multi_thread")]
async fn a03_the_check_of_a_killed_instance_is_ended_by_the_other_once_its_lease_has_lapsed() {
    let node = Node::start().await;
    let mut one = Appliance::start_on_postgres(&node).await;
    let two = one.another().await;
    let mut wallet = wallet_of(&one, &node, "a03").await;
    let mut signing = Signing::prepare(&two, &wallet, 5).await.at(&two);
    let (_, message) = signing.first();
    let (sealed, _) = signing.sealed(MessageType::Sign1, &message).await;
    let body = json!({"sessionId": signing.prepared.session_id, "p1SignatureShare": sealed});
    let request = signed(&one, &wallet, &Request::post(api::SIGN, &body).unwrap());
    {
        // The admission is committed, and whoever was to check is dead.
        let _trap = Trap::arm(
            &one,
            "SELECT state FROM sessions WHERE kind = 'sign'",
            "r1_checking",
        );
        let answer = one.client.transport().send(&request).await;
        assert!(answer.is_err(), "{answer:?}");
    }
    one.ended().await;

    // Until the lease lapses nobody knows that it is dead, and the key stays locked.
    let busy = signing.restart().await;
    conflict(&busy);
    let standing = "SELECT key_state || ' ' || suspect_events || ' ' || \
                    CASE WHEN checking IS NULL THEN 'free' ELSE 'locked' END FROM profiles";
    assert_eq!(two.database().value(standing), "stable 0 locked");
    eventually("the check is ended", UNTIL_REAPED, async || {
        (two.database().value(standing) == "stable 1 free").then_some(())
    })
    .await;
    assert_eq!(signing.state().await, "ABORTED");
    assert_eq!(two.metric("countersign_orphans_reaped_total").await, 1.0);
    assert_eq!(two.metric("countersign_instances_alive").await, 1.0);

    assert_eq!(signing.restart().await.status, 200);
    let hash = signing.complete().await;
    assert_eq!(node.receipt(&hash).await["status"], "0x1");
    assert_eq!(two.database().value(standing), "stable 1 free");
    // And the other one comes back as a new instance.
    one.serve().await;
    assert_eq!(node.nonce(&address(&wallet)).await, 1);
    send_and_mine(&mut wallet, &one, 6).await;
    assert!(!profile(&wallet).is_empty());
}
