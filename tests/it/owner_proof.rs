//! The owner's proof at the real front door: every covered component, every parameter and every header of it, altered one
//! at a time (`protocol.md` 4).

use countersign_client::api;
use countersign_client::transport::{Reply, Request, SignedRequest};
use countersign_mpc::owner_proof::Algorithm;

use crate::devices::enrolled;
use crate::support::signing::{deliver, fresh_key, refusal, signed, transaction};
use crate::support::wallet::profile;
use crate::support::{Appliance, Node, wallet_of};

const SESSIONS: &str = "SELECT COUNT(*) FROM sessions WHERE kind = 'sign'";

fn header<'a>(request: &'a mut SignedRequest, name: &str) -> &'a mut String {
    let mut headers = request.headers.iter_mut();
    let found = headers.find(|(header, _)| *header == name);
    &mut found.unwrap().1
}

fn replace(name: &'static str, from: &'static str, to: &'static str) -> Alteration {
    Box::new(move |request| {
        let value = header(request, name);
        let altered = value.replacen(from, to, 1);
        assert_ne!(*value, altered, "{name}: {from}");
        *value = altered;
    })
}

/// The value after `name=` in the signature's parameters.
fn parameter(name: &'static str, alter: impl Fn(&str) -> String + 'static) -> Alteration {
    Box::new(move |request| {
        let input = header(request, "signature-input");
        let start = input.find(&format!(";{name}=")).unwrap() + name.len() + 2;
        let length = input[start..].find(';').unwrap_or(input.len() - start);
        let altered = alter(&input[start..start + length]);
        input.replace_range(start..start + length, &altered);
    })
}

fn again(name: &'static str) -> Alteration {
    Box::new(move |request| {
        let value = header(request, name).clone();
        request.headers.push((name, value));
    })
}

fn without(name: &'static str) -> Alteration {
    Box::new(move |request| request.headers.retain(|(header, _)| *header != name))
}

fn shifted(seconds: i64) -> impl Fn(&str) -> String {
    move |number| (number.parse::<i64>().unwrap() + seconds).to_string()
}

type Alteration = Box<dyn Fn(&mut SignedRequest)>;

/// What is altered, how, and what comes of it.
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn alterations() -> Vec<(&'static str, Alteration, (u16, &'static str))> {
    let invalid = (401, "SIGNATURE_INVALID");
    let unsigned = (401, "UNAUTHENTICATED");
    let input = "signature-input";
    vec![
        // The components.
        (
            "another method",
            Box::new(|request| request.method = reqwest::Method::PUT),
            (405, "INVALID_REQUEST"),
        ),
        (
            "another path",
            Box::new(|request| request.path = api::SIGN.to_owned()),
            invalid,
        ),
        (
            "a query",
            Box::new(|request| request.path.push_str("?a=1")),
            invalid,
        ),
        (
            "an empty query",
            Box::new(|request| request.path.push('?')),
            (200, ""),
        ),
        (
            "another content type",
            replace("content-type", "application/json", "text/plain"),
            (400, "INVALID_REQUEST"),
        ),
        (
            "the content type spelled otherwise",
            replace(
                "content-type",
                "application/json",
                "application/json; charset=utf-8",
            ),
            (400, "INVALID_REQUEST"),
        ),
        (
            "another body under the same digest",
            Box::new(|request| {
                request.body = Some(serde_json::to_vec(&transaction(2)).unwrap());
            }),
            invalid,
        ),
        (
            "a byte more",
            Box::new(|request| request.body.as_mut().unwrap().push(b' ')),
            invalid,
        ),
        (
            "another digest",
            replace("content-digest", "=:", "=:A"),
            invalid,
        ),
        (
            "another algorithm of it",
            replace("content-digest", "sha-256", "sha-512"),
            invalid,
        ),
        (
            "another audience",
            Box::new(|request| *header(request, "mpc-audience") = "other.example".to_owned()),
            invalid,
        ),
        (
            "another key of the request",
            Box::new(|request| *header(request, "idempotency-key") = fresh_key()),
            invalid,
        ),
        // The parameters.
        ("created later", parameter("created", shifted(1)), invalid),
        (
            "created earlier",
            parameter("created", shifted(-1)),
            invalid,
        ),
        (
            "created a minute ago",
            parameter("created", shifted(-61)),
            invalid,
        ),
        (
            "created tomorrow",
            parameter("created", shifted(86_400)),
            invalid,
        ),
        ("a longer life", parameter("expires", shifted(1)), invalid),
        ("a shorter life", parameter("expires", shifted(-1)), invalid),
        ("expired", parameter("expires", shifted(-61)), invalid),
        (
            "another nonce",
            parameter("nonce", |_| format!("\"{}\"", "A".repeat(22))),
            invalid,
        ),
        (
            "a short nonce",
            parameter("nonce", |_| "\"AAAA\"".to_owned()),
            invalid,
        ),
        (
            "an unknown key",
            parameter("keyid", |_| format!("\"{}\"", "A".repeat(43))),
            invalid,
        ),
        (
            "another algorithm",
            parameter("alg", |_| "\"ed25519\"".to_owned()),
            invalid,
        ),
        (
            "no algorithm",
            parameter("alg", |_| "\"none\"".to_owned()),
            invalid,
        ),
        (
            "another tag",
            parameter("tag", |_| "\"mpc-wallet-p2/1\"".to_owned()),
            invalid,
        ),
        // The set of components.
        (
            "the method not covered",
            replace(input, "\"@method\" ", ""),
            invalid,
        ),
        (
            "the path not covered",
            replace(input, "\"@path\" ", ""),
            invalid,
        ),
        (
            "the query not covered",
            replace(input, "\"@query\" ", ""),
            invalid,
        ),
        (
            "the type not covered",
            replace(input, "\"content-type\" ", ""),
            invalid,
        ),
        (
            "the digest not covered",
            replace(input, "\"content-digest\" ", ""),
            invalid,
        ),
        (
            "the audience not covered",
            replace(input, "\"mpc-audience\" ", ""),
            invalid,
        ),
        (
            "the key not covered",
            replace(input, " \"idempotency-key\"", ""),
            invalid,
        ),
        ("nothing covered", parameterless(), invalid),
        // The headers.
        ("the signature altered", flipped(), invalid),
        ("two labels", replace(input, "p1=", "p2=(), p1="), invalid),
        (
            "the same label twice",
            replace(input, "p1=", "p1=(), p1="),
            invalid,
        ),
        ("another label", replace(input, "p1=", "p3="), invalid),
        ("no list", replace(input, "p1=(", "p1=\""), invalid),
        ("no bytes", replace("signature", "p1=:", "p1="), invalid),
        (
            "two signatures",
            replace("signature", "p1=:", "p1=:AAAA:, p1=:"),
            invalid,
        ),
        ("the signature twice", again("signature"), invalid),
        ("its input twice", again("signature-input"), invalid),
        ("the digest twice", again("content-digest"), invalid),
        ("the audience twice", again("mpc-audience"), invalid),
        ("the key twice", again("idempotency-key"), invalid),
        (
            "the type twice",
            again("content-type"),
            (400, "INVALID_REQUEST"),
        ),
        ("no signature", without("signature"), unsigned),
        ("no input", without("signature-input"), unsigned),
        ("no digest", without("content-digest"), invalid),
        ("no audience", without("mpc-audience"), invalid),
        ("no key", without("idempotency-key"), invalid),
        ("no type", without("content-type"), (400, "INVALID_REQUEST")),
        (
            "an endless signature",
            Box::new(|request| {
                *header(request, "signature") = format!("p1=:{}:", "A".repeat(9_000));
            }),
            invalid,
        ),
        (
            "an endless list",
            Box::new(|request| {
                *header(request, "signature-input") = format!("p1=({})", "\"a\" ".repeat(2_000));
            }),
            invalid,
        ),
    ]
}

