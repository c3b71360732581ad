//! A wallet's requests one by one, for tests in which it must misbehave.

use std::sync::atomic::{AtomicU64, Ordering};

use countersign_client::api::{self, Prepared};
use countersign_client::flows::{MessageBinding, seal};
use countersign_client::keystore::Wallet;
use countersign_client::transport::{Reply, Request, SignedRequest, TransportError};
use countersign_mpc::binding::{Purpose, SignBinding};
use countersign_mpc::envelope::{MessageType, ResponseOpener};
use countersign_mpc::sign::P1Sign;
use serde_json::{Value, json};

use super::wallet::{intent, profile};
use super::{Appliance, CHAIN, RECIPIENT};

/// An idempotency key that no other request has.
pub(crate) fn fresh_key() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("it-test-{:016}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// What a reply says, as JSON.
pub(crate) fn json_of(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body)
        .unwrap_or_else(|_| panic!("not JSON: {}", String::from_utf8_lossy(&reply.body)))
}

/// Status and error code of a reply, and that the error has its whole shape.
pub(crate) fn refusal(reply: &Reply) -> (u16, String) {
    let body = json_of(reply);
    assert_eq!(body["statusCode"], reply.status, "{body}");
    assert!(!body["message"].as_str().unwrap().is_empty(), "{body}");
    let retry = body["retry"].as_str().unwrap();
    assert!(["same", "restart", "never"].contains(&retry), "{body}");
    (reply.status, body["error"].as_str().unwrap().to_owned())
}

/// A request signed by the wallet's device.
pub(crate) fn signed(appliance: &Appliance, wallet: &Wallet, request: &Request) -> SignedRequest {
    let transport = appliance.client.transport();
    transport.sign(request, wallet.device()).unwrap()
}

/// Sends a request as it is.
pub(crate) async fn deliver(appliance: &Appliance, request: &SignedRequest) -> Reply {
    appliance.client.transport().send(request).await.unwrap()
}

/// Signs and sends.
pub(crate) async fn post(
    appliance: &Appliance,
    wallet: &Wallet,
    path: &str,
    body: &Value,
    key: Option<&str>,
) -> Reply {
    let mut request = Request::post(path, body).unwrap();
    if let Some(key) = key {
        request = request.with_idempotency_key(key);
    }
    deliver(appliance, &signed(appliance, wallet, &request)).await
}

/// Signs and sends a GET.
pub(crate) async fn get(appliance: &Appliance, wallet: &Wallet, path: &str) -> Reply {
    deliver(appliance, &signed(appliance, wallet, &Request::get(path))).await
}

/// The body of a transaction request that is in order.
pub(crate) fn transaction(wei: u64) -> Value {
    json!({"to": RECIPIENT, "value": wei.to_string(), "chainId": CHAIN})
}

/// A prepared transaction and the requests that sign it.
pub(crate) struct Signing<'a> {
    appliance: &'a Appliance,
    /// The wallet that signs.
    pub(crate) wallet: &'a Wallet,
    /// What the server prepared.
    pub(crate) prepared: Prepared,
    attempt: u32,
    server_nonce: String,
}

/// What P1 keeps between its two messages.
pub(crate) struct AfterRound1 {
    state: P1Sign,
    opener: ResponseOpener,
}

impl AfterRound1 {
    /// What was kept when the message was sealed and posted by hand.
    pub(crate) fn new(state: P1Sign, opener: ResponseOpener) -> Self {
        Self { state, opener }
    }
}

impl<'a> Signing<'a> {
    /// Prepares a transaction of `wei`.
    pub(crate) async fn prepare(appliance: &'a Appliance, wallet: &'a Wallet, wei: u64) -> Self {
        let path = api::transactions_path(&profile(wallet));
        let body = transaction(wei);
        let reply = post(appliance, wallet, &path, &body, Some(&fresh_key())).await;
        Self::of(appliance, wallet, &reply, wei)
    }

    /// What this reply prepared.
    pub(crate) fn of(
        appliance: &'a Appliance,
        wallet: &'a Wallet,
        reply: &Reply,
        wei: u64,
    ) -> Self {
        assert_eq!(
            reply.status,
            200,
            "{}",
            String::from_utf8_lossy(&reply.body)
        );
        let prepared: Prepared = reply.clone().decode().unwrap();
        intent(wei).check(&prepared).unwrap();
        Self {
            appliance,
            wallet,
            attempt: prepared.attempt,
            server_nonce: prepared.server_nonce.clone(),
            prepared,
        }
    }

    /// The same session, at another instance from now on.
    pub(crate) fn at(self, appliance: &'a Appliance) -> Self {
        Self { appliance, ..self }
    }

