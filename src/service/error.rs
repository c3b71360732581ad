//! What a use case may answer instead of a result. Every variant is a stable code for clients.

use crate::domain::{FreezeScope, InstanceId, ProfileId};
use crate::gate::NotPermitted;
use crate::gate::rates::NotCounted;
use crate::gate::spends::NotReserved;
use crate::identity::replay::NotSpent;
use crate::limits::Exceeded;
use crate::limits::spend::Reached;
use crate::sessions::Refusal;
use crate::store::{CommitError, StoreError};

/// Why a use case did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is not well formed; says what to change.
    #[error("{0}")]
    InvalidRequest(String),
    /// A key share field holds something else than a sealed message of this round.
    #[error("{0}")]
    InvalidKeyShare(&'static str),
    /// A sealed message of another protocol version.
    #[error("this protocol version is not supported")]
    UnsupportedVersion,
    /// The device signature does not hold, or its device may not act any more.
    #[error("the device signature does not hold for this request")]
    SignatureInvalid,
    /// The very same signed request came before.
    #[error("this signed request was here before: sign it anew")]
    SignatureReplayed,
    /// The profile does not exist, or belongs to somebody else.
    #[error("no such profile")]
    ProfileNotFound,
    /// The device does not exist, or belongs to somebody else.
    #[error("no such device")]
    DeviceNotFound,
    /// The devices of the owner do not allow it.
    #[error("{0}")]
    DeviceConflict(&'static str),
    /// The enrolment does not exist, is another wallet's, or is past its time.
    #[error("no such enrolment")]
    EnrolmentNotFound,
    /// A second factor is needed, and none came; of another wallet of the owner, if one is named.
    #[error("a code of the second factor is needed")]
    TwoFactorRequired(Option<ProfileId>),
    /// The second factor is wrong, of another time, or was used before.
    #[error("the code of the second factor does not hold")]
    TwoFactorInvalid,
    /// There were too many wrong ones; seconds to wait.
    #[error("too many codes of the second factor were wrong")]
    TwoFactorLocked(u32),
    /// The wallet has no second factor.
    #[error("this needs a second factor, and the wallet has none")]
    TwoFactorNotEnrolled,
    /// The session does not exist, or belongs to somebody else.
    #[error("no such session")]
    SessionNotFound,
    /// The profile is frozen, by its owner or by operators; the client does not learn by whom.
    #[error("the profile is frozen: nothing is signed until the freeze is lifted")]
    ProfileFrozen(FreezeScope),
    /// The key signs nothing any more.
    #[error("the key is quarantined: its owner and two operators must release it")]
    KeyQuarantined,
    /// The key signs nothing until it is rotated.
    #[error("the key must be rotated before it signs again")]
    KeyRefreshRequired,
    /// Too many requests of this kind were made lately.
    #[error("too many {}", .0.rate.class.requests())]
    RateLimited(Exceeded),
    /// What operators commanded is not carried out; says why.
    #[error("{0}")]
    CommandRefused(String),
    /// Policy said no.
    #[error("policy does not allow this")]
    PolicyDenied,
    /// A spending limit said no.
    #[error("a spending limit does not allow this")]
    LimitReached(Reached),
    /// The chain is not one of ours.
    #[error("chain {0} is not served by this appliance")]
    ChainNotAllowed(u64),
    /// The policy changed since the decision.
    #[error("the policy changed: prepare the transaction again")]
    PolicyChanged,
    /// The session or the profile is in another state.
    #[error("{message}")]
    StateConflict {
        /// What to do.
        message: &'static str,
        /// Whether the same request may succeed later.
        again: bool,
    },
    /// The wallet sent another message for a step that was done, or is being done.
    #[error(
        "another message was sent for this step before: the session is given up, start it again"
    )]
    Contradiction,
    /// The session has had its last attempt.
    #[error("the session has had its last attempt: prepare the transaction again")]
    NoMoreAttempts,
    /// The session's state is in the memory of another instance, which lives.
    #[error("another instance holds this session")]
    Elsewhere(InstanceId),
    /// The session's state in memory is gone.
    #[error("the session was lost: start it again")]
    SessionLost,
    /// The session or its decision is too old.
    #[error("the session has expired: start it again")]
    SessionExpired,
    /// The wallet has another generation of the key.
    #[error("the wallet holds another generation of the key")]
    GenerationMismatch,
    /// The idempotency key was used for another request.
    #[error("this Idempotency-Key was used for another request")]
    IdempotencyMismatch,
    /// A protocol round failed.
    #[error("Round {0} failed")]
    MpcFailed(u8),
    /// The HSM or the engine cannot be reached.
    #[error("the signing engine is unavailable")]
    DuoNodeUnavailable,
    /// The lease of this instance has lapsed: it must not begin a check.
    #[error("the lease of this instance has lapsed: the database does not take its renewals")]
    LeaseLapsed,
    /// The HSM was away when a new share was to be sealed; what was kept for it is used up.
    #[error("the Duo Node was unavailable: start the key generation again")]
    ShareNotSealed,
    /// The chain's node cannot be reached or cannot be believed.
    #[error("the node of this chain is unavailable")]
    ChainUnavailable,
    /// The database cannot be reached.
    #[error("the database is unavailable")]
    StoreUnavailable(#[source] StoreError),
    /// Too much is waiting.
    #[error("too many operations are waiting")]
    Overloaded,
    /// A task of ours died.
    #[error("an internal task failed")]
    Internal,
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Overloaded => Self::Overloaded,
            other => Self::StoreUnavailable(other),
        }
    }
}

