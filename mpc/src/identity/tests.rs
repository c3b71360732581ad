#![expect(clippy::unwrap_used, reason = "tests")]
use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::Signer;

use super::*;

const NOW: u64 = 1_795_338_000;
const KIND: &str = "development";
const ENVIRONMENT: [u8; 32] = [1; 32];

/// A change to a document.
type Change = fn(&mut IdentityDocument);

fn signing_key(byte: u8) -> SigningKey {
    SigningKey::from_slice(&[byte; 32]).unwrap()
}

fn public(key: &SigningKey) -> [u8; 65] {
    let point = key.verifying_key().to_sec1_point(false);
    point.as_bytes().try_into().unwrap()
}

fn sign(key: &SigningKey, statement: Lp) -> [u8; 64] {
    let signature: Signature = key.sign(&statement.finish());
    signature.to_bytes().into()
}

fn root() -> [u8; 65] {
    public(&signing_key(3))
}

fn certificate() -> IdentityCertificate {
    let mut certificate = IdentityCertificate {
        environment_id: ENVIRONMENT,
        environment_kind: KIND.into(),
        key: public(&signing_key(7)),
        serial: 5,
        not_before: NOW - 100,
        not_after: NOW + 400 * 86_400,
        signature: [0; 64],
    };
    certificate.signature = sign(&signing_key(3), certificate.statement());
    certificate
}

fn document() -> IdentityDocument {
    let statement = kem_statement(&ENVIRONMENT, "k1", &[9; 32], NOW, NOW + 3600);
    IdentityDocument {
        environment_id: ENVIRONMENT,
        environment_kind: KIND.into(),
        audience: "signer.example".into(),
        identity: certificate(),
        kem: KemDocument {
            kid: "k1".into(),
            public_key: [9; 32],
            not_before: NOW,
            not_after: NOW + 3600,
            signature: sign(&signing_key(7), statement),
        },
    }
}

fn statement(not_before: u64, not_after: u64) -> ResponseKeyStatement {
    let key = public(&signing_key(8));
    let signed = response_key_statement(&ENVIRONMENT, &key, not_before, not_after);
    ResponseKeyStatement {
        key,
        not_before,
        not_after,
        signature: sign(&signing_key(7), signed),
    }
}

fn verify_chain(header: &str, roots: &[[u8; 65]], now: u64) -> Result<ResponseKey, IdentityError> {
    ResponseKey::verify(header, &ENVIRONMENT, KIND, roots, now)
}

#[test]
fn a_signed_document_verifies_and_survives_json() {
    let document = document();
    let json = serde_json::to_string(&document).unwrap();
    assert!(json.contains("\"environmentId\":\"0101"));
    let read: IdentityDocument = serde_json::from_str(&json).unwrap();
    let key = read.verify(&ENVIRONMENT, &[root()], NOW + 10).unwrap();
    assert_eq!(key.to_bytes(), [9; 32]);
}

#[test]
fn each_altered_field_is_refused() {
    let verify = |document: &IdentityDocument, now| {
        document
            .verify(&ENVIRONMENT, &[public(&signing_key(4)), root()], now)
            .err()
    };
    let altered = |alter: fn(&mut IdentityDocument)| {
        let mut document = document();
        alter(&mut document);
        verify(&document, NOW + 10)
    };
    let cases: [(Change, IdentityError); 15] = [
        (
            |d| d.environment_id = [2; 32],
            IdentityError::WrongEnvironment,
        ),
        (
            |d| d.environment_kind.clear(),
            IdentityError::WrongEnvironment,
        ),
        (
            |d| d.identity.environment_id = [2; 32],
            IdentityError::WrongEnvironment,
        ),
        (|d| d.identity.key = [2; 65], IdentityError::UnknownRoot),
        (|d| d.identity.key = root(), IdentityError::UnknownRoot),
        (|d| d.identity.serial += 1, IdentityError::UnknownRoot),
        (|d| d.identity.not_before -= 1, IdentityError::UnknownRoot),
        (|d| d.identity.not_after += 1, IdentityError::UnknownRoot),
        (
            |d| d.identity.signature = [1; 64],
            IdentityError::UnknownRoot,
        ),
        (|d| d.kem.kid = "k2".into(), IdentityError::Signature),
        (|d| d.kem.public_key = [8; 32], IdentityError::Signature),
        (|d| d.kem.not_after += 1, IdentityError::Signature),
        (|d| d.kem.not_before -= 1, IdentityError::Signature),
        (
            |d| d.kem.not_after += 48 * 3600,
            IdentityError::OutsideValidity,
        ),
        (
            |d| d.kem.not_after = d.kem.not_before - 1,
            IdentityError::OutsideValidity,
        ),
    ];
    for (number, (alter, expected)) in cases.into_iter().enumerate() {
        assert_eq!(altered(alter), Some(expected), "case {number}");
    }
    let at = |now| verify(&document(), now);
    assert_eq!(at(NOW + 3601), Some(IdentityError::OutsideValidity));
    assert_eq!(at(NOW - 61), Some(IdentityError::OutsideValidity));
    assert_eq!(at(NOW - 60), None);
    assert_eq!(
        document().verify(&ENVIRONMENT, &[], NOW).err(),
        Some(IdentityError::UnknownRoot)
    );
}

