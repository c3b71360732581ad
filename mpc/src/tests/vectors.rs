//! A14: known answers for every hash of ours, computed independently by `vectors/hashes.py`, and injectivity.

use proptest::prelude::*;
use serde_json::Value;

use crate::binding::{KeygenBinding, Purpose, SignBinding};
use crate::canary::CanaryDigest;
use crate::identity::kem_statement;
use crate::lp::Lp;
use crate::share::PublicShare;

fn vector(name: &str) -> String {
    let vectors: Value = serde_json::from_str(include_str!("../../vectors/hashes.json")).unwrap();
    vectors[name].as_str().unwrap().to_owned()
}

fn point(byte: u8) -> [u8; 33] {
    let mut point = [byte; 33];
    point[0] = 2;
    point
}

fn sign_binding(purpose: Purpose, decision: &str, attempt: u32, index: u32) -> SignBinding {
    SignBinding {
        environment_id: [0xe1; 32],
        profile_id: "profile-1".into(),
        device_thumbprint: "thumbprint-1".into(),
        key_generation: 3,
        session_id: "session-1".into(),
        attempt,
        index,
        server_nonce: [0x51; 32],
        policy_decision_id: decision.into(),
        purpose,
        digest: [0xd1; 32],
    }
}

#[test]
fn a14_vectors() {
    let encoded = Lp::new("tag/1")
        .bytes(&[])
        .bytes(&[0, 0xff])
        .u64(7)
        .str("ü")
        .finish();
    assert_eq!(hex::encode(encoded), vector("lp"));

    let keygen = KeygenBinding {
        environment_id: [0xe1; 32],
        profile_id: "profile-1".into(),
        keygen_session_id: "session-1".into(),
        device_thumbprint: "thumbprint-1".into(),
    };
    assert_eq!(
        hex::encode(keygen.session_id(&[0xc1; 32], &[0x51; 32])),
        vector("keygen_sid")
    );

    let transaction = sign_binding(Purpose::Transaction, "decision-1", 2, 5);
    assert_eq!(
        hex::encode(transaction.sign_id(&[0xc1; 32])),
        vector("sign_id_transaction")
    );
    let canary = sign_binding(Purpose::Canary, "", 1, 0);
    assert_eq!(
        hex::encode(canary.sign_id(&[0xc1; 32])),
        vector("sign_id_canary")
    );

    let digest = CanaryDigest::new("profile-1", 3, "session-1");
    assert_eq!(hex::encode(digest.as_bytes()), vector("canary_digest"));

    let public = PublicShare {
        public_key: point(0x0a),
        address: [0; 20],
        x1: point(0x0b),
        x2: point(0x0c),
        session_id: [0x0d; 32],
    };
    assert_eq!(hex::encode(public.fingerprint()), vector("fingerprint"));

    let statement = kem_statement(&[0xe1; 32], "kem-1", &[9; 32], 1_795_338_000, 1_795_424_400);
    assert_eq!(hex::encode(statement.hash()), vector("kem_statement"));
}

fn encode(elements: &[Vec<u8>]) -> Vec<u8> {
    elements
        .iter()
        .fold(Lp::new("test"), |lp, element| lp.bytes(element))
        .finish()
}

proptest! {
    #[test]
    fn a14_distinct_tuples_have_distinct_encodings(
        left in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 0..5),
        right in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 0..5),
    ) {
        prop_assert_eq!(left == right, encode(&left) == encode(&right));
    }

    #[test]
    fn a14_moving_a_boundary_changes_the_encoding(bytes in prop::collection::vec(any::<u8>(), 1..12), at: prop::sample::Index) {
        let (head, tail) = bytes.split_at(at.index(bytes.len()));
        prop_assert_ne!(encode(&[head.to_vec(), tail.to_vec()]), encode(std::slice::from_ref(&bytes)));
        prop_assert_ne!(encode(&[head.to_vec(), tail.to_vec()]), encode(&[bytes.clone(), vec![]]));
    }
}
