//! The appliance's identity, from the offline root that wallets pin down to the keys of the day.
//!
//! ```text
//! root (offline, pinned) --signs--> identity key (in the HSM) --signs--> KEM key       (wallets seal to it)
//!                                                             --signs--> response key  (signs every answer)
//! ```

mod certificate;
mod response_key;

use p256::ecdsa::signature::Verifier;
use p256::ecdsa::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::envelope::KemPublicKey;
use crate::lp::Lp;

pub use certificate::{IdentityCertificate, IdentityRequest, MAX_CERTIFICATE_LIFETIME};
pub use response_key::{
    MAX_RESPONSE_KEY_LIFETIME, RESPONSE_KEY_HEADER, ResponseKey, ResponseKeyStatement,
    encode_chain, response_key_id, response_key_statement,
};

/// Longest validity of a KEM key: 48 h, in seconds.
pub const MAX_KEM_LIFETIME: u64 = 48 * 3600;
/// How far the client's clock may be behind `notBefore`, in seconds.
const CLOCK_SKEW: u64 = 60;

/// The document, as JSON: camelCase, bytes in lower-case hex, times in Unix seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityDocument {
    /// The random environment id.
    #[serde(with = "crate::hexadecimal")]
    pub environment_id: [u8; 32],
    /// `production` or `development`.
    pub environment_kind: String,
    /// The value of the `MPC-Audience` header.
    pub audience: String,
    /// The HSM identity key, signed by a root.
    pub identity: IdentityCertificate,
    /// The current KEM key, signed by the identity key.
    pub kem: KemDocument,
}

/// A KEM key and the identity key's signature over it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KemDocument {
    /// Key id, as in the envelope.
    pub kid: String,
    /// X25519 public key.
    #[serde(with = "crate::hexadecimal")]
    pub public_key: [u8; 32],
    /// First second of validity.
    pub not_before: u64,
    /// Last second of validity, at most 48 h after `not_before`.
    pub not_after: u64,
    /// P-256 `r ‖ s` over SHA-256 of [`kem_statement`].
    #[serde(with = "crate::hexadecimal")]
    pub signature: [u8; 64],
}

/// `LP("kem/1", env, kid, key, notBefore, notAfter)`: what the identity key signs (its SHA-256).
#[must_use]
pub fn kem_statement(
    environment_id: &[u8; 32],
    kid: &str,
    public_key: &[u8; 32],
    not_before: u64,
    not_after: u64,
) -> Lp {
    Lp::new("kem/1")
        .bytes(environment_id)
        .str(kid)
        .bytes(public_key)
        .u64(not_before)
        .u64(not_after)
}

/// Why an identity document was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// The document or certificate is of another environment than the pinned one.
    #[error("it is of another environment")]
    WrongEnvironment,
    /// None of the pinned roots signed the identity key.
    #[error("no pinned root key signed its identity key")]
    UnknownRoot,
    /// The identity key's certificate is expired, not valid yet, or valid for too long.
    #[error("the certificate of its identity key is outside its validity")]
    CertificateExpired,
    /// The KEM key is expired, not valid yet, or valid for more than 48 h.
    #[error("its message key is outside its validity")]
    OutsideValidity,
    /// The response key is expired, not valid yet, or valid for more than 48 h.
    #[error("its response key is outside its validity")]
    ResponseKeyExpired,
    /// The header that carries the response key is not in its one form.
    #[error("its response key does not decode")]
    MalformedResponseKey,
    /// A signature of the identity key does not verify.
    #[error("a signature of its identity key does not verify")]
    Signature,
}

impl IdentityDocument {
    /// Checks the document against what the client has pinned, at `now` (Unix seconds), and returns its KEM key.
    ///
    /// # Errors
    /// [`IdentityError`], by what does not fit.
    pub fn verify(
        &self,
        environment_id: &[u8; 32],
        roots: &[[u8; 65]],
        now: u64,
    ) -> Result<KemPublicKey, IdentityError> {
        if self.environment_id != *environment_id {
            return Err(IdentityError::WrongEnvironment);
        }
        self.identity
            .verify(environment_id, &self.environment_kind, roots, now)?;
        self.kem.verify(environment_id, &self.identity.key, now)
    }
}

impl KemDocument {
    fn verify(
        &self,
        environment_id: &[u8; 32],
        identity_key: &[u8; 65],
        now: u64,
    ) -> Result<KemPublicKey, IdentityError> {
        let lifetime = self.not_after.checked_sub(self.not_before);
        let started = self.not_before <= now.saturating_add(CLOCK_SKEW);
        let bounded = lifetime.is_some_and(|seconds| seconds <= MAX_KEM_LIFETIME);
        if !started || !bounded || now > self.not_after {
            return Err(IdentityError::OutsideValidity);
        }
        let statement = kem_statement(
            environment_id,
            &self.kid,
            &self.public_key,
            self.not_before,
            self.not_after,
        );
        if !holds(identity_key, &statement.finish(), &self.signature) {
            return Err(IdentityError::Signature);
        }
        KemPublicKey::from_bytes(&self.public_key).map_err(|_| IdentityError::Signature)
    }
}

/// Whether `signature` is `key`'s over SHA-256 of `statement`.
fn holds(key: &[u8; 65], statement: &[u8], signature: &[u8; 64]) -> bool {
    let key = VerifyingKey::from_sec1_bytes(key);
    let signature = Signature::from_slice(signature);
    matches!((key, signature), (Ok(key), Ok(signature)) if key.verify(statement, &signature).is_ok())
}

#[cfg(test)]
mod tests;
