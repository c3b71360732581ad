//! A signature, step by step, for either party. The caller sends what it likes of what comes out.

use std::collections::BTreeMap;

use dkls23::protocols::PartyIndex;
use dkls23::protocols::signing::{
    KeepPhase1to2, KeepPhase2to3, SignData, UniqueKeep1to2, UniqueKeep2to3,
};
use k256::Secp256k1;

use crate::share::Share;
use crate::wire::{First, Last, Message, Second};

/// After T1.
pub struct Started {
    data: SignData,
    unique: UniqueKeep1to2<Secp256k1>,
    kept: BTreeMap<PartyIndex, KeepPhase1to2<Secp256k1>>,
}

/// After T2.
pub struct Answered {
    data: SignData,
    unique: UniqueKeep2to3<Secp256k1>,
    kept: BTreeMap<PartyIndex, KeepPhase2to3<Secp256k1>>,
}

/// Starts a signature under `sign_id` over `digest`.
///
/// # Panics
/// If the share is not usable.
#[must_use]
pub fn start(share: &Share, sign_id: [u8; 32], digest: [u8; 32]) -> (Started, First) {
    let data = SignData {
        sign_id: sign_id.to_vec(),
        counterparties: vec![share.other()],
        message_hash: digest,
    };
    let (unique, kept, messages) = share.0.sign_phase1(&data).expect("a usable share");
    let first = First::of_engine(&messages[0]);
    (Started { data, unique, kept }, first)
}

impl Started {
    /// Another T1 was sent than [`start`] gave: this is its digest.
    pub fn sent(&mut self, transcript: [u8; 32]) {
        for kept in self.kept.values_mut() {
            kept.mul_keep.ote_transcript = transcript;
        }
    }

    /// Answers the other party's T1. What the engine says when it refuses is the error.
    ///
    /// # Errors
    /// What the engine says.
    pub fn answer(self, share: &Share, theirs: &First) -> Result<(Answered, Second), String> {
        let Self { data, unique, kept } = self;
        let (unique, kept, messages) = share
            .0
            .sign_phase2(&data, unique, kept, &[theirs.to_engine()])
            .map_err(|abort| format!("{abort:?}"))?;
        let second = Second::of_engine(&messages[0]);
        Ok((Answered { data, unique, kept }, second))
    }
}

impl Answered {
    /// Takes the other party's T2 and gives the last message.
    ///
    /// # Errors
    /// What the engine says.
    pub fn close(self, share: &Share, theirs: &Second) -> Result<Last, String> {
        let Self { data, unique, kept } = self;
        let (_, last) = share
            .0
            .sign_phase3(&data, unique, kept, &[theirs.to_engine()])
            .map_err(|abort| format!("{abort:?}"))?;
        Ok(Last::of_engine(&last))
    }
}
