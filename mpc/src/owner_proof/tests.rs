#![expect(clippy::unwrap_used, reason = "tests")]

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use p256::ecdsa::VerifyingKey;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::base::{inner_list, signature_base};
use super::*;

const NOW: i64 = 1_795_338_000;

fn key() -> DeviceKey {
    DeviceKey::from_bytes(Algorithm::P256, &[3; 32]).unwrap()
}

fn post() -> RequestParts<'static> {
    RequestParts {
        method: "POST",
        path: "/api/v1/mpc/sign",
        query: "",
        content_type: Some("application/json"),
        audience: "signer.example",
        idempotency_key: Some("9b0f"),
        authorization: None,
        body: Some(BodyHash::of(b"{\"sessionId\":\"1\"}")),
    }
}

fn get() -> RequestParts<'static> {
    RequestParts {
        method: "GET",
        content_type: None,
        idempotency_key: None,
        body: None,
        ..post()
    }
}

fn signed(request: &RequestParts<'_>) -> (SignedHeaders, Claim) {
    let headers = sign(&key(), request, NOW, [5; 16]).unwrap();
    let claim = parse(&headers.signature_input, &headers.signature).unwrap();
    (headers, claim)
}

fn verify(
    claim: &Claim,
    request: &RequestParts<'_>,
    digest: Option<&str>,
    now: i64,
) -> Option<OwnerProofError> {
    claim
        .verify(&key().public_key(), request, digest, now, PublicKey::verify)
        .err()
}

#[test]
fn s4_signed_requests_verify() {
    for request in [
        post(),
        get(),
        RequestParts {
            query: "page=2&x=%20",
            ..get()
        },
    ] {
        let (headers, claim) = signed(&request);
        assert_eq!(
            verify(&claim, &request, headers.content_digest.as_deref(), NOW),
            None
        );
        assert_eq!(claim.key_id, key().thumbprint());
        assert_eq!(
            (claim.created, claim.expires, claim.nonce),
            (NOW, NOW + 60, [5; 16])
        );
    }
}

#[test]
fn s4_each_altered_component_is_refused() {
    let (headers, claim) = signed(&post());
    let digest = headers.content_digest.as_deref();
    let altered = |request: RequestParts<'_>| verify(&claim, &request, digest, NOW);
    let signature = Some(OwnerProofError::Signature);
    assert_eq!(
        altered(RequestParts {
            method: "PUT",
            ..post()
        }),
        signature
    );
    assert_eq!(
        altered(RequestParts {
            path: "/api/v1/mpc/sigm",
            ..post()
        }),
        signature
    );
    assert_eq!(
        altered(RequestParts {
            query: "a=1",
            ..post()
        }),
        signature
    );
    assert_eq!(
        altered(RequestParts {
            content_type: Some("text/plain"),
            ..post()
        }),
        signature
    );
    assert_eq!(
        altered(RequestParts {
            audience: "other.example",
            ..post()
        }),
        signature
    );
    assert_eq!(
        altered(RequestParts {
            idempotency_key: Some("9b10"),
            ..post()
        }),
        signature
    );
    // Another body under the signed header; and with a header of its own.
    let other_body = RequestParts {
        body: Some(BodyHash::of(b"{}")),
        ..post()
    };
    assert_eq!(altered(other_body), Some(OwnerProofError::DigestMismatch));
    assert_eq!(
        verify(
            &claim,
            &other_body,
            other_body.content_digest().as_deref(),
            NOW
        ),
        signature
    );
}

#[test]
fn s4_other_component_sets_are_refused() {
    let (headers, claim) = signed(&post());
    let digest = headers.content_digest.as_deref();
    let components = Some(OwnerProofError::WrongComponents);
    assert_eq!(
        verify(
            &claim,
            &RequestParts {
                idempotency_key: None,
                ..post()
            },
            digest,
            NOW
        ),
        components
    );
    assert_eq!(verify(&claim, &get(), None, NOW), components);
    assert_eq!(
        verify(
            &claim,
            &RequestParts {
                content_type: None,
                ..post()
            },
            digest,
            NOW
        ),
        components
    );
    assert_eq!(
        verify(&claim, &post(), None, NOW),
        Some(OwnerProofError::DigestMismatch)
    );
    let (_, bodiless) = signed(&get());
    assert_eq!(verify(&bodiless, &post(), digest, NOW), components);
    assert_eq!(
        verify(&bodiless, &get(), digest, NOW),
        Some(OwnerProofError::DigestMismatch)
    );
}