fn parameterless() -> Alteration {
    Box::new(|request| {
        let input = header(request, "signature-input");
        let end = input.find(')').unwrap();
        input.replace_range("p1=(".len()..end, "");
    })
}

/// A bit of the signature, not of its encoding.
fn flipped() -> Alteration {
    Box::new(|request| {
        let signature = header(request, "signature");
        let letter = if &signature[10..11] == "A" { "B" } else { "A" };
        signature.replace_range(10..11, letter);
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_each_part_of_a_proof_altered_is_refused() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let p256 = wallet_of(&appliance, &node, "p256").await;
    let ed25519 = enrolled(&appliance, &p256, "ed25519", Algorithm::Ed25519).await;
    let path = api::transactions_path(&profile(&p256));
    for wallet in [&p256, &ed25519] {
        let kind = wallet.device().algorithm();
        let fresh = || {
            let request = Request::post(&path, &transaction(1)).unwrap();
            signed(
                &appliance,
                wallet,
                &request.with_idempotency_key(fresh_key()),
            )
        };
        assert_eq!(deliver(&appliance, &fresh()).await.status, 200, "{kind:?}");
        let mut made = appliance.database().number(SESSIONS);
        for (what, alter, expected) in alterations() {
            let of_ed25519 = kind == Algorithm::Ed25519;
            let mut request = fresh();
            if what == "another algorithm" && of_ed25519 {
                parameter("alg", |_| "\"ecdsa-p256-sha256\"".to_owned())(&mut request);
            } else {
                alter(&mut request);
            }
            let reply = deliver(&appliance, &request).await;
            assert_eq!(outcome(&reply), expected, "{kind:?}: {what}");
            made += i64::from(reply.status == 200);
            assert_eq!(
                appliance.database().number(SESSIONS),
                made,
                "{kind:?}: {what}"
            );
        }
    }
    // The nonce of a request that was refused for its signature is not spent.
    let request = Request::post(&path, &transaction(1)).unwrap();
    let good = signed(
        &appliance,
        &p256,
        &request.with_idempotency_key(fresh_key()),
    );
    let mut bad = good.clone();
    flipped()(&mut bad);
    assert_eq!(deliver(&appliance, &bad).await.status, 401);
    assert_eq!(deliver(&appliance, &good).await.status, 200);
}

fn outcome(reply: &Reply) -> (u16, &'static str) {
    if reply.status == 200 {
        return (200, "");
    }
    let (status, code) = refusal(reply);
    let known = ["SIGNATURE_INVALID", "UNAUTHENTICATED", "INVALID_REQUEST"];
    let code = known.into_iter().find(|known| *known == code);
    (status, code.unwrap_or("another code"))
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_huge_headers_are_refused_and_others_go_on() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let path = api::profile_path(&profile(&wallet));
    let fresh = || signed(&appliance, &wallet, &Request::get(&path));
    for (what, count, length) in [("one", 1, 1 << 20), ("many", 2_000, 100)] {
        let mut huge = fresh();
        huge.headers.retain(|(name, _)| *name != "signature");
        for _ in 0..count {
            huge.headers.push(("signature", "A".repeat(length)));
        }
        // Refused with a status, or the connection is closed.
        if let Ok(reply) = appliance.client.transport().send(&huge).await {
            assert!(
                (400..500).contains(&reply.status),
                "{what}: {}",
                reply.status
            );
        }
        assert_eq!(deliver(&appliance, &fresh()).await.status, 200, "{what}");
    }
}
