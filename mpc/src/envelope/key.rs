//! The appliance's X25519 KEM key.

use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, Serializable};
use zeroize::Zeroizing;

use super::EnvelopeError;

/// Public half, 32 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KemPublicKey(pub(super) <X25519HkdfSha256 as Kem>::PublicKey);

impl KemPublicKey {
    /// Reads a public key. Any 32 bytes are one; a key of small order fails when something is sealed to it.
    ///
    /// # Errors
    /// [`EnvelopeError::Malformed`] for another length.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        Deserializable::from_bytes(bytes)
            .map(Self)
            .map_err(|_| EnvelopeError::Malformed)
    }

    /// The 32 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.0.write_exact(&mut bytes);
        bytes
    }
}

/// Secret half, 32 bytes. Wipes itself on drop; no `Debug`, `Clone` or `Serialize`.
pub struct KemSecretKey(pub(super) <X25519HkdfSha256 as Kem>::PrivateKey);

impl KemSecretKey {
    /// A fresh key.
    ///
    /// # Errors
    /// [`EnvelopeError::Randomness`].
    pub fn generate() -> Result<Self, EnvelopeError> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(bytes.as_mut_slice()).map_err(|_| EnvelopeError::Randomness)?;
        Self::from_bytes(bytes.as_slice())
    }

    /// Reads a stored key.
    ///
    /// # Errors
    /// [`EnvelopeError::Malformed`] for another length than 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        Deserializable::from_bytes(bytes)
            .map(Self)
            .map_err(|_| EnvelopeError::Malformed)
    }

    /// The 32 bytes, clamped, for storage. Secret: seal them at once.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        let mut bytes = Zeroizing::new([0; 32]);
        self.0.write_exact(bytes.as_mut_slice());
        bytes
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> KemPublicKey {
        KemPublicKey(X25519HkdfSha256::sk_to_pk(&self.0))
    }
}
