//! The owner's device key: P-256 or Ed25519, its thumbprint and its public forms.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p256::ecdsa::signature::{Signer, Verifier};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::OwnerProofError;

/// The kinds of device keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA over P-256 with SHA-256; signatures are `r ‖ s`.
    P256,
    /// Ed25519 (RFC 8032).
    Ed25519,
}

impl Algorithm {
    /// The name in the HTTP signature algorithm registry.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::P256 => "ecdsa-p256-sha256",
            Self::Ed25519 => "ed25519",
        }
    }

    /// The algorithm of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::P256, Self::Ed25519]
            .into_iter()
            .find(|algorithm| algorithm.as_str() == name)
    }
}

/// The device's signing key. Wiped on drop; no `Debug`, `Clone` or `Serialize`.
pub struct DeviceKey(Secret);

enum Secret {
    P256(SigningKey),
    Ed25519(ed25519_dalek::SigningKey),
}

impl DeviceKey {
    /// A fresh key.
    ///
    /// # Errors
    /// [`OwnerProofError::Randomness`].
    pub fn generate(algorithm: Algorithm) -> Result<Self, OwnerProofError> {
        loop {
            let mut bytes = Zeroizing::new([0; 32]);
            getrandom::fill(bytes.as_mut_slice()).map_err(|_| OwnerProofError::Randomness)?;
            // All but one in 2^32 draws are below the group order of P-256.
            if let Ok(key) = Self::from_bytes(algorithm, bytes.as_slice()) {
                return Ok(key);
            }
        }
    }

    /// Reads a stored key: the 32 bytes of a P-256 scalar, big-endian, or of an Ed25519 seed.
    ///
    /// # Errors
    /// [`OwnerProofError::InvalidKey`].
    pub fn from_bytes(algorithm: Algorithm, bytes: &[u8]) -> Result<Self, OwnerProofError> {
        let secret = match algorithm {
            Algorithm::P256 => SigningKey::from_slice(bytes).ok().map(Secret::P256),
            Algorithm::Ed25519 => ed25519_dalek::SigningKey::try_from(bytes)
                .ok()
                .map(Secret::Ed25519),
        };
        secret.map(Self).ok_or(OwnerProofError::InvalidKey)
    }

    /// The 32 bytes for storage. Secret: seal them at once.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(match &self.0 {
            Secret::P256(key) => key.to_bytes().into(),
            Secret::Ed25519(key) => key.to_bytes(),
        })
    }

    /// Its kind.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match &self.0 {
            Secret::P256(_) => Algorithm::P256,
            Secret::Ed25519(_) => Algorithm::Ed25519,
        }
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        match &self.0 {
            Secret::P256(key) => PublicKey::of_p256(key.verifying_key()),
            Secret::Ed25519(key) => PublicKey(Public::Ed25519(key.verifying_key().to_bytes())),
        }
    }

    /// The thumbprint of the public half.
    #[must_use]
    pub fn thumbprint(&self) -> String {
        self.public_key().thumbprint()
    }

    /// Its signature over `message`.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        match &self.0 {
            Secret::P256(key) => {
                let signature: Signature = key.sign(message);
                signature.to_bytes().into()
            }
            Secret::Ed25519(key) => key.sign(message).to_bytes(),
        }
    }
}

/// A device's public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(Public);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Public {
    /// Uncompressed SEC1 point.
    P256([u8; 65]),
    Ed25519([u8; 32]),
}

impl PublicKey {
    /// Reads `clientShare.publicKey`: a JWK object (`kty` EC, `crv` P-256, `x`, `y`, or `kty` OKP, `crv` Ed25519, `x`),
    /// or a P-256 point as SEC1 in hex, compressed or not.
    ///
    /// # Errors
    /// [`OwnerProofError::PrivateKey`] for a JWK with `d`; else [`OwnerProofError::InvalidKey`].
    pub fn parse(value: &Value) -> Result<Self, OwnerProofError> {
        let key = match value {
            Value::String(text) => hex::decode(text).ok().map(|sec1| (Algorithm::P256, sec1)),
            Value::Object(jwk) if jwk.contains_key("d") => return Err(OwnerProofError::PrivateKey),
            Value::Object(_) => from_jwk(value),
            _ => None,
        };
        let (algorithm, bytes) = key.ok_or(OwnerProofError::InvalidKey)?;
        Self::from_bytes(algorithm, &bytes)
    }

