//! The owner's proof: an HTTP message signature (RFC 9421) by the device key, in one exact profile (protocol.md 4).
//!
//! ```text
//! Content-Digest: sha-256=:…:
//! Signature-Input: p1=("@method" "@path" "@query" "content-type" "content-digest" "mpc-audience" "idempotency-key");
//!   created=…;expires=…;nonce="<16 bytes base64url>";keyid="<thumbprint>";alg="ecdsa-p256-sha256";tag="mpc-wallet-p1/1"
//! Signature: p1=:<base64 of r ‖ s>:
//! ```
//!
//! (one line; folded here). `alg` is that of the key, `ecdsa-p256-sha256` or `ed25519`. `content-type` and
//! `content-digest` are covered with a body only, `idempotency-key` only when that header is present; `authorization`
//! comes last, only where the appliance is told to ask for a gateway's token. There is exactly one accepted spelling: this order, these parameters, no extra white space.
//! SECURITY: [`Claim::verify`] compares the *body*, by its [`BodyHash`], with the covered digest, not only the header;
//! the caller makes sure that each of these headers occurs once, and that a nonce is accepted once.

mod base;
mod claim;
mod device_key;
mod enrolment;

pub use base::{BodyHash, RequestParts};
pub use claim::{Claim, SignedHeaders, parse, sign};
pub use device_key::{Algorithm, DeviceKey, PublicKey};
pub use enrolment::{Enrolment, MAX_ENROLMENT};

use thiserror::Error;

/// How old `created` may be, in seconds.
pub const MAX_AGE: i64 = 60;
/// How far `created` may be ahead of our clock, in seconds.
pub const MAX_AHEAD: i64 = 5;
/// Longest `expires - created`, in seconds.
pub const MAX_LIFETIME: i64 = 60;

/// Why a proof was refused. All of them are a 401; the variants are for logs and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OwnerProofError {
    /// `Signature-Input` or `Signature` is not in the one accepted form.
    #[error("signature headers are malformed")]
    Malformed,
    /// Another set of components is covered than this request has.
    #[error("signature covers other components")]
    WrongComponents,
    /// A component's value cannot be part of a signature base: line breaks, non-ASCII, surrounding white space.
    #[error("a covered component has an invalid value")]
    InvalidComponent,
    /// `keyid` is not the thumbprint of the verifying key.
    #[error("signature is by another key")]
    WrongKey,
    /// `alg` is not the verifying key's.
    #[error("signature names another algorithm than its key has")]
    WrongAlgorithm,
    /// `created` or `expires` is outside the window.
    #[error("signature is outside its time window")]
    OutsideWindow,
    /// The `Content-Digest` header is missing, superfluous, or not that of the body.
    #[error("content digest does not match the body")]
    DigestMismatch,
    /// The signature does not verify.
    #[error("signature does not verify")]
    Signature,
    /// Not a P-256 or Ed25519 public key, or one that must not be used.
    #[error("public key is invalid")]
    InvalidKey,
    /// A private key was sent where a public one belongs. SECURITY: wipe it, never log it.
    #[error("a private key was sent")]
    PrivateKey,
    /// The operating system gave no randomness.
    #[error("randomness is unavailable")]
    Randomness,
}

#[cfg(test)]
mod tests;
