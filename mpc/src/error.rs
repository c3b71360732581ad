//! What can go wrong in a protocol step, sorted by what the caller must do about it.
//!
//! Nothing here carries message content or secrets, so every value may be logged.

use thiserror::Error;

/// Outcome of a failed protocol step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MpcError {
    /// The message was rejected before the engine worked on it: no key material was involved, nothing is suspect.
    #[error("message refused: {0}")]
    Refused(Refusal),
    /// The step failed and left no reusable state in danger. A new attempt starts from the first message.
    #[error("protocol step failed: {reason}")]
    Recoverable {
        /// What failed.
        reason: RecoverableReason,
        /// Whether this counts as a suspect event (protocol.md 2.4): three per generation quarantine the key.
        suspect: bool,
    },
    /// The counterparty failed a check on long-lived oblivious-transfer state. It must be excluded durably, before
    /// any other effect, from all further sessions with these shares (A01).
    #[error("counterparty banned: {reason}")]
    Ban {
        /// Which check failed.
        reason: BanReason,
    },
    /// The engine panicked. Counts as a suspect event; the session is over (A03).
    #[error("engine panicked")]
    Panicked,
}

impl MpcError {
    /// Whether this outcome counts as a suspect event of the key generation. A ban is no event but a verdict.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        matches!(
            self,
            Self::Recoverable { suspect: true, .. } | Self::Panicked
        )
    }

    /// Whether the counterparty must be excluded for good.
    #[must_use]
    pub fn is_ban(&self) -> bool {
        matches!(self, Self::Ban { .. })
    }

    /// A recoverable failure with the `suspect` flag its reason implies.
    pub(crate) fn recoverable(reason: RecoverableReason) -> Self {
        Self::Recoverable {
            reason,
            suspect: reason.is_suspect(),
        }
    }
}

impl From<Refusal> for MpcError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Why a message was rejected before the engine saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Longer than any honest message of its type.
    #[error("message is too large")]
    TooLarge,
    /// Another protocol version (A38). Clients see `UNSUPPORTED_PROTOCOL_VERSION`.
    #[error("protocol version is not supported")]
    UnsupportedVersion,
    /// A message of another round.
    #[error("message is of another type")]
    UnexpectedType,
    /// Sender or receiver index is wrong.
    #[error("message has the wrong sender or receiver")]
    Misrouted,
    /// Does not decode: truncated, a point off the curve, a scalar out of range.
    #[error("message does not decode")]
    Malformed,
    /// Decodes, but is not the one encoding of its content: trailing bytes, padded integers, uncompressed points.
    #[error("message is not canonical")]
    NotCanonical,
    /// A list has another length than the protocol prescribes.
    #[error("message has a list of wrong length")]
    WrongLength,
    /// A point that must not be the identity is.
    #[error("message contains an identity point")]
    IdentityPoint,
    /// The counterparty sent our own values back (A11).
    #[error("message mirrors our own values")]
    Mirrored,
    /// The caller's canary digest is not the one this canary was started with.
    #[error("canary digest does not belong to this session")]
    WrongCanary,
    /// A canary was to be signed through the transaction path, where P2 answers first with the signature (A15).
    #[error("purpose is not allowed here")]
    WrongPurpose,
}

/// Why a step failed without danger to reusable state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecoverableReason {
    /// The parties disagree about the session: other ids, nonces, digest, attempt or share generation.
    #[error("message belongs to another session")]
    SessionBindingMismatch,
    /// The engine's own routing checks refused the message.
    #[error("message routing")]
    Routing,
    /// Our own stored state is unusable; the counterparty is not at fault.
    #[error("local state is unusable")]
    LocalState,
    /// A proof of knowledge does not verify or does not open its commitment.
    #[error("proof verification")]
    ProofVerification,
    /// An opening does not match its commitment.
    #[error("commitment mismatch")]
    CommitmentMismatch,
    /// The public shares do not add up to the public key.
    #[error("public shares are inconsistent")]
    PolynomialInconsistency,
    /// The nonce point is the identity.
    #[error("trivial instance point")]
    TrivialInstancePoint,
    /// The key or a share would be trivial.
    #[error("trivial key")]
    TrivialKey,
    /// Key generation: the base oblivious transfers failed. They are fresh, so nothing reusable is in danger.
    #[error("oblivious transfer setup")]
    OtSetup,
    /// Key generation: zero-share seed does not match its commitment.
    #[error("zero share opening")]
    ZeroShare,
    /// Key generation: chain code does not match its commitment, or the joint chain code is zero.
    #[error("chain code")]
    ChainCode,
    /// The assembled signature does not verify.
    #[error("signature verification")]
    SignatureVerification,
    /// The counterparty's last message cancels ours.
    #[error("zero denominator")]
    ZeroDenominator,
    /// The operating system gave no randomness.
    #[error("randomness is unavailable")]
    Randomness,
    /// Our own message could not be encoded.
    #[error("message encoding")]
    Encoding,
    /// Any other abort of the engine.
    #[error("engine abort")]
    Other,
}

impl RecoverableReason {
    /// The `suspect` column of protocol.md 2.4. A zero denominator is one of the failed *final* signatures of A13.
    fn is_suspect(self) -> bool {
        matches!(
            self,
            Self::SignatureVerification
                | Self::ZeroDenominator
                | Self::CommitmentMismatch
                | Self::PolynomialInconsistency
                | Self::TrivialInstancePoint
        )
    }
}

/// Which check on long-lived state the counterparty failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BanReason {
    /// The multiplication or its oblivious-transfer extension is inconsistent.
    #[error("multiplication check")]
    Multiplication,
    /// The check of the nonce product failed.
    #[error("nonce consistency check")]
    NonceConsistency,
    /// The check of the key product failed.
    #[error("key consistency check")]
    KeyConsistency,
    /// The engine demands a ban for a reason this version does not know.
    #[error("unknown check")]
    Other,
}