#[test]
fn s4_the_time_window_is_exact() {
    let (headers, claim) = signed(&post());
    let at = |now| verify(&claim, &post(), headers.content_digest.as_deref(), now);
    assert_eq!(at(NOW - 5), None);
    assert_eq!(at(NOW + 60), None);
    assert_eq!(at(NOW - 6), Some(OwnerProofError::OutsideWindow));
    assert_eq!(at(NOW + 61), Some(OwnerProofError::OutsideWindow));

    let (headers, claim) = signed(&get());
    let stretched = |from: &str, to: &str| {
        let input = headers.signature_input.replace(from, to);
        verify(
            &parse(&input, &headers.signature).unwrap(),
            &get(),
            None,
            NOW,
        )
    };
    let expires = format!("expires={}", NOW + 60);
    assert_eq!(
        stretched(&expires, &format!("expires={}", NOW + 61)),
        Some(OwnerProofError::OutsideWindow)
    );
    assert_eq!(
        stretched(&expires, &format!("expires={}", NOW - 1)),
        Some(OwnerProofError::OutsideWindow)
    );
    assert_eq!(
        stretched(&expires, &format!("expires={}", i64::MIN)),
        Some(OwnerProofError::OutsideWindow)
    );
    assert_eq!(
        stretched(&expires, &format!("expires={}", NOW + 59)),
        Some(OwnerProofError::Signature)
    );
    assert_eq!(
        verify(&claim, &get(), None, i64::MIN),
        Some(OwnerProofError::OutsideWindow)
    );
}

#[test]
fn s4_another_key_is_refused() {
    let (_, claim) = signed(&get());
    let other = DeviceKey::from_bytes(Algorithm::P256, &[4; 32]).unwrap();
    let outcome = claim.verify(&other.public_key(), &get(), None, NOW, PublicKey::verify);
    assert_eq!(outcome, Err(OwnerProofError::WrongKey));
}

#[test]
fn s4_there_is_one_spelling() {
    let (headers, _) = signed(&post());
    let input = headers.signature_input.as_str();
    let refused = |input: &str, signature: &str| {
        assert_eq!(
            parse(input, signature).err(),
            Some(OwnerProofError::Malformed),
            "{input} {signature}"
        );
    };
    let respelled = [
        input.replacen("p1=", "p2=", 1),
        format!("{input}, {input}"),
        format!("{input},p2=()"),
        format!(" {input}"),
        format!("{input} "),
        format!("{input};x=1"),
        input.replacen(";created", "; created", 1),
        input.replacen("created=", "created=+", 1),
        input.replacen("created=", "created=0", 1),
        input.replacen(";expires", ";created=1;expires", 1),
        input.replacen("ecdsa-p256-sha256", "rsa-pss-sha512", 1),
        input.replacen("mpc-wallet-p1/1", "mpc-wallet-p1/2", 1),
        input.replacen("nonce=\"BQUF", "nonce=\"", 1),
        input.replacen("keyid=\"", "keyid=\"A", 1),
        input.replacen(";alg=\"ecdsa-p256-sha256\"", "", 1),
        String::new(),
    ];
    for input in &respelled {
        refused(input, &headers.signature);
    }
    let encoded = headers.signature.as_str();
    for signature in [
        format!("{encoded}, {encoded}"),
        encoded.replacen("p1", "p2", 1),
        encoded.replacen(":", "", 1),
        encoded.replace("==", ""),
        "p1=::".to_owned(),
        format!("p1=:{}:", STANDARD.encode([0; 64])),
    ] {
        refused(input, &signature);
    }
}

#[test]
fn s4_duplicated_or_unknown_components_are_refused() {
    let (headers, _) = signed(&get());
    for (from, to) in [
        ("\"@method\" ", "\"@method\" \"@method\" "),
        ("\"@method\" ", ""),
        ("\"@method\" ", "\"@method\";req "),
        ("\"@method\" \"@path\"", "\"@path\" \"@method\""),
        ("\"mpc-audience\"", "\"mpc-audience\" \"x-other\""),
    ] {
        let input = headers.signature_input.replacen(from, to, 1);
        let claim = parse(&input, &headers.signature).unwrap();
        assert_eq!(
            verify(&claim, &get(), None, NOW),
            Some(OwnerProofError::WrongComponents),
            "{input}"
        );
    }
}

