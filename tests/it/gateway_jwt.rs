//! Where the gateway vouches for its users, a device acts for its own user only (`protocol.md` 4).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_client::api;
use countersign_client::config::TokenSource;
use countersign_client::flows::create::client_share;
use countersign_client::flows::{MessageBinding, seal};
use countersign_client::keystore::Wallet;
use countersign_client::transport::{Reply, Request};
use countersign_mpc::envelope::MessageType;
use countersign_mpc::keygen::P1Keygen;
use countersign_mpc::owner_proof::{Algorithm, DeviceKey};
use serde_json::{Value, json};

use crate::support::signing::{deliver, fresh_key, get, post, refusal, signed, transaction};
use crate::support::wallet::{profile, send_and_mine};
use crate::support::{Appliance, Node, Signing, wallet_of};

/// The gateway's identity provider.
pub(crate) struct Issuer(DeviceKey);

impl Issuer {
    pub(crate) fn new() -> Self {
        Self(DeviceKey::generate(Algorithm::P256).unwrap())
    }

    /// A token for a user; `change` may spoil its claims.
    pub(crate) fn token(&self, user: &str, change: impl FnOnce(&mut Value)) -> String {
        let now = countersign_client::clock::now();
        let mut claims = json!({"iss": "https://issuer.test", "aud": "signer.test", "sub": user, "exp": now + 240});
        change(&mut claims);
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "ES256"})), part(&claims));
        let signature = URL_SAFE_NO_PAD.encode(self.0.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    /// From its next start on, the appliance asks for this issuer's tokens.
    pub(crate) fn is_asked_for_by(&self, appliance: &Appliance) {
        let jwks = json!({"keys": [self.0.public_key().jwk()]}).to_string();
        std::fs::write(appliance.environment().join("jwks.json"), jwks).unwrap();
        appliance.configure(|config| {
            config
                + "\n[gateway_jwt]\nissuer = \"https://issuer.test\"\naudience = \"signer.test\"\njwks_file = \"jwks.json\"\n"
        });
    }
}

/// From now on, the clients of this appliance bring this token.
pub(crate) fn bring(appliance: &mut Appliance, token: &str) {
    let file = appliance.directory().join("token");
    std::fs::write(&file, token).unwrap();
    let mut config = appliance.client.config().clone();
    config.jwt = Some(TokenSource::File(file));
    appliance.client = countersign_client::Appliance::new(config).unwrap();
}

