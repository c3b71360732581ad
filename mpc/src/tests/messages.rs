//! Frames: version, type, direction, size, canonical encoding; and random damage.

use proptest::prelude::*;
use proptest::sample::Index;
use zeroize::Zeroizing;

use super::support::{
    Message, Round1, SignMessage, Wallet, dealt, keygen_binding, keygen_round_1, keygen_round_2,
    patched,
};
use crate::canary::CanaryDigest;
use crate::engine::Role;
use crate::error::{MpcError, RecoverableReason, Refusal};
use crate::keygen::{self, P1Keygen};
use crate::wire::{self, Keygen2};

const VERSION: usize = 0;
const KIND: usize = 1;
const SID: usize = 2;
const FROM: usize = 34;
const TO: usize = 35;

fn refused(refusal: Refusal) -> Option<MpcError> {
    Some(MpcError::Refused(refusal))
}

#[test]
fn a38_another_version_is_refused_by_both_sides() {
    let wallet = dealt(1);
    let (p1, sg1) = wallet.start();
    for version in [0, 2, 255] {
        let outcome = wallet.answer(&patched(&sg1, VERSION, version)).err();
        assert_eq!(outcome, refused(Refusal::UnsupportedVersion));
    }
    let (_, reply) = wallet.answer(&sg1).unwrap();
    let outcome = p1.round_2(&wallet.p1, &patched(&reply, VERSION, 2)).err();
    assert_eq!(outcome, refused(Refusal::UnsupportedVersion));
    let (_, kg1) = P1Keygen::start().unwrap();
    let outcome = keygen::p2_round_1(&keygen_binding(), [2; 32], &patched(&kg1, VERSION, 2)).err();
    assert_eq!(outcome, refused(Refusal::UnsupportedVersion));
}

/// The byte counts of `README.md`; a change of any of them is another protocol version.
#[test]
fn a38_sizes_are_the_documented_ones() {
    let (p1, kg1) = P1Keygen::start().unwrap();
    let (p2, reply_1) = keygen::p2_round_1(&keygen_binding(), [2; 32], &kg1).unwrap();
    let (p1, kg2) = p1.round_2(&keygen_binding(), &reply_1).unwrap();
    let p2 = p2.round_2(&kg2).unwrap();
    let p1 = p1.round_3(&p2.message).unwrap();
    let digest = CanaryDigest::new("profile", 1, "session");
    let reply_3 = p2.canary.finish(&p2.share, &p1.message, &digest).unwrap();
    assert_eq!((kg1.len(), reply_1.len()), (101, 197));
    assert_eq!((kg2.len(), p2.message.len()), (147_955, 174_580));
    assert_eq!((p1.message.len(), reply_3.len()), (82_176, 55_489));

    let wallet = dealt(1);
    let (p1, sg1) = wallet.start();
    let (_, reply) = wallet.answer(&sg1).unwrap();
    let sg2 = p1.round_2(&wallet.p1, &reply).unwrap();
    assert_eq!(
        (sg1.len(), reply.len(), sg2.len()),
        (26_821, 82_176, 55_489)
    );
}

#[test]
fn a12_headers_are_exact() {
    let wallet = dealt(1);
    let (_, sg1) = wallet.start();
    let answer = |message: &[u8]| wallet.answer(message).err();
    assert_eq!(
        answer(&patched(&sg1, KIND, 5)),
        refused(Refusal::UnexpectedType)
    );
    assert_eq!(answer(&patched(&sg1, FROM, 2)), refused(Refusal::Misrouted));
    assert_eq!(answer(&patched(&sg1, TO, 1)), refused(Refusal::Misrouted));
    assert_eq!(answer(&patched(&sg1, TO, 3)), refused(Refusal::Misrouted));
    let session = MpcError::Recoverable {
        reason: RecoverableReason::SessionBindingMismatch,
        suspect: false,
    };
    assert_eq!(answer(&patched(&sg1, SID, sg1[SID] ^ 1)), Some(session));
    // Our own message, reflected.
    let (_, reply) = wallet.answer(&sg1).unwrap();
    assert_eq!(answer(&reply), refused(Refusal::Misrouted));
}

#[test]
fn a12_sizes_are_bounded_and_ends_exact() {
    let wallet = dealt(1);
    let (_, sg1) = wallet.start();
    let answer = |message: &[u8]| wallet.answer(message).err();
    let mut longer = sg1.to_vec();
    longer.push(0);
    assert_eq!(answer(&longer), refused(Refusal::NotCanonical));
    longer.resize(96_001, 0);
    assert_eq!(answer(&longer), refused(Refusal::TooLarge));
    for length in [0, 1, 35, 36, 68, 100, sg1.len() - 1] {
        assert_eq!(
            answer(&sg1[..length]),
            refused(Refusal::Malformed),
            "cut at {length}"
        );
    }
}

