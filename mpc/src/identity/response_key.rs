//! The key that signs answers, and the header in which it travels with each of them.
//!
//! ```text
//! MPC-Response-Key: base64url(identityKey[65] ‖ serial[8] ‖ notBefore[8] ‖ notAfter[8] ‖ rootSignature[64]
//!                           ‖ responseKey[65] ‖ notBefore[8] ‖ notAfter[8] ‖ identitySignature[64])
//! ```
//!
//! (without padding). Environment id and kind are not in it: the client has them pinned.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p256::ecdsa::VerifyingKey;
use sha2::{Digest, Sha256};

use super::{CLOCK_SKEW, IdentityCertificate, IdentityError, holds};
use crate::lp::Lp;

/// The header's name.
pub const RESPONSE_KEY_HEADER: &str = "mpc-response-key";
/// Longest validity of a response key: 48 h, in seconds.
pub const MAX_RESPONSE_KEY_LIFETIME: u64 = 48 * 3600;
/// Bytes under the base64url of the header.
const CHAIN: usize = 65 + 8 + 8 + 8 + 64 + 65 + 8 + 8 + 64;

/// A response key and the identity key's signature over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseKeyStatement {
    /// P-256, uncompressed SEC1.
    pub key: [u8; 65],
    /// First second of validity.
    pub not_before: u64,
    /// Last second of validity, at most 48 h after `not_before`.
    pub not_after: u64,
    /// P-256 `r ‖ s` over SHA-256 of [`response_key_statement`].
    pub signature: [u8; 64],
}

/// A response key that the pinned root vouches for, through the identity key.
#[derive(Clone, Debug)]
pub struct ResponseKey {
    pub(crate) key: VerifyingKey,
    pub(crate) kid: String,
    not_before: u64,
    not_after: u64,
}

/// Id of a response key: the first 8 bytes of SHA-256 of its uncompressed SEC1 form, in hex.
#[must_use]
pub fn response_key_id(key: &[u8; 65]) -> String {
    hex::encode(Sha256::digest(key).get(..8).unwrap_or_default())
}

/// `LP("response/1", env, kid, key, notBefore, notAfter)`: what the identity key signs (its SHA-256).
#[must_use]
pub fn response_key_statement(
    environment_id: &[u8; 32],
    key: &[u8; 65],
    not_before: u64,
    not_after: u64,
) -> Lp {
    Lp::new("response/1")
        .bytes(environment_id)
        .str(&response_key_id(key))
        .bytes(key)
        .u64(not_before)
        .u64(not_after)
}

/// The header's value: the certificate and the statement it leads to.
#[must_use]
pub fn encode_chain(certificate: &IdentityCertificate, statement: &ResponseKeyStatement) -> String {
    let mut bytes = Vec::with_capacity(CHAIN);
    bytes.extend(certificate.key);
    for number in [
        certificate.serial,
        certificate.not_before,
        certificate.not_after,
    ] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.extend(certificate.signature);
    bytes.extend(statement.key);
    bytes.extend(statement.not_before.to_be_bytes());
    bytes.extend(statement.not_after.to_be_bytes());
    bytes.extend(statement.signature);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Takes a header's value apart; nothing of it is verified.
fn decode_chain(
    environment_id: &[u8; 32],
    environment_kind: &str,
    header: &str,
) -> Option<(IdentityCertificate, ResponseKeyStatement)> {
    let bytes = URL_SAFE_NO_PAD.decode(header).ok()?;
    let mut rest = bytes.as_slice();
    let certificate = IdentityCertificate {
        environment_id: *environment_id,
        environment_kind: environment_kind.to_owned(),
        key: take(&mut rest)?,
        serial: u64::from_be_bytes(take(&mut rest)?),
        not_before: u64::from_be_bytes(take(&mut rest)?),
        not_after: u64::from_be_bytes(take(&mut rest)?),
        signature: take(&mut rest)?,
    };
    let statement = ResponseKeyStatement {
        key: take(&mut rest)?,
        not_before: u64::from_be_bytes(take(&mut rest)?),
        not_after: u64::from_be_bytes(take(&mut rest)?),
        signature: take(&mut rest)?,
    };
    rest.is_empty().then_some((certificate, statement))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, left) = rest.split_first_chunk::<N>()?;
    *rest = left;
    Some(*taken)
}

impl ResponseKey {
    /// Verifies a header: a pinned root signs the identity key, which signs the response key; both are valid at `now`
    /// (Unix seconds).
    ///
    /// # Errors
    /// [`IdentityError`], by what does not fit.
    pub fn verify(
        header: &str,
        environment_id: &[u8; 32],
        environment_kind: &str,
        roots: &[[u8; 65]],
        now: u64,
    ) -> Result<Self, IdentityError> {
        let (certificate, statement) = decode_chain(environment_id, environment_kind, header)
            .ok_or(IdentityError::MalformedResponseKey)?;
        certificate.verify(environment_id, environment_kind, roots, now)?;
        let ResponseKeyStatement {
            key,
            not_before,
            not_after,
            signature,
        } = statement;
        let signed = response_key_statement(environment_id, &key, not_before, not_after).finish();
        if !holds(&certificate.key, &signed, &signature) {
            return Err(IdentityError::Signature);
        }
        let lifetime = not_after.checked_sub(not_before);
        if lifetime.is_none_or(|seconds| seconds > MAX_RESPONSE_KEY_LIFETIME) {
            return Err(IdentityError::ResponseKeyExpired);
        }
        let verified = Self {
            kid: response_key_id(&key),
            key: VerifyingKey::from_sec1_bytes(&key).map_err(|_| IdentityError::Signature)?,
            not_before,
            // The earlier end counts: a key is worth no more than what vouches for it.
            not_after: not_after.min(certificate.not_after),
        };
        verified.check(now)?;
        Ok(verified)
    }

    /// Checks that the key is still valid, for a key that was verified before.
    ///
    /// # Errors
    /// [`IdentityError::ResponseKeyExpired`].
    pub fn check(&self, now: u64) -> Result<(), IdentityError> {
        if self.not_before <= now.saturating_add(CLOCK_SKEW) && now <= self.not_after {
            Ok(())
        } else {
            Err(IdentityError::ResponseKeyExpired)
        }
    }
}
