//! Signing a request, and parsing and verifying such a signature.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use p256::ecdsa::Signature;
use subtle::ConstantTimeEq;

use super::base::{RequestParts, inner_list, signature_base};
use super::{Algorithm, DeviceKey, MAX_AGE, MAX_AHEAD, MAX_LIFETIME, OwnerProofError, PublicKey};

const TAG: &str = "mpc-wallet-p1/1";

/// The headers that prove ownership of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedHeaders {
    /// `Content-Digest`, with a body only.
    pub content_digest: Option<String>,
    /// `Signature-Input`.
    pub signature_input: String,
    /// `Signature`.
    pub signature: String,
}

/// What a proof claims, before anything of it is verified.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Thumbprint of the device key; look the key up by it.
    pub key_id: String,
    /// When the proof was made, Unix seconds.
    pub created: i64,
    /// When it ends, Unix seconds.
    pub expires: i64,
    /// To be accepted once per key.
    pub nonce: [u8; 16],
    algorithm: Algorithm,
    components: String,
    signature: [u8; 64],
}

/// Signs a request at `created` (Unix seconds) for 60 seconds. `nonce` is fresh for every request.
///
/// # Errors
/// [`OwnerProofError::InvalidComponent`] or [`OwnerProofError::WrongComponents`] for a request that cannot be signed.
pub fn sign(
    key: &DeviceKey,
    request: &RequestParts<'_>,
    created: i64,
    nonce: [u8; 16],
) -> Result<SignedHeaders, OwnerProofError> {
    let components = request.components()?;
    let list = inner_list(components.iter().map(|(name, _)| name));
    let parameters = parameters(
        &list,
        created,
        created.saturating_add(MAX_LIFETIME),
        &nonce,
        (&key.thumbprint(), key.algorithm()),
    );
    let signature = key.sign(signature_base(&components, &parameters).as_bytes());
    Ok(SignedHeaders {
        content_digest: request.content_digest(),
        signature_input: format!("p1={parameters}"),
        signature: format!("p1=:{}:", STANDARD.encode(signature)),
    })
}

fn parameters(
    list: &str,
    created: i64,
    expires: i64,
    nonce: &[u8; 16],
    (key_id, algorithm): (&str, Algorithm),
) -> String {
    let (nonce, algorithm) = (URL_SAFE_NO_PAD.encode(nonce), algorithm.as_str());
    format!(
        "{list};created={created};expires={expires};nonce=\"{nonce}\";keyid=\"{key_id}\";alg=\"{algorithm}\";tag=\"{TAG}\""
    )
}

/// Parses the two headers in their one accepted form.
///
/// # Errors
/// [`OwnerProofError::Malformed`].
pub fn parse(signature_input: &str, signature: &str) -> Result<Claim, OwnerProofError> {
    parse_signature(signature)
        .and_then(|signature| parse_claim(signature_input, signature))
        // INVARIANT: there is one spelling; what is verified is exactly what was sent.
        .filter(|claim| format!("p1={}", claim.parameters()) == signature_input)
        .ok_or(OwnerProofError::Malformed)
}

fn parse_signature(signature: &str) -> Option<[u8; 64]> {
    let encoded = signature.strip_prefix("p1=:")?.strip_suffix(':')?;
    STANDARD.decode(encoded).ok()?.try_into().ok()
}

fn parse_claim(input: &str, signature: [u8; 64]) -> Option<Claim> {
    let rest = input.strip_prefix("p1=")?;
    let (components, rest) = rest.split_once(";created=")?;
    let (created, rest) = rest.split_once(";expires=")?;
    let (expires, rest) = rest.split_once(";nonce=\"")?;
    let (nonce, rest) = rest.split_once("\";keyid=\"")?;
    let (key_id, rest) = rest.split_once("\";alg=\"")?;
    let (algorithm, tag) = rest.split_once("\";tag=\"")?;
    let algorithm = Algorithm::named(algorithm)?;
    if tag.strip_suffix('"')? != TAG || !is_thumbprint(key_id) {
        return None;
    }
    if algorithm == Algorithm::P256 {
        // `r` and `s` are in range.
        Signature::from_slice(&signature).ok()?;
    }
    Some(Claim {
        key_id: key_id.to_owned(),
        created: created.parse().ok()?,
        expires: expires.parse().ok()?,
        nonce: URL_SAFE_NO_PAD.decode(nonce).ok()?.try_into().ok()?,
        algorithm,
        components: components.to_owned(),
        signature,
    })
}

fn is_thumbprint(text: &str) -> bool {
    URL_SAFE_NO_PAD
        .decode(text)
        .is_ok_and(|hash| hash.len() == 32)
}

impl Claim {
    fn parameters(&self) -> String {
        parameters(
            &self.components,
            self.created,
            self.expires,
            &self.nonce,
            (&self.key_id, self.algorithm),
        )
    }

    /// Verifies the claim for `request` at `now` (Unix seconds): key and its algorithm, time window, covered components,
    /// the body's digest against the `Content-Digest` header, and the signature, by `check`: [`PublicKey::verify`], or a
    /// faster function that accepts exactly the same signatures.
    ///
    /// # Errors
    /// [`OwnerProofError`], by what does not fit.
    pub fn verify(
        &self,
        key: &PublicKey,
        request: &RequestParts<'_>,
        content_digest: Option<&str>,
        now: i64,
        check: impl FnOnce(&PublicKey, &[u8], &[u8; 64]) -> bool,
    ) -> Result<(), OwnerProofError> {
        if key.thumbprint() != self.key_id {
            return Err(OwnerProofError::WrongKey);
        }
        // SECURITY: the key says how it is used, not the request.
        if key.algorithm() != self.algorithm {
            return Err(OwnerProofError::WrongAlgorithm);
        }
        self.check_window(now)?;
        let components = request.components()?;
        if self.components != inner_list(components.iter().map(|(name, _)| name)) {
            return Err(OwnerProofError::WrongComponents);
        }
        check_digest(request, content_digest)?;
        let base = signature_base(&components, &self.parameters());
        if check(key, base.as_bytes(), &self.signature) {
            Ok(())
        } else {
            Err(OwnerProofError::Signature)
        }
    }

    fn check_window(&self, now: i64) -> Result<(), OwnerProofError> {
        let age = now.checked_sub(self.created);
        let lifetime = self.expires.checked_sub(self.created);
        let fresh =
            age.is_some_and(|age| (-MAX_AHEAD..=MAX_AGE).contains(&age)) && now <= self.expires;
        if fresh && lifetime.is_some_and(|lifetime| (0..=MAX_LIFETIME).contains(&lifetime)) {
            Ok(())
        } else {
            Err(OwnerProofError::OutsideWindow)
        }
    }
}

fn check_digest(request: &RequestParts<'_>, header: Option<&str>) -> Result<(), OwnerProofError> {
    let matches = match (request.content_digest(), header) {
        (Some(computed), Some(header)) => bool::from(computed.as_bytes().ct_eq(header.as_bytes())),
        (None, None) => true,
        _ => false,
    };
    if matches {
        Ok(())
    } else {
        Err(OwnerProofError::DigestMismatch)
    }
}
