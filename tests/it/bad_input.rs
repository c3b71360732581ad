//! Requests that are wrong: each gets a clear error, and nothing changes.

use countersign_client::api;
use countersign_client::flows::create::client_share;
use countersign_client::keystore::Wallet;
use countersign_client::transport::{Reply, Request, SignedRequest};
use countersign_mpc::owner_proof::{Algorithm, DeviceKey};
use serde_json::{Value, json};

use crate::support::signing::{
    deliver, fresh_key, get, json_of, post, refusal, signed, transaction,
};
use crate::support::wallet::profile;
use crate::support::{Appliance, CHAIN, Node, Signing, contains, wallet_of};

/// What must not change: every table but the audit records and the devices.
pub(crate) fn state(appliance: &Appliance) -> Vec<String> {
    let database = appliance.database();
    let mut rows: Vec<String> = [
        "SELECT profile_id, state, key_state, suspect_events, failed_signatures, checking FROM profiles",
        "SELECT profile_id, generation, state FROM key_shares",
        "SELECT session_id, state, attempt, hex(request_hash) FROM sessions",
        "SELECT transaction_id, nonce, state FROM transactions",
        "SELECT permit_id, outcome FROM steps",
        "SELECT scope, key FROM idempotency",
        "SELECT scope, subject, placed_by FROM freezes",
    ]
    .into_iter()
    .flat_map(|query| database.rows(query))
    .collect();
    // An update that changed nothing may still have moved its row.
    rows.sort_unstable();
    rows
}

/// The first request of a key generation, with this in place of the sealed message.
fn keygen(wallet: &Wallet, share: &str) -> Value {
    json!({"name": "n", "clientShare": client_share(wallet, share.to_owned())})
}

/// Replaces the value of a header.
fn set(request: &mut SignedRequest, name: &str, value: &str) {
    let header = request.headers.iter_mut().find(|(other, _)| *other == name);
    header.unwrap().1 = value.to_owned();
}

