#![expect(clippy::unwrap_used, reason = "tests")]
use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::Signer;

use super::*;
use crate::identity::{
    IdentityCertificate, IdentityRequest, ResponseKeyStatement, encode_chain, response_key_id,
    response_key_statement,
};
use crate::lp::Lp;

const NOW: u64 = 1_795_338_000;
const BODY: &[u8] = br#"{"state":"created"}"#;

fn public(key: &SigningKey) -> [u8; 65] {
    let point = key.verifying_key().to_sec1_point(false);
    point.as_bytes().try_into().unwrap()
}

fn of(key: &SigningKey, statement: Lp) -> [u8; 64] {
    let signature: Signature = key.sign(&statement.finish());
    signature.to_bytes().into()
}

/// A response key and its verified form.
fn response_key(byte: u8) -> (SigningKey, ResponseKey) {
    let [root, identity, key] =
        [3, 7, byte].map(|byte| SigningKey::from_slice(&[byte; 32]).unwrap());
    let mut certificate = IdentityCertificate {
        environment_id: [1; 32],
        environment_kind: "development".into(),
        key: public(&identity),
        serial: 1,
        not_before: NOW,
        not_after: NOW + 86_400,
        signature: [0; 64],
    };
    certificate.signature = of(&root, certificate.statement());
    let statement = response_key_statement(&[1; 32], &public(&key), NOW, NOW + 86_400);
    let statement = ResponseKeyStatement {
        key: public(&key),
        not_before: NOW,
        not_after: NOW + 86_400,
        signature: of(&identity, statement),
    };
    let header = encode_chain(&certificate, &statement);
    let verified =
        ResponseKey::verify(&header, &[1; 32], "development", &[public(&root)], NOW).unwrap();
    (key, verified)
}

/// The `:…:` of some request.
fn request(byte: u8) -> String {
    format!(":{}:", STANDARD.encode([byte; 64]))
}

/// A change to an answer.
type Change = fn(&mut Answer);

struct Answer {
    status: u16,
    body: Vec<u8>,
    digest: String,
    input: String,
    signature: String,
}

fn answer(key: &SigningKey, request: Option<&str>, created: i64) -> Answer {
    let digest = content_digest(BODY);
    let parameters = parameters(request.is_some(), created, &response_key_id(&public(key)));
    let base = signature_base(202, &digest, request, &parameters);
    let raw: Signature = key.sign(base.as_bytes());
    let (input, signature) = headers(&parameters, &raw.to_bytes());
    Answer {
        status: 202,
        body: BODY.to_vec(),
        digest,
        input,
        signature,
    }
}

impl Answer {
    fn verify(&self, key: &ResponseKey, request: Option<&str>) -> Result<(), ResponseProofError> {
        let headers = AnswerHeaders {
            content_digest: Some(&self.digest),
            signature_input: Some(&self.input),
            signature: Some(&self.signature),
        };
        verify(key, self.status, &self.body, headers, request, NOW)
    }
}

fn created() -> i64 {
    i64::try_from(NOW).unwrap()
}

#[test]
fn a_signed_answer_verifies_for_its_own_request_only() {
    let (key, verified) = response_key(8);
    let mine = request(1);
    let bound = answer(&key, Some(&mine), created());
    assert_eq!(bound.verify(&verified, Some(&mine)), Ok(()));
    let others = bound.verify(&verified, Some(&request(2)));
    assert_eq!(others, Err(ResponseProofError::Signature));
    // An answer to an unsigned request passes for no signed one's, nor the other way round.
    let unbound = answer(&key, None, created());
    assert_eq!(unbound.verify(&verified, None), Ok(()));
    let refused = Err(ResponseProofError::Malformed);
    assert_eq!(unbound.verify(&verified, Some(&mine)), refused);
    assert_eq!(bound.verify(&verified, None), refused);
    // Another key's answer names another key, and does not verify if it lies about that.
    let mut foreign = answer(&response_key(9).0, Some(&mine), created());
    assert_eq!(foreign.verify(&verified, Some(&mine)), refused);
    foreign.input.clone_from(&bound.input);
    assert_eq!(
        foreign.verify(&verified, Some(&mine)),
        Err(ResponseProofError::Signature)
    );
}

