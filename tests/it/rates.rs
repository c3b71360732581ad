//! Request rates: exact over all instances, told in the headers, and never gone around (`protocol.md` 5.1, A25).

use std::time::{Duration, Instant};

use countersign_client::api;
use countersign_client::keystore::Wallet;
use countersign_client::transport::{Reply, Request, SignedRequest};
use countersign_mpc::envelope::MessageType;
use countersign_mpc::owner_proof::Algorithm;
use serde_json::{Value, json};

use crate::devices::{copy_of, enrolled};
use crate::gateway_jwt::{Issuer, another_profile, bring};
use crate::sessions::join_all;
use crate::support::outside::{Got, curl};
use crate::support::signing::{deliver, fresh_key, json_of, post, refusal, signed, transaction};
use crate::support::wallet::profile;
use crate::support::{Appliance, Node, Signing, eventually, wallet_of};

/// A file of limits with these rates; the others are far away.
pub(crate) fn rates(lines: &[&str]) -> String {
    let far = ["signing", "key-operations", "transactions"].map(|class| {
        let named = lines.iter().find(|line| line.starts_with(class));
        let far = format!("{class} = {{ requests = 1000, seconds = 60 }}");
        named.map_or(far, |line| (*line).to_owned())
    });
    format!("[rates]\n{}\n", far.join("\n"))
}

fn preparing(appliance: &Appliance, wallet: &Wallet, body: &Value) -> SignedRequest {
    let path = api::transactions_path(&profile(wallet));
    let request = Request::post(path, body).unwrap();
    signed(
        appliance,
        wallet,
        &request.with_idempotency_key(fresh_key()),
    )
}

pub(crate) async fn prepare(appliance: &Appliance, wallet: &Wallet) -> Reply {
    deliver(appliance, &preparing(appliance, wallet, &transaction(1))).await
}

/// A refusal by a rate, with all that belongs to it; the seconds to wait.
fn limited(reply: &Reply, message: &str, details: &str) -> u64 {
    let body = json_of(reply);
    let expected = json!({
        "error": "RATE_LIMIT_EXCEEDED", "message": message, "details": details, "statusCode": 429, "retry": "same",
    });
    assert_eq!(body, expected);
    assert_eq!(reply.status, 429);
    reply.retry_after.unwrap().as_secs()
}

/// The answer to a signed request, as another program sees it.
fn seen(appliance: &Appliance, request: &SignedRequest) -> Got {
    let (certificate, key) = (
        appliance.pki("gateway.pem"),
        appliance.pki("gateway-key.pem"),
    );
    let body = String::from_utf8(request.body.clone().unwrap()).unwrap();
    let mut options: Vec<String> = [
        "--cert",
        &certificate,
        "--key",
        &key,
        "--data-binary",
        &body,
    ]
    .map(str::to_owned)
    .into();
    for (name, value) in &request.headers {
        options.extend(["-H".to_owned(), format!("{name}: {value}")]);
    }
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    curl(appliance, &appliance.url(&request.path), &options)
}

fn header<'a>(got: &'a Got, name: &str) -> Option<&'a str> {
    let prefix = format!("{name}: ");
    got.head.lines().find_map(|line| line.strip_prefix(&prefix))
}

/// Fifty transactions at once, at all instances in turn.
pub(crate) async fn fifty_at_once(instances: &[&Appliance], wallet: &Wallet) {
    let requests: Vec<_> = (0..50)
        .map(|_| preparing(instances[0], wallet, &transaction(1)))
        .collect();
    let posts = requests.iter().enumerate().map(|(index, request)| {
        let transport = instances[index % instances.len()].client.transport();
        async move { transport.send(request).await.unwrap() }
    });
    let replies = join_all(posts).await;
    let admitted = replies.iter().filter(|reply| reply.status == 200).count();
    assert_eq!(admitted, 10);
    for reply in replies.iter().filter(|reply| reply.status != 200) {
        let wait = limited(reply, "Too many transactions", "transactions: 10 per 3600s");
        assert!((3500..=3600).contains(&wait), "{wait}");
    }
    let database = instances[0].database();
    let counted = "SELECT COUNT(*) FROM rate_events WHERE class = 'transactions'";
    assert_eq!(database.number(counted), 10);
    let prepared = "SELECT COUNT(*) FROM transactions WHERE state = 'prepared'";
    assert_eq!(database.number(prepared), 10);
}

