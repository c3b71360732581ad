//! What comes as text: envelopes, signatures of requests and answers, identity documents, tokens, bodies, transactions.
//!
//! Each target alters something honest; what is altered must not be accepted, and what is parsed must be the one spelling
//! of what it became.

use alloy_consensus::{SignableTransaction, TxEip1559};
use alloy_primitives::{Address, Bytes, TxKind, U256};
use countersign::chain::calls::decode;
use countersign::chain::{RequestFields, TransactionRequest, Unsigned1559};
use countersign::identity::jwt::GatewayJwt;
use countersign_client::api::Prepared;
use countersign_client::tx::Intent;
use countersign_mpc::envelope::{
    self, EnvelopeInfo, KemSecretKey, MessageType, open_request, seal_request,
};
use countersign_mpc::identity::{
    IdentityCertificate, IdentityDocument, KemDocument, ResponseKey, ResponseKeyStatement,
    encode_chain, kem_statement, response_key_id, response_key_statement,
};
use countersign_mpc::owner_proof::{self, Algorithm, BodyHash, DeviceKey, PublicKey, RequestParts};
use countersign_mpc::response_proof::{self, AnswerHeaders};
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use serde_json::{Value, json};

use crate::edit::{Input, edit, edit_text};

const NOW: i64 = 1_795_338_000;
const ENVIRONMENT: [u8; 32] = [1; 32];
const KIND: &str = "development";

/// A target by its name.
pub fn named(name: &str) -> Option<Box<dyn FnMut(&[u8]) + Send>> {
    Some(match name {
        "envelope" => Box::new(envelope_target()),
        "owner_proof" => Box::new(owner_proof_target()),
        "answer_proof" => Box::new(answer_proof_target()),
        "identity" => Box::new(identity_target()),
        "device_key" => Box::new(device_key),
        "token" => Box::new(token_target()),
        "body" => Box::new(body),
        "transaction" => Box::new(transaction_target()),
        "calls" => Box::new(calls_target()),
        "offer" => Box::new(offer_target()),
        _ => return None,
    })
}

/// Their names.
pub const NAMES: [&str; 10] = [
    "envelope",
    "owner_proof",
    "answer_proof",
    "identity",
    "device_key",
    "token",
    "body",
    "transaction",
    "calls",
    "offer",
];

fn envelope_target() -> impl FnMut(&[u8]) {
    let key = KemSecretKey::from_bytes(&[7; 32]).unwrap();
    let info = EnvelopeInfo {
        environment_id: ENVIRONMENT,
        tenant: "default".into(),
        message_type: MessageType::Sign1,
        kem_kid: "kid".into(),
        device_thumbprint: "thumbprint".into(),
        profile_id: "profile".into(),
        session_id: "session".into(),
        key_generation: 1,
        attempt: 1,
    };
    let (request, opener) = seal_request(&key.public_key(), &info, &[5; 200]).unwrap();
    let (_, sealer) = open_request(&key, &info, &request).unwrap();
    let answer = sealer.seal(&[6; 200]).unwrap();
    assert!(opener.open(&answer).is_ok());
    move |program| {
        let mut input = Input(program);
        let is_answer = input.byte() & 1 == 1;
        let honest = if is_answer { &answer } else { &request };
        let altered = edit_text(honest, &mut input);
        let _ = envelope::kid_of(&altered);
        if altered != *honest {
            assert!(open_request(&key, &info, &altered).is_err(), "{altered}");
            assert!(opener.open(&altered).is_err(), "{altered}");
        }
    }
}

