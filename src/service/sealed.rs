//! Opening a wallet's sealed message: before any state changes.

use std::sync::Arc;

use countersign_mpc::envelope::{EnvelopeError, EnvelopeInfo, MessageType};
use zeroize::Zeroizing;

use super::Error;
use crate::custody::{KemRing, Message};
use crate::domain::{DeviceKeyId, Generation, SessionKind, TenantId};
use crate::identity::owner::Owner;
use crate::store::sessions::SessionRow;
use crate::store::{AuditEvent, AuditOutcome, AuditRecord, CommitError, Key, Operation, Store, Tx};

/// The text of a sealed message. It may hold anything a client put there, a bare secret among it,
/// so it is wiped and never printed.
pub struct SealedText(pub Zeroizing<String>);

impl<'de> serde::Deserialize<'de> for SealedText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// What a message must be bound to.
pub struct Binding<'a> {
    /// Its type.
    pub message_type: MessageType,
    /// The tenant.
    pub tenant: &'a TenantId,
    /// The device that signed the request.
    pub device: &'a DeviceKeyId,
    /// The profile, or the idempotency key of the first message.
    pub profile: String,
    /// The session, or the idempotency key of the first message.
    pub session: String,
    /// The generation.
    pub generation: Generation,
    /// The attempt.
    pub attempt: u32,
}

/// Opens messages.
pub struct Opener {
    /// The keys.
    pub kem: Arc<KemRing>,
    /// Where a bare secret is recorded.
    pub store: Store,
}

impl Opener {
    /// Opens a message.
    ///
    /// # Errors
    /// [`Error::InvalidKeyShare`] or [`Error::UnsupportedVersion`].
    pub async fn open(&self, binding: Binding<'_>, text: &SealedText) -> Result<Message, Error> {
        let info = EnvelopeInfo {
            environment_id: self.store.environment_id().0,
            tenant: binding.tenant.to_string(),
            message_type: binding.message_type,
            kem_kid: String::new(),
            device_thumbprint: binding.device.to_string(),
            profile_id: binding.profile,
            session_id: binding.session,
            key_generation: binding.generation.0,
            attempt: binding.attempt,
        };
        let mut opened = self.kem.open_message(info.clone(), &text.0);
        // Another instance may have made the key that the wallet was given.
        if matches!(opened, Err(EnvelopeError::WrongKey)) && self.kem.look_again().await {
            opened = self.kem.open_message(info, &text.0);
        }
        match opened {
            Ok(message) => Ok(message),
            Err(EnvelopeError::BareSecret) => {
                let device = binding.device.to_string();
                self.store.commit(SecretSent { device }).await?.into_inner();
                Err(Error::InvalidKeyShare(
                    "A bare secret was sent. Never send a key share: send the sealed message",
                ))
            }
            Err(EnvelopeError::UnsupportedVersion) => Err(Error::UnsupportedVersion),
            Err(EnvelopeError::WrongType) => Err(Error::StateConflict {
                message: "the message is for another round",
                again: false,
            }),
            Err(EnvelopeError::WrongKey) => Err(Error::InvalidKeyShare(
                "The message is sealed to an unknown key: fetch the identity document again",
            )),
            Err(_) => Err(Error::InvalidKeyShare(
                "The message does not open: it was altered or belongs to another session",
            )),
        }
    }
}

/// Records that a client sent a secret. The secret itself is nowhere in it.
struct SecretSent {
    device: String,
}

impl Operation for SecretSent {
    type Output = ();
    type Refusal = std::convert::Infallible;

    fn key(&self) -> Key {
        Key::NONE
    }

    async fn apply(
        &mut self,
        _tx: &mut Tx<'_>,
    ) -> Result<((), AuditRecord), CommitError<Self::Refusal>> {
        let record = AuditRecord::done(AuditEvent::ClientSentSecret)
            .outcome(AuditOutcome::Denied)
            .detail(format!("device {}", self.device));
        Ok(((), record))
    }
}

/// The round a message says it is for, from its text: its type, and the step of a session of this kind.
#[must_use]
pub fn round_of(kind: SessionKind, text: &SealedText) -> Option<(MessageType, u8)> {
    match (kind, text.0.split('.').nth(1)?) {
        (SessionKind::Sign, "sg1") => Some((MessageType::Sign1, 1)),
        (SessionKind::Sign, "sg2") => Some((MessageType::Sign2, 2)),
        (SessionKind::Keygen, "kg2") => Some((MessageType::Keygen2, 2)),
        (SessionKind::Keygen, "kg3") => Some((MessageType::Keygen3, 3)),
        _ => None,
    }
}

/// The binding of a message inside a session.
#[must_use]
pub fn in_session<'a>(
    message_type: MessageType,
    owner: &'a Owner,
    session: &SessionRow,
) -> Binding<'a> {
    Binding {
        message_type,
        tenant: owner.tenant(),
        device: owner.device_key_id(),
        profile: session.profile_id.to_string(),
        session: session.session_id.to_string(),
        generation: session.generation,
        attempt: session.attempt,
    }
}
