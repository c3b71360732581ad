//! What belongs to somebody else answers like what does not exist: status, headers, body, and time (A32).

use std::time::Instant;

use countersign_client::api;
use countersign_client::flows::devices;
use countersign_client::keystore::Wallet;
use countersign_client::transport::{Request, SignedRequest};
use serde_json::json;

use crate::support::outside::curl;
use crate::support::signing::{deliver, fresh_key, signed, transaction};
use crate::support::wallet::profile;
use crate::support::{Appliance, Node, Signing, wallet_of};

/// Requests of a route for a foreign thing and for one that does not exist.
struct Pair {
    what: &'static str,
    foreign: Request,
    unknown: Request,
}

fn pairs(appliance: &Appliance, wallet: &Wallet, other: &Wallet, session: &str) -> Vec<Pair> {
    let (theirs, nowhere) = (profile(other), uuid::Uuid::now_v7().to_string());
    let asked = json!(devices::ask(wallet, &appliance.client, "n").unwrap());
    let device = other.device().thumbprint();
    let get = |what, path: fn(&str) -> String, foreign: &str| Pair {
        what,
        foreign: Request::get(path(foreign)),
        unknown: Request::get(path(&nowhere)),
    };
    let post = |what,
                [foreign, unknown]: [String; 2],
                body: &dyn Fn(&str) -> serde_json::Value,
                id: &str| {
        let request = |path, id: &str| {
            let request = Request::post(path, &body(id)).unwrap();
            request.with_idempotency_key(fresh_key())
        };
        Pair {
            what,
            foreign: request(foreign, id),
            unknown: request(unknown, &nowhere),
        }
    };
    let both = |path: fn(&str) -> String| [path(&theirs), path(&nowhere)];
    let sign = || [api::SIGN.to_owned(), api::SIGN.to_owned()];
    vec![
        get("profile", api::profile_path, &theirs),
        get("devices", api::devices_path, &theirs),
        get("session", api::session_path, session),
        post(
            "transaction",
            both(api::transactions_path),
            &|_| transaction(1),
            &theirs,
        ),
        post(
            "enrolment",
            both(api::devices_path),
            &|_| asked.clone(),
            &theirs,
        ),
        post(
            "revocation",
            [
                api::revoke_path(&theirs, &device),
                api::revoke_path(&nowhere, &device),
            ],
            &|_| json!({}),
            &theirs,
        ),
        post(
            "restart",
            sign(),
            &|id| json!({"sessionId": id, "restart": true}),
            session,
        ),
        post(
            "message",
            sign(),
            &|id| json!({"sessionId": id, "p1SignatureShare": "mw1.sg1.k.x"}),
            session,
        ),
    ]
}

/// What curl gets, without what differs between any two answers.
fn raw(appliance: &Appliance, request: &SignedRequest) -> (u16, Vec<String>, String) {
    let certificate = [
        appliance.pki("gateway.pem"),
        appliance.pki("gateway-key.pem"),
    ];
    let mut options: Vec<String> = vec!["--cert".into(), certificate[0].clone()];
    options.extend(["--key".into(), certificate[1].clone()]);
    options.extend(["--request".into(), request.method.to_string()]);
    for (name, value) in &request.headers {
        options.extend(["--header".into(), format!("{name}: {value}")]);
    }
    if let Some(body) = &request.body {
        let body = String::from_utf8(body.clone()).unwrap();
        options.extend(["--data-binary".into(), body]);
    }
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let got = curl(appliance, &appliance.url(&request.path), &options);
    let of_each_answer = ["date:", "signature:", "signature-input:"];
    let head = got.head.lines().map(|line| line.trim().to_owned());
    let mut head: Vec<String> = head
        .filter(|line| !of_each_answer.iter().any(|name| line.starts_with(name)))
        .collect();
    head.sort_unstable();
    (got.status, head, got.body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a32_foreign_and_unknown_have_the_same_head_and_body() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let other = wallet_of(&appliance, &node, "other").await;
    let session = Signing::prepare(&appliance, &other, 1)
        .await
        .prepared
        .session_id;
    for pair in pairs(&appliance, &wallet, &other, &session) {
        let answer = |request: &Request| raw(&appliance, &signed(&appliance, &wallet, request));
        let (foreign, unknown) = (answer(&pair.foreign), answer(&pair.unknown));
        assert_eq!(foreign.0, 404, "{}", pair.what);
        assert!(foreign.1.len() > 3, "{:?}", foreign.1);
        assert_eq!(foreign, unknown, "{}", pair.what);
    }
}

/// Answers that are timed, of each kind.
const ANSWERS: usize = 1_500;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of about two minutes, for a quiet machine"]
async fn a32_ct_foreign_and_unknown_take_the_same_time() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let other = wallet_of(&appliance, &node, "other").await;
    let session = Signing::prepare(&appliance, &other, 1)
        .await
        .prepared
        .session_id;
    let mut apart = Vec::new();
    for pair in pairs(&appliance, &wallet, &other, &session)
        .into_iter()
        .take(5)
    {
        let mut times = [Vec::new(), Vec::new()];
        for round in 0..2 * ANSWERS {
            // In turns, and each of them first as often.
            let kind = (round + round / 2) % 2;
            let request = if kind == 0 {
                &pair.foreign
            } else {
                &pair.unknown
            };
            let request = signed(&appliance, &wallet, request);
            let start = Instant::now();
            assert_eq!(deliver(&appliance, &request).await.status, 404);
            times[kind].push(start.elapsed().as_secs_f64() * 1e6);
        }
        let [foreign, unknown] = times.map(|mut times| {
            times.sort_unstable_by(f64::total_cmp);
            times[times.len() / 2]
        });
        let difference = (foreign / unknown - 1.0) * 100.0;
        let line = format!(
            "{}: foreign {foreign:.0} us, unknown {unknown:.0} us, {difference:+.1} %",
            pair.what
        );
        eprintln!("{line}");
        if difference.abs() > 5.0 {
            apart.push(line);
        }
    }
    assert!(apart.is_empty(), "{apart:?}");
}
