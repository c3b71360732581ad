//! The gateway's token, where one is asked for: who its user is, signed by the issuer that the configuration pins.
//!
//! A token alone gives nobody anything: the request is signed by a device as well, over this token, and the device's
//! owner must be the token's user.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_mpc::owner_proof::{Algorithm, PublicKey};
use serde::Deserialize;
use serde_json::Value;

use crate::store::devices::Subject;

/// Longest life of a token, in seconds.
const MAX_LIFE: i64 = 300;
/// Longest token that is looked at.
const MAX_LENGTH: usize = 8 * 1024;
/// Longest user name.
const MAX_SUBJECT: usize = 255;

/// Why the configured keys cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// Not a JWK set.
    #[error("it is not a JWK set")]
    Malformed,
    /// It has no key.
    #[error("it holds no key")]
    Empty,
    /// A key is none of those that are used.
    #[error(
        "key {0} of it is not EC on P-256, Ed25519 or RSA of at least 2048 bits, for signatures"
    )]
    Unusable(usize),
    /// A key cannot be told from another.
    #[error("its keys need different kids")]
    SameKid,
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// There is none, or another scheme.
    #[error("there is no bearer token")]
    Missing,
    /// Not a signed token in its compact form.
    #[error("the token is malformed")]
    Malformed,
    /// No pinned key has its `kid`, or its algorithm is not that key's.
    #[error("the token names no key of the issuer")]
    UnknownKey,
    /// The signature does not hold.
    #[error("the token's signature does not hold")]
    Signature,
    /// It is by another issuer or for another audience.
    #[error("the token is by another issuer or for another audience")]
    OtherParties,
    /// It has expired, is not valid yet, or lives too long.
    #[error("the token is outside its time")]
    OutsideTime,
    /// It names no user.
    #[error("the token names no user")]
    NoSubject,
}

/// What tokens are believed.
#[derive(Debug)]
pub struct GatewayJwt {
    issuer: String,
    audience: String,
    leeway: i64,
    keys: Vec<Key>,
}

#[derive(Debug)]
struct Key {
    kid: Option<String>,
    algorithm: &'static str,
    public: Public,
}

#[derive(Debug)]
enum Public {
    Device(PublicKey),
    Rsa { n: Vec<u8>, e: Vec<u8> },
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that must be understood: none is.
    crit: Option<Value>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: Value,
    sub: String,
    exp: i64,
    nbf: Option<i64>,
}

