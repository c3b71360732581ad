//! A33: a gateway in the hands of an attacker. It holds the gateway's certificate and sees, alters, keeps, swaps and makes
//! up whatever passes between wallet and appliance.

use std::sync::{Arc, Mutex};

use countersign_client::api;
use countersign_client::flows::payment::{Resumed, resume};
use countersign_client::flows::send as flow;
use countersign_client::transport::{Request, SignedRequest, Transport, TransportError};
use countersign_mpc::envelope::{EnvelopeInfo, KemSecretKey, MessageType, open_request};
use countersign_mpc::response_proof::content_digest;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::proxy::{Answered, Asked, Proxy};
use crate::support::signing::{fresh_key, signed, transaction};
use crate::support::wallet::{intent, profile, send_and_mine};
use crate::support::{Appliance, Node, Signing, wallet_of};

/// Something done to a request, in a word.
type OnRequest = (&'static str, fn(&mut Asked));
/// Something done to an answer, in a word.
type OnAnswer = (&'static str, fn(&mut Answered));

fn set(headers: &mut hyper::HeaderMap, name: &'static str, value: &str) {
    headers.insert(name, value.parse().unwrap());
}

fn text(headers: &hyper::HeaderMap, name: &str) -> String {
    headers[name].to_str().unwrap().to_owned()
}

/// `text` with another letter at `at`.
fn other_letter(text: &str, at: usize) -> String {
    let mut bytes = text.as_bytes().to_vec();
    bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
    String::from_utf8(bytes).unwrap()
}

/// Flips a bit in the middle of a body.
fn flip(body: &mut [u8]) {
    let middle = body.len() / 2;
    body[middle] ^= 1;
}

const REQUESTS: [OnRequest; 7] = [
    ("a byte of the body", |asked| flip(&mut asked.body)),
    ("the body and its digest", |asked| {
        flip(&mut asked.body);
        set(
            &mut asked.headers,
            "content-digest",
            &content_digest(&asked.body),
        );
    }),
    ("the session in the body", |asked| {
        let mut body: Value = serde_json::from_slice(&asked.body).unwrap();
        body["sessionId"] = "0190a6f0-0000-7000-8000-000000000001".into();
        asked.body = body.to_string().into_bytes();
        set(
            &mut asked.headers,
            "content-digest",
            &content_digest(&asked.body),
        );
    }),
    ("the nonce", |asked| {
        let input = text(&asked.headers, "signature-input");
        let at = input.find("nonce=\"").unwrap() + 8;
        set(
            &mut asked.headers,
            "signature-input",
            &other_letter(&input, at),
        );
    }),
    ("the time", |asked| {
        let input = text(&asked.headers, "signature-input");
        let input = input.replacen(";expires=1", ";expires=2", 1);
        set(&mut asked.headers, "signature-input", &input);
    }),
    ("the signature", |asked| {
        let signature = other_letter(&text(&asked.headers, "signature"), 20);
        set(&mut asked.headers, "signature", &signature);
    }),
    ("no signature", |asked| {
        asked.headers.remove("signature");
        asked.headers.remove("signature-input");
    }),
];

const ANSWERS: [OnAnswer; 12] = [
    ("status", |answered| answered.status = 200),
    ("a byte of the body", |answered| flip(&mut answered.body)),
    ("the message", |answered| {
        let mut body: Value = serde_json::from_slice(&answered.body).unwrap();
        let message = other_letter(body["mpcMessage"].as_str().unwrap(), 2000);
        body["mpcMessage"] = message.into();
        answered.body = body.to_string().into_bytes();
        set(
            &mut answered.headers,
            "content-digest",
            &content_digest(&answered.body),
        );
    }),
    ("the signature", |answered| {
        let signature = other_letter(&text(&answered.headers, "signature"), 20);
        set(&mut answered.headers, "signature", &signature);
    }),
    ("the response key", |answered| {
        let key = other_letter(&text(&answered.headers, "mpc-response-key"), 250);
        set(&mut answered.headers, "mpc-response-key", &key);
    }),
    ("not bound to the request", |answered| {
        let input = text(&answered.headers, "signature-input");
        let input = input.replace(r#" "signature";req;key="p1""#, "");
        set(&mut answered.headers, "signature-input", &input);
    }),
    ("no signature", |answered| {
        drop(answered.headers.remove("signature"));
    }),
    ("no input", |answered| {
        drop(answered.headers.remove("signature-input"));
    }),
    ("no digest", |answered| {
        drop(answered.headers.remove("content-digest"));
    }),
    ("no key", |answered| {
        drop(answered.headers.remove("mpc-response-key"));
    }),
    ("a forged refusal", |answered| {
        answered.status = 409;
        let refusal = json!({"error": "SESSION_LOST", "message": "lost", "statusCode": 409, "retry": "restart"});
        answered.body = refusal.to_string().into_bytes();
        set(
            &mut answered.headers,
            "content-digest",
            &content_digest(&answered.body),
        );
    }),
    ("an error of its own", |answered| {
        answered.status = 502;
        answered.headers.clear();
        answered.body = b"<html>Bad Gateway</html>".to_vec();
    }),
];

#[tokio::test(flavor = "multi_thread")]
async fn a33_gateway_cannot_alter_a_request() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let proxy = Proxy::before(&mut appliance).await;
    let wallet = wallet_of(&appliance, &node, "main").await;
    let signing = Signing::prepare(&appliance, &wallet, 1000).await;
    let (state, message) = signing.first();
    let (sealed, opener) = signing.sealed(MessageType::Sign1, &message).await;
    let body = json!({"sessionId": signing.prepared.session_id, "p1SignatureShare": sealed});
    let request = Request::post(api::SIGN, &body).unwrap();
    let transport = appliance.client.transport();

    for (what, alter) in REQUESTS {
        proxy.on_request(alter);
        let sent = transport.send(&signed(&appliance, &wallet, &request)).await;
        // Either the appliance says genuinely that this is not what the owner signed, or the wallet believes nothing.
        match sent {
            Ok(reply) => assert_eq!(reply.status, 401, "{what}"),
            Err(error) => assert!(
                matches!(error, TransportError::Unbelievable(_)),
                "{what}: {error:?}"
            ),
        }
        let last = proxy.recorded().pop().unwrap().1;
        assert_eq!(last.status, 401, "{what}");
    }
    // The key of a transaction, which decides whether it is another one.
    proxy.on_request(|asked| {
        set(
            &mut asked.headers,
            "idempotency-key",
            "another-key-0123456789",
        );
    });
    let prepare =
        Request::post(api::transactions_path(&profile(&wallet)), &transaction(5)).unwrap();
    let prepare = prepare.with_idempotency_key(fresh_key());
    let sent = transport.send(&signed(&appliance, &wallet, &prepare)).await;
    assert_eq!(sent.unwrap().status, 401, "idempotency key");
    // Where it goes.
    let other = api::session_path("0190a6f0-0000-7000-8000-000000000001");
    proxy.on_request(move |asked| asked.path.clone_from(&other));
    let look = Request::get(api::session_path(&signing.prepared.session_id));
    let sent = transport.send(&signed(&appliance, &wallet, &look)).await;
    assert_eq!(sent.unwrap().status, 401, "path");
    proxy.behave();

    // Nothing has happened to the session: the very message is taken, and the payment completes.
    assert_eq!(signing.state().await, "CREATED");
    let suspect = "SELECT SUM(suspect_events) FROM profiles";
    assert_eq!(appliance.database().number(suspect), 0);
    let answer = signing.post(&sealed).await;
    assert_eq!(answer.status, 202);
    let kept = crate::support::signing::AfterRound1::new(state, opener);
    assert_eq!(signing.round_2(kept, &answer).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a33_gateway_cannot_alter_forge_swap_or_replay_an_answer() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let proxy = Proxy::before(&mut appliance).await;
    let wallet = wallet_of(&appliance, &node, "main").await;
    let signing = Signing::prepare(&appliance, &wallet, 1000).await;
    let (state, message) = signing.first();
    let (sealed, opener) = signing.sealed(MessageType::Sign1, &message).await;
    let refused = async |what: &str| {
        let sent = signing.try_post(&sealed).await;
        assert!(
            matches!(sent, Err(TransportError::Unbelievable(_))),
            "{what}"
        );
    };
    for (what, alter) in ANSWERS {
        proxy.on_answer(move |_, answered| alter(answered));
        refused(what).await;
    }
    // The identical message again has the identical answer; but the one of before was to another request.
    proxy.behave();
    let honest = signing.post(&sealed).await;
    assert_eq!(honest.status, 202);
    let (_, old) = proxy.recorded().pop().unwrap();
    assert_eq!(old.body, honest.body);
    proxy.on_answer(move |_, answered| *answered = old.clone());
    refused("replayed").await;

    // Two questions at once, whose answers change places.
    proxy.behave();
    let transport = appliance.client.transport();
    let ask = async |path: String| {
        transport
            .send(&signed(&appliance, &wallet, &Request::get(path)))
            .await
    };
    let (session, own) = (
        api::session_path(&signing.prepared.session_id),
        api::profile_path(&profile(&wallet)),
    );
    let other: Arc<Mutex<Option<Answered>>> = Arc::default();
    let first = session.clone();
    proxy.on_answer(move |asked, answered| {
        let mut other = other.lock().unwrap();
        if asked.path == first {
            *other = Some(answered.clone());
        } else if let Some(other) = other.take() {
            *answered = other;
        }
    });
    assert!(ask(session).await.is_ok());
    assert!(matches!(
        ask(own).await,
        Err(TransportError::Unbelievable(_))
    ));
    proxy.behave();

    // All that time the session was one of an honest wallet: it goes on.
    let kept = crate::support::signing::AfterRound1::new(state, opener);
    assert_eq!(signing.round_2(kept, &honest).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a33_gateway_that_lies_about_the_end_of_a_payment_is_found_out() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let proxy = Proxy::before(&mut appliance).await;
    let mut wallet = wallet_of(&appliance, &node, "main").await;
    // The last answer names another transaction; then, that the session was lost. The appliance has signed all the same.
    proxy.on_answer(|asked, answered| {
        if asked.path == api::SIGN && answered.status == 200 {
            let body =
                json!({"txHash": format!("0x{}", "ab".repeat(32)), "status": "broadcasting"});
            answered.body = body.to_string().into_bytes();
            set(
                &mut answered.headers,
                "content-digest",
                &content_digest(&answered.body),
            );
        }
    });
    let proposal = flow::propose(&mut wallet, &appliance.client, intent(1000))
        .await
        .unwrap();
    let sent = flow::sign(&mut wallet, &appliance.client, &proposal, &mut |_| ()).await;
    let error = sent.err().unwrap();
    assert_eq!(error.exit_code(), 13, "{error}");
    assert!(error.to_string().contains("gateway"), "{error}");
    assert!(wallet.payment().unwrap().is_open());
    let again = flow::propose(&mut wallet, &appliance.client, intent(1000)).await;
    assert_eq!(again.err().unwrap().exit_code(), 10, "it is not paid twice");

    proxy.behave();
    let resumed = resume(&mut wallet, &appliance.client, &mut |_| ())
        .await
        .unwrap();
    assert!(matches!(resumed, Resumed::Sent(_)), "{resumed:?}");
    assert_eq!(
        appliance
            .database()
            .number("SELECT COUNT(*) FROM transactions"),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a33_gateway_that_passes_all_on_learns_nothing_of_it() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let proxy = Proxy::before(&mut appliance).await;
    assert_eq!(appliance.client.config().url, *proxy.url());
    let mut wallet = wallet_of(&appliance, &node, "main").await;
    send_and_mine(&mut wallet, &appliance, 1000).await;

    // It has recorded everything, and stolen the device key afterwards.
    let device = wallet.device().to_bytes();
    let device = KemSecretKey::from_bytes(device.as_slice()).unwrap();
    let mut messages = 0;
    for (asked, answered) in proxy.recorded() {
        let request: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
        let answer: Value = serde_json::from_slice(&answered.body).unwrap_or_default();
        let sealed = [
            request.pointer("/clientShare/share"),
            request.pointer("/p1SignatureShare"),
            answer.pointer("/mpcMessage"),
        ];
        for sealed in sealed.into_iter().flatten().filter_map(Value::as_str) {
            messages += 1;
            let (kind, kid) = sealed[4..].split_once('.').unwrap();
            let kind = match kind {
                "kg1" => MessageType::Keygen1,
                "kg2" => MessageType::Keygen2,
                "kg3" => MessageType::Keygen3,
                "sg1" => MessageType::Sign1,
                _ => MessageType::Sign2,
            };
            let key = asked
                .headers
                .get("idempotency-key")
                .map(|key| key.to_str().unwrap());
            let id = |name: &str| {
                request[name]
                    .as_str()
                    .or(key)
                    .unwrap_or_default()
                    .to_owned()
            };
            let info = EnvelopeInfo {
                environment_id: appliance.client.config().environment_id,
                tenant: "default".to_owned(),
                message_type: kind,
                kem_kid: kid.split('.').next().unwrap().to_owned(),
                device_thumbprint: wallet.device().thumbprint(),
                profile_id: id("profileId"),
                session_id: id("keygenSessionId"),
                key_generation: 1,
                attempt: 1,
            };
            assert!(open_request(&device, &info, sealed).is_err());
        }
    }
    assert_eq!(messages, 9, "five requests and four answers");
}

/// An unsigned request.
fn bare(method: Method, path: &str) -> SignedRequest {
    SignedRequest {
        method,
        path: path.to_owned(),
        headers: Vec::new(),
        body: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a33_answers_of_every_status_are_signed() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "main").await;
    // The transport gives no answer back that is not signed.
    let transport = appliance.client.transport();
    let of_wallet =
        |path: &str, body: &Value| signed(&appliance, &wallet, &Request::post(path, body).unwrap());
    let mut other_type = of_wallet(api::SIGN, &json!({}));
    for (name, value) in &mut other_type.headers {
        if *name == "content-type" {
            "text/plain".clone_into(value);
        }
    }
    let long = json!({"sessionId": "x".repeat(300_000)});
    let profile_path = api::profile_path(&profile(&wallet));
    let transactions = api::transactions_path(&profile(&wallet));
    let no_key = of_wallet(&transactions, &transaction(5));
    let prepare = Request::post(&transactions, &transaction(5)).unwrap();
    let prepare = prepare.with_idempotency_key(fresh_key());
    for (request, expected) in [
        (bare(Method::GET, api::IDENTITY), 200),
        (bare(Method::HEAD, api::IDENTITY), 200),
        (
            signed(&appliance, &wallet, &Request::get(&profile_path)),
            200,
        ),
        (signed(&appliance, &wallet, &prepare), 200),
        (other_type, 400),
        (no_key, 400),
        (bare(Method::GET, &profile_path), 401),
        (bare(Method::GET, "/nowhere"), 404),
        (
            signed(&appliance, &wallet, &Request::get("/api/v2/profiles/x")),
            404,
        ),
        (bare(Method::DELETE, api::IDENTITY), 405),
        (of_wallet(api::SIGN, &long), 413),
    ] {
        let what = format!("{} {}", request.method, request.path);
        let reply = transport.send(&request).await.unwrap();
        assert_eq!(reply.status, expected, "{what}");
    }
    // Also to those who have no business at a listener.
    let mut config = appliance.client.config().clone();
    config.certificate = appliance.pki("operator.pem").into();
    config.key = appliance.pki("operator-key.pem").into();
    let operator = Transport::new(&config).unwrap();
    let reply = operator.send(&bare(Method::GET, api::IDENTITY)).await;
    assert_eq!(reply.unwrap().status, 403);
}
