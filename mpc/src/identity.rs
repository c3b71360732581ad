//! The appliance's identity document, `GET /api/v1/mpc/identity`, and the statement that signs its KEM key.

use p256::ecdsa::signature::Verifier;
use p256::ecdsa::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::envelope::KemPublicKey;
use crate::lp::Lp;

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
    /// The HSM identity key, P-256, uncompressed SEC1.
    #[serde(with = "crate::hexadecimal")]
    pub identity_key: [u8; 65],
    /// The current KEM key.
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
    /// The document is of another environment than the pinned one.
    #[error("identity document is of another environment")]
    WrongEnvironment,
    /// The document names another identity key than the pinned one.
    #[error("identity key is not the pinned one")]
    WrongIdentityKey,
    /// The identity key is no P-256 point.
    #[error("identity key does not decode")]
    InvalidIdentityKey,
    /// The KEM key is expired, not valid yet, or valid for more than 48 h.
    #[error("kem key is outside its validity")]
    OutsideValidity,
    /// The signature over the KEM key does not verify.
    #[error("kem key signature does not verify")]
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
        identity_key: &[u8; 65],
        now: u64,
    ) -> Result<KemPublicKey, IdentityError> {
        if self.environment_id != *environment_id {
            return Err(IdentityError::WrongEnvironment);
        }
        if self.identity_key != *identity_key {
            return Err(IdentityError::WrongIdentityKey);
        }
        self.kem.verify(environment_id, identity_key, now)
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
        let key = VerifyingKey::from_sec1_bytes(identity_key)
            .map_err(|_| IdentityError::InvalidIdentityKey)?;
        let signature =
            Signature::from_slice(&self.signature).map_err(|_| IdentityError::Signature)?;
        let statement = kem_statement(
            environment_id,
            &self.kid,
            &self.public_key,
            self.not_before,
            self.not_after,
        );
        key.verify(&statement.finish(), &signature)
            .map_err(|_| IdentityError::Signature)?;
        KemPublicKey::from_bytes(&self.public_key).map_err(|_| IdentityError::Signature)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use p256::ecdsa::SigningKey;
    use p256::ecdsa::signature::Signer;

    use super::*;

    const NOW: u64 = 1_795_338_000;

    fn document() -> IdentityDocument {
        let identity = SigningKey::from_slice(&[7; 32]).unwrap();
        let statement = kem_statement(&[1; 32], "k1", &[9; 32], NOW, NOW + 3600);
        let signature: Signature = identity.sign(&statement.finish());
        let key = identity.verifying_key().to_sec1_point(false);
        IdentityDocument {
            environment_id: [1; 32],
            environment_kind: "development".into(),
            audience: "signer.example".into(),
            identity_key: key.as_bytes().try_into().unwrap(),
            kem: KemDocument {
                kid: "k1".into(),
                public_key: [9; 32],
                not_before: NOW,
                not_after: NOW + 3600,
                signature: signature.to_bytes().into(),
            },
        }
    }

    #[test]
    fn a_signed_document_verifies_and_survives_json() {
        let document = document();
        let json = serde_json::to_string(&document).unwrap();
        assert!(json.contains("\"environmentId\":\"0101"));
        let read: IdentityDocument = serde_json::from_str(&json).unwrap();
        let key = read
            .verify(&[1; 32], &document.identity_key, NOW + 10)
            .unwrap();
        assert_eq!(key.to_bytes(), [9; 32]);
    }

    #[test]
    fn each_altered_field_is_refused() {
        let pinned = document().identity_key;
        let verify =
            |document: &IdentityDocument, now| document.verify(&[1; 32], &pinned, now).err();
        let altered = |alter: fn(&mut IdentityDocument)| {
            let mut document = document();
            alter(&mut document);
            verify(&document, NOW + 10)
        };
        assert_eq!(
            altered(|d| d.environment_id = [2; 32]),
            Some(IdentityError::WrongEnvironment)
        );
        assert_eq!(
            altered(|d| d.identity_key = [2; 65]),
            Some(IdentityError::WrongIdentityKey)
        );
        assert_eq!(
            altered(|d| d.kem.kid = "k2".into()),
            Some(IdentityError::Signature)
        );
        assert_eq!(
            altered(|d| d.kem.public_key = [8; 32]),
            Some(IdentityError::Signature)
        );
        assert_eq!(
            altered(|d| d.kem.not_after += 1),
            Some(IdentityError::Signature)
        );
        assert_eq!(
            altered(|d| d.kem.not_before -= 1),
            Some(IdentityError::Signature)
        );
        assert_eq!(
            altered(|d| d.kem.not_after += 48 * 3600),
            Some(IdentityError::OutsideValidity)
        );
        assert_eq!(
            altered(|d| d.kem.not_after = d.kem.not_before - 1),
            Some(IdentityError::OutsideValidity)
        );
        assert_eq!(
            verify(&document(), NOW + 3601),
            Some(IdentityError::OutsideValidity)
        );
        assert_eq!(
            verify(&document(), NOW - 61),
            Some(IdentityError::OutsideValidity)
        );
        assert_eq!(verify(&document(), NOW - 60), None);
    }
}