fn without(request: &mut SignedRequest, name: &str) {
    request.headers.retain(|(other, _)| *other != name);
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn malformed_requests_are_400_and_change_nothing() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let signing = Signing::prepare(&appliance, &wallet, 1).await;
    let transactions = api::transactions_path(&profile(&wallet));
    let session = signing.prepared.session_id.clone();
    let before = state(&appliance);
    let change = |body: Value, name: &str, value: Value| {
        let mut body = body;
        body[name] = value;
        body
    };
    let remove = |mut body: Value, name: &str| {
        body.as_object_mut().unwrap().remove(name);
        body
    };
    let tx = || transaction(1);
    let sign = || json!({"sessionId": session, "p1SignatureShare": "mw1.sg1.k.x"});
    let kg = || keygen(&wallet, "mw1.kg1.k.x");
    let key = || Some(fresh_key());
    let mut inner = kg();
    inner["clientShare"]["secret"] = json!(1);
    let cases = [
        (
            &*transactions,
            change(tx(), "gasPrice", json!("0x1")),
            key(),
        ),
        (&transactions, change(tx(), "value", json!(1)), key()),
        (&transactions, change(tx(), "value", json!("-1")), key()),
        (&transactions, change(tx(), "value", json!("1.5")), key()),
        (
            &transactions,
            change(tx(), "value", json!("9".repeat(90))),
            key(),
        ),
        (
            &transactions,
            change(tx(), "chainId", json!("31337")),
            key(),
        ),
        (&transactions, change(tx(), "chainId", json!(-1)), key()),
        (&transactions, change(tx(), "to", json!("0x1234")), key()),
        (&transactions, change(tx(), "to", json!(null)), key()),
        (&transactions, change(tx(), "data", json!("0xzz")), key()),
        (&transactions, change(tx(), "gas", json!("lots")), key()),
        (
            &transactions,
            change(tx(), "keyGeneration", json!("1")),
            key(),
        ),
        (&transactions, remove(tx(), "to"), key()),
        (&transactions, json!([]), key()),
        (&transactions, json!("text"), key()),
        (&transactions, tx(), None),
        (&transactions, tx(), Some("short".to_owned())),
        (&transactions, tx(), Some("x".repeat(65))),
        (
            &transactions,
            tx(),
            Some("not a key, has blanks".to_owned()),
        ),
        (api::SIGN, change(sign(), "attempt", json!(1)), None),
        (api::SIGN, change(sign(), "restart", json!(true)), None),
        (
            api::SIGN,
            change(sign(), "p1SignatureShare", json!(7)),
            None,
        ),
        (api::SIGN, remove(sign(), "p1SignatureShare"), None),
        (api::SIGN, remove(sign(), "sessionId"), None),
        (api::PROFILES, change(kg(), "tenant", json!("other")), key()),
        (api::PROFILES, change(kg(), "name", json!("")), key()),
        (
            api::PROFILES,
            change(kg(), "name", json!("x".repeat(65))),
            key(),
        ),
        (api::PROFILES, change(kg(), "name", json!("a\u{7}b")), key()),
        (
            api::PROFILES,
            change(kg(), "clientShare", json!(null)),
            key(),
        ),
        (api::PROFILES, change(kg(), "profileId", json!("p")), key()),
        (api::PROFILES, inner, key()),
        (api::PROFILES, kg(), None),
    ];
    for (path, body, key) in cases {
        let reply = post(&appliance, &wallet, path, &body, key.as_deref()).await;
        assert_eq!(
            refusal(&reply),
            (400, "INVALID_REQUEST".to_owned()),
            "{path} {body}"
        );
    }
    // The device key must be the one that its id names.
    let mut stolen = kg();
    stolen["clientShare"]["keyId"] =
        json!(DeviceKey::generate(Algorithm::P256).unwrap().thumbprint());
    let reply = post(
        &appliance,
        &wallet,
        api::PROFILES,
        &stolen,
        key().as_deref(),
    )
    .await;
    assert_eq!(refusal(&reply), (400, "INVALID_REQUEST".to_owned()));
    // Not JSON, or not said to be.
    for (content_type, body) in [
        ("application/json", "{"),
        ("application/json", ""),
        ("application/json", "{\"sessionId\": \"\\ud800\"}"),
        ("text/plain", "{}"),
        ("application/x-www-form-urlencoded", "sessionId=1"),
    ] {
        let mut request = signed(
            &appliance,
            &wallet,
            &Request::post(api::SIGN, &sign()).unwrap(),
        );
        request.body = Some(body.as_bytes().to_vec());
        set(&mut request, "content-type", content_type);
        let reply = deliver(&appliance, &request).await;
        assert!(
            [400, 401].contains(&refusal(&reply).0),
            "{content_type} {body}"
        );
    }
    assert_eq!(state(&appliance), before);
    signing.complete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a12_bodies_over_the_limit_of_their_route_are_413() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let before = state(&appliance);
    let transactions = api::transactions_path(&profile(&wallet));
    for (path, limit, filled) in [
        (api::PROFILES, 512 * 1024, "name"),
        (api::SIGN, 192 * 1024, "p1SignatureShare"),
        (&transactions, 32 * 1024, "data"),
    ] {
        for (surplus, expected) in [(0, 400), (1, 413), (limit, 413)] {
            let mut body = json!({filled: ""});
            let frame = body.to_string().len();
            body[filled] = json!("x".repeat(limit + surplus - frame));
            assert_eq!(body.to_string().len(), limit + surplus);
            let reply = post(&appliance, &wallet, path, &body, Some(&fresh_key())).await;
            assert_eq!(reply.status, expected, "{path} {surplus}");
            if expected == 413 {
                assert_eq!(refusal(&reply).1, "PAYLOAD_TOO_LARGE");
            }
        }
    }
    assert_eq!(state(&appliance), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a12_a_body_of_unknown_length_is_counted_while_it_arrives() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let file = appliance.directory().join("body");
    std::fs::write(&file, vec![b' '; 192 * 1024 + 1]).unwrap();
    let output = std::process::Command::new("curl")
        .args([
            "--silent",
            "--http1.1",
            "--noproxy",
            "*",
            "--max-time",
            "10",
        ])
        .args(["--cacert", &appliance.pki("ca.pem")])
        .args(["--cert", &appliance.pki("gateway.pem")])
        .args(["--key", &appliance.pki("gateway-key.pem")])
        .args(["--header", "Content-Type: application/json"])
        .args(["--header", "Transfer-Encoding: chunked"])
        .args(["--data-binary", &format!("@{}", file.display())])
        .arg(appliance.url(api::SIGN))
        .output()
        .unwrap();
    let body: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(body["error"], "PAYLOAD_TOO_LARGE");
}

/// One POST over HTTP/1.1 that writes its whole body before it reads: what many libraries do.
const WRITE_FIRST: &str = r#"
import http.client, os, ssl, sys
port, ca, certificate, key, path, kind, size = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
context.load_cert_chain(certificate, key)
for _ in range(5):
    connection = http.client.HTTPSConnection("localhost", int(port), context=context, timeout=20)
    connection.request("POST", path, body=b" " * int(size), headers={"Content-Type": kind})
    print(connection.getresponse().status)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a12_who_is_still_sending_when_refused_reads_the_answer() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let port = appliance.client.config().url.port().unwrap().to_string();
    let transactions = api::transactions_path("no-such-profile");
    let json = "application/json";
    for (path, kind, expected) in [
        (&*transactions, json, "413"),
        (&transactions, "text/plain", "400"),
        (api::IDENTITY, json, "405"),
        ("/nowhere", json, "404"),
    ] {
        let output = std::process::Command::new("python3")
            .args(["-c", WRITE_FIRST, &port])
            .args(["ca.pem", "gateway.pem", "gateway-key.pem"].map(|file| appliance.pki(file)))
            .args([path, kind, "1000000"])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let failed = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said, format!("{expected}\n").repeat(5), "{failed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a23_share() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let signing = Signing::prepare(&appliance, &wallet, 1).await;
    let before = state(&appliance);
    let mut scalar = [0; 32];
    getrandom::fill(&mut scalar).unwrap();
    let digits = hex::encode(scalar);
    let party = wallet.current_share().unwrap().to_bytes().unwrap();
    let base64 = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(scalar)
    };
    let sent = [
        digits.clone(),
        format!("0x{digits}"),
        digits.to_uppercase(),
        base64.clone(),
        hex::encode(party.as_slice()),
    ];
    for text in &sent {
        let body = keygen(&wallet, text);
        let first = post(
            &appliance,
            &wallet,
            api::PROFILES,
            &body,
            Some(&fresh_key()),
        )
        .await;
        let round = signing.post(text).await;
        for reply in [first, round] {
            assert_eq!(
                refusal(&reply),
                (400, "INVALID_KEY_SHARE".to_owned()),
                "{text:.70}"
            );
            assert!(!contains(
                &reply.body,
                &text.as_bytes()[..40.min(text.len())]
            ));
        }
    }
    let records = appliance.database().rows(
        "SELECT outcome || ' ' || detail FROM audit_records WHERE event = 'client_sent_secret'",
    );
    assert_eq!(records.len(), 2 * sent.len());
    let device = wallet.device().thumbprint();
    assert!(
        records
            .iter()
            .all(|record| *record == format!("denied device {device}"))
    );
    assert_eq!(state(&appliance), before);
    signing.complete().await;
    appliance.stop().await;

    // Everything the appliance keeps: log at its most talkative, database, write-ahead log, token.
    let mut needles: Vec<Vec<u8>> = vec![scalar.to_vec(), base64.into_bytes()];
    needles.push(digits.to_uppercase().into_bytes());
    needles.push(digits.into_bytes());
    needles.push(party[1_000..1_040].to_vec());
    needles.push(hex::encode(&party[1_000..1_040]).into_bytes());
    let mut searched = 0;
    for (file, content) in appliance.at_rest() {
        searched += content.len();
        for needle in &needles {
            assert!(!contains(&content, needle), "{}", file.display());
        }
    }
    assert!(searched > 100_000, "the log and the database were searched");
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn s4_a_request_that_its_device_did_not_sign_is_401() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let other = wallet_of(&appliance, &node, "other").await;
    let signing = Signing::prepare(&appliance, &wallet, 1).await;
    let before = state(&appliance);
    let path = api::transactions_path(&profile(&wallet));
    let fresh = || {
        let request = Request::post(&path, &transaction(5)).unwrap();
        signed(
            &appliance,
            &wallet,
            &request.with_idempotency_key(fresh_key()),
        )
    };
    let expect = async |request: SignedRequest, what: &str| {
        let (status, code) = refusal(&deliver(&appliance, &request).await);
        assert_eq!(status, 401, "{what}");
        code
    };

    for gone in ["signature", "signature-input"] {
        let mut request = fresh();
        without(&mut request, gone);
        assert_eq!(expect(request, gone).await, "UNAUTHENTICATED");
    }
    for gone in ["content-digest", "mpc-audience", "idempotency-key"] {
        let mut request = fresh();
        without(&mut request, gone);
        assert_eq!(expect(request, gone).await, "SIGNATURE_INVALID");
    }
    let mut body = fresh();
    body.body = Some(serde_json::to_vec(&transaction(6)).unwrap());
    assert_eq!(expect(body, "another body").await, "SIGNATURE_INVALID");
    let mut path = fresh();
    path.path = path.path.replace("/api/v1/", "/api//v1/");
    let reply = deliver(&appliance, &path).await;
    assert!([401, 404].contains(&reply.status), "another path");
    let mut query = fresh();
    query.path.push_str("?a=1");
    expect(query, "a query").await;
    let mut moved = fresh();
    moved.path = api::transactions_path(&profile(&other));
    expect(moved, "another profile's path").await;
    let mut key = fresh();
    set(&mut key, "idempotency-key", &fresh_key());
    expect(key, "another idempotency key").await;
    let mut audience = fresh();
    set(&mut audience, "mpc-audience", "another.example");
    expect(audience, "another audience").await;
    let mut digest = fresh();
    set(&mut digest, "content-digest", "sha-256=:AAAA:");
    expect(digest, "another digest").await;
    let mut method = signed(
        &appliance,
        &wallet,
        &Request::get(api::profile_path(&profile(&wallet))),
    );
    method.path = api::session_path(&signing.prepared.session_id);
    expect(method, "the signature of another GET").await;

    // Somebody else's key under this wallet's id, and a key that nobody enrolled.
    let mine = fresh();
    let transport = appliance.client.transport();
    let request = Request::post(&mine.path, &transaction(5)).unwrap();
    let request = request.with_idempotency_key(fresh_key());
    let stranger = DeviceKey::generate(Algorithm::P256).unwrap();
    let mut forged = transport.sign(&request, &stranger).unwrap();
    expect(
        transport.sign(&request, &stranger).unwrap(),
        "an unknown device",
    )
    .await;
    let input = forged
        .headers
        .iter()
        .find(|(name, _)| *name == "signature-input")
        .unwrap();
    let input = input
        .1
        .replace(&stranger.thumbprint(), &wallet.device().thumbprint());
    set(&mut forged, "signature-input", &input);
    expect(forged, "a forged key id").await;
    // A device that is enrolled, but not for this profile, learns nothing.
    let foreign = deliver(
        &appliance,
        &transport.sign(&request, other.device()).unwrap(),
    )
    .await;
    assert_eq!(refusal(&foreign), (404, "PROFILE_NOT_FOUND".to_owned()));

    // Twice the same header: which one would count?
    let mut twice = fresh();
    let again = twice
        .headers
        .iter()
        .find(|(name, _)| *name == "mpc-audience")
        .unwrap()
        .clone();
    twice.headers.push(again);
    assert!([400, 401].contains(&deliver(&appliance, &twice).await.status));
    // Old, and from the future.
    for (shift, what) in [(-120, "two minutes old"), (60, "of the next minute")] {
        let mut late = fresh();
        let input = late
            .headers
            .iter()
            .find(|(name, _)| *name == "signature-input")
            .unwrap();
        let created: i64 = number_after(&input.1, "created=");
        let expires: i64 = number_after(&input.1, "expires=");
        let shifted = input
            .1
            .replace(&created.to_string(), &(created + shift).to_string());
        let shifted = shifted.replace(&expires.to_string(), &(expires + shift).to_string());
        set(&mut late, "signature-input", &shifted);
        expect(late, what).await;
    }
    assert_eq!(state(&appliance), before);
    signing.complete().await;
}

