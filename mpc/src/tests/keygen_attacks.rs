//! Attacks on key generation.

use k256::elliptic_curve::group::GroupEncoding;
use k256::{AffinePoint, Scalar};

use super::support::{
    Message, Round1, altered, body, keygen_binding, keygen_round_1, keygen_round_2,
};
use crate::canary::CanaryDigest;
use crate::engine::Role;
use crate::error::{BanReason, MpcError, RecoverableReason, Refusal};
use crate::keygen::{self, P1Keygen};
use crate::wire::{self, Keygen1Reply, Keygen2, Keygen2Reply, Keygen3, Keygen3Reply};

fn failed(reason: RecoverableReason) -> Option<MpcError> {
    Some(MpcError::Recoverable {
        reason,
        suspect: false,
    })
}

/// Outcome of P2's second step for an altered kg2.
fn kg2_with(alter: impl FnOnce(&mut Keygen2)) -> Option<MpcError> {
    let Round1 { p2, kg2, .. } = keygen_round_1();
    p2.round_2(&altered(Role::P1, &kg2, alter)).err()
}

/// Outcome of P1's third step for an altered answer to kg2.
fn reply_2_with(alter: impl FnOnce(&mut Keygen2Reply)) -> Option<MpcError> {
    let Round1 { p1, p2, kg2, .. } = keygen_round_1();
    let reply = p2.round_2(&kg2).unwrap().message;
    p1.round_3(&altered(Role::P2, &reply, alter)).err()
}

#[test]
fn a11_early_open_the_first_answer_contains_no_point_and_no_proof() {
    let Round1 {
        p1: _,
        p2,
        reply_1,
        kg2,
    } = keygen_round_1();
    // Header, nonce, fragment and three hashes: no room for anything else, and canonical decoding leaves no rest.
    assert_eq!(reply_1.len(), 36 + 32 + 33 + 3 * 32);
    assert!(reply_1.len() + 12 + 16 <= 300, "also when sealed");
    let opened: Keygen2Reply = body(Role::P2, &p2.round_2(&kg2).unwrap().message);
    let proof = &opened.openings.key;
    for point in proof.rand_commitments.iter().chain([&proof.point]) {
        let x = &point.to_bytes()[1..];
        assert!(!reply_1.windows(32).any(|window| window == x));
    }
}

#[test]
fn a11_early_open_a_proof_that_does_not_match_its_commitment_is_refused() {
    let altered_response =
        reply_2_with(|m| m.openings.key.proofs[3].challenge_response = Scalar::ONE);
    assert_eq!(
        altered_response,
        failed(RecoverableReason::ProofVerification)
    );
    // A valid proof of another session, in place of the committed one.
    let Round1 { p2, kg2, .. } = keygen_round_1();
    let other: Keygen2Reply = body(Role::P2, &p2.round_2(&kg2).unwrap().message);
    let replaced = reply_2_with(|m| m.openings.key = other.openings.key.clone());
    assert_eq!(replaced, failed(RecoverableReason::ProofVerification));
}

#[test]
fn a11_rogue_mirrored_values_are_refused() {
    let mirrored = Some(MpcError::Refused(Refusal::Mirrored));
    let Round1 {
        p2, reply_1, kg2, ..
    } = keygen_round_1();
    let theirs: Keygen1Reply = body(Role::P2, &reply_1);
    let mirror = altered(Role::P1, &kg2, |m: &mut Keygen2| {
        m.commitments = theirs.commitments.clone();
    });
    assert_eq!(p2.round_2(&mirror).err(), mirrored);

    let Round1 { p1, p2, kg2, .. } = keygen_round_1();
    let ours: Keygen2 = body(Role::P1, &kg2);
    let reply = p2.round_2(&kg2).unwrap().message;
    let mirror = altered(Role::P2, &reply, |m: &mut Keygen2Reply| {
        m.openings.key = ours.openings.key.clone();
    });
    assert_eq!(p1.round_3(&mirror).err(), mirrored);
    let Round1 { p1, p2, kg2, .. } = keygen_round_1();
    let ours: Keygen2 = body(Role::P1, &kg2);
    let reply = p2.round_2(&kg2).unwrap().message;
    let mirror = altered(Role::P2, &reply, |m: &mut Keygen2Reply| {
        m.openings.chain_code = ours.openings.chain_code;
    });
    assert_eq!(
        p1.round_3(&mirror).err(),
        mirrored,
        "the joint chain code would be zero"
    );
}

#[test]
fn a11_rogue_openings_must_open_their_commitments() {
    let proof = failed(RecoverableReason::ProofVerification);
    assert_eq!(kg2_with(|m| m.commitments.key[0] ^= 1), proof);
    assert_eq!(
        kg2_with(|m| m.openings.key.point = AffinePoint::GENERATOR),
        proof
    );
    assert_eq!(
        kg2_with(|m| m.openings.zero_share_seed[0] ^= 1),
        failed(RecoverableReason::ZeroShare)
    );
    assert_eq!(
        kg2_with(|m| m.openings.zero_share_salt[0] ^= 1),
        failed(RecoverableReason::ZeroShare)
    );
    assert_eq!(
        kg2_with(|m| m.openings.chain_code[0] ^= 1),
        failed(RecoverableReason::ChainCode)
    );
    let base_ot = failed(RecoverableReason::OtSetup);
    assert_eq!(
        kg2_with(|m| m.openings.multiplication.enc_proofs[9].challenge0 = Scalar::ONE),
        base_ot
    );
    assert_eq!(
        kg2_with(|m| m.openings.multiplication.seed[0] ^= 1),
        base_ot
    );
}