/// Starts signatures at all instances at once until each is admitted or refused: one key checks one at a time.
pub(crate) async fn starts_at_once(instances: &[&Appliance], wallet: &Wallet) {
    let mut sessions = Vec::new();
    for index in 0..30 {
        let signing = Signing::prepare(instances[0], wallet, 1).await;
        sessions.push(signing.at(instances[index % instances.len()]));
    }
    let starts = sessions.iter().map(async |signing| {
        loop {
            // Admitted, counted, and refused by the check: the key is free for the next one at once.
            let (sealed, _) = signing.sealed(MessageType::Sign1, &[7; 40]).await;
            let reply = signing.post(&sealed).await;
            match refusal(&reply) {
                (409, _) => tokio::time::sleep(Duration::from_millis(20)).await,
                (status, code) => return (status, code),
            }
        }
    });
    let ends = join_all(starts).await;
    let admitted = ends.iter().filter(|(status, _)| *status == 400).count();
    let refused = (429, "RATE_LIMIT_EXCEEDED".to_owned());
    assert_eq!(admitted, 10, "{ends:?}");
    assert_eq!(
        ends.iter().filter(|end| **end == refused).count(),
        20,
        "{ends:?}"
    );
    let begun = "SELECT COUNT(*) FROM rate_events WHERE class = 'signing'";
    assert_eq!(instances[0].database().number(begun), 10);
}

/// Ten of each, in an hour.
pub(crate) const TEN: [&str; 2] = [
    "signing = { requests = 10, seconds = 3600 }",
    "transactions = { requests = 10, seconds = 3600 }",
];