#[test]
fn s4_values_that_would_forge_lines_are_refused() {
    for audience in ["", " a", "a ", "a\nb", "a\r", "ä"] {
        let request = RequestParts { audience, ..get() };
        assert_eq!(
            sign(&key(), &request, NOW, [5; 16]).err(),
            Some(OwnerProofError::InvalidComponent)
        );
    }
}

/// RFC 9421 appendix B.2.4 with the key of B.1.3: the base as printed, and its ECDSA P-256 signature.
#[test]
fn s4_rfc_9421_b_2_4() {
    let key = PublicKey::parse(&json!({
        "kty": "EC", "crv": "P-256", "kid": "test-key-ecc-p256",
        "x": "qIVYZVLCrPZHGHjP17CTW0_-D9Lfw0EkjqF7xB4FivA",
        "y": "Mc4nN9LTDOBhfoUeg8Ye9WedFRhnZXZJA12Qp0zZ6F0",
    }))
    .unwrap();
    let digest = "sha-512=:mEWXIS7MaLRuGgxOBdODa3xqM1XdEvxoYhvlCFJ41QJgJc4GTsPp29l5oGX69wWdXymyU0rjJuahq4l5aGgfLQ==:";
    let components = [
        ("@status", "200".to_owned()),
        ("content-type", "application/json".to_owned()),
        ("content-digest", digest.to_owned()),
        ("content-length", "23".to_owned()),
    ];
    let list = inner_list(components.iter().map(|(name, _)| name));
    let base = signature_base(
        &components,
        &format!("{list};created=1618884473;keyid=\"test-key-ecc-p256\""),
    );
    let expected = format!(
        "\"@status\": 200\n\"content-type\": application/json\n\"content-digest\": {digest}\n\"content-length\": 23\n\
         \"@signature-params\": (\"@status\" \"content-type\" \"content-digest\" \"content-length\")\
         ;created=1618884473;keyid=\"test-key-ecc-p256\""
    );
    assert_eq!(base, expected);
    let signature =
        "wNmSUAhwb5LxtOtOpNa6W5xj067m5hFrj0XQ4fvpaCLx0NKocgPquLgyahnzDnDAUy5eCdlYUEkLIj+32oiasw==";
    let signature = STANDARD.decode(signature).unwrap().try_into().unwrap();
    assert!(key.verify(base.as_bytes(), &signature));
    assert!(!key.verify(base.replace("23", "24").as_bytes(), &signature));
}

const B_DATE: &str = "Tue, 20 Apr 2021 02:07:55 GMT";

/// The signature base of one of RFC 9421's examples, compared with the one printed there.
fn rfc_base(components: &[(&str, &str)], parameters: &str, printed: &str) -> String {
    let components: Vec<(&str, String)> = components
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()))
        .collect();
    let list = inner_list(components.iter().map(|(name, _)| name));
    let base = signature_base(&components, &format!("{list}{parameters}"));
    assert_eq!(base, printed);
    base
}

/// RFC 9421 appendix B.2.1 and B.2.3: signature bases as printed. Their RSA-PSS signatures are no algorithm of ours.
#[test]
fn s4_rfc_9421_b_2_1_and_b_2_3() {
    rfc_base(
        &[],
        ";created=1618884473;keyid=\"test-key-rsa-pss\";nonce=\"b3k2pp5k7z-50gnwp.yemd\"",
        "\"@signature-params\": ();created=1618884473;keyid=\"test-key-rsa-pss\";nonce=\"b3k2pp5k7z-50gnwp.yemd\"",
    );
    let digest = "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:";
    rfc_base(
        &[
            ("date", B_DATE),
            ("@method", "POST"),
            ("@path", "/foo"),
            ("@query", "?param=Value&Pet=dog"),
            ("@authority", "example.com"),
            ("content-type", "application/json"),
            ("content-digest", digest),
            ("content-length", "18"),
        ],
        ";created=1618884473;keyid=\"test-key-rsa-pss\"",
        &format!(
            "\"date\": {B_DATE}\n\"@method\": POST\n\"@path\": /foo\n\"@query\": ?param=Value&Pet=dog\n\
             \"@authority\": example.com\n\"content-type\": application/json\n\"content-digest\": {digest}\n\
             \"content-length\": 18\n\"@signature-params\": (\"date\" \"@method\" \"@path\" \"@query\" \
             \"@authority\" \"content-type\" \"content-digest\" \"content-length\")\
             ;created=1618884473;keyid=\"test-key-rsa-pss\""
        ),
    );
}

