//! Message bodies, in the order they travel. Field order is wire order.

use dkls23::protocols::dkg::TransmitInitMulPhase3to4;
use dkls23::protocols::signing::{Broadcast3to4, TransmitPhase1to2, TransmitPhase2to3};
use dkls23::utilities::proofs::DLogProof;
use k256::{Scalar, Secp256k1};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

/// kg1, P1 to P2: starts a key generation.
#[derive(Serialize, Deserialize)]
pub(crate) struct Keygen1 {
    pub(crate) client_nonce: [u8; 32],
    /// P1's polynomial at 2. Secret between the parties.
    pub(crate) fragment: Scalar,
}

/// kg1's answer: P2 is committed, and opens nothing.
#[derive(Serialize, Deserialize)]
pub(crate) struct Keygen1Reply {
    pub(crate) server_nonce: [u8; 32],
    /// P2's polynomial at 1. Secret between the parties.
    pub(crate) fragment: Scalar,
    pub(crate) commitments: Commitments,
}

/// What a party commits to before it sees anything of the other one.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Commitments {
    /// To the proof of knowledge of the key share.
    pub(crate) key: [u8; 32],
    /// To the zero-share seed.
    pub(crate) zero_share: [u8; 32],
    /// To the chain code.
    pub(crate) chain_code: [u8; 32],
}

/// kg2, P1 to P2: P1 commits and opens at once, which is safe because P2 is committed.
#[derive(Serialize, Deserialize)]
pub(crate) struct Keygen2 {
    pub(crate) commitments: Commitments,
    pub(crate) openings: Openings,
    /// P1's nonce for the canary signature.
    pub(crate) canary_nonce: [u8; 32],
}

/// The openings of [`Commitments`], and the base oblivious transfers.
#[derive(Serialize, Deserialize)]
pub(crate) struct Openings {
    /// Proof of knowledge of the key share; its point is the public share.
    pub(crate) key: DLogProof<Secp256k1>,
    pub(crate) zero_share_seed: [u8; 32],
    /// 64 bytes.
    pub(crate) zero_share_salt: Vec<u8>,
    pub(crate) multiplication: TransmitInitMulPhase3to4<Secp256k1>,
    pub(crate) chain_code: [u8; 32],
    /// 64 bytes.
    pub(crate) chain_code_salt: Vec<u8>,
}

impl Drop for Openings {
    fn drop(&mut self) {
        self.zero_share_seed.zeroize();
        self.zero_share_salt.zeroize();
    }
}

/// kg2's answer: P2 opens, and starts the canary signature.
#[derive(Serialize, Deserialize)]
pub(crate) struct Keygen2Reply {
    pub(crate) openings: Openings,
    pub(crate) canary: TransmitPhase1to2,
}

/// kg3, P1 to P2: P1's part of the canary up to its opening.
#[derive(Serialize, Deserialize)]
pub(crate) struct Keygen3 {
    pub(crate) first: TransmitPhase1to2,
    pub(crate) second: TransmitPhase2to3<Secp256k1>,
}

/// kg3's answer: lets P1 complete the canary.
#[derive(Serialize, Deserialize)]
pub(crate) struct Keygen3Reply {
    pub(crate) second: TransmitPhase2to3<Secp256k1>,
    pub(crate) last: Broadcast3to4<Secp256k1>,
}

/// sg1, P1 to P2: P1 is committed to its nonce point.
#[derive(Serialize, Deserialize)]
pub(crate) struct Sign1 {
    pub(crate) client_nonce: [u8; 32],
    pub(crate) first: TransmitPhase1to2,
}

/// sg1's answer: P2 commits and opens.
#[derive(Serialize, Deserialize)]
pub(crate) struct Sign1Reply {
    pub(crate) first: TransmitPhase1to2,
    pub(crate) second: TransmitPhase2to3<Secp256k1>,
}

/// sg2, P1 to P2: all P2 needs to assemble the signature. It has no answer on this level (A15).
#[derive(Serialize, Deserialize)]
pub(crate) struct Sign2 {
    pub(crate) second: TransmitPhase2to3<Secp256k1>,
    pub(crate) last: Broadcast3to4<Secp256k1>,
}

impl Drop for Keygen1 {
    fn drop(&mut self) {
        self.fragment.zeroize();
    }
}

impl Drop for Keygen1Reply {
    fn drop(&mut self) {
        self.fragment.zeroize();
    }
}
