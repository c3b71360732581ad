//! The order of checks (`protocol.md` 2.1), by requests that fail two neighbouring ones: the earlier one answers.

use countersign_client::api;
use countersign_client::keystore::Wallet;
use countersign_client::transport::{Reply, Request, SignedRequest, Transport};
use serde_json::{Value, json};

use crate::gateway_jwt::{Issuer, bring};
use crate::support::signing::{deliver, fresh_key, json_of, post, refusal, signed, transaction};
use crate::support::wallet::profile;
use crate::support::{Appliance, CHAIN, Node, Signing, wallet_of};

fn set(request: &mut SignedRequest, name: &'static str, value: &str) {
    request.headers.retain(|(header, _)| *header != name);
    request.headers.push((name, value.to_owned()));
}

fn refused(reply: &Reply, status: u16, code: &str, what: &str) {
    assert_eq!(refusal(reply), (status, code.to_owned()), "{what}");
}

/// A request to prepare a transaction.
fn preparing(appliance: &Appliance, wallet: &Wallet, profile: &str, key: &str) -> SignedRequest {
    let request = Request::post(api::transactions_path(profile), &transaction(1)).unwrap();
    signed(appliance, wallet, &request.with_idempotency_key(key))
}

fn another_signature(request: &mut SignedRequest) {
    set(request, "signature", &format!("p1=:{}==:", "A".repeat(86)));
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_the_checks_of_the_front_door_answer_in_their_order() {
    let node = Node::start().await;
    let issuer = Issuer::new();
    let mut appliance = Appliance::init(&node.url());
    issuer.is_asked_for_by(&appliance);
    appliance.serve().await;
    bring(&mut appliance, &issuer.token("ann", |_| ()));
    let wallet = wallet_of(&appliance, &node, "w").await;
    let mine = profile(&wallet);
    let fresh = |profile: &str| preparing(&appliance, &wallet, profile, &fresh_key());

    // The certificate's role, before size and type.
    let mut officer = appliance.client.config().clone();
    officer.certificate = appliance.pki("operator.pem").into();
    officer.key = appliance.pki("operator-key.pem").into();
    let officer = Transport::new(&officer).unwrap();
    let mut plain = fresh(&mine);
    set(&mut plain, "content-type", "text/plain");
    let reply = officer.send(&plain).await.unwrap();
    refused(&reply, 403, "FORBIDDEN_ROLE", "role before type");
    let mut large = fresh(&mine);
    large.body = Some(vec![b' '; 40_000]);
    let reply = officer.send(&large).await.unwrap();
    refused(&reply, 403, "FORBIDDEN_ROLE", "role before size");

    // Type, then size, before the gateway's token.
    let without_token = |mut request: SignedRequest| {
        request.headers.retain(|(name, _)| *name != "authorization");
        request
    };
    let reply = deliver(&appliance, &without_token(plain.clone())).await;
    refused(&reply, 400, "INVALID_REQUEST", "type before token");
    let reply = deliver(&appliance, &without_token(large.clone())).await;
    refused(&reply, 413, "PAYLOAD_TOO_LARGE", "size before token");

    // The token, before the device's signature: present, right, and fresh.
    let mut unsigned = without_token(fresh(&mine));
    unsigned.headers.retain(|(name, _)| *name != "signature");
    let reply = deliver(&appliance, &unsigned).await;
    refused(&reply, 401, "UNAUTHENTICATED", "token before signature");
    let said = json_of(&reply)["message"].as_str().unwrap().to_owned();
    assert!(said.contains("token"), "{said}");
    let mut badly_signed = without_token(fresh(&mine));
    another_signature(&mut badly_signed);
    let reply = deliver(&appliance, &badly_signed).await;
    refused(&reply, 401, "UNAUTHENTICATED", "token before signature");

    // The signature, before its replay.
    let sent = fresh(&mine);
    assert_eq!(deliver(&appliance, &sent).await.status, 200);
    let mut altered = sent.clone();
    altered.body = Some(serde_json::to_vec(&transaction(2)).unwrap());
    let reply = deliver(&appliance, &altered).await;
    refused(&reply, 401, "SIGNATURE_INVALID", "signature before replay");

    // The signature and its replay, before the profile.
    let unknown = uuid::Uuid::now_v7().to_string();
    let mut badly_signed = fresh(&unknown);
    another_signature(&mut badly_signed);
    let reply = deliver(&appliance, &badly_signed).await;
    refused(&reply, 401, "SIGNATURE_INVALID", "signature before profile");
    let nowhere = fresh(&unknown);
    let reply = deliver(&appliance, &nowhere).await;
    refused(&reply, 404, "PROFILE_NOT_FOUND", "the profile");
    let reply = deliver(&appliance, &nowhere).await;
    refused(&reply, 401, "SIGNATURE_REPLAYED", "replay before profile");
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_the_checks_of_a_request_answer_in_their_order() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let other = wallet_of(&appliance, &node, "other").await;
    let (mine, theirs) = (profile(&wallet), profile(&other));
    let path = api::transactions_path(&mine);
    let key = fresh_key();
    let first = post(&appliance, &wallet, &path, &transaction(1), Some(&key)).await;
    assert_eq!(first.status, 200);
    let done = Signing::prepare(&appliance, &wallet, 2).await;
    done.complete().await;
    let session = done.prepared.session_id.clone();

    // What an earlier request with this key made, before policy.
    let denied = |wei: u64| {
        let mut body = transaction(wei);
        body["chainId"] = json!(1);
        body
    };
    let reply = post(&appliance, &wallet, &path, &denied(1), Some(&key)).await;
    refused(
        &reply,
        422,
        "IDEMPOTENCY_MISMATCH",
        "repetition before policy",
    );
    let reply = post(&appliance, &wallet, &path, &denied(1), Some(&fresh_key())).await;
    refused(&reply, 403, "CHAIN_NOT_ALLOWED", "policy");

    appliance.stop().await;
    let quarantine = |id: &str, state: &str| {
        format!("UPDATE profiles SET key_state = '{state}' WHERE profile_id = '{id}'")
    };
    let database = appliance.environment();
    for id in [&mine, &theirs] {
        appliance
            .storage
            .tamper(&database, &quarantine(id, "quarantined"));
    }
    appliance.serve().await;
    // Whose profile it is, before what its key may.
    let foreign = api::transactions_path(&theirs);
    let reply = post(
        &appliance,
        &wallet,
        &foreign,
        &transaction(1),
        Some(&fresh_key()),
    )
    .await;
    refused(&reply, 404, "PROFILE_NOT_FOUND", "profile before key");
    // What the key may, before an earlier request with this key: the same one, and another one.
    for body in [transaction(1), transaction(3)] {
        let reply = post(&appliance, &wallet, &path, &body, Some(&key)).await;
        refused(&reply, 403, "KEY_QUARANTINED", "key before repetition");
    }
    // Whether it is frozen, before what its key may.
    let freeze = format!(
        "INSERT INTO freezes (scope, subject, placed_by, freeze_id, who, reason, frozen_at) \
         VALUES ('profile', '{mine}', 'owner', 'f', 'w', 'r', 1)"
    );
    appliance.storage.tamper(&database, &freeze);
    let reply = post(&appliance, &wallet, &path, &transaction(1), Some(&key)).await;
    refused(&reply, 403, "PROFILE_FROZEN", "freeze before key");
    let lift = "DELETE FROM freezes";
    appliance.storage.tamper(&database, lift);
    // And before policy.
    let reply = post(&appliance, &wallet, &path, &denied(1), Some(&fresh_key())).await;
    refused(&reply, 403, "KEY_QUARANTINED", "key before policy");

    // Policy, before the state of a session: the chain is no longer served.
    appliance.stop().await;
    appliance
        .storage
        .tamper(&database, &quarantine(&mine, "stable"));
    appliance.configure(|config| config.replace(&format!("id = {CHAIN}"), "id = 1337"));
    appliance.serve().await;
    let restart = |session: &str| json!({"sessionId": session, "restart": true});
    let reply = post(&appliance, &wallet, api::SIGN, &restart(&session), None).await;
    refused(&reply, 403, "CHAIN_NOT_ALLOWED", "policy before session");
    appliance.stop().await;
    appliance.configure(|config| config.replace("id = 1337", &format!("id = {CHAIN}")));
    appliance.serve().await;
    let reply = post(&appliance, &wallet, api::SIGN, &restart(&session), None).await;
    refused(&reply, 409, "SESSION_STATE_CONFLICT", "the session");
    let answer: Value = json_of(&first);
    assert_eq!(answer["attempt"], 1);
}
