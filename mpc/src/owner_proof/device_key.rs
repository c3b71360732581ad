//! The owner's device key: P-256, its thumbprint and its public forms.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p256::ecdsa::{SigningKey, VerifyingKey};
use serde_json::Value;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::OwnerProofError;

/// The device's signing key. Wiped on drop; no `Debug`, `Clone` or `Serialize`.
pub struct DeviceKey(SigningKey);

impl DeviceKey {
    /// A fresh key.
    ///
    /// # Errors
    /// [`OwnerProofError::Randomness`].
    pub fn generate() -> Result<Self, OwnerProofError> {
        loop {
            let mut bytes = Zeroizing::new([0; 32]);
            getrandom::fill(bytes.as_mut_slice()).map_err(|_| OwnerProofError::Randomness)?;
            // All but one in 2^32 draws are below the group order.
            if let Ok(key) = Self::from_bytes(bytes.as_slice()) {
                return Ok(key);
            }
        }
    }

    /// Reads a stored key: 32 bytes big-endian.
    ///
    /// # Errors
    /// [`OwnerProofError::InvalidKey`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, OwnerProofError> {
        SigningKey::from_slice(bytes)
            .map(Self)
            .map_err(|_| OwnerProofError::InvalidKey)
    }

    /// The 32 bytes for storage. Secret: seal them at once.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes().into())
    }

    /// The public half.
    #[must_use]
    pub fn verifying_key(&self) -> &VerifyingKey {
        self.0.verifying_key()
    }

    /// [`thumbprint`] of the public half.
    #[must_use]
    pub fn thumbprint(&self) -> String {
        thumbprint(self.verifying_key())
    }

    pub(super) fn signing_key(&self) -> &SigningKey {
        &self.0
    }
}

/// RFC 7638 thumbprint of the key's JWK: base64url of SHA-256, 43 characters.
#[must_use]
pub fn thumbprint(key: &VerifyingKey) -> String {
    let point = key.to_sec1_point(false);
    let coordinates = point.as_bytes().strip_prefix(&[4]).unwrap_or_default();
    let (x, y) = coordinates.split_at_checked(32).unwrap_or_default();
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    let jwk = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    URL_SAFE_NO_PAD.encode(Sha256::digest(jwk))
}

/// Reads `clientShare.publicKey`: a JWK object (`kty` EC, `crv` P-256, `x`, `y`), or SEC1 in hex, compressed or not.
///
/// # Errors
/// [`OwnerProofError::PrivateKey`] for a JWK with `d`; else [`OwnerProofError::InvalidKey`].
pub fn parse_public_key(value: &Value) -> Result<VerifyingKey, OwnerProofError> {
    let sec1 = match value {
        Value::String(text) => hex::decode(text).ok(),
        Value::Object(jwk) if jwk.contains_key("d") => return Err(OwnerProofError::PrivateKey),
        Value::Object(_) => uncompressed_point(value),
        _ => None,
    };
    sec1.and_then(|bytes| VerifyingKey::from_sec1_bytes(&bytes).ok())
        .ok_or(OwnerProofError::InvalidKey)
}

fn uncompressed_point(jwk: &Value) -> Option<Vec<u8>> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    if text("kty") != Some("EC") || text("crv") != Some("P-256") {
        return None;
    }
    let coordinate = |name: &str| {
        text(name)
            .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
            .filter(|bytes| bytes.len() == 32)
    };
    Some([vec![4], coordinate("x")?, coordinate("y")?].concat())
}
