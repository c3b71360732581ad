//! A signed request counts once: whatever the gateway repeats, nothing happens twice, and its owner still gets the
//! answer by signing the same request anew.

use countersign_client::api;
use countersign_client::transport::{Reply, Request, SignedRequest};
use countersign_mpc::envelope::MessageType;
use serde_json::json;

use crate::sessions::join_all;
use crate::support::signing::{
    AfterRound1, deliver, fresh_key, json_of, post, refusal, signed, transaction,
};
use crate::support::wallet::profile;
use crate::support::{Appliance, Node, Signing, eventually, wallet_of};

const SESSIONS: &str = "SELECT COUNT(*) FROM sessions WHERE kind = 'sign'";

fn assert_replayed(reply: &Reply, what: &str) {
    let refused = refusal(reply);
    assert_eq!(refused, (401, "SIGNATURE_REPLAYED".to_owned()), "{what}");
    assert_eq!(json_of(reply)["retry"], "same", "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_the_very_same_request_is_refused_and_a_fresh_signature_gets_the_answer() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let path = api::transactions_path(&profile(&wallet));
    let request = Request::post(&path, &transaction(1))
        .unwrap()
        .with_idempotency_key(fresh_key());

    let first = signed(&appliance, &wallet, &request);
    let answer = deliver(&appliance, &first).await;
    assert_eq!(answer.status, 200);
    assert_replayed(&deliver(&appliance, &first).await, "a transaction");
    let anew = deliver(&appliance, &signed(&appliance, &wallet, &request)).await;
    assert_eq!((anew.status, &anew.body), (200, &answer.body));
    assert_eq!(appliance.database().number(SESSIONS), 1);

    // A message of a session, and the next.
    let signing = Signing::prepare(&appliance, &wallet, 2).await;
    let (state, message) = signing.first();
    let (sealed, opener) = signing.sealed(MessageType::Sign1, &message).await;
    let body = json!({"sessionId": signing.prepared.session_id, "p1SignatureShare": sealed});
    let round = Request::post(api::SIGN, &body).unwrap();
    let sent = signed(&appliance, &wallet, &round);
    let answer = deliver(&appliance, &sent).await;
    assert_eq!(answer.status, 202);
    let unwraps = appliance.metric("countersign_share_unwraps_total").await;
    assert_replayed(&deliver(&appliance, &sent).await, "a message");
    let anew = deliver(&appliance, &signed(&appliance, &wallet, &round)).await;
    assert_eq!((anew.status, &anew.body), (202, &answer.body));
    let after = appliance.metric("countersign_share_unwraps_total").await;
    assert_eq!(after, unwraps, "checked once");
    let kept = AfterRound1::new(state, opener);
    let signed_answer = signing.round_2(kept, &answer).await;
    assert_eq!(signed_answer.status, 200);

    // What changes nothing: a read, and requests that are refused.
    let foreign = api::profile_path(&uuid::Uuid::now_v7().to_string());
    let mut denied = transaction(1);
    denied["chainId"] = json!(1);
    let denied = Request::post(&path, &denied).unwrap();
    for (request, status) in [
        (Request::get(api::profile_path(&profile(&wallet))), 200),
        (Request::get(foreign), 404),
        (denied.with_idempotency_key(fresh_key()), 403),
    ] {
        let request = signed(&appliance, &wallet, &request);
        assert_eq!(deliver(&appliance, &request).await.status, status);
        assert_replayed(&deliver(&appliance, &request).await, &request.path);
    }

    // What was acted on stays spent, also for a process that remembers nothing.
    appliance.crash_and_restart().await;
    assert_replayed(&deliver(&appliance, &first).await, "after a restart");
    assert_replayed(&deliver(&appliance, &sent).await, "after a restart");
    assert_eq!(appliance.database().number(SESSIONS), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_many_copies_of_one_request_at_two_instances_act_once() {
    let node = Node::start().await;
    let one = Appliance::start_on_postgres(&node).await;
    let two = one.another().await;
    let wallet = wallet_of(&one, &node, "w").await;
    let path = api::transactions_path(&profile(&wallet));
    let prepare = Request::post(&path, &transaction(1))
        .unwrap()
        .with_idempotency_key(fresh_key());
    let copies = |request: &SignedRequest| {
        let request = request.clone();
        let (one, two) = (&one, &two);
        join_all((0..20).map(move |number| {
            let (request, appliance) = (request.clone(), if number % 2 == 0 { one } else { two });
            async move { deliver(appliance, &request).await }
        }))
    };
    // A copy at the other instance that looked for its nonce just before it was spent finds what was done meanwhile: the
    // same answer, or a session that is elsewhere.
    let acted = |replies: &[Reply], status: u16| {
        let mut acted = replies.iter().filter(|reply| reply.status == status);
        let answer = &acted.next().expect("one of them acts").body;
        assert!(acted.all(|reply| reply.body == *answer), "one answer");
        for reply in replies.iter().filter(|reply| reply.status != status) {
            if reply.status == 409 {
                assert_eq!(refusal(reply).1, "SESSION_STATE_CONFLICT");
            } else {
                assert_replayed(reply, "a copy");
            }
        }
    };
    let permits = || one.database().number("SELECT COUNT(*) FROM steps");

    let request = signed(&one, &wallet, &prepare);
    acted(&copies(&request).await, 200);
    assert_eq!(one.database().number(SESSIONS), 1);
    // Later, whoever of the two had acted.
    for appliance in [&one, &two] {
        assert_replayed(&deliver(appliance, &request).await, "later");
    }

    let signing = Signing::prepare(&one, &wallet, 2).await;
    let (_, message) = signing.first();
    let (sealed, _) = signing.sealed(MessageType::Sign1, &message).await;
    let body = json!({"sessionId": signing.prepared.session_id, "p1SignatureShare": sealed});
    let round = signed(&one, &wallet, &Request::post(api::SIGN, &body).unwrap());
    let before = permits();
    acted(&copies(&round).await, 202);
    assert_eq!(permits(), before + 1, "one step was permitted");
    let state = format!(
        "SELECT state FROM sessions WHERE session_id = '{}'",
        signing.prepared.session_id
    );
    // The conclusion of a first message is not waited for.
    eventually("the check is concluded", 5, async || {
        (one.database().value(&state) == "r1_done").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_an_idempotency_key_names_one_request_on_every_route_that_changes_something() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let mut signing = Signing::prepare(&appliance, &wallet, 1).await;
    let mismatch = (422, "IDEMPOTENCY_MISMATCH".to_owned());
    let send = async |body: &serde_json::Value, key: &str| {
        post(&appliance, &wallet, api::SIGN, body, Some(key)).await
    };
    let of_session = |name: &str, value: serde_json::Value, signing: &Signing<'_>| {
        let mut body = json!({"sessionId": signing.prepared.session_id});
        body[name] = value;
        body
    };

    // A message: repeated, it has its answer; its key is taken.
    let (state, message) = signing.first();
    let (sealed, opener) = signing.sealed(MessageType::Sign1, &message).await;
    let first = of_session("p1SignatureShare", json!(sealed), &signing);
    let key = fresh_key();
    let answer = send(&first, &key).await;
    assert_eq!(answer.status, 202);
    let again = send(&first, &key).await;
    assert_eq!((again.status, &again.body), (202, &answer.body));
    let kept = AfterRound1::new(state, opener);
    let second = signing.second(kept, &answer);
    let (sealed, _) = signing.sealed(MessageType::Sign2, &second).await;
    let second = of_session("p1SignatureShare", json!(sealed), &signing);
    assert_eq!(refusal(&send(&second, &key).await), mismatch);
    eventually("the session waits for its second message", 5, async || {
        (signing.state().await == "R1_DONE").then_some(())
    })
    .await;
    let key = fresh_key();
    let signed = send(&second, &key).await;
    assert_eq!(signed.status, 200);
    let again = json_of(&send(&second, &key).await);
    assert_eq!(again["txHash"], json_of(&signed)["txHash"]);

    // A new attempt: repeated, it stays one.
    signing = Signing::prepare(&appliance, &wallet, 2).await;
    let (sealed, _) = signing.sealed(MessageType::Sign1, b"no message").await;
    let refused = signing.post(&sealed).await;
    assert!(refused.status >= 400);
    assert_eq!(signing.state().await, "ABORTED");
    let restart = of_session("restart", json!(true), &signing);
    let key = fresh_key();
    let started = send(&restart, &key).await;
    assert_eq!(json_of(&started)["attempt"], 2);
    let again = send(&restart, &key).await;
    assert_eq!((again.status, &again.body), (200, &started.body));
    assert_eq!(refusal(&send(&first, &key).await), mismatch);
    // An attempt that waits is not begun again, whoever asks.
    let other = send(&restart, &fresh_key()).await;
    assert_eq!((other.status, &other.body), (200, &started.body));
}