    /// What the signature is bound to.
    pub(crate) fn binding(&self) -> SignBinding {
        let (profile_id, slot) = self.wallet.current().unwrap();
        let mut digest = [0; 32];
        hex::decode_to_slice(self.prepared.digest.trim_start_matches("0x"), &mut digest).unwrap();
        let mut server_nonce = [0; 32];
        hex::decode_to_slice(&self.server_nonce, &mut server_nonce).unwrap();
        SignBinding {
            environment_id: self.appliance.client.config().environment_id,
            profile_id: profile_id.to_owned(),
            device_thumbprint: self.wallet.device().thumbprint(),
            key_generation: slot.generation,
            session_id: self.prepared.session_id.clone(),
            attempt: self.attempt,
            index: 0,
            server_nonce,
            policy_decision_id: self.prepared.policy_decision_id.clone(),
            purpose: Purpose::Transaction,
            digest,
        }
    }

    /// P1's first message.
    pub(crate) fn first(&self) -> (P1Sign, Vec<u8>) {
        self.first_bound_to(self.binding())
    }

    /// P1's first message, bound to what the test says.
    pub(crate) fn first_bound_to(&self, binding: SignBinding) -> (P1Sign, Vec<u8>) {
        let share = self.wallet.current_share().unwrap();
        let (state, message) = P1Sign::start(&share, binding).unwrap();
        (state, message.to_vec())
    }

    /// A message sealed to this session.
    pub(crate) async fn sealed(
        &self,
        kind: MessageType,
        message: &[u8],
    ) -> (String, ResponseOpener) {
        let client = &self.appliance.client;
        let identity = client.identity().await.unwrap();
        let profile = profile(self.wallet);
        let place = MessageBinding {
            profile_id: &profile,
            session_id: &self.prepared.session_id,
            key_generation: 1,
            attempt: self.attempt,
        };
        seal(client, &identity, self.wallet, kind, place, message).unwrap()
    }

    /// Posts a sealed message as the next round of this session.
    pub(crate) async fn post(&self, sealed: &str) -> Reply {
        self.try_post(sealed).await.unwrap()
    }

    /// As [`Signing::post`], to an appliance that may die.
    pub(crate) async fn try_post(&self, sealed: &str) -> Result<Reply, TransportError> {
        let body = json!({"sessionId": self.prepared.session_id, "p1SignatureShare": sealed});
        let request = Request::post(api::SIGN, &body).unwrap();
        let transport = self.appliance.client.transport();
        transport
            .send(&signed(self.appliance, self.wallet, &request))
            .await
    }

    /// Seals and posts a first message.
    pub(crate) async fn post_first(&self, message: &[u8]) -> (Reply, ResponseOpener) {
        let (sealed, opener) = self.sealed(MessageType::Sign1, message).await;
        (self.post(&sealed).await, opener)
    }

    /// An honest round 1.
    pub(crate) async fn round_1(&self) -> (Reply, AfterRound1) {
        let (state, message) = self.first();
        let (reply, opener) = self.post_first(&message).await;
        (reply, AfterRound1 { state, opener })
    }

    /// P1's second message, from the answer to its first.
    pub(crate) fn second(&self, kept: AfterRound1, answer: &Reply) -> Vec<u8> {
        let sealed = json_of(answer)["mpcMessage"].as_str().unwrap().to_owned();
        let answer = kept.opener.open(&sealed).unwrap();
        let share = self.wallet.current_share().unwrap();
        kept.state.round_2(&share, &answer).unwrap().to_vec()
    }

    /// An honest round 2.
    pub(crate) async fn round_2(&self, kept: AfterRound1, answer: &Reply) -> Reply {
        let message = self.second(kept, answer);
        let (sealed, _) = self.sealed(MessageType::Sign2, &message).await;
        self.post(&sealed).await
    }

    /// Both rounds, honestly; the transaction's hash.
    pub(crate) async fn complete(&self) -> String {
        let (answer, kept) = self.round_1().await;
        assert_eq!(
            answer.status,
            202,
            "{}",
            String::from_utf8_lossy(&answer.body)
        );
        let reply = self.round_2(kept, &answer).await;
        assert_eq!(
            reply.status,
            200,
            "{}",
            String::from_utf8_lossy(&reply.body)
        );
        json_of(&reply)["txHash"].as_str().unwrap().to_owned()
    }

    /// Asks for the next attempt and, when it is given, goes on with it.
    pub(crate) async fn restart(&mut self) -> Reply {
        let body = json!({"sessionId": self.prepared.session_id, "restart": true});
        let reply = post(self.appliance, self.wallet, api::SIGN, &body, None).await;
        if reply.status == 200 {
            self.go_on(&reply);
        }
        reply
    }

    /// Goes on with the attempt that was given.
    pub(crate) fn go_on(&mut self, reply: &Reply) {
        let answer = json_of(reply);
        self.attempt = answer["attempt"].as_u64().unwrap().try_into().unwrap();
        self.server_nonce = answer["serverNonce"].as_str().unwrap().to_owned();
    }

    /// The state the server reports for this session.
    pub(crate) async fn state(&self) -> String {
        let path = api::session_path(&self.prepared.session_id);
        let reply = get(self.appliance, self.wallet, &path).await;
        json_of(&reply)["state"].as_str().unwrap().to_owned()
    }
}