impl GatewayJwt {
    /// Believes tokens of `issuer` for `audience` that a key of the JWK set `jwks` signed.
    ///
    /// # Errors
    /// [`JwksError`] when the set cannot be used.
    pub fn new(
        issuer: String,
        audience: String,
        leeway: i64,
        jwks: &str,
    ) -> Result<Self, JwksError> {
        let set: Value = serde_json::from_str(jwks).map_err(|_| JwksError::Malformed)?;
        let set = set.get("keys").and_then(Value::as_array);
        let keys = set
            .ok_or(JwksError::Malformed)?
            .iter()
            .enumerate()
            .map(|(at, jwk)| Key::read(jwk).ok_or(JwksError::Unusable(at)))
            .collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err(JwksError::Empty);
        }
        let mut kids: Vec<_> = keys.iter().map(|key| &key.kid).collect();
        kids.sort();
        kids.dedup();
        let distinct = kids.len() == keys.len();
        if !distinct || (keys.len() > 1 && keys.iter().any(|key| key.kid.is_none())) {
            return Err(JwksError::SameKid);
        }
        Ok(Self {
            issuer,
            audience,
            leeway,
            keys,
        })
    }

    /// The user that the header `Authorization` names, at `now` (Unix seconds).
    ///
    /// # Errors
    /// [`JwtError`], by what does not fit.
    pub fn subject(&self, authorization: Option<&str>, now: i64) -> Result<Subject, JwtError> {
        let token = authorization.and_then(|value| value.strip_prefix("Bearer "));
        let token = token.ok_or(JwtError::Missing)?;
        if token.len() > MAX_LENGTH {
            return Err(JwtError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(JwtError::Malformed)?;
        let header: Header = decoded(header)?;
        if header.crit.is_some() {
            return Err(JwtError::Malformed);
        }
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| JwtError::Malformed)?;
        // SECURITY: the key says how it is used; the token only names the key.
        self.key(&header)?.verify(signed.as_bytes(), &signature)?;
        self.check(decoded(claims)?, now)
    }

    fn key(&self, header: &Header) -> Result<&Key, JwtError> {
        let only = self.keys.len() == 1;
        self.keys
            .iter()
            .find(|key| header.kid == key.kid || (only && header.kid.is_none()))
            .filter(|key| key.algorithm == header.alg)
            .ok_or(JwtError::UnknownKey)
    }

    fn check(&self, claims: Claims, now: i64) -> Result<Subject, JwtError> {
        let for_us = match &claims.aud {
            Value::String(audience) => *audience == self.audience,
            Value::Array(all) => all.iter().any(|one| one == self.audience.as_str()),
            _ => false,
        };
        if claims.iss != self.issuer || !for_us {
            return Err(JwtError::OtherParties);
        }
        let latest = now.saturating_add(MAX_LIFE).saturating_add(self.leeway);
        let begun = claims
            .nbf
            .is_none_or(|begin| begin <= now.saturating_add(self.leeway));
        let lives = claims.exp > now.saturating_sub(self.leeway) && claims.exp <= latest;
        if !(begun && lives) {
            return Err(JwtError::OutsideTime);
        }
        let named = (1..=MAX_SUBJECT).contains(&claims.sub.len())
            && !claims.sub.chars().any(char::is_control);
        if !named {
            return Err(JwtError::NoSubject);
        }
        Ok(Subject {
            issuer: claims.iss,
            subject: claims.sub,
        })
    }
}

fn decoded<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, JwtError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).ok();
    bytes
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .ok_or(JwtError::Malformed)
}

impl Key {
    fn read(jwk: &Value) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let (algorithm, public) = if text("kty")? == "RSA" {
            ("RS256", rsa(text("n")?, text("e")?)?)
        } else {
            let key = PublicKey::parse(jwk).ok()?;
            let algorithm = match key.algorithm() {
                Algorithm::P256 => "ES256",
                Algorithm::Ed25519 => "EdDSA",
            };
            (algorithm, Public::Device(key))
        };
        let for_signatures = text("use").is_none_or(|purpose| purpose == "sig");
        let so_named = text("alg").is_none_or(|name| name == algorithm);
        (for_signatures && so_named).then(|| Self {
            kid: text("kid").map(str::to_owned),
            algorithm,
            public,
        })
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), JwtError> {
        let verified = match &self.public {
            Public::Device(key) => match key.algorithm() {
                Algorithm::P256 => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.as_bytes())
                    .verify(message, signature),
                Algorithm::Ed25519 => {
                    UnparsedPublicKey::new(&ED25519, key.as_bytes()).verify(message, signature)
                }
            },
            Public::Rsa { n, e } => RsaPublicKeyComponents { n, e }.verify(
                &RSA_PKCS1_2048_8192_SHA256,
                message,
                signature,
            ),
        };
        verified.map_err(|_| JwtError::Signature)
    }
}

/// SECURITY: short keys can be factored.
fn rsa(n: &str, e: &str) -> Option<Public> {
    let number = |text| {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        bytes.get(zeros..).map(<[u8]>::to_vec)
    };
    let (n, e) = (number(n)?, number(e)?);
    let bits = n.len().checked_mul(8)? - usize::try_from(n.first()?.leading_zeros()).ok()?;
    ((2048..=8192).contains(&bits) && !e.is_empty()).then_some(Public::Rsa { n, e })
}

#[cfg(test)]
mod tests;