fn owner_proof_target() -> impl FnMut(&[u8]) {
    let keys = [Algorithm::P256, Algorithm::Ed25519]
        .map(|algorithm| DeviceKey::from_bytes(algorithm, &[9; 32]).unwrap());
    let body = br#"{"chainId":1}"#;
    let honest = RequestParts {
        method: "POST",
        path: "/api/v1/mpc/sign",
        query: "",
        content_type: Some("application/json"),
        audience: "signer.example",
        idempotency_key: Some("0123456789abcdef"),
        authorization: None,
        body: Some(BodyHash::of(body)),
    };
    let signed = keys
        .each_ref()
        .map(|key| owner_proof::sign(key, &honest, NOW, [3; 16]).unwrap());
    move |program| {
        let mut input = Input(program);
        let (which, part) = (usize::from(input.byte() & 1), input.byte() % 7);
        let (key, signed) = (keys[which].public_key(), &signed[which]);
        let mut headers = signed.clone();
        let mut texts =
            [honest.method, honest.path, honest.query, honest.audience].map(str::to_owned);
        let mut body = body.to_vec();
        match part {
            0 => headers.signature_input = edit_text(&headers.signature_input, &mut input),
            1 => headers.signature = edit_text(&headers.signature, &mut input),
            2 => body = edit(&body, &mut input),
            part => {
                let text = &mut texts[usize::from(part - 3)];
                *text = edit_text(text, &mut input);
            }
        }
        let [method, path, query, audience] = &texts;
        let parts = RequestParts {
            method,
            path,
            query,
            audience,
            body: Some(BodyHash::of(&body)),
            ..honest
        };
        let unaltered = headers == *signed
            && parts.body == honest.body
            && [method, path, query, audience]
                == [honest.method, honest.path, honest.query, honest.audience];
        let accepted = owner_proof::parse(&headers.signature_input, &headers.signature)
            .and_then(|claim| {
                let digest = headers.content_digest.as_deref();
                claim.verify(&key, &parts, digest, NOW, PublicKey::verify)
            })
            .is_ok();
        assert_eq!(accepted, unaltered, "{headers:?} {texts:?}");
    }
}

/// A root, the identity key it vouches for, and what both sign.
struct Keys {
    root: SigningKey,
    identity: SigningKey,
    response: SigningKey,
}

impl Keys {
    fn new() -> Self {
        let key = |seed: u8| SigningKey::from_slice(&[seed; 32]).unwrap();
        Self {
            root: key(1),
            identity: key(2),
            response: key(3),
        }
    }

    fn public(key: &SigningKey) -> [u8; 65] {
        let point = key.verifying_key().to_sec1_point(false);
        point.as_bytes().try_into().unwrap()
    }

    fn sign(key: &SigningKey, statement: &[u8]) -> [u8; 64] {
        let signature: Signature = key.sign(statement);
        signature.to_bytes().into()
    }

    fn roots(&self) -> [[u8; 65]; 1] {
        [Self::public(&self.root)]
    }

    fn certificate(&self) -> IdentityCertificate {
        let now = NOW.unsigned_abs();
        let mut certificate = IdentityCertificate {
            environment_id: ENVIRONMENT,
            environment_kind: KIND.to_owned(),
            key: Self::public(&self.identity),
            serial: 1,
            not_before: now - 10,
            not_after: now + 1000,
            signature: [0; 64],
        };
        certificate.signature = Self::sign(&self.root, &certificate.statement().finish());
        certificate
    }

    fn chain(&self) -> String {
        let now = NOW.unsigned_abs();
        let key = Self::public(&self.response);
        let statement = response_key_statement(&ENVIRONMENT, &key, now - 10, now + 1000);
        let statement = ResponseKeyStatement {
            key,
            not_before: now - 10,
            not_after: now + 1000,
            signature: Self::sign(&self.identity, &statement.finish()),
        };
        encode_chain(&self.certificate(), &statement)
    }
}