/// RFC 9421 appendix B.2.5 with the key of B.1.5: the base as printed, and its HMAC-SHA256.
#[test]
fn s4_rfc_9421_b_2_5() {
    let base = rfc_base(
        &[
            ("date", B_DATE),
            ("@authority", "example.com"),
            ("content-type", "application/json"),
        ],
        ";created=1618884473;keyid=\"test-shared-secret\"",
        &format!(
            "\"date\": {B_DATE}\n\"@authority\": example.com\n\"content-type\": application/json\n\
             \"@signature-params\": (\"date\" \"@authority\" \"content-type\")\
             ;created=1618884473;keyid=\"test-shared-secret\""
        ),
    );
    let key =
        "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==";
    let key: [u8; 64] = STANDARD.decode(key).unwrap().try_into().unwrap();
    // HMAC (RFC 2104) with a key of one block.
    let inner = Sha256::digest([key.map(|byte| byte ^ 0x36).as_slice(), base.as_bytes()].concat());
    let outer = Sha256::digest([key.map(|byte| byte ^ 0x5c).as_slice(), &inner].concat());
    assert_eq!(
        STANDARD.encode(outer),
        "pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8="
    );
}

/// RFC 9421 appendix B.2.6 with the key of B.1.4: the base as printed, and its Ed25519 signature.
#[test]
fn s4_rfc_9421_b_2_6() {
    let key = PublicKey::parse(&json!({
        "kty": "OKP", "crv": "Ed25519", "kid": "test-key-ed25519",
        "x": "JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs",
    }))
    .unwrap();
    let base = rfc_base(
        &[
            ("date", B_DATE),
            ("@method", "POST"),
            ("@path", "/foo"),
            ("@authority", "example.com"),
            ("content-type", "application/json"),
            ("content-length", "18"),
        ],
        ";created=1618884473;keyid=\"test-key-ed25519\"",
        &format!(
            "\"date\": {B_DATE}\n\"@method\": POST\n\"@path\": /foo\n\"@authority\": example.com\n\
             \"content-type\": application/json\n\"content-length\": 18\n\"@signature-params\": \
             (\"date\" \"@method\" \"@path\" \"@authority\" \"content-type\" \"content-length\")\
             ;created=1618884473;keyid=\"test-key-ed25519\""
        ),
    );
    let signature =
        "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==";
    let signature = STANDARD.decode(signature).unwrap().try_into().unwrap();
    assert!(key.verify(base.as_bytes(), &signature));
    assert!(!key.verify(base.replace("18", "19").as_bytes(), &signature));
    // The private key of B.1.4 makes the same.
    let seed = URL_SAFE_NO_PAD
        .decode("n4Ni-HpISpVObnQMW0wOhCKROaIKqKtW_2ZYb2p9KcU")
        .unwrap();
    let device = DeviceKey::from_bytes(Algorithm::Ed25519, &seed).unwrap();
    assert_eq!(device.public_key(), key);
    assert_eq!(device.sign(base.as_bytes()), signature);
}

