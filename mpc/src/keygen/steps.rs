//! The four phases of a key generation as a chain of values, the same for both parties.
//!
//! The engine's kept structs of key generation do not wipe themselves; the types here do it for them.

use std::collections::BTreeMap;

use dkls23::protocols::dkg::{
    self, BroadcastDerivationPhase2to4, BroadcastDerivationPhase3to4, KeepInitMulPhase3to4,
    KeepInitZeroSharePhase2to3, KeepInitZeroSharePhase3to4, ProofCommitment, SessionData,
    TransmitInitZeroSharePhase2to4, TransmitInitZeroSharePhase3to4, UniqueKeepDerivationPhase2to3,
};
use dkls23::protocols::{PartiesMessage, PartyIndex};
use k256::{Scalar, Secp256k1};
use zeroize::{Zeroize, Zeroizing};

use crate::engine::{Party, Role, parameters};
use crate::error::{MpcError, RecoverableReason, Refusal};
use crate::share::PublicShare;
use crate::wire::{Commitments, Openings};

/// Phase 1: this party's polynomial at its own index (kept) and at the other's (sent). Needs no session id.
pub(crate) fn fragments(role: Role) -> Result<(Zeroizing<Scalar>, Zeroizing<Scalar>), MpcError> {
    let values = Zeroizing::new(dkg::phase1::<Secp256k1>(&session(role, &[])));
    match (role, values.as_slice()) {
        (Role::P1, [own, other]) | (Role::P2, [other, own]) => {
            Ok((Zeroizing::new(*own), Zeroizing::new(*other)))
        }
        _ => Err(MpcError::recoverable(RecoverableReason::Other)),
    }
}

fn session(role: Role, sid: &[u8]) -> SessionData {
    SessionData {
        parameters: parameters(),
        party_index: role.index(),
        session_id: sid.to_vec(),
    }
}

/// After phase 2: committed, nothing opened.
pub(crate) struct Committed {
    role: Role,
    sid: [u8; 32],
    data: SessionData,
    poly_point: Scalar,
    proof: ProofCommitment<Secp256k1>,
    zero_shares: BTreeMap<PartyIndex, KeepInitZeroSharePhase2to3>,
    derivation: UniqueKeepDerivationPhase2to3,
    commitments: Commitments,
}

impl Committed {
    /// Phase 2 of `role` under the session id `sid`, with this party's own fragment and the other's for it.
    pub(crate) fn new(
        role: Role,
        sid: [u8; 32],
        own: &Scalar,
        theirs: &Scalar,
    ) -> Result<Self, MpcError> {
        let data = session(role, &sid);
        let fragments = Zeroizing::new(vec![*own, *theirs]);
        let (poly_point, proof, zero_shares, zero_messages, derivation, derivation_message) =
            dkg::phase2::<Secp256k1>(&data, &fragments);
        let [zero_message] = zero_messages.as_slice() else {
            return Err(MpcError::recoverable(RecoverableReason::Other));
        };
        let commitments = Commitments {
            key: proof.commitment,
            zero_share: zero_message.commitment,
            chain_code: derivation_message.cc_commitment,
        };
        Ok(Self {
            role,
            sid,
            data,
            poly_point,
            proof,
            zero_shares,
            derivation,
            commitments,
        })
    }

    pub(crate) fn sid(&self) -> &[u8; 32] {
        &self.sid
    }

    pub(crate) fn commitments(&self) -> Commitments {
        self.commitments.clone()
    }

    /// Phase 3: opens. The caller decides when the openings may leave.
    pub(crate) fn open(self) -> Result<(Opening, Openings), MpcError> {
        let (zero_shares, mut zero_messages, transfers, mut transfer_messages, derivation) =
            dkg::phase3::<Secp256k1>(&self.data, &self.zero_shares, &self.derivation);
        let (Some(zero), Some(multiplication)) = (zero_messages.pop(), transfer_messages.pop())
        else {
            return Err(MpcError::recoverable(RecoverableReason::Other));
        };
        let openings = Openings {
            key: self.proof.proof.clone(),
            zero_share_seed: zero.seed,
            zero_share_salt: zero.salt,
            multiplication,
            chain_code: derivation.aux_chain_code,
            chain_code_salt: derivation.cc_salt.clone(),
        };
        Ok((
            Opening {
                committed: self,
                zero_shares,
                transfers,
                derivation,
            },
            openings,
        ))
    }
}

impl Drop for Committed {
    fn drop(&mut self) {
        self.poly_point.zeroize();
        for kept in self.zero_shares.values_mut() {
            kept.seed.zeroize();
            kept.salt.zeroize();
        }
        self.derivation.aux_chain_code.zeroize();
        self.derivation.cc_salt.zeroize();
    }
}

