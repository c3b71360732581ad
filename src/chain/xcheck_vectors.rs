//! Writes `target/xcheck/vectors.jsonl`: random transactions, built and signed by us, for `tests/xcheck`, where
//! ethers-core says what it makes of them.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fmt::Write as _;
use std::path::Path;

use alloy_primitives::{Address, hex, keccak256};
use k256::ecdsa::SigningKey;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::Unsigned1559;
use super::transaction::tests::any_unsigned;

const VECTORS: usize = 512;

fn vector(unsigned: &Unsigned1559, key: &SigningKey) -> serde_json::Value {
    let (signature, recovery) = key.sign_prehash_recoverable(&unsigned.digest());
    let (r, s): ([u8; 32], [u8; 32]) = (
        signature.r().to_bytes().into(),
        signature.s().to_bytes().into(),
    );
    let signed = unsigned.sign(&r, &s, recovery.is_y_odd()).unwrap();
    let point = key.verifying_key().to_sec1_point(false);
    let sender = Address::from_slice(&keccak256(&point.as_bytes()[1..])[12..]);
    let mut vector = serde_json::to_value(unsigned.fields()).unwrap();
    let quantities = serde_json::json!({
        "chainId": format!("{:#x}", unsigned.chain_id()),
        "value": format!("{:#x}", unsigned.value()),
        "from": sender,
        "digest": hex::encode_prefixed(unsigned.digest()),
        "r": hex::encode_prefixed(r),
        "s": hex::encode_prefixed(s),
        "yParity": format!("{:#x}", u8::from(recovery.is_y_odd())),
        "payload": hex::encode_prefixed(unsigned.payload()),
        "raw": hex::encode_prefixed(signed.raw),
        "hash": hex::encode_prefixed(signed.hash),
    });
    let fields = vector.as_object_mut().unwrap();
    fields.remove("type");
    fields.extend(quantities.as_object().unwrap().clone());
    vector
}

#[test]
fn xcheck_vectors() {
    let mut random = TestRunner::deterministic();
    let strategy = (any_unsigned(), any::<[u8; 32]>());
    let mut lines = String::new();
    for _ in 0..VECTORS {
        let (unsigned, key) = strategy.new_tree(&mut random).unwrap().current();
        let key = SigningKey::from_slice(&key).unwrap();
        writeln!(lines, "{}", vector(&unsigned, &key)).unwrap();
    }
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/xcheck");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("vectors.jsonl"), lines).unwrap();
}