#[test]
fn a12_a_padded_length_is_not_canonical() {
    let wallet = dealt(1);
    let (_, sg1) = wallet.start();
    // The rows of `u` are preceded by their length 19 968 as the varint 80 9c 01; 80 9c 81 00 means the same.
    let position = sg1
        .windows(3)
        .position(|window| window == [0x80, 0x9c, 0x01])
        .unwrap();
    let mut padded = sg1[..position].to_vec();
    padded.extend_from_slice(&[0x80, 0x9c, 0x81, 0x00]);
    padded.extend_from_slice(&sg1[position + 3..]);
    assert_eq!(wallet.answer(&padded).err(), refused(Refusal::NotCanonical));
}

#[test]
fn a12_hostile_lengths_do_not_allocate() {
    let wallet = dealt(1);
    let (_, sg1) = wallet.start();
    let position = sg1
        .windows(3)
        .position(|window| window == [0x80, 0x9c, 0x01])
        .unwrap();
    let mut hostile = sg1[..position].to_vec();
    hostile.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    hostile.extend_from_slice(&sg1[position + 3..]);
    assert_eq!(wallet.answer(&hostile).err(), refused(Refusal::Malformed));
}

#[test]
fn a12_scalars_and_points_out_of_range_are_refused() {
    let (_, kg1) = P1Keygen::start().unwrap();
    // kg1 is header, nonce, and a scalar with its length.
    let mut too_large = kg1.to_vec();
    let start = too_large.len() - 32;
    too_large[start..].fill(0xff);
    let outcome = keygen::p2_round_1(&keygen_binding(), [2; 32], &too_large).err();
    assert_eq!(outcome, refused(Refusal::Malformed));
    let kg2 = keygen_round_1().kg2;
    let decoded = |message: &[u8]| wire::decode::<Keygen2>(Role::P2, message).err();
    // The first point of kg2 follows header, commitments and its length.
    let position = 36 + 3 * 32 + 1;
    assert!(matches!(kg2[position], 2 | 3));
    assert_eq!(
        decoded(&patched(&kg2, position, 7)),
        refused(Refusal::Malformed),
        "no SEC1 tag"
    );
    assert_eq!(
        decoded(&patched(&kg2, position, 5)),
        refused(Refusal::NotCanonical),
        "the compact form"
    );
    let mut off_curve = kg2.to_vec();
    off_curve[position + 1..position + 33].fill(0xff);
    assert_eq!(
        decoded(&off_curve),
        refused(Refusal::Malformed),
        "not on the curve"
    );
}

/// `few` cases, or as many as `PROPTEST_CASES` says for a soak.
fn cases(few: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|count| count.parse().ok());
    ProptestConfig {
        cases: asked.unwrap_or(few),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn damaged(message: &Message, at: Index, bit: u8) -> Message {
    let mut copy = Zeroizing::new(message.to_vec());
    let position = at.index(copy.len());
    copy[position] ^= 1 << (bit % 8);
    copy
}

fn damaged_signature(wallet: &Wallet, which: SignMessage, at: Index, bit: u8) -> MpcError {
    wallet
        .sign_with(|this, message| {
            if this == which {
                damaged(&message, at, bit)
            } else {
                message
            }
        })
        .expect_err("a damaged message must not lead to a signature")
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn a12_a_flipped_bit_in_signing_never_panics_and_never_signs(
        which in prop_oneof![Just(SignMessage::First), Just(SignMessage::Reply), Just(SignMessage::Second)],
        at: Index,
        bit: u8,
    ) {
        let wallet = dealt(1);
        prop_assert_ne!(damaged_signature(&wallet, which, at, bit), MpcError::Panicked);
    }

    #[test]
    fn a12_random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), header: bool) {
        let wallet = dealt(1);
        let (_, sg1) = wallet.start();
        let message = if header { [&sg1[..36], &bytes].concat() } else { bytes };
        prop_assert!(matches!(wallet.answer(&message).err(), Some(MpcError::Refused(_))));
    }
}

proptest! {
    #![proptest_config(cases(6))]

    #[test]
    fn a12_a_flipped_bit_in_key_generation_never_panics_and_never_completes(at: Index, bit: u8) {
        let Round1 { p1, p2, kg2, .. } = keygen_round_1();
        let outcome = p2.round_2(&damaged(&kg2, at, bit)).err();
        // P1's nonces for the multiplication and the canary are nobody's commitment: the canary fails then.
        if let Some(error) = outcome {
            prop_assert_ne!(error, MpcError::Panicked);
        } else {
            let at = at.index(kg2.len());
            prop_assert!((9_520..9_552).contains(&at) || at >= kg2.len() - 32);
        }
        drop(p1);
    }

    #[test]
    fn a12_a_flipped_bit_in_the_canary_never_panics_and_never_completes(at: Index, bit: u8, third: bool) {
        let digest = CanaryDigest::new("profile", 1, "session");
        let (p1, p2) = keygen_round_2();
        let error = if third {
            let reply = p2.canary.finish(&p2.share, &p1.message, &digest).unwrap();
            p1.canary.finish(&p1.share, &damaged(&reply, at, bit)).err()
        } else {
            p2.canary
                .finish(&p2.share, &damaged(&p1.message, at, bit), &digest)
                .and_then(|reply| p1.canary.finish(&p1.share, &reply))
                .err()
        };
        prop_assert!(error.is_some_and(|error| error != MpcError::Panicked));
    }
}
