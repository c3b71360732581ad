#![expect(clippy::unwrap_used, reason = "tests")]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use countersign_mpc::owner_proof::DeviceKey;
use serde_json::json;

use super::*;

const NOW: i64 = 1_795_338_000;

enum Signer {
    Device(Box<DeviceKey>),
    Rsa(Box<KeyPair>),
}

impl Signer {
    fn device(algorithm: Algorithm, seed: u8) -> Self {
        Self::Device(Box::new(
            DeviceKey::from_bytes(algorithm, &[seed; 32]).unwrap(),
        ))
    }

    fn rsa(size: KeySize) -> Self {
        Self::Rsa(Box::new(KeyPair::generate(size).unwrap()))
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Device(key) if key.algorithm() == Algorithm::P256 => "ES256",
            Self::Device(_) => "EdDSA",
            Self::Rsa(_) => "RS256",
        }
    }

    fn jwk(&self, kid: &str) -> Value {
        let mut jwk = match self {
            Self::Device(key) => key.public_key().jwk(),
            Self::Rsa(key) => {
                // PKCS #1 in DER: a modulus of 2048 bits after nine bytes of frame, and the exponent 65537.
                let der = key.public_key().as_ref();
                let n = URL_SAFE_NO_PAD.encode(der.get(9..265).unwrap());
                json!({"kty": "RSA", "n": n, "e": "AQAB"})
            }
        };
        jwk.as_object_mut()
            .unwrap()
            .insert("kid".to_owned(), json!(kid));
        jwk
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = match self {
            Self::Device(key) => key.sign(signed.as_bytes()).to_vec(),
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                let random = SystemRandom::new();
                key.sign(
                    &RSA_PKCS1_SHA256,
                    &random,
                    signed.as_bytes(),
                    &mut signature,
                )
                .unwrap();
                signature
            }
        };
        format!("Bearer {signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn believing(keys: &[Value]) -> Result<GatewayJwt, JwksError> {
    let jwks = json!({ "keys": keys }).to_string();
    GatewayJwt::new(
        "https://issuer.test".to_owned(),
        "signer.test".to_owned(),
        5,
        &jwks,
    )
}

fn claims() -> Value {
    json!({"iss": "https://issuer.test", "aud": "signer.test", "sub": "user-1", "exp": NOW + 200})
}

fn with(mut value: Value, name: &str, field: Value) -> Value {
    value
        .as_object_mut()
        .unwrap()
        .insert(name.to_owned(), field);
    value
}

#[test]
fn s4_tokens_of_each_kind_of_key_name_their_user() {
    let signers = [
        Signer::device(Algorithm::P256, 1),
        Signer::device(Algorithm::Ed25519, 2),
        Signer::rsa(KeySize::Rsa2048),
    ];
    let keys: Vec<Value> = signers.iter().map(|key| key.jwk(key.algorithm())).collect();
    let jwt = believing(&keys).unwrap();
    for signer in &signers {
        let header = json!({"alg": signer.algorithm(), "kid": signer.algorithm(), "typ": "JWT"});
        let subject = jwt
            .subject(Some(&signer.token(&header, &claims())), NOW)
            .unwrap();
        assert_eq!(subject.issuer, "https://issuer.test");
        assert_eq!(subject.subject, "user-1");
        let several = with(claims(), "aud", json!(["other", "signer.test"]));
        assert!(
            jwt.subject(Some(&signer.token(&header, &several)), NOW)
                .is_ok()
        );
        // Another key's name, another algorithm, none at all.
        for (header, expected) in [
            (json!({"alg": signer.algorithm()}), JwtError::UnknownKey),
            (
                json!({"alg": signer.algorithm(), "kid": "x"}),
                JwtError::UnknownKey,
            ),
            (
                json!({"alg": "none", "kid": signer.algorithm()}),
                JwtError::UnknownKey,
            ),
            (
                json!({"alg": "HS256", "kid": signer.algorithm()}),
                JwtError::UnknownKey,
            ),
            (
                json!({"alg": signer.algorithm(), "kid": signer.algorithm(), "crit": ["exp"]}),
                JwtError::Malformed,
            ),
        ] {
            let token = signer.token(&header, &claims());
            assert_eq!(jwt.subject(Some(&token), NOW), Err(expected), "{header}");
        }
    }
    let stranger = Signer::device(Algorithm::P256, 9);
    let header = json!({"alg": "ES256", "kid": "ES256"});
    let token = stranger.token(&header, &claims());
    assert_eq!(jwt.subject(Some(&token), NOW), Err(JwtError::Signature));
}