fn answer_proof_target() -> impl FnMut(&[u8]) {
    let keys = Keys::new();
    let now = NOW.unsigned_abs();
    let chain = keys.chain();
    let verify =
        move |header: &str| ResponseKey::verify(header, &ENVIRONMENT, KIND, &keys.roots(), now);
    let key = verify(&chain).unwrap();
    let keys = Keys::new();
    let kid = response_key_id(&Keys::public(&keys.response));
    let body = br#"{"status":"round_1_complete"}"#;
    let digest = response_proof::content_digest(body);
    let of_request = ":AQEB:";
    let parameters = response_proof::parameters(true, NOW, &kid);
    let base = response_proof::signature_base(202, &digest, Some(of_request), &parameters);
    let signature = Keys::sign(&keys.response, base.as_bytes());
    let (input_header, signature_header) = response_proof::headers(&parameters, &signature);
    move |program| {
        let mut input = Input(program);
        let part = input.byte() % 5;
        if part == 0 {
            let altered = edit_text(&chain, &mut input);
            assert!(altered == chain || verify(&altered).is_err(), "{altered}");
            let _ = response_proof::request_signature(&altered);
            return;
        }
        let mut texts = [&digest, &input_header, &signature_header].map(String::clone);
        let mut altered = body.to_vec();
        if part == 4 {
            altered = edit(&altered, &mut input);
        } else {
            let text = &mut texts[usize::from(part - 1)];
            *text = edit_text(text, &mut input);
        }
        let [content_digest, signature_input, signature] = &texts;
        let headers = AnswerHeaders {
            content_digest: Some(content_digest),
            signature_input: Some(signature_input),
            signature: Some(signature),
        };
        let accepted =
            response_proof::verify(&key, 202, &altered, headers, Some(of_request), now).is_ok();
        let unaltered = texts
            == [
                digest.clone(),
                input_header.clone(),
                signature_header.clone(),
            ]
            && altered == body;
        assert_eq!(accepted, unaltered, "{texts:?}");
    }
}

fn identity_target() -> impl FnMut(&[u8]) {
    let keys = Keys::new();
    let now = NOW.unsigned_abs();
    let public_key = KemSecretKey::from_bytes(&[7; 32])
        .unwrap()
        .public_key()
        .to_bytes();
    let statement = kem_statement(&ENVIRONMENT, "kid", &public_key, now - 10, now + 1000);
    let document = IdentityDocument {
        environment_id: ENVIRONMENT,
        environment_kind: KIND.to_owned(),
        audience: "signer.example".to_owned(),
        identity: keys.certificate(),
        kem: KemDocument {
            kid: "kid".to_owned(),
            public_key,
            not_before: now - 10,
            not_after: now + 1000,
            signature: Keys::sign(&keys.identity, &statement.finish()),
        },
    };
    let honest = serde_json::to_string(&document).unwrap();
    move |program| {
        let altered = edit_text(&honest, &mut Input(program));
        let Ok(read) = serde_json::from_str::<IdentityDocument>(&altered) else {
            return;
        };
        if read.verify(&ENVIRONMENT, &keys.roots(), now).is_ok() {
            // The audience is compared with the configuration, which no signature does.
            let IdentityDocument { identity, kem, .. } = read;
            assert_eq!(
                (identity, kem),
                (document.identity.clone(), document.kem.clone())
            );
        }
    }
}

fn device_key(program: &[u8]) {
    let mut input = Input(program);
    let algorithm = if input.byte() & 1 == 0 {
        Algorithm::P256
    } else {
        Algorithm::Ed25519
    };
    let key = DeviceKey::from_bytes(algorithm, &[9; 32])
        .unwrap()
        .public_key();
    let text = edit_text(&key.jwk().to_string(), &mut input);
    let value = serde_json::from_str::<Value>(&text).unwrap_or(Value::String(text));
    if let Ok(read) = PublicKey::parse(&value) {
        let again = PublicKey::parse(&read.jwk()).unwrap();
        assert_eq!(again.thumbprint(), read.thumbprint());
    }
}