    /// Reads a SEC1 point, or the 32 bytes of an Ed25519 key in its one canonical encoding.
    ///
    /// # Errors
    /// [`OwnerProofError::InvalidKey`], also for an Ed25519 point that is not of the large prime order: with some of
    /// those, one signature fits many messages.
    pub fn from_bytes(algorithm: Algorithm, bytes: &[u8]) -> Result<Self, OwnerProofError> {
        let key = match algorithm {
            Algorithm::P256 => VerifyingKey::from_sec1_bytes(bytes)
                .ok()
                .map(|key| Self::of_p256(&key)),
            Algorithm::Ed25519 => bytes
                .try_into()
                .ok()
                .filter(is_sound)
                .map(|bytes| Self(Public::Ed25519(bytes))),
        };
        key.ok_or(OwnerProofError::InvalidKey)
    }

    /// Reads what [`PublicKey::as_bytes`] gave and was kept safe meanwhile: only its length is looked at.
    ///
    /// # Errors
    /// [`OwnerProofError::InvalidKey`].
    pub fn from_stored(algorithm: Algorithm, bytes: &[u8]) -> Result<Self, OwnerProofError> {
        let key = match algorithm {
            Algorithm::P256 => bytes.try_into().ok().map(Public::P256),
            Algorithm::Ed25519 => bytes.try_into().ok().map(Public::Ed25519),
        };
        key.map(Self).ok_or(OwnerProofError::InvalidKey)
    }

    fn of_p256(key: &VerifyingKey) -> Self {
        let point = key.to_sec1_point(false);
        // An uncompressed point always has 65 bytes.
        Self(Public::P256(point.as_bytes().try_into().unwrap_or([0; 65])))
    }

    /// Its kind.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match &self.0 {
            Public::P256(_) => Algorithm::P256,
            Public::Ed25519(_) => Algorithm::Ed25519,
        }
    }

    /// The uncompressed SEC1 point, 65 bytes, or the 32 bytes of an Ed25519 key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Public::P256(bytes) => bytes,
            Public::Ed25519(bytes) => bytes,
        }
    }

    /// RFC 7638 thumbprint of the key's JWK: base64url of SHA-256, 43 characters.
    #[must_use]
    pub fn thumbprint(&self) -> String {
        let jwk = match &self.0 {
            Public::P256(point) => {
                let (x, y) = coordinates(point);
                format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#)
            }
            Public::Ed25519(bytes) => {
                let x = URL_SAFE_NO_PAD.encode(bytes);
                format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#)
            }
        };
        URL_SAFE_NO_PAD.encode(Sha256::digest(jwk))
    }

    /// The key as a JWK.
    #[must_use]
    pub fn jwk(&self) -> Value {
        match &self.0 {
            Public::P256(point) => {
                let (x, y) = coordinates(point);
                json!({"kty": "EC", "crv": "P-256", "x": x, "y": y})
            }
            Public::Ed25519(bytes) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(bytes)})
            }
        }
    }

    /// Whether `signature` is this key's over `message`: ECDSA over its SHA-256 with `s` low or high, or Ed25519.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        match &self.0 {
            Public::P256(point) => VerifyingKey::from_sec1_bytes(point)
                .and_then(|key| key.verify(message, &Signature::from_slice(signature)?))
                .is_ok(),
            Public::Ed25519(bytes) => ed25519_dalek::VerifyingKey::from_bytes(bytes)
                .and_then(|key| {
                    key.verify(message, &ed25519_dalek::Signature::from_bytes(signature))
                })
                .is_ok(),
        }
    }
}

/// SECURITY: a point of small order verifies signatures that nobody made, and one with a part of small order, or in a
/// second encoding, would be one key with several thumbprints.
fn is_sound(bytes: &[u8; 32]) -> bool {
    ed25519_dalek::VerifyingKey::from_bytes(bytes).is_ok_and(|key| {
        let point = key.to_edwards();
        !key.is_weak() && point.is_torsion_free() && point.compress().as_bytes() == bytes
    })
}

fn coordinates(point: &[u8; 65]) -> (String, String) {
    let coordinates = point.strip_prefix(&[4]).unwrap_or_default();
    let (x, y) = coordinates.split_at_checked(32).unwrap_or_default();
    (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y))
}

fn from_jwk(jwk: &Value) -> Option<(Algorithm, Vec<u8>)> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    let coordinate = |name: &str| {
        text(name)
            .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
            .filter(|bytes| bytes.len() == 32)
    };
    match (text("kty")?, text("crv")?) {
        ("EC", "P-256") => {
            let point = [vec![4], coordinate("x")?, coordinate("y")?].concat();
            Some((Algorithm::P256, point))
        }
        ("OKP", "Ed25519") => Some((Algorithm::Ed25519, coordinate("x")?)),
        _ => None,
    }
}
