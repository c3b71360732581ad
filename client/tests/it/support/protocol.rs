//! The appliance's half: real P2 computation behind the API's shapes, in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use alloy_consensus::{SignableTransaction, TxEip1559};
use alloy_primitives::{Address, TxKind, U256};
use countersign_client::clock;
use countersign_mpc::{
    binding::{KeygenBinding, Purpose, SignBinding},
    canary::CanaryDigest,
    envelope::{EnvelopeInfo, KemSecretKey, MessageType, ResponseSealer, open_request},
    identity::{
        IdentityCertificate, IdentityDocument, KemDocument, ResponseKeyStatement, encode_chain,
        kem_statement, response_key_id, response_key_statement,
    },
    keygen::{P2AfterRound1, P2Canary, p2_round_1 as keygen_round_1},
    lp::Lp,
    owner_proof::PublicKey,
    response_proof,
    share::P2Share,
    sign::{P2SignKept, p2_round_1 as sign_round_1},
};
use p256::ecdsa::{Signature, SigningKey, signature::Signer};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::appliance::{AUDIENCE, Fault};

const ENVIRONMENT: [u8; 32] = [0xab; 32];

/// Status and body, or a connection that breaks.
pub(crate) type Answer = Result<(u16, Value), LostAnswer>;

/// The answer does not reach the client.
pub(crate) struct LostAnswer;

/// What a cheat makes of an honest message to P1.
pub(crate) type Cheat = Box<dyn FnMut(&[u8]) -> Vec<u8> + Send>;

pub(crate) struct Protocol {
    pub(crate) faults: Vec<Fault>,
    /// What is done to the next message of this kind, after it was made honestly and before it is sealed.
    pub(crate) cheat: Option<(&'static str, Cheat)>,
    /// Where the plaintexts of P1's messages of this kind are written down.
    pub(crate) heard: Option<(&'static str, Arc<Mutex<Vec<u8>>>)>,
    /// What the next `GET`s are answered with instead, first come first served.
    pub(crate) looks: Vec<(u16, Value)>,
    /// Account nonce of the next transaction.
    pub(crate) nonce: u64,
    pub(crate) profiles: HashMap<String, Profile>,
    pub(crate) sessions: HashMap<String, Session>,
    /// Digests that were completely signed.
    pub(crate) signed: Vec<[u8; 32]>,
    /// Kinds of the requests processed, in order.
    pub(crate) log: Vec<String>,
    kem: KemSecretKey,
    root: SigningKey,
    identity: SigningKey,
    response: SigningKey,
    devices: HashMap<String, PublicKey>,
    replies: HashMap<Vec<u8>, (u16, Value)>,
    pub(crate) idempotency: HashMap<String, Vec<u8>>,
    counter: u32,
}

#[derive(Default)]
pub(crate) struct Profile {
    pub(crate) status: &'static str,
    pub(crate) share: Option<P2Share>,
    keygen_session: String,
    round_1: Option<P2AfterRound1>,
    canary: Option<P2Canary>,
}

pub(crate) struct Session {
    pub(crate) state: &'static str,
    pub(crate) attempt: u32,
    pub(crate) tx_hash: Option<String>,
    pub(crate) status: Option<&'static str>,
    profile: String,
    nonce: [u8; 32],
    pub(crate) digest: [u8; 32],
    kept: Option<P2SignKept>,
}

/// An answer on its way, which tests may alter.
#[derive(Clone)]
pub(crate) struct SignedAnswer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    pub(crate) headers: HashMap<&'static str, String>,
}

fn point(key: &SigningKey) -> [u8; 65] {
    let point = key.verifying_key().to_sec1_point(false);
    point.as_bytes().try_into().unwrap()
}

fn signed(key: &SigningKey, statement: Lp) -> [u8; 64] {
    let signature: Signature = key.sign(&statement.finish());
    signature.to_bytes().into()
}

/// An error answer in the API's shape.
pub(crate) fn refusal(status: u16, code: &str, retry: &str) -> (u16, Value) {
    (
        status,
        json!({"error": code, "message": "refused", "statusCode": status, "retry": retry}),
    )
}

impl Protocol {
    pub(crate) fn new() -> Self {
        Self {
            faults: Vec::new(),
            cheat: None,
            heard: None,
            looks: Vec::new(),
            nonce: 7,
            profiles: HashMap::new(),
            sessions: HashMap::new(),
            signed: Vec::new(),
            log: Vec::new(),
            kem: KemSecretKey::generate().unwrap(),
            root: SigningKey::from_slice(&[3; 32]).unwrap(),
            identity: SigningKey::from_slice(&[7; 32]).unwrap(),
            response: SigningKey::from_slice(&[8; 32]).unwrap(),
            devices: HashMap::new(),
            replies: HashMap::new(),
            idempotency: HashMap::new(),
            counter: 0,
        }
    }

