//! What holds for every honest message beyond its encoding (A12).
//!
//! SECURITY: the engine bans for a wrong list length inside a multiplication message, and its proof verifier accepts
//! challenges of 1 to 4 bytes where 4 are meant (which costs soundness). Both are settled here, before the engine runs.

use dkls23::protocols::dkg::TransmitInitMulPhase3to4;
use dkls23::protocols::signing::{TransmitPhase1to2, TransmitPhase2to3};
use dkls23::utilities::multiplication::{L, OT_WIDTH};
use dkls23::utilities::ot::extension::{BATCH_SIZE, KAPPA};
use dkls23::utilities::proofs::{CPProof, DLogProof, EncProof, R, T};
use k256::elliptic_curve::group::CurveAffine;
use k256::{AffinePoint, Secp256k1};

use super::bodies::{
    Keygen1, Keygen1Reply, Keygen2, Keygen2Reply, Keygen3, Keygen3Reply, Openings, Sign1,
    Sign1Reply, Sign2,
};
use super::{Body, Kind};
use crate::engine::Role;
use crate::error::Refusal;

/// Commitment salts: twice the engine's security parameter.
const SALT: usize = 64;

impl Body for Keygen1 {
    const KIND: Kind = Kind::Keygen1;

    fn check(&self, _: Role) -> Result<(), Refusal> {
        Ok(())
    }
}

impl Body for Keygen1Reply {
    const KIND: Kind = Kind::Keygen1;

    fn check(&self, _: Role) -> Result<(), Refusal> {
        Ok(())
    }
}

impl Body for Keygen2 {
    const KIND: Kind = Kind::Keygen2;

    fn check(&self, receiver: Role) -> Result<(), Refusal> {
        openings(&self.openings, receiver)
    }
}

impl Body for Keygen2Reply {
    const KIND: Kind = Kind::Keygen2;

    fn check(&self, receiver: Role) -> Result<(), Refusal> {
        openings(&self.openings, receiver)?;
        first(&self.canary, receiver)
    }
}

impl Body for Keygen3 {
    const KIND: Kind = Kind::Keygen3;

    fn check(&self, receiver: Role) -> Result<(), Refusal> {
        first(&self.first, receiver)?;
        second(&self.second, receiver)
    }
}

impl Body for Keygen3Reply {
    const KIND: Kind = Kind::Keygen3;

    fn check(&self, receiver: Role) -> Result<(), Refusal> {
        second(&self.second, receiver)
    }
}

impl Body for Sign1 {
    const KIND: Kind = Kind::Sign1;

    fn check(&self, receiver: Role) -> Result<(), Refusal> {
        first(&self.first, receiver)
    }
}

impl Body for Sign1Reply {
    const KIND: Kind = Kind::Sign1;

    fn check(&self, receiver: Role) -> Result<(), Refusal> {
        first(&self.first, receiver)?;
        second(&self.second, receiver)
    }
}

impl Body for Sign2 {
    const KIND: Kind = Kind::Sign2;

    fn check(&self, receiver: Role) -> Result<(), Refusal> {
        second(&self.second, receiver)
    }
}

fn openings(openings: &Openings, receiver: Role) -> Result<(), Refusal> {
    length(&openings.zero_share_salt, SALT)?;
    length(&openings.chain_code_salt, SALT)?;
    discrete_log_proof(&openings.key)?;
    multiplication_setup(&openings.multiplication, receiver)
}

fn multiplication_setup(
    message: &TransmitInitMulPhase3to4<Secp256k1>,
    receiver: Role,
) -> Result<(), Refusal> {
    routed(receiver.receives(&message.parties))?;
    discrete_log_proof(&message.dlog_proof)?;
    length(&message.enc_proofs, usize::from(KAPPA))?;
    message.enc_proofs.iter().try_for_each(encryption_proof)
}

/// A Fischlin proof has exactly 64 repetitions with challenges of exactly 4 bytes.
fn discrete_log_proof(proof: &DLogProof<Secp256k1>) -> Result<(), Refusal> {
    length(&proof.rand_commitments, usize::from(R))?;
    length(&proof.proofs, usize::from(R))?;
    proof
        .proofs
        .iter()
        .try_for_each(|one| length(&one.challenge, usize::from(T / 8)))?;
    not_identity(&proof.point)?;
    proof.rand_commitments.iter().try_for_each(not_identity)
}

fn encryption_proof(proof: &EncProof<Secp256k1>) -> Result<(), Refusal> {
    chaum_pedersen(&proof.proof0)?;
    chaum_pedersen(&proof.proof1)?;
    for commitments in [&proof.commitments0, &proof.commitments1] {
        not_identity(&commitments.rc_g)?;
        not_identity(&commitments.rc_h)?;
    }
    Ok(())
}

fn chaum_pedersen(proof: &CPProof<Secp256k1>) -> Result<(), Refusal> {
    [&proof.base_g, &proof.base_h, &proof.point_u, &proof.point_v]
        .into_iter()
        .try_for_each(not_identity)
}

fn first(message: &TransmitPhase1to2, receiver: Role) -> Result<(), Refusal> {
    routed(receiver.receives(&message.parties))?;
    // `u` has a fixed length by its decoding.
    length(&message.mul_transmit.verify_t, usize::from(KAPPA))
}

/// An identity `instance_point` is left to the engine: that one counts as a suspect event (protocol.md 2.4).
fn second(message: &TransmitPhase2to3<Secp256k1>, receiver: Role) -> Result<(), Refusal> {
    routed(receiver.receives(&message.parties))?;
    length(&message.salt, SALT)?;
    length(&message.mul_transmit.vector_of_tau, usize::from(OT_WIDTH))?;
    message
        .mul_transmit
        .vector_of_tau
        .iter()
        .try_for_each(|tau| length(tau, usize::from(BATCH_SIZE)))?;
    length(&message.mul_transmit.verify_u, usize::from(L))?;
    length(&message.mul_transmit.gamma_sender, usize::from(L))?;
    [&message.gamma_u, &message.gamma_v, &message.public_share]
        .into_iter()
        .try_for_each(not_identity)
}

fn routed(ours: bool) -> Result<(), Refusal> {
    if ours {
        Ok(())
    } else {
        Err(Refusal::Misrouted)
    }
}

fn length<T>(list: &[T], expected: usize) -> Result<(), Refusal> {
    if list.len() == expected {
        Ok(())
    } else {
        Err(Refusal::WrongLength)
    }
}

fn not_identity(point: &AffinePoint) -> Result<(), Refusal> {
    if bool::from(CurveAffine::is_identity(point)) {
        Err(Refusal::IdentityPoint)
    } else {
        Ok(())
    }
}