fn token_target() -> impl FnMut(&[u8]) {
    let mut jwk = DeviceKey::from_bytes(Algorithm::P256, &[9; 32])
        .unwrap()
        .public_key()
        .jwk();
    jwk["kid"] = json!("k");
    let jwks = json!({ "keys": [jwk] }).to_string();
    let believed = GatewayJwt::new("issuer".to_owned(), "audience".to_owned(), 60, &jwks).unwrap();
    // {"alg":"ES256","kid":"k"}.{"iss":"issuer","aud":"audience","sub":"u","exp":1795338100}, by nobody.
    let honest = "Bearer eyJhbGciOiJFUzI1NiIsImtpZCI6ImsifQ.\
                  eyJpc3MiOiJpc3N1ZXIiLCJhdWQiOiJhdWRpZW5jZSIsInN1YiI6InUiLCJleHAiOjE3OTUzMzgxMDB9.\
                  AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    move |program| {
        let altered = edit_text(honest, &mut Input(program));
        assert!(believed.subject(Some(&altered), NOW).is_err(), "{altered}");
    }
}

fn body(program: &[u8]) {
    let mut input = Input(program);
    let id = "01a204db-39f8-7000-8000-000000000000";
    let share =
        json!({"keyId": "A".repeat(43), "publicKey": {"kty": "EC"}, "share": "mw1.kg1.k.AA"});
    let (route, honest) = match input.byte() % 6 {
        0 => (0, json!({"name": "n", "clientShare": share})),
        1 => (
            0,
            json!({"profileId": id, "keygenSessionId": id, "clientShare": share}),
        ),
        2 => (
            1,
            json!({"chainId": 1, "to": "0x", "value": "1", "data": "0x00", "keyGeneration": 1}),
        ),
        3 => (
            2,
            json!({"sessionId": id, "p1SignatureShare": "mw1.sg1.k.AA"}),
        ),
        4 => (
            3,
            json!({"publicKey": {}, "name": "n", "proof": {"nonce": "", "expires": 1, "signature": ""}}),
        ),
        _ => (4, json!({})),
    };
    let altered = edit(honest.to_string().as_bytes(), &mut input);
    countersign::http::routes::fuzz_tests::body(route, &altered);
}

fn example() -> TxEip1559 {
    TxEip1559 {
        chain_id: 31337,
        nonce: 7,
        gas_limit: 21_000,
        max_fee_per_gas: 2_000_000_000,
        max_priority_fee_per_gas: 1_000_000_000,
        to: TxKind::Call(Address::repeat_byte(0x70)),
        value: U256::from(10_000_000_000_000_000_u64),
        access_list: Default::default(),
        input: Bytes::from_static(&[1, 2, 3, 4]),
    }
}

/// Payloads as the database holds them, and the fields of a wallet's request.
fn transaction_target() -> impl FnMut(&[u8]) {
    let payload = example().encoded_for_signing();
    assert!(Unsigned1559::from_payload(&payload).is_ok());
    move |program| {
        let mut input = Input(program);
        if input.byte() & 1 == 0 {
            let altered = edit(&payload, &mut input);
            if let Ok(read) = Unsigned1559::from_payload(&altered) {
                assert_eq!(read.payload(), altered, "two spellings");
                let _ = (read.digest(), read.summary(), read.fields());
            }
            return;
        }
        let to = edit_text("0x70997970C51812dc3A010C7d01b50e0d17dc79C8", &mut input);
        let texts: [String; 5] = std::array::from_fn(|_| {
            let length = usize::from(input.byte() % 70);
            let text: Vec<u8> = (0..length).map(|_| input.byte()).collect();
            String::from_utf8_lossy(&text).into_owned()
        });
        let [value, data, gas, max_fee, priority] = &texts;
        let fields = RequestFields {
            chain_id: 1,
            to: &to,
            value,
            data: Some(data)
                .filter(|data| !data.is_empty())
                .map(String::as_str),
            gas: Some(gas).filter(|gas| !gas.is_empty()).map(String::as_str),
            max_fee_per_gas: Some(max_fee)
                .filter(|fee| !fee.is_empty())
                .map(String::as_str),
            max_priority_fee_per_gas: Some(priority)
                .filter(|fee| !fee.is_empty())
                .map(String::as_str),
        };
        if let Ok(request) = TransactionRequest::parse(&fields) {
            assert_eq!(request.value.to_string(), *value, "two spellings");
        }
    }
}

