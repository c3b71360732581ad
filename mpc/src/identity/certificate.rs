//! What an offline root says about an identity key, and how the appliance asks for it.

use serde::{Deserialize, Serialize};

use super::{CLOCK_SKEW, IdentityError, holds};
use crate::lp::Lp;

/// Longest validity of an identity key, in seconds: 825 days.
pub const MAX_CERTIFICATE_LIFETIME: u64 = 825 * 86_400;

/// An identity key, signed by an offline root that wallets pin. JSON as in the identity document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityCertificate {
    /// The environment it is valid in.
    #[serde(with = "crate::hexadecimal")]
    pub environment_id: [u8; 32],
    /// That environment's kind, `production` or `development`.
    pub environment_kind: String,
    /// The identity key: P-256, uncompressed SEC1.
    #[serde(with = "crate::hexadecimal")]
    pub key: [u8; 65],
    /// Grows with every certificate of a root.
    pub serial: u64,
    /// First second of validity.
    pub not_before: u64,
    /// Last second of validity.
    pub not_after: u64,
    /// The root's signature: P-256 `r ‖ s` over SHA-256 of [`IdentityCertificate::statement`].
    #[serde(with = "crate::hexadecimal")]
    pub signature: [u8; 64],
}

impl IdentityCertificate {
    /// `LP("identity/1", env, kind, key, serial, notBefore, notAfter)`: what the root signs (its SHA-256).
    #[must_use]
    pub fn statement(&self) -> Lp {
        Lp::new("identity/1")
            .bytes(&self.environment_id)
            .str(&self.environment_kind)
            .bytes(&self.key)
            .u64(self.serial)
            .u64(self.not_before)
            .u64(self.not_after)
    }

    /// Checks that one of `roots` vouches for the key, in this environment and at `now` (Unix seconds).
    ///
    /// # Errors
    /// [`IdentityError`], by what does not fit.
    pub fn verify(
        &self,
        environment_id: &[u8; 32],
        environment_kind: &str,
        roots: &[[u8; 65]],
        now: u64,
    ) -> Result<(), IdentityError> {
        if self.environment_id != *environment_id || self.environment_kind != environment_kind {
            return Err(IdentityError::WrongEnvironment);
        }
        let statement = self.statement().finish();
        let vouches = |root: &[u8; 65]| holds(root, &statement, &self.signature);
        if !roots.iter().any(vouches) {
            return Err(IdentityError::UnknownRoot);
        }
        let lifetime = self.not_after.checked_sub(self.not_before);
        let bounded = lifetime.is_some_and(|seconds| seconds <= MAX_CERTIFICATE_LIFETIME);
        if !bounded || self.not_before > now.saturating_add(CLOCK_SKEW) || now > self.not_after {
            return Err(IdentityError::CertificateExpired);
        }
        Ok(())
    }
}

/// What is brought to the root: an identity key and the proof that its holder asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityRequest {
    /// The environment.
    #[serde(with = "crate::hexadecimal")]
    pub environment_id: [u8; 32],
    /// Its kind.
    pub environment_kind: String,
    /// The identity key.
    #[serde(with = "crate::hexadecimal")]
    pub key: [u8; 65],
    /// The identity key's own signature over SHA-256 of [`IdentityRequest::statement`].
    #[serde(with = "crate::hexadecimal")]
    pub signature: [u8; 64],
}

impl IdentityRequest {
    /// `LP("identity-request/1", env, kind, key)`.
    #[must_use]
    pub fn statement(&self) -> Lp {
        Lp::new("identity-request/1")
            .bytes(&self.environment_id)
            .str(&self.environment_kind)
            .bytes(&self.key)
    }

    /// Checks that the holder of the key asks.
    ///
    /// # Errors
    /// [`IdentityError::Signature`].
    pub fn verify(&self) -> Result<(), IdentityError> {
        if holds(&self.key, &self.statement().finish(), &self.signature) {
            Ok(())
        } else {
            Err(IdentityError::Signature)
        }
    }
}
