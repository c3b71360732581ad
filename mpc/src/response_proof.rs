//! The appliance's signature over an answer: an HTTP message signature (RFC 9421) by its response key, in one exact profile.
//!
//! ```text
//! Content-Digest: sha-256=:…:
//! Signature-Input: p2=("@status" "content-digest" "signature";req;key="p1");
//!   created=…;keyid="<id of the response key>";alg="ecdsa-p256-sha256";tag="mpc-wallet-p2/1"
//! Signature: p2=:<base64 of r ‖ s>:
//! MPC-Response-Key: <the key, see `identity::response_key`>
//! ```
//!
//! (one line; folded here). `"signature";req;key="p1"` is covered exactly if the request had one well-formed `Signature`
//! header with the label `p1`, whatever became of that request.
//! SECURITY: it binds the answer to the *signature* of a request. A gateway that alters a request and leaves its signature
//! gets a genuine refusal for it: a refusal that is given before the owner is known says nothing about the request as it
//! was sent.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::Signature;
use p256::ecdsa::signature::Verifier;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::identity::ResponseKey;

const ALGORITHM: &str = "ecdsa-p256-sha256";
const TAG: &str = "mpc-wallet-p2/1";
/// How far `created` may be from the client's clock, in seconds.
pub const MAX_DISTANCE: u64 = 120;

/// Why an answer is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ResponseProofError {
    /// It carries no signature, or a header of it is missing.
    #[error("the answer is not signed")]
    Unsigned,
    /// A header of the signature is not in its one form, or names another key.
    #[error("the answer's signature headers are malformed")]
    Malformed,
    /// The digest is not that of the body.
    #[error("the answer's body is not the one that was signed")]
    DigestMismatch,
    /// It was made more than two minutes ago, or is to be made.
    #[error("the answer was not signed now; or the clock of this device is wrong")]
    OutsideWindow,
    /// The signature is over another status, body or request.
    #[error("the answer's signature does not hold, or is that of another request's answer")]
    Signature,
}

/// The headers of a signed answer, as received.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnswerHeaders<'a> {
    /// `Content-Digest`.
    pub content_digest: Option<&'a str>,
    /// `Signature-Input`.
    pub signature_input: Option<&'a str>,
    /// `Signature`.
    pub signature: Option<&'a str>,
}

/// `Content-Digest` of a body (RFC 9530), SHA-256 only.
#[must_use]
pub fn content_digest(body: &[u8]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(body)))
}

/// The part of a request's one `Signature` header that its answer covers: `:…:` of the label `p1`; `None` if it is not
/// well-formed.
#[must_use]
pub fn request_signature(header: &str) -> Option<&str> {
    let value = header.strip_prefix("p1=")?;
    let encoded = value.strip_prefix(':')?.strip_suffix(':')?;
    let decoded = STANDARD.decode(encoded).ok()?;
    (decoded.len() == 64).then_some(value)
}

/// The parameters of a signature that is made at `created` (Unix seconds); `bound` to a request's signature or not.
#[must_use]
pub fn parameters(bound: bool, created: i64, kid: &str) -> String {
    let list = if bound {
        r#"("@status" "content-digest" "signature";req;key="p1")"#
    } else {
        r#"("@status" "content-digest")"#
    };
    format!(r#"{list};created={created};keyid="{kid}";alg="{ALGORITHM}";tag="{TAG}""#)
}

/// The signature base (RFC 9421 section 2.5).
#[must_use]
pub fn signature_base(
    status: u16,
    content_digest: &str,
    request_signature: Option<&str>,
    parameters: &str,
) -> String {
    let request = request_signature
        .map(|signature| format!("\"signature\";req;key=\"p1\": {signature}\n"))
        .unwrap_or_default();
    format!(
        "\"@status\": {status}\n\"content-digest\": {content_digest}\n{request}\"@signature-params\": {parameters}"
    )
}

/// `Signature-Input` and `Signature` around parameters and a raw signature `r ‖ s`.
#[must_use]
pub fn headers(parameters: &str, signature: &[u8]) -> (String, String) {
    let encoded = STANDARD.encode(signature);
    (format!("p2={parameters}"), format!("p2=:{encoded}:"))
}

/// Verifies an answer at `now` (Unix seconds): its digest against the body, its parameters, and the signature over status,
/// digest and `request_signature`, which is that of the request as it was sent.
///
/// # Errors
/// [`ResponseProofError`], by what does not fit.
pub fn verify(
    key: &ResponseKey,
    status: u16,
    body: &[u8],
    headers: AnswerHeaders<'_>,
    request_signature: Option<&str>,
    now: u64,
) -> Result<(), ResponseProofError> {
    let (Some(digest), Some(input), Some(signature)) = (
        headers.content_digest,
        headers.signature_input,
        headers.signature,
    ) else {
        return Err(ResponseProofError::Unsigned);
    };
    let parameters = input
        .strip_prefix("p2=")
        .ok_or(ResponseProofError::Malformed)?;
    let created: i64 = parameters
        .split_once(";created=")
        .and_then(|(_, rest)| rest.split(';').next())
        .and_then(|created| created.parse().ok())
        .ok_or(ResponseProofError::Malformed)?;
    // INVARIANT: there is one spelling, so what is verified is exactly what was sent.
    if parameters != self::parameters(request_signature.is_some(), created, &key.kid) {
        return Err(ResponseProofError::Malformed);
    }
    if !bool::from(content_digest(body).as_bytes().ct_eq(digest.as_bytes())) {
        return Err(ResponseProofError::DigestMismatch);
    }
    let signature = signature
        .strip_prefix("p2=:")
        .and_then(|rest| rest.strip_suffix(':'))
        .and_then(|encoded| STANDARD.decode(encoded).ok())
        .and_then(|bytes| Signature::from_slice(&bytes).ok())
        .ok_or(ResponseProofError::Malformed)?;
    let base = signature_base(status, digest, request_signature, parameters);
    key.key
        .verify(base.as_bytes(), &signature)
        .map_err(|_| ResponseProofError::Signature)?;
    let near = u64::try_from(created).is_ok_and(|created| created.abs_diff(now) <= MAX_DISTANCE);
    near.then_some(()).ok_or(ResponseProofError::OutsideWindow)
}

#[cfg(test)]
mod tests;