/// The first request of another profile of the wallet's device.
pub(crate) async fn another_profile(appliance: &Appliance, wallet: &Wallet) -> Reply {
    let key = fresh_key();
    let (_, message) = P1Keygen::start().unwrap();
    let identity = appliance.client.identity().await.unwrap();
    let binding = MessageBinding {
        profile_id: &key,
        session_id: &key,
        key_generation: 1,
        attempt: 1,
    };
    let kind = MessageType::Keygen1;
    let sealed = seal(
        &appliance.client,
        &identity,
        wallet,
        kind,
        binding,
        &message,
    );
    let share = client_share(wallet, sealed.unwrap().0);
    let body = json!({"name": "another", "clientShare": share});
    post(appliance, wallet, api::PROFILES, &body, Some(&key)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_a_token_of_another_user_finds_nothing() {
    let node = Node::start().await;
    let issuer = Issuer::new();
    let mut appliance = Appliance::init(&node.url());
    issuer.is_asked_for_by(&appliance);
    appliance.serve().await;
    let token = |user: &str| issuer.token(user, |_| ());
    bring(&mut appliance, &token("ann"));
    let mut ann = wallet_of(&appliance, &node, "ann").await;
    bring(&mut appliance, &token("bob"));
    let bob = wallet_of(&appliance, &node, "bob").await;
    let session = Signing::prepare(&appliance, &bob, 1)
        .await
        .prepared
        .session_id;

    // Ann's token with Bob's device, and what exists nowhere: one answer.
    bring(&mut appliance, &token("ann"));
    let unknown = uuid::Uuid::now_v7().to_string();
    for (path, nowhere) in [
        (
            api::profile_path(&profile(&bob)),
            api::profile_path(&unknown),
        ),
        (
            api::devices_path(&profile(&bob)),
            api::devices_path(&unknown),
        ),
        (api::session_path(&session), api::session_path(&unknown)),
    ] {
        let found = get(&appliance, &bob, &path).await;
        let absent = get(&appliance, &bob, &nowhere).await;
        assert_eq!((found.status, &found.body), (404, &absent.body), "{path}");
    }
    let path = api::transactions_path(&profile(&bob));
    let reply = post(&appliance, &bob, &path, &transaction(1), Some(&fresh_key())).await;
    assert_eq!(refusal(&reply), (404, "PROFILE_NOT_FOUND".to_owned()));
    let round = json!({"sessionId": session, "p1SignatureShare": "mw1.sg1.k.x"});
    let reply = post(&appliance, &bob, api::SIGN, &round, None).await;
    assert_eq!(refusal(&reply), (404, "NOT_FOUND".to_owned()));
    let restart = json!({"sessionId": session, "restart": true});
    let reply = post(&appliance, &bob, api::SIGN, &restart, None).await;
    assert_eq!(refusal(&reply), (404, "NOT_FOUND".to_owned()));
    let reply = another_profile(&appliance, &bob).await;
    assert_eq!(refusal(&reply), (404, "PROFILE_NOT_FOUND".to_owned()));
    send_and_mine(&mut ann, &appliance, 1).await;

    // The signature covers the token.
    let request = Request::get(api::profile_path(&profile(&ann)));
    let mut swapped = signed(&appliance, &ann, &request);
    let mut headers = swapped.headers.iter_mut();
    let header = headers.find(|(name, _)| *name == "authorization").unwrap();
    header.1 = format!(
        "Bearer {}",
        issuer.token("ann", |claims| claims["nbf"] = json!(1))
    );
    let reply = deliver(&appliance, &swapped).await;
    assert_eq!(refusal(&reply), (401, "SIGNATURE_INVALID".to_owned()));

    // No good token, whoever signs.
    let past = countersign_client::clock::now() - 10;
    for token in [
        issuer.token("ann", |claims| claims["exp"] = json!(past)),
        issuer.token("ann", |claims| claims["exp"] = json!(past + 3_600)),
        issuer.token("ann", |claims| claims["aud"] = json!("other")),
        issuer.token("", |_| ()),
        Issuer::new().token("ann", |_| ()),
        "x.y.z".to_owned(),
    ] {
        bring(&mut appliance, &token);
        let reply = get(&appliance, &ann, &api::profile_path(&profile(&ann))).await;
        assert_eq!(refusal(&reply), (401, "UNAUTHENTICATED".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_an_owner_from_before_tokens_is_bound_by_their_next_profile() {
    let node = Node::start().await;
    let issuer = Issuer::new();
    let mut appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    appliance.stop().await;
    issuer.is_asked_for_by(&appliance);
    appliance.serve().await;
    let path = api::profile_path(&profile(&wallet));
    let none = get(&appliance, &wallet, &path).await;
    assert_eq!(refusal(&none), (401, "UNAUTHENTICATED".to_owned()));
    bring(&mut appliance, &issuer.token("ann", |_| ()));
    let unbound = get(&appliance, &wallet, &path).await;
    assert_eq!(refusal(&unbound), (404, "PROFILE_NOT_FOUND".to_owned()));
    assert_eq!(another_profile(&appliance, &wallet).await.status, 202);
    assert_eq!(get(&appliance, &wallet, &path).await.status, 200);
    // For good.
    bring(&mut appliance, &issuer.token("bob", |_| ()));
    let reply = another_profile(&appliance, &wallet).await;
    assert_eq!(refusal(&reply), (404, "PROFILE_NOT_FOUND".to_owned()));
    assert_eq!(get(&appliance, &wallet, &path).await.status, 404);
}
