//! What holds of these parties by themselves: they agree with the vectors, and with each other when both are honest.
#![expect(clippy::unwrap_used, reason = "tests")]

use serde_json::Value;

use crate::cheat::probe;
use crate::hashes::{Binding, KeygenBinding, canary_digest, lp};
use crate::share::{Share, deal, next_generation};
use crate::sign::start;
use crate::wire::{First, Frame, Message, Second, generator, identity};
use crate::{envelope, random};

fn vector(file: &str, name: &str) -> String {
    let path = format!("{}/../../mpc/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    let vectors: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    vectors[name].as_str().unwrap().to_owned()
}

fn binding(purpose: &str, decision: &str, attempt: u64, index: u64) -> Binding {
    Binding {
        environment: [0xe1; 32],
        profile: "profile-1".to_owned(),
        device: "thumbprint-1".to_owned(),
        generation: 3,
        session: "session-1".to_owned(),
        attempt,
        index,
        server_nonce: [0x51; 32],
        decision: decision.to_owned(),
        purpose: purpose.to_owned(),
        digest: [0xd1; 32],
    }
}

#[test]
fn a14_a_second_implementation_agrees_with_the_vectors() {
    let hash = |name| vector("hashes.json", name);
    let text = lp(&[
        b"tag/1",
        b"",
        &[0, 0xff],
        &7_u64.to_be_bytes(),
        "ü".as_bytes(),
    ]);
    assert_eq!(hex::encode(text), hash("lp"));
    let keygen = KeygenBinding {
        environment: [0xe1; 32],
        profile: "profile-1".to_owned(),
        session: "session-1".to_owned(),
        device: "thumbprint-1".to_owned(),
    };
    let sid = keygen.sid(&[0xc1; 32], &[0x51; 32]);
    assert_eq!(hex::encode(sid), hash("keygen_sid"));
    for (name, binding) in [
        (
            "sign_id_transaction",
            binding("transaction", "decision-1", 2, 5),
        ),
        ("sign_id_canary", binding("canary", "", 1, 0)),
    ] {
        assert_eq!(hex::encode(binding.sign_id(&[0xc1; 32])), hash(name));
    }
    let canary = canary_digest("profile-1", 3, "session-1");
    assert_eq!(hex::encode(canary), hash("canary_digest"));
    let info = envelope::Info {
        environment: [0xe1; 32],
        tenant: "default".to_owned(),
        kind: "sg1".to_owned(),
        kid: "kem-2026-11-22".to_owned(),
        device: "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I".to_owned(),
        profile: "profile-1".to_owned(),
        session: "session-1".to_owned(),
        generation: 1,
        attempt: 1,
    };
    assert_eq!(hex::encode(info.text()), vector("envelope.json", "info"));
}

/// A signature of the two, in the order of transactions; what P2 says, step by step.
fn signed(shares: [&Share; 2]) -> Result<(), String> {
    let (sign_id, digest) = (random(), random());
    let (one, first_1) = start(shares[0], sign_id, digest);
    let (two, first_2) = start(shares[1], sign_id, digest);
    let (two, second_2) = two.answer(shares[1], &first_1)?;
    let (one, second_1) = one.answer(shares[0], &first_2)?;
    one.close(shares[0], &second_2)?;
    two.close(shares[1], &second_1)?;
    Ok(())
}

#[test]
fn a01_a_question_is_answered_by_a_ban_exactly_if_the_bit_is_set() {
    let [one, two] = &deal();
    for (row, &bit) in two.secret_bits()[..10].iter().enumerate() {
        let (sign_id, digest) = (random(), random());
        let (mut asker, mut first) = start(one, sign_id, digest);
        asker.sent(probe(one, &mut first, &sign_id, &digest, row));
        let (victim, theirs) = start(two, sign_id, digest);
        match victim.answer(two, &first) {
            Err(abort) => {
                assert!(
                    bit && abort.contains("BanCounterparty"),
                    "row {row}: {abort}"
                );
            }
            Ok((victim, second)) => {
                assert!(!bit, "row {row}");
                // And the signature is made as if nothing had been asked.
                let (asker, ours) = asker.answer(one, &theirs).unwrap();
                asker.close(one, &second).unwrap();
                victim.close(two, &ours).unwrap();
            }
        }
    }
}

#[test]
fn a16_generations_do_not_mix() {
    let [one, two] = deal();
    assert_eq!(signed([&one, &two]), Ok(()));
    let [next_1, next_2] = next_generation([&one, &two]);
    assert_eq!(signed([&next_1, &next_2]), Ok(()));
    for pair in [[&one, &next_2], [&next_1, &two]] {
        let said = signed(pair).unwrap_err();
        assert!(said.contains("SessionBindingMismatch"), "{said}");
        assert!(said.contains("Recoverable"), "{said}");
    }
    let stored = Share::of_stored(&next_1.to_stored());
    assert_eq!(stored.secret_bits(), next_1.secret_bits());
    assert_ne!(one.secret_bits(), next_1.secret_bits());
}

#[test]
fn messages_have_the_sizes_of_the_page() {
    let [one, two] = &deal();
    let (sign_id, digest) = (random(), random());
    let (_, first) = start(one, sign_id, digest);
    let (victim, _) = start(two, sign_id, digest);
    let (_, second) = victim.answer(two, &first).unwrap();
    assert_eq!(
        (first.bytes().len(), second.bytes().len()),
        (26_753, 55_387)
    );
    assert!(First::parse(&first.bytes()) == first && Second::parse(&second.bytes()) == second);
    let frame = Frame::of_wallet(4, sign_id, &(random(), first));
    assert_eq!(frame.bytes().len(), 26_821);
    assert_eq!(Frame::parse(&frame.bytes()), frame);
    // What tests send as these points is how the engine writes them.
    for (engine, ours) in [
        (k256::AffinePoint::IDENTITY, identity()),
        (k256::AffinePoint::GENERATOR, generator()),
    ] {
        let length = u8::try_from(ours.len()).unwrap();
        let written = postcard::to_allocvec(&engine).unwrap();
        assert_eq!(written, [vec![length], ours].concat());
    }
}
