//! The sealed envelope `mw1`: end-to-end confidentiality between wallet and appliance, through the gateway.
//!
//! `mw1.<type>.<kid>.<base64url(enc ‖ ct)>` is an HPKE (RFC 9180) base-mode message to the appliance's KEM key, with
//! DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and ChaCha20Poly1305. Its `info` names everything it belongs to
//! ([`EnvelopeInfo`]), so it opens nowhere else. The answer `mw1.<type>.<kid>.<base64url(nonce ‖ ct)>` is sealed under a
//! key exported from the same context, with a random nonce: the two directions never share a key (protocol.md 2.2).
//!
//! Base mode does not say *who* sealed: the device signature over the whole request does ([`crate::owner_proof`]).
//! An encapsulated key of small order, which would give the all-zero X25519 result, is refused by the HPKE crate as RFC
//! 9180 section 7.1.4 demands, and by a test here.

mod bare_secret;
mod key;
mod response;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hpke::aead::{AeadCtxS, ChaCha20Poly1305};
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use thiserror::Error;
use zeroize::Zeroizing;

pub use key::{KemPublicKey, KemSecretKey};
pub use response::{ResponseOpener, ResponseSealer};

use crate::lp::Lp;

/// Most characters of an envelope: the largest message, 192 000 bytes, with its overhead, in base64.
pub const MAX_LENGTH: usize = 260_000;
/// Bytes of the encapsulated key that starts a request.
const ENCAPPED: usize = 32;
/// Exporter context of the response key.
const EXPORT_RESPONSE: &[u8] = b"response";

type SealingContext = AeadCtxS<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>;

/// Message types of the envelope; an answer has its request's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageType {
    /// Key generation, request 1.
    Keygen1,
    /// Key generation, request 2.
    Keygen2,
    /// Key generation, request 3.
    Keygen3,
    /// Signing, request 1.
    Sign1,
    /// Signing, request 2.
    Sign2,
    /// Enrolment of a second factor: an empty message, whose answer holds the new secret.
    TwoFactorEnrol,
}

impl MessageType {
    /// The name in the envelope and in `info`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keygen1 => "kg1",
            Self::Keygen2 => "kg2",
            Self::Keygen3 => "kg3",
            Self::Sign1 => "sg1",
            Self::Sign2 => "sg2",
            Self::TwoFactorEnrol => "tf1",
        }
    }
}

/// Everything a sealed message belongs to. Both parties build it from what they know, never from the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvelopeInfo {
    /// The appliance's random environment id.
    pub environment_id: [u8; 32],
    /// Tenant of the gateway the request came through.
    pub tenant: String,
    /// Type of the request.
    pub message_type: MessageType,
    /// Id of the KEM key: 1 to 64 characters of `A-Z a-z 0-9 _ -`.
    pub kem_kid: String,
    /// RFC 7638 thumbprint of the owner's device key.
    pub device_thumbprint: String,
    /// The profile; kg1 has the Idempotency-Key here, tf1 has the profile.
    pub profile_id: String,
    /// The key generation or signing session; kg1 and tf1 have the Idempotency-Key here.
    pub session_id: String,
    /// Generation of the key's shares, from 1; 0 where none of them is concerned (tf1).
    pub key_generation: u64,
    /// Attempt within the session, from 1.
    pub attempt: u32,
}

impl EnvelopeInfo {
    /// `LP("mpc-wallet/1", env, tenant, "request", type, kid, thumbprint, profileId, sessionId, keyGeneration,
    /// attempt)`.
    #[must_use]
    pub fn request_info(&self) -> Vec<u8> {
        Lp::new("mpc-wallet/1")
            .bytes(&self.environment_id)
            .str(&self.tenant)
            .str("request")
            .str(self.message_type.as_str())
            .str(&self.kem_kid)
            .str(&self.device_thumbprint)
            .str(&self.profile_id)
            .str(&self.session_id)
            .u64(self.key_generation)
            .u64(u64::from(self.attempt))
            .finish()
    }

    /// `LP("resp/1", info)`, the additional data of the answer.
    #[must_use]
    pub fn response_aad(&self) -> Vec<u8> {
        Lp::new("resp/1").bytes(&self.request_info()).finish()
    }

    /// `mw1.<type>.<kid>.`
    fn prefix(&self) -> String {
        format!("mw1.{}.{}.", self.message_type.as_str(), self.kem_kid)
    }
}

/// Why an envelope was not sealed or opened. Carries nothing of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EnvelopeError {
    /// The text is not an envelope but a bare secret: a 32-byte scalar or a key share. SECURITY: the caller wipes
    /// the text, never logs it, and audits `client_sent_secret` (A23).
    #[error("a bare secret was sent in place of an envelope")]
    BareSecret,
    /// An envelope of another version. Clients see `UNSUPPORTED_PROTOCOL_VERSION` (A38).
    #[error("envelope version is not supported")]
    UnsupportedVersion,
    /// Longer than [`MAX_LENGTH`].
    #[error("envelope is too large")]
    TooLarge,
    /// Not `mw1.<type>.<kid>.<base64url>`.
    #[error("envelope is malformed")]
    Malformed,
    /// An envelope of another message type than expected here.
    #[error("envelope is of another type")]
    WrongType,
    /// Sealed to another KEM key: the client fetches the identity document again.
    #[error("envelope is for another key")]
    WrongKey,
    /// Does not open: altered, or sealed for another session, profile, device, attempt or environment.
    #[error("envelope does not open")]
    Open,
    /// The KEM public key is unusable, or sealing failed.
    #[error("envelope cannot be sealed")]
    Seal,
    /// The operating system gave no randomness.
    #[error("randomness is unavailable")]
    Randomness,
}