#[test]
fn s4_a_token_counts_for_its_time_its_parties_and_its_user_only() {
    let signer = Signer::device(Algorithm::Ed25519, 1);
    let jwt = believing(&[signer.jwk("k")]).unwrap();
    // The only key needs no name.
    let header = json!({"alg": "EdDSA"});
    let outcome = |claims: Value| {
        jwt.subject(Some(&signer.token(&header, &claims)), NOW)
            .err()
    };
    assert_eq!(outcome(claims()), None);
    let outside = Some(JwtError::OutsideTime);
    for (exp, expected) in [
        (NOW + 305, None),
        (NOW + 306, outside),
        (NOW - 4, None),
        (NOW - 5, outside),
        (i64::MAX, outside),
        (i64::MIN, outside),
    ] {
        assert_eq!(
            outcome(with(claims(), "exp", json!(exp))),
            expected,
            "{exp}"
        );
    }
    assert_eq!(outcome(with(claims(), "nbf", json!(NOW + 5))), None);
    assert_eq!(outcome(with(claims(), "nbf", json!(NOW + 6))), outside);
    let parties = Some(JwtError::OtherParties);
    assert_eq!(
        outcome(with(claims(), "iss", json!("https://other.test"))),
        parties
    );
    for aud in [json!("other"), json!(["other"]), json!([]), json!(7)] {
        assert_eq!(outcome(with(claims(), "aud", aud)), parties);
    }
    for sub in [String::new(), "x".repeat(256), "a\nb".to_owned()] {
        let nobody = Some(JwtError::NoSubject);
        assert_eq!(outcome(with(claims(), "sub", json!(sub))), nobody);
    }
    for missing in ["iss", "aud", "sub", "exp"] {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(missing);
        assert_eq!(outcome(claims), Some(JwtError::Malformed), "{missing}");
    }
    let good = signer.token(&header, &claims());
    for (token, expected) in [
        (None, JwtError::Missing),
        (Some(good.replace("Bearer ", "Basic ")), JwtError::Missing),
        (Some(good.replacen('.', "", 1)), JwtError::Malformed),
        (Some(format!("{good}=")), JwtError::Malformed),
        (
            Some(format!("Bearer {}", "a".repeat(9_000))),
            JwtError::Malformed,
        ),
    ] {
        assert_eq!(jwt.subject(token.as_deref(), NOW), Err(expected));
    }
}

#[test]
fn s4_only_keys_that_verify_are_pinned() {
    let (p256, ed25519) = (
        Signer::device(Algorithm::P256, 1),
        Signer::device(Algorithm::Ed25519, 2),
    );
    assert!(believing(&[p256.jwk("a"), ed25519.jwk("b")]).is_ok());
    let error = |keys: &[Value]| believing(keys).err();
    assert_eq!(error(&[]), Some(JwksError::Empty));
    assert_eq!(
        error(&[p256.jwk("a"), ed25519.jwk("a")]),
        Some(JwksError::SameKid)
    );
    let unusable = Some(JwksError::Unusable(0));
    let short = json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode([0xff; 128]), "e": "AQAB"});
    assert_eq!(error(&[short]), unusable);
    let padded = [vec![0; 128], vec![0xff; 128]].concat();
    let padded = json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode(padded), "e": "AQAB"});
    assert_eq!(error(&[padded]), unusable);
    assert_eq!(error(&[json!({"kty": "oct", "k": "c2VjcmV0"})]), unusable);
    assert_eq!(error(&[with(p256.jwk("a"), "use", json!("enc"))]), unusable);
    assert_eq!(
        error(&[with(p256.jwk("a"), "alg", json!("EdDSA"))]),
        unusable
    );
    assert_eq!(
        error(&[with(p256.jwk("a"), "d", json!("secret"))]),
        unusable
    );
}