fn number_after(text: &str, name: &str) -> i64 {
    let rest = text.split(name).nth(1).unwrap();
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap();
    digits.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a32_foreign_and_unknown_are_the_same_answer() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let other = wallet_of(&appliance, &node, "other").await;
    let signing = Signing::prepare(&appliance, &other, 1).await;
    let before = state(&appliance);
    let foreign_session = signing.prepared.session_id.clone();
    let foreign_profile = profile(&other);
    let unknown = uuid::Uuid::now_v7().to_string();
    let mine = profile(&wallet);

    let mut answers: Vec<(&str, Vec<Reply>)> = Vec::new();
    let mut of_session = Vec::new();
    let mut of_round = Vec::new();
    let mut of_restart = Vec::new();
    for session in [&*foreign_session, &unknown, "no-id-at-all"] {
        of_session.push(get(&appliance, &wallet, &api::session_path(session)).await);
        let round = json!({"sessionId": session, "p1SignatureShare": "mw1.sg1.k.x"});
        of_round.push(post(&appliance, &wallet, api::SIGN, &round, None).await);
        let restart = json!({"sessionId": session, "restart": true});
        of_restart.push(post(&appliance, &wallet, api::SIGN, &restart, None).await);
    }
    let mut of_profile = Vec::new();
    let mut of_transaction = Vec::new();
    let mut of_keygen = Vec::new();
    for id in [&*foreign_profile, &unknown, "no-id-at-all"] {
        of_profile.push(get(&appliance, &wallet, &api::profile_path(id)).await);
        let path = api::transactions_path(id);
        let key = fresh_key();
        of_transaction.push(post(&appliance, &wallet, &path, &transaction(1), Some(&key)).await);
        let share = client_share(&wallet, "mw1.kg2.k.x".to_owned());
        let body = json!({"profileId": id, "keygenSessionId": unknown, "clientShare": share});
        of_keygen.push(post(&appliance, &wallet, api::PROFILES, &body, None).await);
    }
    answers.push(("NOT_FOUND", of_session));
    answers.push(("NOT_FOUND", of_round));
    answers.push(("NOT_FOUND", of_restart));
    answers.push(("PROFILE_NOT_FOUND", of_profile));
    answers.push(("PROFILE_NOT_FOUND", of_transaction));
    answers.push(("PROFILE_NOT_FOUND", of_keygen));
    for (code, replies) in answers {
        for reply in &replies {
            assert_eq!(refusal(reply), (404, code.to_owned()));
            assert_eq!(reply.body, replies[0].body, "the same body");
        }
    }
    // The wallet's own profile with somebody else's key generation.
    let theirs = appliance.database().value(&format!(
        "SELECT session_id FROM sessions WHERE kind = 'keygen' AND profile_id = '{foreign_profile}'"
    ));
    let share = client_share(&wallet, "mw1.kg2.k.x".to_owned());
    let body = json!({"profileId": mine, "keygenSessionId": theirs, "clientShare": share});
    let reply = post(&appliance, &wallet, api::PROFILES, &body, None).await;
    assert_eq!(refusal(&reply), (404, "NOT_FOUND".to_owned()));
    assert_eq!(state(&appliance), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_are_bound_to_their_idempotency_key_and_to_known_chains() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let path = api::transactions_path(&profile(&wallet));
    let key = fresh_key();

    let first = post(&appliance, &wallet, &path, &transaction(1), Some(&key)).await;
    let again = post(&appliance, &wallet, &path, &transaction(1), Some(&key)).await;
    assert_eq!((first.status, &first.body), (200, &again.body));
    let other = post(&appliance, &wallet, &path, &transaction(2), Some(&key)).await;
    assert_eq!(refusal(&other), (422, "IDEMPOTENCY_MISMATCH".to_owned()));
    let sessions = "SELECT COUNT(*) FROM sessions WHERE kind = 'sign'";
    assert_eq!(appliance.database().number(sessions), 1);

    // A test chain that is not configured, mainnet, and one that nobody knows.
    for chain in [11_155_111, 1, 424_242] {
        assert_ne!(chain, CHAIN);
        let mut body = transaction(1);
        body["chainId"] = json!(chain);
        let reply = post(&appliance, &wallet, &path, &body, Some(&fresh_key())).await;
        assert_eq!(
            refusal(&reply),
            (403, "CHAIN_NOT_ALLOWED".to_owned()),
            "{chain}"
        );
    }
    let denials = "SELECT COUNT(*) FROM audit_records WHERE event = 'transaction_denied' AND outcome = 'denied'";
    assert_eq!(appliance.database().number(denials), 3);
    let mut body = transaction(1);
    body["keyGeneration"] = json!(2);
    let reply = post(&appliance, &wallet, &path, &body, Some(&fresh_key())).await;
    assert_eq!(refusal(&reply), (409, "KEY_GENERATION_MISMATCH".to_owned()));
    assert_eq!(appliance.database().number(sessions), 1);
    assert_eq!(json_of(&first)["keyGeneration"], 1);
}