    /// Environment id and root key as hex.
    pub(crate) fn pins(&self) -> (String, String) {
        (hex::encode(ENVIRONMENT), hex::encode(point(&self.root)))
    }

    pub(crate) fn device(&self, thumbprint: &str) -> Option<PublicKey> {
        self.devices.get(thumbprint).copied()
    }

    pub(crate) fn identity(&self) -> Value {
        let key = self.kem.public_key().to_bytes();
        let now = u64::try_from(clock::now()).unwrap();
        let statement = kem_statement(&ENVIRONMENT, "k1", &key, now, now + 3600);
        serde_json::to_value(IdentityDocument {
            environment_id: ENVIRONMENT,
            environment_kind: "development".into(),
            audience: AUDIENCE.into(),
            identity: self.certificate(now),
            kem: KemDocument {
                kid: "k1".into(),
                public_key: key,
                not_before: now,
                not_after: now + 3600,
                signature: signed(&self.identity, statement),
            },
        })
        .unwrap()
    }

    fn certificate(&self, now: u64) -> IdentityCertificate {
        let mut certificate = IdentityCertificate {
            environment_id: ENVIRONMENT,
            environment_kind: "development".into(),
            key: point(&self.identity),
            serial: 1,
            not_before: now - 60,
            not_after: now + 86_400,
            signature: [0; 64],
        };
        certificate.signature = signed(&self.root, certificate.statement());
        certificate
    }

    /// `MPC-Response-Key` for a key that is valid until `not_after`.
    fn chain(&self, not_after: u64) -> String {
        let (key, not_before) = (point(&self.response), not_after - 3600);
        let statement = response_key_statement(&ENVIRONMENT, &key, not_before, not_after);
        let statement = ResponseKeyStatement {
            key,
            not_before,
            not_after,
            signature: signed(&self.identity, statement),
        };
        encode_chain(&self.certificate(not_before), &statement)
    }

    /// Signs an answer to the request with this `Signature` header, `ago` seconds ago.
    pub(crate) fn sign_answer(
        &self,
        status: u16,
        body: Vec<u8>,
        request: Option<&str>,
        ago: i64,
    ) -> SignedAnswer {
        let request = request.and_then(response_proof::request_signature);
        let created = clock::now() - ago;
        let kid = response_key_id(&point(&self.response));
        let parameters = response_proof::parameters(request.is_some(), created, &kid);
        let digest = response_proof::content_digest(&body);
        let base = response_proof::signature_base(status, &digest, request, &parameters);
        let raw: Signature = self.response.sign(base.as_bytes());
        let (input, signature) = response_proof::headers(&parameters, &raw.to_bytes());
        SignedAnswer {
            status,
            body,
            headers: [
                ("content-digest", digest),
                ("signature-input", input),
                ("signature", signature),
                (
                    "mpc-response-key",
                    self.chain(u64::try_from(created).unwrap() + 3000),
                ),
            ]
            .into(),
        }
    }

    /// One owner-signed request.
    pub(crate) fn handle(
        &mut self,
        path: &str,
        key: Option<&str>,
        device: &str,
        body: &[u8],
    ) -> Answer {
        if body.is_empty() {
            if !self.looks.is_empty() {
                return Ok(self.looks.remove(0));
            }
            return Ok(self.look(path));
        }
        let json: Value = serde_json::from_slice(body).unwrap();
        let kind = kind(path, &json);
        self.log.push(kind.clone());
        if let Some(Fault::Refuse(_, status, code, retry)) =
            self.take(&kind, |fault| matches!(fault, Fault::Refuse(..)))
        {
            if let Some(session) = json["sessionId"]
                .as_str()
                .and_then(|id| self.sessions.get_mut(id))
            {
                (session.state, session.kept) = ("aborted", None);
            }
            return Ok(refusal(status, code, retry));
        }
        if let Some(key) = key {
            let first = self
                .idempotency
                .entry(key.to_owned())
                .or_insert_with(|| body.to_vec());
            if first != body {
                return Ok(refusal(422, "IDEMPOTENCY_MISMATCH", "never"));
            }
        }
        let id = [path.as_bytes(), key.unwrap_or_default().as_bytes(), body].concat();
        let reply = match self.replies.get(&id) {
            Some(reply) => reply.clone(),
            None => self.execute(&kind, path, key, device, &json),
        };
        if reply.0 < 300 && kind != "restart" {
            self.replies.insert(id, reply.clone());
        }
        match self.take(&kind, |fault| matches!(fault, Fault::LoseAnswer(_))) {
            Some(_) => Err(LostAnswer),
            None => Ok(reply),
        }
    }