#[test]
fn a_root_vouches_for_a_time_and_not_for_ever() {
    let verify = |certificate: &IdentityCertificate, now| {
        certificate.verify(&ENVIRONMENT, KIND, &[root()], now).err()
    };
    let genuine = certificate();
    assert_eq!(verify(&genuine, NOW), None);
    assert_eq!(verify(&genuine, genuine.not_after), None);
    let expired = Some(IdentityError::CertificateExpired);
    assert_eq!(verify(&genuine, genuine.not_after + 1), expired);
    assert_eq!(verify(&genuine, genuine.not_before - 61), expired);
    let mut long = certificate();
    long.not_after = long.not_before + MAX_CERTIFICATE_LIFETIME + 1;
    long.signature = sign(&signing_key(3), long.statement());
    assert_eq!(verify(&long, NOW), expired);
}

#[test]
fn a_request_proves_that_the_holder_of_the_key_asks() {
    let mut request = IdentityRequest {
        environment_id: ENVIRONMENT,
        environment_kind: KIND.into(),
        key: public(&signing_key(7)),
        signature: [0; 64],
    };
    request.signature = sign(&signing_key(7), request.statement());
    assert_eq!(request.verify(), Ok(()));
    let mut other = request.clone();
    other.key = root();
    assert_eq!(other.verify(), Err(IdentityError::Signature));
    request.environment_kind = "production".into();
    assert_eq!(request.verify(), Err(IdentityError::Signature));
}

#[test]
fn a_response_key_is_believed_through_the_whole_chain_only() {
    let header = encode_chain(&certificate(), &statement(NOW, NOW + 3600));
    assert_eq!(header.len(), 398);
    let known = [public(&signing_key(4)), root()];
    let key = verify_chain(&header, &known, NOW).unwrap();
    assert_eq!(key.check(NOW + 3600), Ok(()));
    assert_eq!(
        key.check(NOW + 3601),
        Err(IdentityError::ResponseKeyExpired)
    );
    let refused = |header: &str, roots: &[[u8; 65]], now| verify_chain(header, roots, now).err();

    assert_eq!(
        refused(&header, &[public(&signing_key(4))], NOW),
        Some(IdentityError::UnknownRoot)
    );
    assert_eq!(
        refused(&header, &known, NOW + 3601),
        Some(IdentityError::ResponseKeyExpired)
    );
    assert_eq!(
        refused(&header, &known, NOW - 61),
        Some(IdentityError::ResponseKeyExpired)
    );
    let late = certificate().not_after + 1;
    assert_eq!(
        refused(&header, &known, late),
        Some(IdentityError::CertificateExpired)
    );
    let other = ResponseKey::verify(&header, &[2; 32], KIND, &known, NOW).err();
    assert_eq!(other, Some(IdentityError::UnknownRoot));
    let other = ResponseKey::verify(&header, &ENVIRONMENT, "production", &known, NOW).err();
    assert_eq!(other, Some(IdentityError::UnknownRoot));

    let long = encode_chain(
        &certificate(),
        &statement(NOW, NOW + MAX_RESPONSE_KEY_LIFETIME + 1),
    );
    assert_eq!(
        refused(&long, &known, NOW),
        Some(IdentityError::ResponseKeyExpired)
    );
    for malformed in [
        "",
        "AA",
        &format!("{header}A"),
        &format!("{header}AAAA"),
        header.get(4..).unwrap(),
    ] {
        assert_eq!(
            refused(malformed, &known, NOW),
            Some(IdentityError::MalformedResponseKey)
        );
    }
}

#[test]
fn no_byte_of_a_response_key_header_can_be_altered() {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let header = encode_chain(&certificate(), &statement(NOW, NOW + 3600));
    let bytes = URL_SAFE_NO_PAD.decode(header).unwrap();
    for at in 0..bytes.len() {
        let mut altered = bytes.clone();
        *altered.get_mut(at).unwrap() ^= 1;
        let header = URL_SAFE_NO_PAD.encode(altered);
        assert!(verify_chain(&header, &[root()], NOW).is_err(), "byte {at}");
    }
}
