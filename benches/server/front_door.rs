//! What the owner's proof costs: alone, and as part of a request over a connection that stays open.

use std::hint::black_box;

use countersign::identity::owner::verifies;
use countersign_client::api;
use countersign_client::clock;
use countersign_client::transport::Request;
use countersign_mpc::owner_proof::{Algorithm, BodyHash, DeviceKey, RequestParts, parse, sign};
use serde_json::json;
use uuid::Uuid;

use crate::dealt::Fixtures;
use crate::machine::thread_cpu;
use crate::rig::Rig;
use crate::table::Table;

/// Verifications of each kind.
const PROOFS: usize = 5_000;
/// Requests over one connection; fewer than one device may send in a minute.
const REQUESTS: usize = 4_000;
/// A body as long as that of a first signing message.
const BODY: usize = 36 * 1024;

/// Measures both.
pub(crate) async fn measure(rig: &Rig, fixtures: &Fixtures, table: &mut Table) {
    for (kind, name) in [(Algorithm::P256, "P-256"), (Algorithm::Ed25519, "Ed25519")] {
        for (body, size) in [(200, "200 bytes"), (BODY, "36 KiB")] {
            let what = format!("owner proof verified, {name}, {size}, CPU");
            table.row(&what, proof(kind, body) * 1e3, "us", "<= 150");
        }
    }
    let server = rig.start().await;
    let transport = rig.client.transport();
    let body = json!({"sessionId": Uuid::now_v7().to_string(), "restart": true});
    let request = Request::post(api::SIGN, &body).unwrap();
    let ask = async |count: usize| {
        for _ in 0..count {
            let signed = transport.sign(&request, &fixtures.device).unwrap();
            // A session that does not exist: proof and look-up are all there is to do.
            assert_eq!(transport.send(&signed).await.unwrap().status, 404);
        }
    };
    ask(100).await;
    let before = server.cpu();
    ask(REQUESTS).await;
    let each = (server.cpu() - before) / REQUESTS as f64;
    server.stop().await;
    table.row(
        "keep-alive POST with owner proof, server CPU",
        each * 1e3,
        "us",
        "",
    );
}

/// Milliseconds of CPU that one proof takes as the server verifies it: headers read, body hashed, signature checked.
fn proof(kind: Algorithm, length: usize) -> f64 {
    let (device, body) = (DeviceKey::generate(kind).unwrap(), vec![b'a'; length]);
    let key = device.public_key();
    let parts = |body| RequestParts {
        method: "POST",
        path: api::SIGN,
        query: "",
        content_type: Some("application/json"),
        audience: "signer.example",
        idempotency_key: None,
        authorization: None,
        body: Some(BodyHash::of(body)),
    };
    let now = clock::now();
    let headers = sign(&device, &parts(&body), now, [1; 16]).unwrap();
    let start = thread_cpu();
    for _ in 0..PROOFS {
        let claim = parse(&headers.signature_input, &headers.signature).unwrap();
        let parts = parts(black_box(&body));
        let digest = headers.content_digest.as_deref();
        claim.verify(&key, &parts, digest, now, verifies).unwrap();
    }
    (thread_cpu() - start) / PROOFS as f64
}
