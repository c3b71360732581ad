#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "tests"
)]

use std::convert::Infallible;

use hpke::rand_core::{TryCryptoRng, TryRng};

use super::*;

/// Gives the bytes of one seed; enough for one ephemeral key.
struct FixedRng(u8);

impl TryRng for FixedRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_be_bytes([self.0; 4]))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_be_bytes([self.0; 8]))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        bytes.fill(self.0);
        Ok(())
    }
}

impl TryCryptoRng for FixedRng {}

fn key() -> KemSecretKey {
    KemSecretKey::from_bytes(&[0x42; 32]).unwrap()
}

fn info() -> EnvelopeInfo {
    EnvelopeInfo {
        environment_id: [0xe1; 32],
        tenant: "default".into(),
        message_type: MessageType::Sign1,
        kem_kid: "kem-2026-11-22".into(),
        device_thumbprint: "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I".into(),
        profile_id: "profile-1".into(),
        session_id: "session-1".into(),
        key_generation: 1,
        attempt: 1,
    }
}

fn sealed() -> (String, ResponseOpener) {
    seal_request(&key().public_key(), &info(), b"request").unwrap()
}

#[test]
fn request_and_answer_open() {
    let (envelope, opener) = sealed();
    assert_eq!(kid_of(&envelope), Some("kem-2026-11-22"));
    let (plaintext, sealer) = open_request(&key(), &info(), &envelope).unwrap();
    assert_eq!(plaintext.as_slice(), b"request");
    let answer = sealer.seal(b"answer").unwrap();
    assert_eq!(opener.open(&answer).unwrap().as_slice(), b"answer");
}

#[test]
fn a06_each_field_of_the_info_binds_the_envelope() {
    let (envelope, _) = sealed();
    let opens = |alter: fn(&mut EnvelopeInfo)| {
        let mut other = info();
        alter(&mut other);
        open_request(&key(), &other, &envelope).err()
    };
    assert_eq!(opens(|_| ()), None);
    assert_eq!(
        opens(|i| i.environment_id = [0; 32]),
        Some(EnvelopeError::Open)
    );
    assert_eq!(
        opens(|i| i.tenant = "other".into()),
        Some(EnvelopeError::Open)
    );
    assert_eq!(
        opens(|i| i.device_thumbprint = "other".into()),
        Some(EnvelopeError::Open)
    );
    assert_eq!(
        opens(|i| i.profile_id = "profile-2".into()),
        Some(EnvelopeError::Open)
    );
    assert_eq!(
        opens(|i| i.session_id = "session-2".into()),
        Some(EnvelopeError::Open)
    );
    assert_eq!(opens(|i| i.key_generation = 2), Some(EnvelopeError::Open));
    assert_eq!(opens(|i| i.attempt = 2), Some(EnvelopeError::Open));
    assert_eq!(
        opens(|i| i.message_type = MessageType::Sign2),
        Some(EnvelopeError::WrongType)
    );
    assert_eq!(
        opens(|i| i.kem_kid = "other".into()),
        Some(EnvelopeError::WrongKey)
    );
}

#[test]
fn an_answer_opens_only_for_its_request() {
    let (envelope, _) = sealed();
    let (_, other_opener) = sealed();
    let (_, sealer) = open_request(&key(), &info(), &envelope).unwrap();
    let answer = sealer.seal(b"answer").unwrap();
    assert_eq!(other_opener.open(&answer).err(), Some(EnvelopeError::Open));
    // A request reflected as its own answer does not open either.
    let (envelope, opener) = sealed();
    assert_eq!(opener.open(&envelope).err(), Some(EnvelopeError::Open));
}

#[test]
fn a04_altered_envelopes_do_not_open() {
    let (envelope, _) = sealed();
    let head = envelope.rfind('.').unwrap() + 1;
    for position in head..envelope.len() {
        let replacement = if &envelope[position..=position] == "A" {
            "B"
        } else {
            "A"
        };
        let mut altered = envelope.clone();
        altered.replace_range(position..=position, replacement);
        assert!(
            open_request(&key(), &info(), &altered).is_err(),
            "character {position}"
        );
    }
    for length in 0..envelope.len() {
        assert!(
            open_request(&key(), &info(), &envelope[..length]).is_err(),
            "cut at {length}"
        );
    }
    let other_key = KemSecretKey::from_bytes(&[0x43; 32]).unwrap();
    assert_eq!(
        open_request(&other_key, &info(), &envelope).err(),
        Some(EnvelopeError::Open)
    );
}

