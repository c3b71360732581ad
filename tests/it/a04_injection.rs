//! Who holds the gateway and no device key cannot brick a wallet: what it makes up is refused before any check (A04).

use countersign_attacker::envelope::Info;
use countersign_client::api;
use countersign_client::keystore::Wallet;
use countersign_client::transport::{Request, SignedRequest};
use serde_json::{Value, json};

use crate::bad_input::state;
use crate::sessions::join_all;
use crate::support::attacker::{Attack, Attacker, SIGN_1, SIGN_2, closing_frame};
use crate::support::signing::{deliver, json_of, refusal, signed};
use crate::support::wallet::profile;
use crate::support::{Appliance, Node, eventually, wallet_of};

const EACH: usize = 250;

/// A request of `session` with this message, signed by the device of `wallet`.
fn round(appliance: &Appliance, wallet: &Wallet, session: &str, message: &str) -> SignedRequest {
    let body = json!({"sessionId": session, "p1SignatureShare": message});
    signed(appliance, wallet, &Request::post(api::SIGN, &body).unwrap())
}

/// Puts the signature of one request on another.
fn with_signature_of(request: &SignedRequest, other: &SignedRequest) -> SignedRequest {
    let mut mixed = other.clone();
    for (name, value) in &mut mixed.headers {
        let ours = request.headers.iter().find(|(header, _)| header == name);
        if name.starts_with("signature") {
            value.clone_from(&ours.unwrap().1);
        }
    }
    mixed
}

fn cut(message: &str, number: usize) -> String {
    message[..message.len() - 1 - number * 50].to_owned()
}

/// Sends all of them, some at a time, and says which status codes came how often.
async fn flood(appliance: &Appliance, requests: Vec<SignedRequest>) -> Vec<u16> {
    let mut statuses = Vec::new();
    for wave in requests.chunks(10) {
        for reply in join_all(wave.iter().map(|request| deliver(appliance, request))).await {
            let (status, code) = refusal(&reply);
            assert!((400..500).contains(&status), "{status} {code}");
            statuses.push(status);
        }
    }
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn a04_inject_a_thousand_made_up_requests_leave_the_key_and_the_open_session_alone() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "victim").await;
    let stranger = wallet_of(&appliance, &node, "stranger").await;
    let owner = Attacker::of(&appliance, &wallet).await;
    // The victim is in the middle of a payment; the gateway has recorded its requests and those of another one.
    let session = Attack::prepare(&appliance, &owner, 1).await;
    let other = Attack::prepare(&appliance, &owner, 2).await;
    let other_session = other.signing.prepared.session_id.clone();
    let id = session.signing.prepared.session_id.clone();
    let (of_other, _) = other.sealed(SIGN_1.1, &other.attempt().frame());
    let attempt = session.attempt();
    let sign_id = attempt.sign_id;
    let (first, opener) = session.sealed(SIGN_1.1, &attempt.frame());
    let recorded = round(&appliance, &wallet, &id, &first);
    let answer = deliver(&appliance, &recorded).await;
    assert_eq!(answer.status, 202);
    let (second, last) = session.closing(attempt, &answer, &opener);
    let (closing, _) = session.sealed(SIGN_2.1, &closing_frame(sign_id, second, last));
    let unsent = round(&appliance, &wallet, &id, &closing);
    eventually("the first step is concluded", 5, async || {
        let checking = "SELECT COUNT(*) FROM profiles WHERE checking IS NOT NULL";
        (appliance.database().number(checking) == 0).then_some(())
    })
    .await;
    let before = state(&appliance);
    let counts = [
        "countersign_share_unwraps_total",
        "countersign_permits_total",
    ];
    let mut counted = Vec::new();
    for metric in counts {
        counted.push(appliance.metric(metric).await);
    }

    let mut requests = Vec::new();
    for number in 0..EACH {
        // Replayed as it was.
        requests.push(recorded.clone());
        // A message of another session, and a cut one, under a recorded signature and under a signature to come.
        let moved = round(&appliance, &stranger, &id, &of_other);
        requests.push(with_signature_of(&recorded, &moved));
        let truncated = round(&appliance, &stranger, &id, &cut(&closing, number));
        requests.push(with_signature_of(&unsent, &truncated));
        // The right message to the wrong session, by a device that is somebody's.
        let session = [&id, &other_session][number % 2];
        requests.push(round(&appliance, &stranger, session, &closing));
    }
    let statuses = flood(&appliance, requests).await;
    assert_eq!(statuses.len(), 4 * EACH);
    let unauthentic = statuses.iter().filter(|status| **status == 401).count();
    assert_eq!(unauthentic, 3 * EACH, "the others are not found");

    for (metric, value) in counts.iter().zip(counted) {
        assert_eq!(appliance.metric(metric).await, value, "{metric}");
    }
    assert_eq!(state(&appliance), before);
    let reply = deliver(&appliance, &unsent).await;
    assert_eq!(reply.status, 200, "{}", json_of(&reply));
    let hash = json_of(&reply)["txHash"].as_str().unwrap().to_owned();
    assert_eq!(node.receipt(&hash).await["status"], "0x1");
    let standing = format!(
        "SELECT key_state || ' ' || suspect_events || ' ' || failed_signatures FROM profiles WHERE profile_id = '{}'",
        profile(&wallet)
    );
    assert_eq!(appliance.database().value(&standing), "stable 0 0");
}

/// What the owner's own device signs, but is bound to something else: it does not open, and nothing changes.
#[tokio::test(flavor = "multi_thread")]
async fn a04_inject_messages_that_are_bound_to_anything_else_do_not_open() {
    type Change = fn(&mut Info);
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let owner = Attacker::of(&appliance, &wallet).await;
    let attack = Attack::prepare(&appliance, &owner, 1).await;
    let attempt = attack.attempt();
    let before = state(&appliance);
    let changes: [(&str, Change); 9] = [
        ("environment", |i| i.environment[0] ^= 1),
        ("tenant", |i| i.tenant = "other".to_owned()),
        ("type", |i| i.kind = "sg2".to_owned()),
        ("key", |i| i.kid = "nobody".to_owned()),
        ("device", |i| i.device.push('x')),
        ("profile", |i| i.profile.push('x')),
        ("session", |i| i.session.push('x')),
        ("generation", |i| i.generation = 2),
        ("attempt", |i| i.attempt = 2),
    ];
    for (name, change) in changes {
        let mut info = owner.info(&attack.signing, "sg1");
        change(&mut info);
        let (sealed, _) = owner.seal(&info, &attempt.frame().bytes());
        // What the envelope says of itself is as it should be.
        let honest = owner.info(&attack.signing, "sg1");
        let head = |info: &Info| format!("mw1.{}.{}.", info.kind, info.kid);
        let sealed = sealed.replacen(&head(&info), &head(&honest), 1);
        let reply = attack.signing.post(&sealed).await;
        let bound = name != "key";
        if bound {
            let expected = (400, "INVALID_KEY_SHARE".to_owned());
            assert_eq!(refusal(&reply), expected, "{name}");
        } else {
            assert_eq!(refusal(&reply).0, 400, "{name}");
        }
        assert_eq!(state(&appliance), before, "{name}");
    }
    let sign_id = attempt.sign_id;
    let (answer, opener) = attack.post_first(&attempt).await;
    assert_eq!(answer.status, 202);
    let (second, last) = attack.closing(attempt, &answer, &opener);
    let signed: Value = json_of(&attack.post_second(sign_id, second, last).await);
    assert_eq!(signed["txHash"].as_str().unwrap().len(), 66);
}