/// After phase 3: waits for the other party's openings.
pub(crate) struct Opening {
    committed: Committed,
    zero_shares: BTreeMap<PartyIndex, KeepInitZeroSharePhase3to4>,
    transfers: BTreeMap<PartyIndex, KeepInitMulPhase3to4<Secp256k1>>,
    derivation: BroadcastDerivationPhase3to4,
}

impl Opening {
    pub(crate) fn sid(&self) -> &[u8; 32] {
        &self.committed.sid
    }

    /// Phase 4: pairs the other party's openings with the commitments it sent before, and makes the share.
    pub(crate) fn finish(
        self,
        their_commitments: &Commitments,
        theirs: &Openings,
    ) -> Result<(Party, PublicShare), MpcError> {
        self.refuse_mirrored(their_commitments, theirs)?;
        let own = &self.committed;
        let peer = own.role.other().index();
        let proofs = [
            own.proof.clone(),
            ProofCommitment {
                index: peer,
                proof: theirs.key.clone(),
                commitment: their_commitments.key,
            },
        ];
        let (zero_commitment, mut zero_opening) =
            self.zero_share_messages(their_commitments, theirs);
        let (derivation_2, derivation_3) = self.derivation_messages(their_commitments, theirs);
        let finished = dkg::phase4::<Secp256k1>(
            &own.data,
            &own.poly_point,
            &proofs,
            &self.zero_shares,
            &[zero_commitment],
            std::slice::from_ref(&zero_opening),
            &self.transfers,
            std::slice::from_ref(&theirs.multiplication),
            &derivation_2,
            &derivation_3,
            dkls23::secp256k1::compute_eth_address,
        );
        zero_opening.seed.zeroize();
        zero_opening.salt.zeroize();
        let (party, package) = finished?;
        if party.derivation_data.chain_code == [0; 32] {
            return Err(MpcError::recoverable(RecoverableReason::ChainCode));
        }
        let public = PublicShare::new(&package, own.sid)?;
        Ok((party, public))
    }

    /// A counterparty that sends our own values back has no share of its own (A11). The message order makes it
    /// useless; refusing it says so early and clearly.
    fn refuse_mirrored(
        &self,
        commitments: &Commitments,
        openings: &Openings,
    ) -> Result<(), Refusal> {
        let own = &self.committed;
        let mirrored = commitments.key == own.commitments.key
            || commitments.zero_share == own.commitments.zero_share
            || commitments.chain_code == own.commitments.chain_code
            || openings.key.point == own.proof.proof.point
            || openings.chain_code == own.derivation.aux_chain_code;
        if mirrored {
            Err(Refusal::Mirrored)
        } else {
            Ok(())
        }
    }

    fn zero_share_messages(
        &self,
        commitments: &Commitments,
        openings: &Openings,
    ) -> (
        TransmitInitZeroSharePhase2to4,
        TransmitInitZeroSharePhase3to4,
    ) {
        let role = self.committed.role;
        let parties = PartiesMessage {
            sender: role.other().index(),
            receiver: role.index(),
        };
        let commitment = TransmitInitZeroSharePhase2to4 {
            parties: parties.clone(),
            commitment: commitments.zero_share,
        };
        let opening = TransmitInitZeroSharePhase3to4 {
            parties,
            seed: openings.zero_share_seed,
            salt: openings.zero_share_salt.clone(),
        };
        (commitment, opening)
    }

    /// The engine wants the chain code broadcasts of both parties, its own included.
    fn derivation_messages(
        &self,
        commitments: &Commitments,
        openings: &Openings,
    ) -> (
        BTreeMap<PartyIndex, BroadcastDerivationPhase2to4>,
        BTreeMap<PartyIndex, BroadcastDerivationPhase3to4>,
    ) {
        let (own, peer) = (
            self.committed.role.index(),
            self.committed.role.other().index(),
        );
        let commitment = |sender_index, cc_commitment| BroadcastDerivationPhase2to4 {
            sender_index,
            cc_commitment,
        };
        let opening = BroadcastDerivationPhase3to4 {
            sender_index: peer,
            aux_chain_code: openings.chain_code,
            cc_salt: openings.chain_code_salt.clone(),
        };
        (
            BTreeMap::from([
                (own, commitment(own, self.committed.commitments.chain_code)),
                (peer, commitment(peer, commitments.chain_code)),
            ]),
            BTreeMap::from([(own, self.derivation.clone()), (peer, opening)]),
        )
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        for kept in self.zero_shares.values_mut() {
            kept.seed.zeroize();
        }
        for kept in self.transfers.values_mut() {
            kept.ot_sender.s.zeroize();
            kept.nonce.zeroize();
            kept.ot_receiver.seed.zeroize();
            kept.correlation.zeroize();
            kept.vec_r.zeroize();
        }
        self.derivation.aux_chain_code.zeroize();
        self.derivation.cc_salt.zeroize();
    }
}
