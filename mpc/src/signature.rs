//! ECDSA signatures over secp256k1, and their verification by a second implementation.

use k256::ecdsa::{self, RecoveryId, VerifyingKey};
use k256::elliptic_curve::scalar::IsHigh;
use sha3::{Digest, Keccak256};
use thiserror::Error;

/// A low-S signature with its recovery bit. The only way to one is a check of `r` and `s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    r: [u8; 32],
    s: [u8; 32],
    y_parity: bool,
}

/// Why a signature was refused (A10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// `r` or `s` is zero or not below the group order.
    #[error("r or s is out of range")]
    OutOfRange,
    /// `s` is in the upper half of the group order (EIP-2).
    #[error("s is not low")]
    HighS,
    /// No public key recovers, or another address than expected.
    #[error("signature does not belong to the address")]
    WrongSigner,
}

impl Signature {
    /// Checks `r` and `s` (32 bytes big-endian each): in `1..n`, and `s` low. `y_parity` is true for odd `y`.
    ///
    /// # Errors
    /// [`SignatureError::OutOfRange`] or [`SignatureError::HighS`].
    pub fn new(r: [u8; 32], s: [u8; 32], y_parity: bool) -> Result<Self, SignatureError> {
        let signature = parse(&r, &s)?;
        if bool::from(signature.s().is_high()) {
            return Err(SignatureError::HighS);
        }
        Ok(Self { r, s, y_parity })
    }

    /// `r`, 32 bytes big-endian.
    #[must_use]
    pub fn r(&self) -> &[u8; 32] {
        &self.r
    }

    /// `s`, 32 bytes big-endian, at most `n / 2`.
    #[must_use]
    pub fn s(&self) -> &[u8; 32] {
        &self.s
    }

    /// Whether the nonce point's `y` is odd (EIP-2718 `yParity`).
    #[must_use]
    pub fn y_parity(&self) -> bool {
        self.y_parity
    }

    /// Recovers the signer of `digest` with `k256` (not with the engine's code) and compares its Ethereum address.
    ///
    /// # Errors
    /// [`SignatureError::WrongSigner`].
    pub fn verify_against(
        &self,
        address: &[u8; 20],
        digest: &[u8; 32],
    ) -> Result<(), SignatureError> {
        let signature = parse(&self.r, &self.s)?;
        let recovery_id = RecoveryId::new(self.y_parity, false);
        let signer = VerifyingKey::recover_from_prehash(digest, &signature, recovery_id)
            .map_err(|_| SignatureError::WrongSigner)?;
        if address_of(&signer) == *address {
            Ok(())
        } else {
            Err(SignatureError::WrongSigner)
        }
    }
}

fn parse(r: &[u8; 32], s: &[u8; 32]) -> Result<ecdsa::Signature, SignatureError> {
    ecdsa::Signature::from_scalars(*r, *s).map_err(|_| SignatureError::OutOfRange)
}

/// Ethereum address of a public key: the last 20 bytes of keccak256 over its 64 coordinate bytes.
pub(crate) fn address_of(key: &VerifyingKey) -> [u8; 20] {
    let point = key.to_sec1_point(false);
    let coordinates = point.as_bytes().strip_prefix(&[4]).unwrap_or_default();
    let hash: [u8; 32] = Keccak256::digest(coordinates).into();
    let [_, _, _, _, _, _, _, _, _, _, _, _, address @ ..] = hash;
    address
}