/// Seals `plaintext` to the appliance. Returns the envelope and what opens its answer.
///
/// # Errors
/// [`EnvelopeError::Seal`] for an unusable key or key id.
pub fn seal_request(
    key: &KemPublicKey,
    info: &EnvelopeInfo,
    plaintext: &[u8],
) -> Result<(String, ResponseOpener), EnvelopeError> {
    let context = info.request_info();
    // The crate panics without randomness of the operating system; that is an error like any other here.
    let (encapped, context): (_, SealingContext) =
        std::panic::catch_unwind(|| hpke::setup_sender(&OpModeS::Base, &key.0, &context))
            .map_err(|_| EnvelopeError::Randomness)?
            .map_err(|_| EnvelopeError::Seal)?;
    seal_with(&encapped.to_bytes(), context, info, plaintext)
}

fn seal_with(
    encapped: &[u8],
    mut context: SealingContext,
    info: &EnvelopeInfo,
    plaintext: &[u8],
) -> Result<(String, ResponseOpener), EnvelopeError> {
    if !is_kid(&info.kem_kid) {
        return Err(EnvelopeError::Seal);
    }
    let mut sealed = encapped.to_vec();
    sealed.extend(
        context
            .seal(plaintext, &[])
            .map_err(|_| EnvelopeError::Seal)?,
    );
    let mut key = Zeroizing::new([0; 32]);
    context
        .export(EXPORT_RESPONSE, key.as_mut_slice())
        .map_err(|_| EnvelopeError::Seal)?;
    let envelope = info.prefix() + &URL_SAFE_NO_PAD.encode(sealed);
    Ok((envelope, ResponseOpener::new(key, info)))
}

/// Opens a request that must belong to `info`. Returns the plaintext and what seals its answer.
///
/// # Errors
/// [`EnvelopeError`], by what does not fit.
pub fn open_request(
    key: &KemSecretKey,
    info: &EnvelopeInfo,
    envelope: &str,
) -> Result<(Zeroizing<Vec<u8>>, ResponseSealer), EnvelopeError> {
    let sealed = payload(info, envelope)?;
    let (encapped, ciphertext) = sealed
        .split_at_checked(ENCAPPED)
        .ok_or(EnvelopeError::Malformed)?;
    let encapped = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapped)
        .map_err(|_| EnvelopeError::Malformed)?;
    let mut context = hpke::setup_receiver::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &key.0,
        &encapped,
        &info.request_info(),
    )
    .map_err(|_| EnvelopeError::Open)?;
    let plaintext = Zeroizing::new(
        context
            .open(ciphertext, &[])
            .map_err(|_| EnvelopeError::Open)?,
    );
    let mut response = Zeroizing::new([0; 32]);
    context
        .export(EXPORT_RESPONSE, response.as_mut_slice())
        .map_err(|_| EnvelopeError::Open)?;
    Ok((plaintext, ResponseSealer::new(response, info)))
}

/// The KEM key id an envelope names, if its head is well-formed. Says nothing about authenticity.
#[must_use]
pub fn kid_of(envelope: &str) -> Option<&str> {
    parse(envelope).ok().map(|parts| parts.kid)
}

struct Parts<'a> {
    message_type: &'a str,
    kid: &'a str,
    payload: &'a str,
}

fn parse(envelope: &str) -> Result<Parts<'_>, EnvelopeError> {
    let Some(rest) = envelope.strip_prefix("mw1.") else {
        return Err(not_ours(envelope));
    };
    if envelope.len() > MAX_LENGTH {
        return Err(EnvelopeError::TooLarge);
    }
    let mut parts = rest.split('.');
    let (Some(message_type), Some(kid), Some(payload), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(EnvelopeError::Malformed);
    };
    if is_kid(kid) {
        Ok(Parts {
            message_type,
            kid,
            payload,
        })
    } else {
        Err(EnvelopeError::Malformed)
    }
}

fn not_ours(text: &str) -> EnvelopeError {
    let version = text
        .strip_prefix("mw")
        .and_then(|rest| rest.split_once('.'))
        .map(|(version, _)| version);
    if version.is_some_and(|version| {
        !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit())
    }) {
        EnvelopeError::UnsupportedVersion
    } else if bare_secret::is_secret(text) {
        EnvelopeError::BareSecret
    } else {
        EnvelopeError::Malformed
    }
}

/// The decoded payload of an envelope whose head is the one `info` prescribes.
fn payload(info: &EnvelopeInfo, envelope: &str) -> Result<Vec<u8>, EnvelopeError> {
    let parts = parse(envelope)?;
    if parts.message_type != info.message_type.as_str() {
        return Err(EnvelopeError::WrongType);
    }
    if parts.kid != info.kem_kid {
        return Err(EnvelopeError::WrongKey);
    }
    URL_SAFE_NO_PAD
        .decode(parts.payload)
        .map_err(|_| EnvelopeError::Malformed)
}

fn is_kid(kid: &str) -> bool {
    (1..=64).contains(&kid.len())
        && kid
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

#[cfg(test)]
mod tests;
