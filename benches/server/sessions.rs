//! Memory of signing sessions that wait for the wallet's second message.

use countersign_client::api::{self, Prepared, RoundOneAnswer, SignRound};
use countersign_client::identity::Identity;
use countersign_client::transport::Request;
use countersign_mpc::binding::{Purpose, SignBinding};
use countersign_mpc::envelope::{EnvelopeInfo, MessageType, seal_request};
use countersign_mpc::sign::P1Sign;
use serde_json::json;
use uuid::Uuid;

use crate::dealt::Fixtures;
use crate::machine::rss;
use crate::rig::{CHAIN, RECIPIENT, Rig};
use crate::table::Table;

/// Sessions opened before anything is measured: they pay for what is allocated once.
const WARM_UP: usize = 20;

/// Opens `count` sessions, leaves them waiting and says what each costs.
pub(crate) async fn measure(rig: &mut Rig, fixtures: &Fixtures, count: usize, table: &mut Table) {
    let profiles = fixtures.insert(rig, WARM_UP + count).await;
    // All sessions must still be open when the last one is.
    rig.configure("[mpc]\nsession_ttl_seconds = 3600\nkept_state_ttl_seconds = 3600");
    let address = format!("0x{}", hex::encode(fixtures.key.public.address));
    let server = rig.start().await;
    rig.fund(&address).await;
    let identity = rig.client.identity().await.unwrap();
    let (first, rest) = profiles.split_at(WARM_UP);
    let idle = server.rss_mib();
    for profile in first {
        open(rig, fixtures, &identity, profile).await;
    }
    let warm = rss(server.id());
    for profile in rest {
        open(rig, fixtures, &identity, profile).await;
    }
    let full = rss(server.id());
    let waiting = rig.number("SELECT COUNT(*) FROM sessions WHERE state = 'r1_done'");
    assert_eq!(waiting, profiles.len());
    server.stop().await;
    table.row("memory before sessions", idle, "MiB", "<= 64");
    table.row(
        &format!("memory with {count} open sessions"),
        full / 1024.0,
        "MiB",
        "",
    );
    let each = (full - warm) * 1024.0 / 1e3 / count as f64;
    table.row("memory per open session", each, "kB", "<= 200");
}

/// Brings a session of `profile` to the point where it waits for the second message.
async fn open(rig: &Rig, fixtures: &Fixtures, identity: &Identity, profile: &str) {
    let (device, config) = (&fixtures.device, rig.client.config());
    let wish = json!({"to": RECIPIENT, "value": "1", "chainId": CHAIN});
    let request = Request::post(api::transactions_path(profile), &wish).unwrap();
    let request = request.with_idempotency_key(Uuid::now_v7().to_string());
    let prepared = rig.client.transport().call(&request, device).await;
    let prepared: Prepared = prepared.unwrap();
    let bytes = |text: &str| -> [u8; 32] {
        let bytes = hex::decode(text.trim_start_matches("0x")).unwrap();
        bytes.try_into().unwrap()
    };
    let binding = SignBinding {
        environment_id: config.environment_id,
        profile_id: profile.to_owned(),
        device_thumbprint: device.thumbprint(),
        key_generation: prepared.key_generation,
        session_id: prepared.session_id.clone(),
        attempt: prepared.attempt,
        index: 0,
        server_nonce: bytes(&prepared.server_nonce),
        policy_decision_id: prepared.policy_decision_id,
        purpose: Purpose::Transaction,
        digest: bytes(&prepared.digest),
    };
    let info = EnvelopeInfo {
        environment_id: config.environment_id,
        tenant: config.tenant.clone(),
        message_type: MessageType::Sign1,
        kem_kid: identity.kid().to_owned(),
        device_thumbprint: device.thumbprint(),
        profile_id: profile.to_owned(),
        session_id: prepared.session_id.clone(),
        key_generation: prepared.key_generation,
        attempt: prepared.attempt,
    };
    let (_, message) = P1Sign::start(&fixtures.key.p1, binding).unwrap();
    let (sealed, _) = seal_request(identity.key(), &info, &message).unwrap();
    let round = SignRound {
        session_id: prepared.session_id,
        p1_signature_share: sealed,
    };
    let request = Request::post(api::SIGN, &round).unwrap();
    let answer = rig.client.transport().call(&request, device).await;
    let _: RoundOneAnswer = answer.unwrap();
}