#[test]
fn a12_small_order_points_are_refused_on_both_sides() {
    // The eight canonical encodings of small order: RFC 7748's u = 0 and 1, two of order 8, p - 1, p, p + 1.
    let small_order = [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ];
    for point in small_order {
        let point = hex::decode(point).unwrap();
        let public = KemPublicKey::from_bytes(&point).unwrap();
        assert_eq!(
            seal_request(&public, &info(), b"request").err(),
            Some(EnvelopeError::Seal)
        );
        let envelope = info().prefix() + &URL_SAFE_NO_PAD.encode([point, vec![0; 24]].concat());
        assert_eq!(
            open_request(&key(), &info(), &envelope).err(),
            Some(EnvelopeError::Open)
        );
    }
}

#[test]
fn a23_bare_secrets_are_told_apart() {
    let scalar = [0xab_u8; 32];
    let engines = [
        base64::engine::general_purpose::STANDARD.encode(scalar),
        base64::engine::general_purpose::STANDARD_NO_PAD.encode(scalar),
        base64::engine::general_purpose::URL_SAFE.encode(scalar),
        URL_SAFE_NO_PAD.encode(scalar),
    ];
    let texts = [
        hex::encode(scalar),
        hex::encode_upper(scalar),
        format!("0x{}", hex::encode(scalar)),
    ];
    for text in texts.iter().chain(&engines) {
        assert_eq!(
            open_request(&key(), &info(), text).err(),
            Some(EnvelopeError::BareSecret),
            "{text}"
        );
    }
    for harmless in [
        "",
        "hello",
        "mw",
        "mw1",
        "abcd",
        "{}",
        &hex::encode([1; 31]),
        &hex::encode([1; 33]),
    ] {
        assert_eq!(
            open_request(&key(), &info(), harmless).err(),
            Some(EnvelopeError::Malformed),
            "{harmless}"
        );
    }
}

#[test]
fn a38_other_versions_are_told_apart() {
    for version in ["mw2", "mw10", "mw0"] {
        let envelope = format!("{version}.sg1.kem-2026-11-22.AAAA");
        assert_eq!(
            open_request(&key(), &info(), &envelope).err(),
            Some(EnvelopeError::UnsupportedVersion)
        );
    }
}

#[test]
fn a12_malformed_heads_and_sizes_are_refused() {
    let error = |envelope: &str| open_request(&key(), &info(), envelope).err();
    for head in [
        "mw1.sg1.kem-2026-11-22",
        "mw1.sg1.kem-2026-11-22.AA.AA",
        "mw1.sg1..AAAA",
        "mw1.sg1.k/d.AAAA",
    ] {
        assert_eq!(error(head), Some(EnvelopeError::Malformed), "{head}");
    }
    for payload in ["", "AAA=", "AB", "A A", "ä"] {
        assert_eq!(
            error(&(info().prefix() + payload)),
            Some(EnvelopeError::Malformed),
            "{payload}"
        );
    }
    let huge = info().prefix() + &"A".repeat(MAX_LENGTH);
    assert_eq!(error(&huge), Some(EnvelopeError::TooLarge));
    let mut unnamable = info();
    unnamable.kem_kid = "a.b".into();
    assert_eq!(
        seal_request(&key().public_key(), &unnamable, b"x").err(),
        Some(EnvelopeError::Seal)
    );
}

/// Computed independently with Python's `cryptography`; see `vectors/envelope.py`.
#[test]
fn a14_envelope_vectors() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../vectors/envelope.json")).unwrap();
    let text = |name: &str| vectors[name].as_str().unwrap().to_owned();
    assert_eq!(
        hex::encode(key().public_key().to_bytes()),
        text("kem_public_key")
    );
    assert_eq!(hex::encode(info().request_info()), text("info"));
    assert_eq!(hex::encode(info().response_aad()), text("response_aad"));

    let (encapped, context): (_, SealingContext) = hpke::setup_sender_with_rng(
        &OpModeS::Base,
        &key().public_key().0,
        &info().request_info(),
        &mut FixedRng(7),
    )
    .unwrap();
    let (envelope, opener) = seal_with(&encapped.to_bytes(), context, &info(), b"request").unwrap();
    assert_eq!(envelope, text("request"));

    let (plaintext, sealer) = open_request(&key(), &info(), &envelope).unwrap();
    assert_eq!(plaintext.as_slice(), b"request");
    let answer = sealer.seal_with([5; 12], b"answer").unwrap();
    assert_eq!(answer, text("response"));
    assert_eq!(opener.open(&answer).unwrap().as_slice(), b"answer");
}
