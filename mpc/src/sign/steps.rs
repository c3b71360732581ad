//! The four phases of a signature as a chain of values, the same for both parties and for canaries.

use std::collections::BTreeMap;

use dkls23::protocols::PartyIndex;
use dkls23::protocols::signing::{
    Broadcast3to4, KeepPhase1to2, KeepPhase2to3, SignData, TransmitPhase1to2, TransmitPhase2to3,
    UniqueKeep1to2, UniqueKeep2to3,
};
use k256::Secp256k1;

use crate::engine::{Party, Role};
use crate::error::{MpcError, RecoverableReason};
use crate::signature::Signature;

/// After phase 1: committed to a nonce point. All secrets in it wipe themselves.
pub(crate) struct Opened {
    data: SignData,
    unique: UniqueKeep1to2<Secp256k1>,
    kept: BTreeMap<PartyIndex, KeepPhase1to2<Secp256k1>>,
}

/// After phase 2: the counterparty's multiplication message passed its check.
pub(crate) struct Answered {
    data: SignData,
    unique: UniqueKeep2to3<Secp256k1>,
    kept: BTreeMap<PartyIndex, KeepPhase2to3<Secp256k1>>,
}

/// After phase 3: all checks on long-lived state passed; only the assembly is left.
pub(crate) struct Checked {
    data: SignData,
    x_coordinate: String,
}

impl Opened {
    /// Phase 1 of `role` under `sign_id` over `digest`.
    pub(crate) fn start(
        party: &Party,
        role: Role,
        sign_id: [u8; 32],
        digest: [u8; 32],
    ) -> Result<(Self, TransmitPhase1to2), MpcError> {
        let data = SignData {
            sign_id: sign_id.to_vec(),
            counterparties: vec![role.other().index()],
            message_hash: digest,
        };
        let (unique, kept, messages) = party.sign_phase1(&data)?;
        Ok((Self { data, unique, kept }, only(messages)?))
    }

    /// Phase 2. May ban: it checks the counterparty's oblivious-transfer extension.
    pub(crate) fn answer(
        self,
        party: &Party,
        theirs: TransmitPhase1to2,
    ) -> Result<(Answered, TransmitPhase2to3<Secp256k1>), MpcError> {
        let Self { data, unique, kept } = self;
        let (unique, kept, messages) = party.sign_phase2(&data, unique, kept, &[theirs])?;
        Ok((Answered { data, unique, kept }, only(messages)?))
    }
}

impl Answered {
    /// Phase 3. May ban: it checks the counterparty's multiplication outputs.
    pub(crate) fn check(
        self,
        party: &Party,
        theirs: TransmitPhase2to3<Secp256k1>,
    ) -> Result<(Checked, Broadcast3to4<Secp256k1>), MpcError> {
        let Self { data, unique, kept } = self;
        let (x_coordinate, last) = party.sign_phase3(&data, unique, kept, &[theirs])?;
        Ok((Checked { data, x_coordinate }, last))
    }
}

impl Checked {
    /// Phase 4: assembles the low-S signature, and verifies it against `address` with a second implementation (A10).
    pub(crate) fn assemble(
        self,
        party: &Party,
        address: &[u8; 20],
        last: &[Broadcast3to4<Secp256k1>; 2],
    ) -> Result<Signature, MpcError> {
        let invalid = MpcError::recoverable(RecoverableReason::SignatureVerification);
        let (s, recovery_id) = party.sign_phase4(&self.data, &self.x_coordinate, last, true)?;
        let y_parity = match recovery_id {
            0 => false,
            1 => true,
            // The nonce point's x is not below the group order: probability 2^-128, not representable for Ethereum.
            _ => return Err(invalid),
        };
        let signature = Signature::new(scalar(&self.x_coordinate)?, scalar(&s)?, y_parity)
            .map_err(|_| invalid)?;
        signature
            .verify_against(address, &self.data.message_hash)
            .map_err(|_| invalid)?;
        Ok(signature)
    }
}

/// The message to the one counterparty.
fn only<T>(messages: Vec<T>) -> Result<T, MpcError> {
    let mut messages = messages.into_iter();
    match (messages.next(), messages.next()) {
        (Some(message), None) => Ok(message),
        _ => Err(MpcError::recoverable(RecoverableReason::Other)),
    }
}

fn scalar(hex: &str) -> Result<[u8; 32], MpcError> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(hex, &mut bytes)
        .map_err(|_| MpcError::recoverable(RecoverableReason::Other))?;
    Ok(bytes)
}
