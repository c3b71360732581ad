//! The server's verifier against the portable one, on what an attacker may send.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use countersign_mpc::owner_proof::{Algorithm, DeviceKey, PublicKey};
use p256::NistP256;
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use p256::elliptic_curve::Curve;
use p256::elliptic_curve::bigint::{ArrayEncoding, U256};
use proptest::prelude::*;

/// Both verdicts, which must be one. The portable verifier includes the range check of `r` and `s`, which
/// stands before both when a proof is read.
fn accepted(key: &VerifyingKey, message: &[u8], raw: &[u8]) -> bool {
    let key = PublicKey::from_bytes(Algorithm::P256, key.to_sec1_point(false).as_bytes()).unwrap();
    agreed(&key, message, raw)
}

fn agreed(key: &PublicKey, message: &[u8], raw: &[u8]) -> bool {
    let Ok(raw) = raw.try_into() else {
        return false;
    };
    let portable = key.verify(message, raw);
    let fast = super::verifies(key, message, raw);
    assert_eq!(fast, portable, "{}", hex::encode(raw));
    fast
}

fn order() -> U256 {
    *NistP256::ORDER.as_ref()
}

fn bytes(number: &U256) -> [u8; 32] {
    number.to_be_byte_array().into()
}

fn joined(r: &[u8], s: &[u8]) -> Vec<u8> {
    [r, s].concat()
}

/// `r ‖ n - s`, which verifies as well as `r ‖ s`.
fn other_half(raw: &[u8]) -> Vec<u8> {
    let (r, s) = raw.split_at(32);
    let s = order().wrapping_sub(&U256::from_be_slice(s));
    joined(r, &bytes(&s))
}

fn signing_key() -> impl Strategy<Value = SigningKey> {
    any::<[u8; 32]>().prop_filter_map("not a key", |bytes| SigningKey::from_slice(&bytes).ok())
}

proptest! {
    #[test]
    fn s4_both_verifiers_accept_the_same_signatures(
        key in signing_key(),
        other in signing_key(),
        message in prop::collection::vec(any::<u8>(), 0..300),
        bit in 0..512_usize,
        noise in any::<[[u8; 32]; 2]>(),
    ) {
        let signature: Signature = key.sign(&message);
        let raw = signature.to_bytes().to_vec();
        let public = key.verifying_key();
        prop_assert!(accepted(public, &message, &raw));
        // One of the two is high.
        prop_assert!(accepted(public, &message, &other_half(&raw)));

        prop_assert!(!accepted(other.verifying_key(), &message, &raw));
        prop_assert!(!accepted(public, &[message.as_slice(), b"."].concat(), &raw));
        let mut altered = raw.clone();
        *altered.get_mut(bit / 8).unwrap() ^= 1 << (bit % 8);
        prop_assert!(!accepted(public, &message, &altered));
        prop_assert!(!accepted(public, &message, &noise.concat()));
        let (r, s) = raw.split_at(32);
        prop_assert!(!accepted(public, &message, &joined(s, r)));
    }

    #[test]
    fn s4_both_verifiers_refuse_numbers_out_of_range(key in signing_key(), message in any::<[u8; 32]>()) {
        let signature: Signature = key.sign(&message);
        let raw = signature.to_bytes().to_vec();
        let public = key.verifying_key();
        let (r, s) = raw.split_at(32);
        let one = U256::ONE;
        let beyond = [
            [0; 32],
            bytes(&order()),
            bytes(&order().wrapping_add(&one)),
            [0xff; 32],
        ];
        for number in beyond {
            prop_assert!(!accepted(public, &message, &joined(&number, s)));
            prop_assert!(!accepted(public, &message, &joined(r, &number)));
            prop_assert!(!accepted(public, &message, &joined(&number, &number)));
        }
        for number in [bytes(&one), bytes(&order().wrapping_sub(&one))] {
            prop_assert!(!accepted(public, &message, &joined(&number, s)));
            prop_assert!(!accepted(public, &message, &joined(r, &number)));
        }
    }

    #[test]
    fn s4_both_verifiers_accept_the_same_ed25519_signatures(
        seed in any::<[u8; 32]>(),
        other in any::<[u8; 32]>(),
        message in prop::collection::vec(any::<u8>(), 0..300),
        bit in 0..512_usize,
    ) {
        let [key, other] = [seed, other].map(|seed| DeviceKey::from_bytes(Algorithm::Ed25519, &seed).unwrap());
        let (raw, public) = (key.sign(&message), key.public_key());
        prop_assert!(agreed(&public, &message, &raw));
        prop_assert!(!agreed(&other.public_key(), &message, &raw));
        prop_assert!(!agreed(&public, &[message.as_slice(), b"."].concat(), &raw));
        let mut altered = raw;
        *altered.get_mut(bit / 8).unwrap() ^= 1 << (bit % 8);
        prop_assert!(!agreed(&public, &message, &altered));
        // `S + L` is another spelling of `S`.
        let (r, s) = raw.split_at(32);
        let larger = U256::from_le_slice(s).wrapping_add(&ED25519_ORDER);
        let larger: [u8; 32] = larger.to_le_byte_array().into();
        prop_assert!(!agreed(&public, &message, &joined(r, &larger)));
    }
}