/// RFC 8037 appendix A.3.
#[test]
fn s4_ed25519_thumbprint_vector() {
    let jwk =
        json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    let key = PublicKey::parse(&jwk).unwrap();
    assert_eq!(
        key.thumbprint(),
        "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    );
    assert_eq!(key.jwk(), jwk);
}

#[test]
fn s4_an_ed25519_device_signs_and_its_algorithm_is_not_for_the_request_to_choose() {
    let device = DeviceKey::from_bytes(Algorithm::Ed25519, &[3; 32]).unwrap();
    let headers = sign(&device, &post(), NOW, [5; 16]).unwrap();
    let digest = headers.content_digest.as_deref();
    let outcome = |input: &str, key: &PublicKey| {
        let claim = parse(input, &headers.signature).unwrap();
        claim.verify(key, &post(), digest, NOW, PublicKey::verify)
    };
    let input = &headers.signature_input;
    assert_eq!(outcome(input, &device.public_key()), Ok(()));
    let (ed25519, p256) = ("alg=\"ed25519\"", "alg=\"ecdsa-p256-sha256\"");
    assert!(input.contains(ed25519));
    let renamed = input.replace(ed25519, p256);
    assert_eq!(
        outcome(&renamed, &device.public_key()),
        Err(OwnerProofError::WrongAlgorithm)
    );
    let by_other_key = input.replace(&device.thumbprint(), &key().thumbprint());
    assert_eq!(
        outcome(&by_other_key, &key().public_key()),
        Err(OwnerProofError::WrongAlgorithm)
    );
}

/// The eight points of small order and their other encodings, points that are not on the curve, and a key with a part
/// of small order: each would verify what nobody signed, or be one key with several thumbprints.
#[test]
fn s4_unsound_ed25519_keys_are_refused() {
    let mut unsound: Vec<Vec<u8>> = [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "0200000000000000000000000000000000000000000000000000000000000000",
    ]
    .map(|text| hex::decode(text).unwrap())
    .to_vec();
    // `A` and a point of order 2 together: -A with its sign flipped is A + (0, -1).
    let key = DeviceKey::from_bytes(Algorithm::Ed25519, &[3; 32]).unwrap();
    let order_two: [u8; 32] = unsound.get(4).unwrap().as_slice().try_into().unwrap();
    let point = |bytes: &[u8; 32]| {
        ed25519_dalek::VerifyingKey::from_bytes(bytes)
            .unwrap()
            .to_edwards()
    };
    let honest: [u8; 32] = key.public_key().as_bytes().try_into().unwrap();
    let mixed = point(&honest) + point(&order_two);
    unsound.push(mixed.compress().to_bytes().to_vec());
    unsound.push(honest.split_at(31).0.to_vec());
    for bytes in unsound {
        let x = URL_SAFE_NO_PAD.encode(&bytes);
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": x});
        assert_eq!(
            PublicKey::parse(&jwk).err(),
            Some(OwnerProofError::InvalidKey),
            "{}",
            hex::encode(bytes)
        );
    }
    let private = json!({"kty": "OKP", "crv": "Ed25519", "x": "", "d": "secret"});
    assert_eq!(
        PublicKey::parse(&private).err(),
        Some(OwnerProofError::PrivateKey)
    );
}

/// The key and `jkt` of RFC 9449 (DPoP), sections 4.1 and 6.1.
#[test]
fn s4_thumbprint_vector() {
    let jwk = json!({
        "kty": "EC", "crv": "P-256",
        "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
        "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
    });
    let key = PublicKey::parse(&jwk).unwrap();
    assert_eq!(
        key.thumbprint(),
        "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
    );
}

#[test]
fn public_keys_parse_from_jwk_and_sec1_only() {
    let key = key();
    for compressed in [false, true] {
        let point = VerifyingKey::from_sec1_bytes(key.public_key().as_bytes()).unwrap();
        let sec1 = hex::encode(point.to_sec1_point(compressed).as_bytes());
        assert_eq!(PublicKey::parse(&json!(sec1)).unwrap(), key.public_key());
    }
    let invalid = Some(OwnerProofError::InvalidKey);
    for value in [
        json!(""),
        json!("00"),
        json!("04ff"),
        json!(7),
        json!({}),
        json!({"kty": "EC", "crv": "P-384"}),
    ] {
        assert_eq!(PublicKey::parse(&value).err(), invalid, "{value}");
    }
    let off_curve = hex::encode([[4].as_slice(), &[1; 64]].concat());
    assert_eq!(PublicKey::parse(&json!(off_curve)).err(), invalid);
    let private = json!({"kty": "EC", "crv": "P-256", "x": "", "y": "", "d": "secret"});
    assert_eq!(
        PublicKey::parse(&private).err(),
        Some(OwnerProofError::PrivateKey)
    );
}

/// Computed independently by `vectors/owner_proof.py`, with RFC 6979 signatures like ours.
#[test]
fn a14_owner_proof_vector() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../vectors/owner_proof.json")).unwrap();
    let text = |name: &str| vectors.get(name).unwrap().as_str().unwrap();
    assert_eq!(key().thumbprint(), text("thumbprint"));
    assert_eq!(
        PublicKey::parse(vectors.get("jwk").unwrap()).unwrap(),
        key().public_key()
    );
    let (headers, _) = signed(&post());
    assert_eq!(
        headers.content_digest.as_deref(),
        Some(text("content_digest"))
    );
    assert_eq!(headers.signature_input, text("signature_input"));
    assert_eq!(headers.signature, text("signature"));
}