impl<R: Into<Self>> From<CommitError<R>> for Error {
    fn from(error: CommitError<R>) -> Self {
        match error {
            CommitError::Refused(refusal) => refusal.into(),
            CommitError::Store(error) => error.into(),
        }
    }
}

impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

impl From<NotCounted> for Error {
    fn from(reason: NotCounted) -> Self {
        match reason {
            NotCounted::Exceeded(exceeded) => Self::RateLimited(exceeded),
            NotCounted::Store(error) => error.into(),
        }
    }
}

impl From<NotCounted> for CommitError<Error> {
    fn from(reason: NotCounted) -> Self {
        match reason {
            NotCounted::Exceeded(exceeded) => Self::Refused(Error::RateLimited(exceeded)),
            NotCounted::Store(error) => Self::Store(error),
        }
    }
}

impl From<NotPermitted> for CommitError<Error> {
    /// A store that fails is not a refusal: it is told to who watches over its health, and tried once more.
    fn from(reason: NotPermitted) -> Self {
        match reason {
            NotPermitted::Store(error) => Self::Store(error),
            reason => Self::Refused(reason.into()),
        }
    }
}

impl From<Reached> for Error {
    fn from(reached: Reached) -> Self {
        Self::LimitReached(reached)
    }
}

impl From<NotReserved> for Error {
    fn from(reason: NotReserved) -> Self {
        match reason {
            NotReserved::Reached(reached) => reached.into(),
            NotReserved::Store(error) => error.into(),
        }
    }
}

impl From<NotSpent> for Error {
    fn from(reason: NotSpent) -> Self {
        match reason {
            NotSpent::Replayed => Self::SignatureReplayed,
            NotSpent::Revoked => Self::SignatureInvalid,
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::WrongStep => Self::StateConflict {
                message: "the session waits for another round",
                again: false,
            },
            Refusal::Busy => Self::StateConflict {
                message: "another message of this key is being checked",
                again: true,
            },
            Refusal::Over => Self::StateConflict {
                message: "the session is over",
                again: false,
            },
            Refusal::Aborted => Self::StateConflict {
                message: "the session was given up: start it again",
                again: false,
            },
            Refusal::Contradiction => Self::Contradiction,
            Refusal::NoMoreAttempts => Self::NoMoreAttempts,
            Refusal::OtherGeneration => Self::GenerationMismatch,
            Refusal::Elsewhere(owner) => Self::Elsewhere(owner),
            Refusal::Lost => Self::SessionLost,
            Refusal::LeaseLapsed => Self::LeaseLapsed,
            Refusal::Expired => Self::SessionExpired,
            Refusal::Quarantined => Self::KeyQuarantined,
            Refusal::RefreshRequired => Self::KeyRefreshRequired,
        }
    }
}

impl From<NotPermitted> for Error {
    fn from(reason: NotPermitted) -> Self {
        match reason {
            NotPermitted::DecisionExpired => Self::SessionExpired,
            NotPermitted::PolicyChanged => Self::PolicyChanged,
            NotPermitted::NoDecision => Self::PolicyDenied,
            NotPermitted::Frozen(scope) => Self::ProfileFrozen(scope),
            NotPermitted::Store(error) => error.into(),
        }
    }
}