    fn execute(
        &mut self,
        kind: &str,
        path: &str,
        key: Option<&str>,
        device: &str,
        body: &Value,
    ) -> (u16, Value) {
        match kind {
            "kg1" => self.keygen_1(key.unwrap(), device, body),
            "kg2" => self.keygen_2(device, body),
            "kg3" => self.keygen_3(device, body),
            "transaction" => self.prepare(path.split('/').nth(4).unwrap(), body),
            "sg1" => self.sign_1(device, body),
            "sg2" => self.sign_2(device, body),
            "restart" => self.restart(body),
            other => panic!("unexpected request {other}"),
        }
    }

    fn keygen_1(&mut self, key: &str, device: &str, body: &Value) -> (u16, Value) {
        let device_key = PublicKey::parse(&body["clientShare"]["publicKey"]).unwrap();
        assert_eq!(device_key.thumbprint(), device);
        self.devices.insert(device.to_owned(), device_key);
        let (profile_id, keygen_session) = (self.fresh("profile"), self.fresh("keygen"));
        let info = info(MessageType::Keygen1, device, key, key, 1);
        let (message, sealer) = self.open(&info, &body["clientShare"]["share"]);
        let binding = KeygenBinding {
            environment_id: ENVIRONMENT,
            profile_id: profile_id.clone(),
            keygen_session_id: keygen_session.clone(),
            device_thumbprint: device.to_owned(),
        };
        let (round_1, answer) = keygen_round_1(&binding, [1; 32], &message).unwrap();
        let profile = Profile {
            status: "keygen",
            keygen_session: keygen_session.clone(),
            round_1: Some(round_1),
            ..Profile::default()
        };
        self.profiles.insert(profile_id.clone(), profile);
        let sealed = self.seal("kg1", sealer, &answer);
        let status = "keygen_round_1";
        (
            202,
            json!({"profileId": profile_id, "keygenSessionId": keygen_session, "status": status, "mpcMessage": sealed}),
        )
    }

    fn keygen_2(&mut self, device: &str, body: &Value) -> (u16, Value) {
        let (profile_id, session) = (text(&body["profileId"]), text(&body["keygenSessionId"]));
        let info = info(MessageType::Keygen2, device, &profile_id, &session, 1);
        let (message, sealer) = self.open(&info, &body["clientShare"]["share"]);
        let profile = self.profiles.get_mut(&profile_id).unwrap();
        let generated = profile.round_1.take().unwrap().round_2(&message).unwrap();
        (profile.status, profile.share, profile.canary) =
            ("pending", Some(generated.share), Some(generated.canary));
        let address = Address::from(generated.public.address);
        let sealed = self.seal("kg2", sealer, &generated.message);
        let status = "keygen_round_2";
        let mut answer = json!({"profileId": profile_id, "keygenSessionId": session, "status": status, "mpcMessage": sealed});
        answer["sessionWalletAddress"] = json!(address);
        (202, answer)
    }

    fn keygen_3(&mut self, device: &str, body: &Value) -> (u16, Value) {
        let (profile_id, session) = (text(&body["profileId"]), text(&body["keygenSessionId"]));
        let info = info(MessageType::Keygen3, device, &profile_id, &session, 1);
        let (message, sealer) = self.open(&info, &body["clientShare"]["share"]);
        let profile = self.profiles.get_mut(&profile_id).unwrap();
        assert_eq!(profile.keygen_session, session);
        let share = profile.share.as_ref().unwrap();
        let digest = CanaryDigest::new(&profile_id, 1, &session);
        let last = profile
            .canary
            .take()
            .unwrap()
            .finish(share, &message, &digest)
            .unwrap();
        profile.status = "active";
        let address = Address::from(share.public().address);
        let sealed = self.seal("kg3", sealer, &last);
        (
            201,
            json!({"profileId": profile_id, "sessionWalletAddress": address, "status": "active", "mpcMessage": sealed}),
        )
    }

