//! The closed list of error codes. A new one is added here, and nowhere else.

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a program should do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Retry {
    /// Send the same request again.
    Same,
    /// Start the flow again.
    Restart,
    /// Change something first.
    Never,
}

use Retry::{Never, Restart, Same};

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident => $status:ident, $retries:expr;)+) => {
        /// What went wrong, for programs. The list is closed and a name never changes its meaning.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
        )]
        #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
        #[schema(as = ErrorCode)]
        pub enum Code { $($(#[doc = $doc])+ $variant),+ }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The HTTP status that goes with it.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status),+ }
            }

            /// What a program should do about it: the usual answer first.
            #[must_use]
            pub const fn retries(self) -> &'static [Retry] {
                match self { $(Self::$variant => &$retries),+ }
            }

            /// What it means.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+)),+ }
            }
        }
    };
}

codes! {
    /// The request is not well formed.
    InvalidRequest => BAD_REQUEST, [Never];
    /// A key share field holds something else than a sealed message of this round.
    InvalidKeyShare => BAD_REQUEST, [Never];
    /// The sealed message is of another protocol version.
    UnsupportedProtocolVersion => BAD_REQUEST, [Never];
    /// There is no client certificate, no device signature, or no good token where a gateway's token is asked for.
    Unauthenticated => UNAUTHORIZED, [Never];
    /// The device signature does not hold for this request.
    SignatureInvalid => UNAUTHORIZED, [Never];
    /// The very same signed request was here before: signed anew, it gets its answer.
    SignatureReplayed => UNAUTHORIZED, [Same];
    /// A code of the second factor is needed: the same request with `twoFactorCode`. Nothing was used up.
    TwoFactorRequired => UNAUTHORIZED, [Never];
    /// The code is wrong, of another time, or was used before: the same request with another one.
    TwoFactorInvalid => UNAUTHORIZED, [Never];
    /// This needs a second factor, and the wallet has none.
    TwoFactorNotEnrolled => FORBIDDEN, [Never];
    /// The device was enrolled lately and may not act yet.
    DevicePending => FORBIDDEN, [Never];
    /// The client certificate is valid but has no access here.
    ForbiddenRole => FORBIDDEN, [Never];
    /// A freeze of its owner or of the operators stops the profile.
    ProfileFrozen => FORBIDDEN, [Never];
    /// The key signs nothing until its owner and two operators release it.
    KeyQuarantined => FORBIDDEN, [Never];
    /// A command of operators is not carried out: it is too old, was carried out before, or too few have signed it.
    CommandRefused => FORBIDDEN, [Never];
    /// Policy does not allow this.
    PolicyDenied => FORBIDDEN, [Never];
    /// This chain is not served.
    ChainNotAllowed => FORBIDDEN, [Never];
    /// The profile does not exist, or belongs to somebody else.
    ProfileNotFound => NOT_FOUND, [Never];
    /// There is no such route. Said before anything of the request is believed, so it says nothing of a session.
    RouteNotFound => NOT_FOUND, [Never];
    /// The resource does not exist, or belongs to somebody else.
    NotFound => NOT_FOUND, [Never];
    /// The owner's devices do not allow it: too many, known already, or the last one.
    DeviceConflict => CONFLICT, [Never];
    /// The session or profile is in another state.
    SessionStateConflict => CONFLICT, [Restart, Same, Never];
    /// The state of the session in memory is gone.
    SessionLost => CONFLICT, [Restart];
    /// The wallet holds another generation of the key.
    KeyGenerationMismatch => CONFLICT, [Never];
    /// The key must be rotated before it signs again.
    KeyRefreshRequired => CONFLICT, [Never];
    /// The policy changed since the decision.
    PolicyChanged => CONFLICT, [Restart];
    /// The session or its decision is too old.
    SessionExpired => GONE, [Restart];
    /// The body is longer than the route takes.
    PayloadTooLarge => PAYLOAD_TOO_LARGE, [Never];
    /// The `Idempotency-Key` was used for another request.
    IdempotencyMismatch => UNPROCESSABLE_ENTITY, [Never];
    /// Too many requests in a short time.
    RateLimitExceeded => TOO_MANY_REQUESTS, [Same];
    /// Too many codes were wrong: for a while none is looked at, right or wrong.
    TwoFactorLocked => TOO_MANY_REQUESTS, [Same];
    /// A protocol round failed.
    MpcSigningFailed => INTERNAL_SERVER_ERROR, [Restart];
    /// The HSM or the signing engine cannot be reached.
    DuoNodeUnavailable => SERVICE_UNAVAILABLE, [Same, Restart];
    /// The node of this chain cannot be reached.
    ChainUnavailable => SERVICE_UNAVAILABLE, [Same];
    /// The database cannot be reached.
    StoreUnavailable => SERVICE_UNAVAILABLE, [Same];
    /// Too many operations are waiting.
    Overloaded => SERVICE_UNAVAILABLE, [Same];
}
