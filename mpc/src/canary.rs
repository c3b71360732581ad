//! The canary: a signature over bytes that mean nothing, which proves that two fresh shares work together.

use sha3::{Digest, Keccak256};

use crate::lp::Lp;

/// Digest of a canary, made from stored ids only.
///
/// `keccak256(0x19 ‖ "MPC wallet canary v1\n" ‖ LP(profileId, generation, sessionId))`. The preimage is neither a
/// transaction (those start with `0x02` or an RLP list), nor EIP-191 text (`0x19 'E'`), nor EIP-712 (`0x19 0x01`).
///
/// SECURITY: P2 releases its last signing message only in exchange for a value of this type, so that message can
/// never complete a signature over anything else (A09, A15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CanaryDigest([u8; 32]);

impl CanaryDigest {
    /// The canary of `profile_id` for the shares of `generation`, made in session `session_id`.
    #[must_use]
    pub fn new(profile_id: &str, generation: u64, session_id: &str) -> Self {
        Self(Keccak256::digest(Self::preimage(profile_id, generation, session_id)).into())
    }

    /// The digest's 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn preimage(profile_id: &str, generation: u64, session_id: &str) -> Vec<u8> {
        let mut preimage = b"\x19MPC wallet canary v1\n".to_vec();
        preimage.extend(Lp::new(profile_id).u64(generation).str(session_id).finish());
        preimage
    }
}