    fn prepare(&mut self, profile_id: &str, body: &Value) -> (u16, Value) {
        let mut to: Address = body["to"].as_str().unwrap().parse().unwrap();
        if self
            .take("transaction", |fault| *fault == Fault::OfferOther)
            .is_some()
        {
            to = Address::repeat_byte(0x66);
        }
        let transaction = TxEip1559 {
            chain_id: body["chainId"].as_u64().unwrap(),
            nonce: self.nonce,
            gas_limit: 21_000,
            max_fee_per_gas: 2_000_000_000,
            max_priority_fee_per_gas: 1_000_000_000,
            to: TxKind::Call(to),
            value: body["value"].as_str().unwrap().parse::<U256>().unwrap(),
            access_list: Default::default(),
            input: Default::default(),
        };
        let (session_id, digest) = (self.fresh("session"), transaction.signature_hash().0);
        let session = Session {
            state: "created",
            attempt: 1,
            tx_hash: None,
            status: None,
            profile: profile_id.to_owned(),
            nonce: [11; 32],
            digest,
            kept: None,
        };
        let server_nonce = hex::encode(session.nonce);
        self.sessions.insert(session_id.clone(), session);
        (
            200,
            json!({
                "unsignedTx": {
                    "type": "0x2", "chainId": transaction.chain_id, "nonce": format!("{:#x}", self.nonce), "to": to,
                    "value": transaction.value.to_string(), "data": "0x", "gas": "0x5208", "maxFeePerGas": "0x77359400",
                    "maxPriorityFeePerGas": "0x3b9aca00", "accessList": [], "summary": "a payment",
                    "raw": format!("0x{}", hex::encode(transaction.encoded_for_signing())),
                },
                "sessionId": session_id, "digest": format!("0x{}", hex::encode(digest)), "expiresAt": clock::now() + 120,
                "keyGeneration": body["keyGeneration"], "attempt": 1, "serverNonce": server_nonce,
                "policyDecisionId": format!("decision-of-{session_id}"),
            }),
        )
    }

    fn sign_1(&mut self, device: &str, body: &Value) -> (u16, Value) {
        let session_id = text(&body["sessionId"]);
        let (profile_id, binding) = self.binding(device, &session_id);
        let info = info(
            MessageType::Sign1,
            device,
            &profile_id,
            &session_id,
            binding.attempt,
        );
        let (message, sealer) = self.open(&info, &body["p1SignatureShare"]);
        let share = self.profiles[&profile_id].share.as_ref().unwrap();
        let (kept, answer) = sign_round_1(share, binding, &message).unwrap();
        let session = self.sessions.get_mut(&session_id).unwrap();
        assert_eq!(session.state, "created");
        (session.state, session.kept) = ("r1_done", Some(kept));
        let sealed = self.seal("sg1", sealer, &answer);
        (
            202,
            json!({"sessionId": session_id, "status": "round_1_complete", "mpcMessage": sealed}),
        )
    }

    fn sign_2(&mut self, device: &str, body: &Value) -> (u16, Value) {
        let session_id = text(&body["sessionId"]);
        let (profile_id, binding) = self.binding(device, &session_id);
        let info = info(
            MessageType::Sign2,
            device,
            &profile_id,
            &session_id,
            binding.attempt,
        );
        let (message, _) = self.open(&info, &body["p1SignatureShare"]);
        let share = self.profiles[&profile_id].share.as_ref().unwrap();
        let session = self.sessions.get_mut(&session_id).unwrap();
        let signature = session
            .kept
            .take()
            .unwrap()
            .round_2(share, &message)
            .unwrap();
        self.signed.push(binding.digest);
        (session.state, session.status) = ("signed", Some("submitted"));
        let tx_hash = format!("0x{}", hex::encode(signature.r()));
        session.tx_hash = Some(tx_hash.clone());
        (
            200,
            json!({"sessionId": session_id, "txHash": tx_hash, "status": "submitted"}),
        )
    }