/// What the decoding says to altered forms of one kg2.
struct Decoded(Message);

impl Decoded {
    fn new() -> Self {
        Self(keygen_round_1().kg2)
    }

    fn with(&self, alter: impl FnOnce(&mut Keygen2)) -> Option<MpcError> {
        let message = altered(Role::P1, &self.0, alter);
        wire::decode::<Keygen2>(Role::P2, &message).err()
    }
}

#[test]
fn a12_short_challenges_and_wrong_lengths_are_refused() {
    let kg2 = Decoded::new();
    let refused = Some(MpcError::Refused(Refusal::WrongLength));
    // The engine's verifier would take challenges of one to three bytes, at a loss of soundness.
    assert_eq!(
        kg2.with(|m| shorten(&mut m.openings.key.proofs[0].challenge)),
        refused
    );
    assert_eq!(
        kg2.with(|m| shorten(&mut m.openings.multiplication.dlog_proof.proofs[63].challenge)),
        refused
    );
    assert_eq!(
        kg2.with(|m| m.openings.key.proofs[1].challenge.push(0)),
        refused
    );
    assert_eq!(kg2.with(|m| shorten(&mut m.openings.key.proofs)), refused);
    assert_eq!(
        kg2.with(|m| shorten(&mut m.openings.key.rand_commitments)),
        refused
    );
    assert_eq!(
        kg2.with(|m| shorten(&mut m.openings.multiplication.enc_proofs)),
        refused
    );
    assert_eq!(
        kg2.with(|m| shorten(&mut m.openings.zero_share_salt)),
        refused
    );
    assert_eq!(
        kg2.with(|m| shorten(&mut m.openings.chain_code_salt)),
        refused
    );
}

#[test]
fn a12_identity_points_and_indices_are_refused() {
    let kg2 = Decoded::new();
    let identity = Some(MpcError::Refused(Refusal::IdentityPoint));
    let point = AffinePoint::IDENTITY;
    assert_eq!(kg2.with(|m| m.openings.key.point = point), identity);
    assert_eq!(
        kg2.with(|m| m.openings.key.rand_commitments[5] = point),
        identity
    );
    assert_eq!(
        kg2.with(|m| m.openings.multiplication.dlog_proof.point = point),
        identity
    );
    assert_eq!(
        kg2.with(|m| m.openings.multiplication.enc_proofs[0].proof1.point_v = point),
        identity
    );
    assert_eq!(
        kg2.with(|m| m.openings.multiplication.enc_proofs[255].commitments0.rc_h = point),
        identity
    );
    let sender = kg2.with(|m| m.openings.multiplication.parties.sender = Role::P2.index());
    assert_eq!(sender, Some(MpcError::Refused(Refusal::Misrouted)));
}

#[test]
fn a06_parties_that_disagree_about_the_session_stop() {
    let (p1, kg1) = P1Keygen::start().unwrap();
    let (_, reply_1) = keygen::p2_round_1(&keygen_binding(), [2; 32], &kg1).unwrap();
    let mut other = keygen_binding();
    other.device_thumbprint = "other".into();
    let mismatch = failed(RecoverableReason::SessionBindingMismatch);
    assert_eq!(p1.round_2(&other, &reply_1).err(), mismatch);
    let Round1 { p2, .. } = keygen_round_1();
    let Round1 { kg2: other_kg2, .. } = keygen_round_1();
    assert_eq!(p2.round_2(&other_kg2).err(), mismatch);
}

#[test]
fn a17_a_canary_that_fails_proves_nothing() {
    let digest = CanaryDigest::new("profile", 1, "session");
    let (p1, p2) = keygen_round_2();
    let tampered = altered(Role::P1, &p1.message, |m: &mut Keygen3| {
        m.first.mul_transmit.u[0][0] ^= 1;
    });
    let ban = Some(MpcError::Ban {
        reason: BanReason::Multiplication,
    });
    assert_eq!(p2.canary.finish(&p2.share, &tampered, &digest).err(), ban);

    let (p1, p2) = keygen_round_2();
    let reply_3 = p2.canary.finish(&p2.share, &p1.message, &digest).unwrap();
    let tampered = altered(Role::P2, &reply_3, |m: &mut Keygen3Reply| {
        m.last.w = Scalar::ONE;
    });
    let suspect = Some(MpcError::Recoverable {
        reason: RecoverableReason::SignatureVerification,
        suspect: true,
    });
    assert_eq!(p1.canary.finish(&p1.share, &tampered).err(), suspect);
}

#[test]
fn a12_parties_that_differ_in_a_nonce_of_the_multiplication_do_not_pass_the_canary() {
    let Round1 { p1, p2, kg2, .. } = keygen_round_1();
    let kg2 = altered(Role::P1, &kg2, |m: &mut Keygen2| {
        m.openings.multiplication.nonce += k256::Scalar::ONE;
    });
    let p2 = p2.round_2(&kg2).unwrap();
    let digest = CanaryDigest::new("profile", 1, "session");
    let outcome = p1.round_3(&p2.message).and_then(|p1| {
        let reply = p2.canary.finish(&p2.share, &p1.message, &digest)?;
        p1.canary.finish(&p1.share, &reply)
    });
    assert!(matches!(outcome, Err(error) if error != MpcError::Panicked));
}

fn shorten<T>(list: &mut Vec<T>) {
    list.truncate(list.len() - 1);
}