#[tokio::test(flavor = "multi_thread")]
async fn a25_rate_on_one_instance() {
    let node = Node::start().await;
    let mut appliance = Appliance::init(&node.url());
    appliance.limit(&rates(&TEN[1..]));
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    fifty_at_once(&[&appliance], &wallet).await;
    appliance.stop().await;
    appliance.limit(&rates(&TEN[..1]));
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "signing").await;
    starts_at_once(&[&appliance], &wallet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a25_what_is_left_is_told_and_only_what_is_counted_counts() {
    let node = Node::start().await;
    let mut appliance = Appliance::init(&node.url());
    appliance.limit(&rates(&["signing = { requests = 3, seconds = 4 }"]));
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let path = api::SIGN;
    let sessions = [
        Signing::prepare(&appliance, &wallet, 1).await,
        Signing::prepare(&appliance, &wallet, 2).await,
        Signing::prepare(&appliance, &wallet, 3).await,
    ];
    let request = async |signing: &Signing<'_>, message: &[u8]| {
        let (sealed, _) = signing.sealed(MessageType::Sign1, message).await;
        let body = json!({"sessionId": signing.prepared.session_id, "p1SignatureShare": sealed});
        signed(&appliance, &wallet, &Request::post(path, &body).unwrap())
    };

    // What comes before the limiter names the rate and does not ask it.
    let unknown = json!({"sessionId": uuid::Uuid::now_v7().to_string(), "restart": true});
    let unknown = signed(&appliance, &wallet, &Request::post(path, &unknown).unwrap());
    let got = seen(&appliance, &unknown);
    assert_eq!(got.status, 404, "{}", got.body);
    assert_eq!(
        header(&got, "ratelimit-policy"),
        Some("\"signing\";q=3;w=4")
    );
    assert_eq!(header(&got, "ratelimit"), None);

    let begun = Instant::now();
    for (index, signing) in sessions.iter().enumerate() {
        let got = seen(&appliance, &request(signing, &[7; 40]).await);
        assert_eq!(got.status, 400, "{}", got.body);
        assert_eq!(
            header(&got, "ratelimit-policy"),
            Some("\"signing\";q=3;w=4")
        );
        let left = header(&got, "ratelimit").unwrap();
        let prefix = format!("\"signing\";r={};t=", 2 - index);
        let seconds: u64 = left.strip_prefix(&prefix).unwrap().parse().unwrap();
        assert!((1..=4).contains(&seconds), "{left}");
    }
    // The next attempt counts again, and there is no room: whoever is refused waits as long as is said.
    let [mut again, ..] = sessions;
    assert_eq!(again.restart().await.status, 200);
    let fourth = request(&again, &[7; 40]).await;
    let got = seen(&appliance, &fourth);
    assert_eq!(got.status, 429, "{}", got.body);
    assert!(
        got.body.contains(r#""details":"signing: 3 per 4s""#),
        "{}",
        got.body
    );
    assert!(
        got.body
            .contains(r#""message":"Too many signing requests""#)
    );
    assert!(
        header(&got, "ratelimit")
            .unwrap()
            .starts_with("\"signing\";r=0;t=")
    );
    let wait: u64 = header(&got, "retry-after").unwrap().parse().unwrap();
    assert!((1..=4).contains(&wait), "{wait}");
    // To be refused is not counted.
    for _ in 0..5 {
        let reply = deliver(&appliance, &request(&again, &[7; 40]).await).await;
        limited(&reply, "Too many signing requests", "signing: 3 per 4s");
    }
    assert_eq!(again.state().await, "CREATED");
    tokio::time::sleep((begun + Duration::from_secs(4)).saturating_duration_since(Instant::now()))
        .await;
    let (answer, kept) = eventually("there is room", 5, async || {
        let (answer, kept) = again.round_1().await;
        (answer.status != 429).then_some((answer, kept))
    })
    .await;
    assert_eq!(answer.status, 202);
    // Later rounds are not counted.
    let counted = "SELECT COUNT(*) FROM rate_events WHERE class = 'signing'";
    assert_eq!(appliance.database().number(counted), 4);
    assert_eq!(again.round_2(kept, &answer).await.status, 200);
    assert_eq!(appliance.database().number(counted), 4);
    let metric = r#"countersign_rate_limit_exceeded_total{class="signing"}"#;
    assert!(appliance.metric(metric).await >= 6.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a25_transactions_count_whatever_becomes_of_them_and_repetitions_do_not() {
    let node = Node::start().await;
    let mut appliance = Appliance::init(&node.url());
    appliance.limit(&rates(&["transactions = { requests = 5, seconds = 3600 }"]));
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let path = api::transactions_path(&profile(&wallet));
    let counted = || {
        let counted = "SELECT COUNT(*) FROM rate_events WHERE class = 'transactions'";
        appliance.database().number(counted)
    };
    let key = fresh_key();
    for _ in 0..4 {
        let reply = post(&appliance, &wallet, &path, &transaction(1), Some(&key)).await;
        assert_eq!(reply.status, 200);
    }
    let other = post(&appliance, &wallet, &path, &transaction(2), Some(&key)).await;
    assert_eq!(refusal(&other).0, 422);
    let malformed = post(
        &appliance,
        &wallet,
        &path,
        &json!({"to": 1}),
        Some(&fresh_key()),
    )
    .await;
    assert_eq!(malformed.status, 400);
    assert_eq!(counted(), 1);
    // Denied by policy, refused by the node, refused by the fee policy: each counts.
    let changed = |name: &str, value: Value| {
        let mut body = transaction(1);
        body[name] = value;
        body
    };
    for (body, code) in [
        (changed("chainId", json!(1)), "CHAIN_NOT_ALLOWED"),
        (
            changed("value", json!("1000000000000000000000000")),
            "INVALID_REQUEST",
        ),
        (
            changed("maxFeePerGas", json!("1000000000000000000")),
            "POLICY_DENIED",
        ),
    ] {
        let reply = post(&appliance, &wallet, &path, &body, Some(&fresh_key())).await;
        assert_eq!(refusal(&reply).1, code);
    }
    assert_eq!(counted(), 4);
    assert_eq!(prepare(&appliance, &wallet).await.status, 200);
    // The rate comes before policy.
    let denied = changed("chainId", json!(1));
    let reply = post(&appliance, &wallet, &path, &denied, Some(&fresh_key())).await;
    limited(&reply, "Too many transactions", "transactions: 5 per 3600s");
    // And after what an earlier request made.
    let reply = post(&appliance, &wallet, &path, &transaction(1), Some(&key)).await;
    assert_eq!(reply.status, 200);
    assert_eq!(counted(), 5);
    let refusals = "SELECT COUNT(*) FROM audit_records WHERE event = 'request_refused'";
    assert_eq!(appliance.database().number(refusals), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a25_new_profiles_do_not_multiply_what_an_owner_or_a_user_may() {
    let node = Node::start().await;
    let issuer = Issuer::new();
    let mut appliance = Appliance::init(&node.url());
    appliance.limit(&rates(&[
        "key-operations = { requests = 2, seconds = 3600 }",
    ]));
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    assert_eq!(another_profile(&appliance, &wallet).await.status, 202);
    let reply = another_profile(&appliance, &wallet).await;
    limited(
        &reply,
        "Too many key operations",
        "key-operations: 2 per 3600s",
    );
    let other = wallet_of(&appliance, &node, "other").await;
    assert_eq!(another_profile(&appliance, &other).await.status, 202);

    // A user whom the gateway vouches for is one, with however many devices.
    appliance.stop().await;
    issuer.is_asked_for_by(&appliance);
    appliance.serve().await;
    bring(&mut appliance, &issuer.token("ann", |_| ()));
    let first = wallet_of(&appliance, &node, "ann-1").await;
    let second = wallet_of(&appliance, &node, "ann-2").await;
    for device in [&first, &second] {
        let reply = another_profile(&appliance, device).await;
        limited(
            &reply,
            "Too many key operations",
            "key-operations: 2 per 3600s",
        );
    }
    bring(&mut appliance, &issuer.token("bob", |_| ()));
    wallet_of(&appliance, &node, "bob").await;
}

/// A stolen device uses up the rate with revocations of devices that there are not, so that the other one comes too late.
#[tokio::test(flavor = "multi_thread")]
async fn a35_who_uses_up_the_rate_keeps_nobody_from_revoking_a_device() {
    let node = Node::start().await;
    let mut appliance = Appliance::init(&node.url());
    appliance.limit(&rates(&[
        "key-operations = { requests = 3, seconds = 3600 }",
    ]));
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let stolen = enrolled(&appliance, &wallet, "stolen", Algorithm::P256).await;
    let nobody = copy_of(&appliance, &wallet, "nobody", Algorithm::P256);
    let revoke = async |by: &Wallet, device: &Wallet| {
        let path = api::revoke_path(&profile(by), &device.device().thumbprint());
        post(&appliance, by, &path, &json!({}), Some(&fresh_key())).await
    };
    for _ in 0..2 {
        assert_eq!(revoke(&stolen, &nobody).await.status, 404);
    }
    let refused = revoke(&stolen, &nobody).await;
    limited(
        &refused,
        "Too many key operations",
        "key-operations: 3 per 3600s",
    );
    let revoked = revoke(&wallet, &stolen).await;
    assert_eq!(revoked.status, 200, "{}", json_of(&revoked));
    let refused = revoke(&stolen, &wallet).await;
    assert_eq!(refusal(&refused).0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a25_a_broken_table_admits_nothing() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let signing = Signing::prepare(&appliance, &wallet, 1).await;
    let (sealed, _) = signing.sealed(MessageType::Sign1, &signing.first().1).await;
    let session = signing.prepared.session_id.clone();
    appliance.stop().await;
    let tamper = |sql| appliance.storage.tamper(&appliance.environment(), sql);
    tamper("ALTER TABLE rate_events RENAME TO mislaid");
    appliance.serve().await;
    let before = appliance
        .database()
        .number("SELECT COUNT(*) FROM audit_records");
    for reply in [
        prepare(&appliance, &wallet).await,
        another_profile(&appliance, &wallet).await,
        {
            let body = json!({"sessionId": session, "p1SignatureShare": sealed});
            post(&appliance, &wallet, api::SIGN, &body, None).await
        },
    ] {
        assert_eq!(refusal(&reply), (503, "STORE_UNAVAILABLE".to_owned()));
    }
    let after = appliance
        .database()
        .number("SELECT COUNT(*) FROM audit_records");
    assert_eq!(before, after);
}

#[tokio::test(flavor = "multi_thread")]
async fn a25_limits_are_put_into_force_by_a_signal_and_a_bad_file_changes_nothing() {
    let node = Node::start().await;
    let mut appliance = Appliance::init(&node.url());
    appliance.limit(&rates(&["transactions = { requests = 2, seconds = 3600 }"]));
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    for _ in 0..2 {
        assert_eq!(prepare(&appliance, &wallet).await.status, 200);
    }
    let reply = prepare(&appliance, &wallet).await;
    limited(&reply, "Too many transactions", "transactions: 2 per 3600s");

    let reloads = async |result: &str, count: f64| {
        let metric = format!("countersign_limits_reloads_total{{result=\"{result}\"}}");
        eventually("the file is read", 5, async || {
            (appliance.metric(&metric).await >= count).then_some(())
        })
        .await;
    };
    let zero = "[rates]\ntransactions = { requests = 0, seconds = 1 }\n";
    for (number, bad) in [(1.0, zero), (2.0, "[rates")] {
        appliance.limit(bad);
        appliance.signal("-HUP");
        reloads("failed", number).await;
        let reply = prepare(&appliance, &wallet).await;
        limited(&reply, "Too many transactions", "transactions: 2 per 3600s");
    }
    assert!(
        appliance
            .log()
            .contains("limits.toml:2: rates.transactions: requests is 0")
    );
    // A file that changes counts when that is said, not before.
    appliance.limit(&rates(&["transactions = { requests = 3, seconds = 3600 }"]));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let reply = prepare(&appliance, &wallet).await;
    limited(&reply, "Too many transactions", "transactions: 2 per 3600s");
    appliance.signal("-HUP");
    reloads("done", 1.0).await;
    assert_eq!(prepare(&appliance, &wallet).await.status, 200);
    let reply = prepare(&appliance, &wallet).await;
    limited(&reply, "Too many transactions", "transactions: 3 per 3600s");

    // Nothing starts with a file that is not good.
    appliance.stop().await;
    appliance.limit("[rates]\nsigning = { requests = 1 }\n");
    assert!(appliance.doctor().contains("limits.toml:2: "));
    let output = appliance.serve_command().output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
