//! The wallet's steps of a key generation. The caller sends what it likes of what comes out.

use std::collections::BTreeMap;

use dkls23::protocols::PartiesMessage;
use dkls23::protocols::PartyIndex;
use dkls23::protocols::dkg::{
    self, BroadcastDerivationPhase2to4, BroadcastDerivationPhase3to4, KeepInitMulPhase3to4,
    KeepInitZeroSharePhase3to4, ProofCommitment, SessionData, TransmitInitZeroSharePhase2to4,
    TransmitInitZeroSharePhase3to4,
};
use k256::{Scalar, Secp256k1};

use crate::share::{Share, index, session};
use crate::wire::{Commitments, Fragment, Message, Openings, Proof, Setup};

/// After kg1.
pub struct Started {
    own: Scalar,
}

/// After kg2.
pub struct Opened {
    data: SessionData,
    poly_point: Scalar,
    proof: ProofCommitment<Secp256k1>,
    zero_shares: BTreeMap<PartyIndex, KeepInitZeroSharePhase3to4>,
    transfers: BTreeMap<PartyIndex, KeepInitMulPhase3to4<Secp256k1>>,
    commitment: BroadcastDerivationPhase2to4,
    opening: BroadcastDerivationPhase3to4,
}

/// Starts a key generation: the fragment is P2's.
#[must_use]
pub fn start() -> (Started, Fragment) {
    let values = dkg::phase1::<Secp256k1>(&session(1, &[]));
    (Started { own: values[0] }, Fragment::of_engine(&values[1]))
}

impl Started {
    /// Takes P2's fragment; commits and opens.
    #[must_use]
    pub fn open(self, sid: [u8; 32], theirs: &Fragment) -> (Opened, Commitments, Openings) {
        let data = session(1, &sid);
        let (poly_point, proof, zero_kept, zero_sent, derivation, commitment) =
            dkg::phase2::<Secp256k1>(&data, &[self.own, theirs.to_engine()]);
        let (zero_shares, zero_opened, transfers, setups, opening) =
            dkg::phase3::<Secp256k1>(&data, &zero_kept, &derivation);
        let commitments = Commitments {
            key: proof.commitment,
            zero_share: zero_sent[0].commitment,
            chain_code: commitment.cc_commitment,
        };
        let openings = Openings {
            key: Proof::of_engine(&proof.proof),
            zero_share_seed: zero_opened[0].seed,
            zero_share_salt: zero_opened[0].salt.clone(),
            setup: Setup::of_engine(&setups[0]),
            chain_code: opening.aux_chain_code,
            chain_code_salt: opening.cc_salt.clone(),
        };
        let opened = Opened {
            data,
            poly_point,
            proof,
            zero_shares,
            transfers,
            commitment,
            opening,
        };
        (opened, commitments, openings)
    }
}

impl Opened {
    /// Takes P2's openings and makes the share.
    ///
    /// # Panics
    /// If P2 does not follow the protocol.
    #[must_use]
    pub fn finish(self, commitments: &Commitments, openings: &Openings) -> Share {
        let parties = PartiesMessage {
            sender: index(2),
            receiver: index(1),
        };
        let proofs = [
            self.proof,
            ProofCommitment {
                index: index(2),
                proof: openings.key.to_engine(),
                commitment: commitments.key,
            },
        ];
        let zero_commitment = TransmitInitZeroSharePhase2to4 {
            parties: parties.clone(),
            commitment: commitments.zero_share,
        };
        let zero_opening = TransmitInitZeroSharePhase3to4 {
            parties,
            seed: openings.zero_share_seed,
            salt: openings.zero_share_salt.clone(),
        };
        let chain_commitment = BroadcastDerivationPhase2to4 {
            sender_index: index(2),
            cc_commitment: commitments.chain_code,
        };
        let chain_opening = BroadcastDerivationPhase3to4 {
            sender_index: index(2),
            aux_chain_code: openings.chain_code,
            cc_salt: openings.chain_code_salt.clone(),
        };
        let (party, _) = dkg::phase4::<Secp256k1>(
            &self.data,
            &self.poly_point,
            &proofs,
            &self.zero_shares,
            &[zero_commitment],
            &[zero_opening],
            &self.transfers,
            &[openings.setup.to_engine()],
            &[(index(1), self.commitment), (index(2), chain_commitment)].into(),
            &[(index(1), self.opening), (index(2), chain_opening)].into(),
            dkls23::secp256k1::compute_eth_address,
        )
        .expect("an honest appliance");
        Share(party)
    }
}