/// Call data that policy reads: a transfer, and calls in calls.
fn calls_target() -> impl FnMut(&[u8]) {
    let word = |number: u8| [&[0; 31][..], &[number]].concat();
    let transfer = [&[0xa9, 0x05, 0x9c, 0xbb][..], &word(7), &word(9)].concat();
    let padded = [&word(68)[..], &transfer, &[0; 28]].concat();
    let multicall = [
        &[0xac, 0x96, 0x50, 0xd8][..],
        &word(32),
        &word(1),
        &word(32),
        &padded,
    ]
    .concat();
    let of_safe: Vec<u8> = [
        &[0x6a, 0x76, 0x12, 0x02][..],
        &[word(1), word(0)].concat(),
        &[&word(0)[..30], &[1, 64]].concat(),
        &[word(0), word(0), word(0), word(0), word(0), word(0)].concat(),
        &[&word(0)[..30], &[1, 192]].concat(),
        &padded,
        &word(0),
    ]
    .concat();
    let to = Some(Address::repeat_byte(0x70));
    let kinds = |data: &[u8]| -> Vec<&str> {
        let calls = decode(to, U256::ZERO, data);
        calls.iter().map(|call| call.what.kind()).collect()
    };
    assert_eq!(kinds(&transfer), ["erc20-transfer"]);
    assert_eq!(kinds(&multicall), ["multicall", "erc20-transfer"]);
    assert_eq!(kinds(&of_safe), ["safe-transaction", "erc20-transfer"]);
    let read = decode(to, U256::ZERO, &transfer);
    move |program| {
        let mut input = Input(program);
        let honest = match input.byte() % 3 {
            0 => &transfer,
            1 => &multicall,
            _ => &of_safe,
        };
        let altered = edit(honest, &mut input);
        let calls = decode(to, U256::ZERO, &altered);
        assert!(!calls.is_empty() && calls.len() <= 128);
        if altered != transfer {
            assert_ne!(calls, read, "two spellings");
        }
    }
}

/// What a server offers a wallet to sign.
fn offer_target() -> impl FnMut(&[u8]) {
    let transaction = example();
    let TxKind::Call(to) = transaction.to else {
        unreachable!("a call");
    };
    let intent = Intent {
        to,
        value: transaction.value,
        chain_id: transaction.chain_id,
        data: transaction.input.clone(),
        gas: None,
        max_fee_per_gas: None,
        max_priority_fee_per_gas: None,
        fee_cap: countersign_client::tx::DEFAULT_FEE_CAP,
    };
    let hex = |bytes: &[u8]| Bytes::copy_from_slice(bytes).to_string();
    let offer = json!({
        "unsignedTx": {
            "type": "0x2", "chainId": 31337, "nonce": "0x7", "to": to, "value": "10000000000000000",
            "data": hex(&transaction.input), "gas": "0x5208", "maxFeePerGas": "0x77359400",
            "maxPriorityFeePerGas": "0x3b9aca00", "accessList": [],
            "raw": hex(&transaction.encoded_for_signing()), "summary": "0.01 ETH",
        },
        "sessionId": "s", "digest": hex(transaction.signature_hash().as_slice()), "expiresAt": 1, "keyGeneration": 1,
        "attempt": 1, "serverNonce": "00", "policyDecisionId": "d",
    })
    .to_string();
    let honest: Prepared = serde_json::from_str(&offer).unwrap();
    intent.check(&honest).unwrap();
    move |program| {
        let altered = edit_text(&offer, &mut Input(program));
        let Ok(read) = serde_json::from_str::<Prepared>(&altered) else {
            return;
        };
        if let Ok(agreed) = intent.check(&read) {
            let signed = agreed.transaction();
            assert_eq!(agreed.digest(), signed.signature_hash().0);
            assert_eq!(
                (signed.to, signed.value, signed.chain_id, &signed.input),
                (
                    transaction.to,
                    transaction.value,
                    transaction.chain_id,
                    &transaction.input
                )
            );
        }
    }
}