#[test]
fn whatever_is_altered_is_refused() {
    let (key, verified) = response_key(8);
    let mine = request(1);
    let cases: [(Change, ResponseProofError); 10] = [
        (|a| a.status = 200, ResponseProofError::Signature),
        (|a| a.body.push(b' '), ResponseProofError::DigestMismatch),
        (|a| a.body.clear(), ResponseProofError::DigestMismatch),
        (
            |a| a.digest = content_digest(b"other"),
            ResponseProofError::DigestMismatch,
        ),
        (
            |a| {
                a.body = b"other".to_vec();
                a.digest = content_digest(&a.body);
            },
            ResponseProofError::Signature,
        ),
        (
            |a| a.input = a.input.replacen("0;keyid", "1;keyid", 1),
            ResponseProofError::Signature,
        ),
        (
            |a| a.input = a.input.replace(r#" "content-digest""#, ""),
            ResponseProofError::Malformed,
        ),
        (
            |a| a.input.push_str(", p3=()"),
            ResponseProofError::Malformed,
        ),
        (
            |a| a.signature.insert(4, 'A'),
            ResponseProofError::Malformed,
        ),
        (
            |a| a.signature = a.signature.replace("p2", "p1"),
            ResponseProofError::Malformed,
        ),
    ];
    for (number, (alter, expected)) in cases.into_iter().enumerate() {
        let mut altered = answer(&key, Some(&mine), created());
        alter(&mut altered);
        assert_eq!(
            altered.verify(&verified, Some(&mine)),
            Err(expected),
            "case {number}"
        );
    }
    let unsigned = verify(
        &verified,
        202,
        BODY,
        AnswerHeaders::default(),
        Some(&mine),
        NOW,
    );
    assert_eq!(unsigned, Err(ResponseProofError::Unsigned));
}

#[test]
fn an_answer_counts_for_two_minutes() {
    let (key, verified) = response_key(8);
    let at = |created| answer(&key, None, created).verify(&verified, None);
    assert_eq!(at(created() - 120), Ok(()));
    assert_eq!(at(created() + 120), Ok(()));
    for wrong in [created() - 121, created() + 121, 0, -1, i64::MIN, i64::MAX] {
        assert_eq!(at(wrong), Err(ResponseProofError::OutsideWindow), "{wrong}");
    }
}

#[test]
fn only_a_well_formed_request_signature_is_covered() {
    let mine = request(1);
    assert_eq!(
        request_signature(&format!("p1={mine}")),
        Some(mine.as_str())
    );
    let short = STANDARD.encode([1; 63]);
    for malformed in [
        "",
        "p1=",
        "p1=::",
        "p1=:AA==:",
        &format!("p2={mine}"),
        &format!("p1=:{short}:"),
        &format!("p1={mine} "),
        &format!("p1={mine}, p1={mine}"),
        &format!(" p1={mine}"),
        &format!("p1={mine};x"),
    ] {
        assert_eq!(request_signature(malformed), None, "{malformed}");
    }
}

/// Computed independently by `vectors/identity.py`, with RFC 6979 signatures like ours.
#[test]
fn a14_identity_and_answer_vectors() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../vectors/identity.json")).unwrap();
    let text = |pointer: &str| vectors.pointer(pointer).unwrap().as_str().unwrap();
    let number = |pointer: &str| vectors.pointer(pointer).unwrap().as_u64().unwrap();
    let [root, identity, response] =
        [3, 7, 8].map(|byte| SigningKey::from_slice(&[byte; 32]).unwrap());
    let (env, kind) = ([0xe1; 32], "development");
    assert_eq!(hex::encode(public(&root)), text("/root_key"));

    let mut request = IdentityRequest {
        environment_id: env,
        environment_kind: kind.into(),
        key: public(&identity),
        signature: [0; 64],
    };
    assert_eq!(
        hex::encode(request.statement().finish()),
        text("/request/statement")
    );
    request.signature = of(&identity, request.statement());
    assert_eq!(hex::encode(request.signature), text("/request/signature"));

    let mut certificate = IdentityCertificate {
        environment_id: env,
        environment_kind: kind.into(),
        key: public(&identity),
        serial: number("/certificate/serial"),
        not_before: number("/certificate/not_before"),
        not_after: number("/certificate/not_after"),
        signature: [0; 64],
    };
    let signed = certificate.statement();
    assert_eq!(
        hex::encode(signed.clone().finish()),
        text("/certificate/statement")
    );
    certificate.signature = of(&root, signed);
    assert_eq!(
        hex::encode(certificate.signature),
        text("/certificate/signature")
    );

    let (key, not_before) = (public(&response), number("/response_key/not_before"));
    let not_after = number("/response_key/not_after");
    let signed = response_key_statement(&env, &key, not_before, not_after);
    assert_eq!(response_key_id(&key), text("/response_key/kid"));
    assert_eq!(
        hex::encode(signed.clone().finish()),
        text("/response_key/statement")
    );
    let statement = ResponseKeyStatement {
        key,
        not_before,
        not_after,
        signature: of(&identity, signed),
    };
    let chain = encode_chain(&certificate, &statement);
    assert_eq!(chain, text("/mpc_response_key"));
    let verified = ResponseKey::verify(&chain, &env, kind, &[public(&root)], not_before).unwrap();

    let body = text("/body").as_bytes();
    assert_eq!(content_digest(body), text("/content_digest"));
    let asked = request_signature(text("/request_signature"));
    for (name, asked) in [("/bound", asked), ("/unbound", None)] {
        let of_it = |field: &str| text(&format!("{name}/{field}"));
        let created = i64::try_from(not_before).unwrap();
        let parameters = parameters(asked.is_some(), created, text("/response_key/kid"));
        let base = signature_base(202, text("/content_digest"), asked, &parameters);
        assert_eq!(base, of_it("base"));
        let raw: Signature = response.sign(base.as_bytes());
        let (input, signature) = headers(&parameters, &raw.to_bytes());
        assert_eq!(input, of_it("signature_input"));
        assert_eq!(signature, of_it("signature"));
        let received = AnswerHeaders {
            content_digest: Some(text("/content_digest")),
            signature_input: Some(&input),
            signature: Some(&signature),
        };
        let outcome = verify(&verified, 202, body, received, asked, not_before);
        assert_eq!(outcome, Ok(()));
    }
}