const ED25519_ORDER: U256 =
    U256::from_be_hex("1000000000000000000000000000000014def9dea2f79cd65812631a5cf5d3ed");

/// `r` above `n - p` wraps around: where `x` of the nonce point is not below `n`, `r` is `x - n`. An honest
/// signature never shows it; both verifiers must still agree on such small numbers.
#[test]
fn s4_both_verifiers_agree_on_small_r() {
    let key = SigningKey::from_slice(&[7; 32]).unwrap();
    for number in 1..=64_u64 {
        let small = bytes(&U256::from_u64(number));
        assert!(!accepted(
            key.verifying_key(),
            b"message",
            &joined(&small, &small)
        ));
    }
}

/// What one verification costs, without TLS: at most 150 microseconds of CPU are allowed. `benches/server` measures it in
/// an optimised build; here our own code is not optimised, so this is an upper bound.
#[test]
#[ignore = "a measurement"]
fn s4_a_proof_is_verified_within_its_budget() {
    use countersign_mpc::owner_proof::{BodyHash, RequestParts, parse, sign};

    const PROOFS: u32 = 2_000;
    for (algorithm, length) in [
        (Algorithm::P256, 200),
        (Algorithm::P256, 36_000),
        (Algorithm::Ed25519, 200),
        (Algorithm::Ed25519, 36_000),
    ] {
        let device = DeviceKey::from_bytes(algorithm, &[7; 32]).unwrap();
        let (key, body) = (device.public_key(), vec![b'a'; length]);
        let parts = |body: &[u8]| RequestParts {
            method: "POST",
            path: "/api/v1/mpc/sign",
            query: "",
            content_type: Some("application/json"),
            audience: "signer.example",
            idempotency_key: None,
            authorization: None,
            body: Some(BodyHash::of(body)),
        };
        let headers = sign(&device, &parts(&body), 1_000, [1; 16]).unwrap();
        let start = cpu();
        for _ in 0..PROOFS {
            let claim = parse(&headers.signature_input, &headers.signature).unwrap();
            let digest = headers.content_digest.as_deref();
            let verified = claim.verify(&key, &parts(&body), digest, 1_000, super::verifies);
            assert_eq!(verified, Ok(()));
        }
        let each = (cpu() - start) / f64::from(PROOFS);
        println!("{algorithm:?}, body of {length} bytes: {each:.1} us of CPU");
        assert!(each < 150.0, "{algorithm:?}");
    }
}

/// Microseconds that this thread has spent on a CPU.
fn cpu() -> f64 {
    std::thread::yield_now();
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanoseconds: f64 = schedstat.split(' ').next().unwrap().parse().unwrap();
    nanoseconds / 1e3
}