    fn restart(&mut self, body: &Value) -> (u16, Value) {
        let session_id = text(&body["sessionId"]);
        let session = self.sessions.get_mut(&session_id).unwrap();
        assert!(session.tx_hash.is_none());
        match session.state {
            "created" if session.attempt > 1 => {}
            "aborted" | "expired" | "r1_done" => {
                session.attempt += 1;
                (session.state, session.kept, session.nonce) =
                    ("created", None, [session.attempt.to_be_bytes()[3]; 32]);
            }
            _ => return refusal(409, "SESSION_STATE_CONFLICT", "restart"),
        }
        let nonce = hex::encode(session.nonce);
        (
            200,
            json!({"sessionId": session_id, "attempt": session.attempt, "serverNonce": nonce}),
        )
    }

    fn look(&self, path: &str) -> (u16, Value) {
        let id = path.rsplit('/').next().unwrap();
        if let Some(session) = self.sessions.get(id) {
            return (
                200,
                json!({
                    "sessionId": id, "profileId": session.profile, "state": session.state, "attempt": session.attempt,
                    "txHash": session.tx_hash, "status": session.status, "blockNumber": null,
                }),
            );
        }
        let Some(profile) = self.profiles.get(id) else {
            let sessions = path.contains("/sessions/");
            let code = if sessions {
                "NOT_FOUND"
            } else {
                "PROFILE_NOT_FOUND"
            };
            return refusal(404, code, "never");
        };
        let address = profile
            .share
            .as_ref()
            .map(|share| Address::from(share.public().address));
        (
            200,
            json!({
                "profileId": id, "name": "main", "sessionWalletAddress": address, "status": profile.status,
                "keyGeneration": 1, "keyState": "STABLE", "createdAt": "now",
            }),
        )
    }

    fn binding(&self, device: &str, session_id: &str) -> (String, SignBinding) {
        let session = &self.sessions[session_id];
        let binding = SignBinding {
            environment_id: ENVIRONMENT,
            profile_id: session.profile.clone(),
            device_thumbprint: device.to_owned(),
            key_generation: 1,
            session_id: session_id.to_owned(),
            attempt: session.attempt,
            index: 0,
            server_nonce: session.nonce,
            policy_decision_id: format!("decision-of-{session_id}"),
            purpose: Purpose::Transaction,
            digest: session.digest,
        };
        (session.profile.clone(), binding)
    }

    fn open(&self, info: &EnvelopeInfo, sealed: &Value) -> (Zeroizing<Vec<u8>>, ResponseSealer) {
        let opened = open_request(&self.kem, info, sealed.as_str().unwrap()).unwrap();
        if let Some((kind, heard)) = &self.heard
            && *kind == info.message_type.as_str()
        {
            *heard.lock().unwrap() = opened.0.to_vec();
        }
        opened
    }

    fn seal(&mut self, kind: &str, sealer: ResponseSealer, message: &[u8]) -> String {
        let mut message = message.to_vec();
        let tampered = self.take(kind, |fault| matches!(fault, Fault::Tamper(..)));
        if let Some(Fault::Tamper(_, percent)) = tampered {
            let position = (message.len() - 1) * percent / 100;
            message[position] ^= 1;
        }
        if self.cheat.as_ref().is_some_and(|(of, _)| *of == kind)
            && let Some((_, mut cheat)) = self.cheat.take()
        {
            message = cheat(&message);
        }
        sealer.seal(&message).unwrap()
    }

    /// The next fault of requests of this kind, if it is the one.
    fn take(&mut self, kind: &str, is: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let index = self.faults.iter().position(|fault| fault.kind() == kind)?;
        is(&self.faults[index]).then(|| self.faults.remove(index))
    }

    fn fresh(&mut self, what: &str) -> String {
        self.counter += 1;
        format!("{what}-{}", self.counter)
    }
}

/// Message type of a body, or what else it is.
fn kind(path: &str, body: &Value) -> String {
    let sealed = body
        .pointer("/clientShare/share")
        .or(body.get("p1SignatureShare"))
        .and_then(Value::as_str);
    match sealed {
        Some(sealed) => sealed.split('.').nth(1).unwrap().to_owned(),
        None if path.ends_with("/transactions") => "transaction".to_owned(),
        None => "restart".to_owned(),
    }
}

fn info(
    message_type: MessageType,
    device: &str,
    profile_id: &str,
    session_id: &str,
    attempt: u32,
) -> EnvelopeInfo {
    EnvelopeInfo {
        environment_id: ENVIRONMENT,
        tenant: "default".into(),
        message_type,
        kem_kid: "k1".into(),
        device_thumbprint: device.to_owned(),
        profile_id: profile_id.to_owned(),
        session_id: session_id.to_owned(),
        key_generation: 1,
        attempt,
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}
