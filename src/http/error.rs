//! Errors as clients see them: a stable code, a safe sentence, and what to do (`protocol.md` 2.9).

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

pub use self::code::{Code, Retry};
use super::instance::name_instance;
use crate::domain::InstanceTag;
use crate::identity::owner::OwnerError;
use crate::limits::Exceeded;
use crate::service::Error;

mod code;

/// Every error.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Error)]
pub(super) struct Body {
    error: Code,
    /// A sentence that is safe to show.
    message: String,
    /// More, for developers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    details: Option<String>,
    /// The HTTP status.
    status_code: u16,
    retry: Retry,
}

/// An error on its way to the client.
pub struct ApiError {
    status: StatusCode,
    code: Code,
    message: String,
    details: Option<String>,
    retry: Retry,
    /// The instance that can answer.
    instance: Option<InstanceTag>,
    /// Seconds.
    retry_after: Option<u64>,
}

impl ApiError {
    fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            status: code.status(),
            code,
            message: message.into(),
            details: None,
            retry: code.retries().first().copied().unwrap_or(Retry::Never),
            instance: None,
            retry_after: None,
        }
    }

    const fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    fn details(mut self, details: impl Into<String>) -> Self {
        self.details = Some(details.into());
        self
    }

    fn instance(mut self, tag: InstanceTag) -> Self {
        self.instance = Some(tag);
        self
    }

    /// 400: the request is not well formed.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, message)
    }

    /// 413: the body is longer than the route takes.
    #[must_use]
    pub fn too_large(limit: usize) -> Self {
        Self::new(
            Code::PayloadTooLarge,
            format!("The body is longer than {limit} bytes"),
        )
    }

    /// 401: the request did not come through TLS with a client certificate.
    #[must_use]
    pub fn no_certificate() -> Self {
        Self::new(Code::Unauthenticated, "A client certificate is required")
    }

    /// 403: the client certificate is valid but has no business here.
    #[must_use]
    pub fn forbidden_role() -> Self {
        Self::new(
            Code::ForbiddenRole,
            "This client certificate has no access here",
        )
    }

    /// 429: the client sends too many requests; says when there is room for the next one.
    #[must_use]
    pub fn too_many_requests(wait: Duration) -> Self {
        let whole = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Self {
            retry_after: Some(whole.max(1)),
            ..Self::new(
                Code::RateLimitExceeded,
                "Too many requests with this client certificate",
            )
        }
    }

    /// 429: a profile or an owner makes too many requests of a kind.
    fn rate_exceeded(exceeded: Exceeded, message: String) -> Self {
        let Exceeded { rate, retry_after } = exceeded;
        let (class, requests, seconds) = (rate.class.as_str(), rate.requests, rate.seconds);
        Self {
            retry_after: Some(u64::from(retry_after)),
            ..Self::new(Code::RateLimitExceeded, message)
                .details(format!("{class}: {requests} per {seconds}s"))
        }
    }

    /// 503: the client has too many requests in progress.
    #[must_use]
    pub fn overloaded() -> Self {
        Error::Overloaded.into()
    }

    /// 404: no such route.
    #[must_use]
    pub fn no_route() -> Self {
        Self::new(Code::RouteNotFound, "No such resource")
    }

    /// 405: no such method.
    #[must_use]
    pub fn no_method() -> Self {
        Self {
            status: StatusCode::METHOD_NOT_ALLOWED,
            ..Self::new(
                Code::InvalidRequest,
                "This resource does not take this method",
            )
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Body {
            error: self.code,
            message: self.message,
            details: self.details,
            status_code: self.status.as_u16(),
            retry: self.retry,
        };
        let mut response = (self.status, Json(body)).into_response();
        let busy = self.status == StatusCode::SERVICE_UNAVAILABLE
            || (self.status == StatusCode::CONFLICT && matches!(self.retry, Retry::Same));
        if let Some(seconds) = self.retry_after.or(busy.then_some(1)) {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(tag) = self.instance {
            name_instance(response.headers_mut(), &tag);
        }
        response
    }
}

impl From<OwnerError> for ApiError {
    fn from(error: OwnerError) -> Self {
        match error {
            OwnerError::Unsigned => Self::new(
                Code::Unauthenticated,
                "The request is not signed by a device key",
            ),
            OwnerError::Store(error) => Error::from(error).into(),
            OwnerError::Replayed => Error::SignatureReplayed.into(),
            OwnerError::TooMany => Error::Overloaded.into(),
            OwnerError::Token(error) => {
                tracing::info!(?error, "a gateway token was refused");
                Self::new(
                    Code::Unauthenticated,
                    "The gateway's token is missing or does not hold",
                )
            }
            OwnerError::OtherSubject => Error::ProfileNotFound.into(),
            OwnerError::PendingDevice { active_at } => Self::new(
                Code::DevicePending,
                "This device was enrolled lately and may not act yet",
            )
            .details(format!("From {}", active_at.as_seconds())),
            OwnerError::WrongAudience
            | OwnerError::Proof(_)
            | OwnerError::UnknownDevice
            | OwnerError::RevokedDevice => {
                tracing::info!(?error, "an owner proof was refused");
                Error::SignatureInvalid.into()
            }
        }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let message = sentence(&error.to_string());
        match error {
            Error::InvalidRequest(_) => Self::invalid(message),
            Error::InvalidKeyShare(_) => Self::new(Code::InvalidKeyShare, message),
            Error::UnsupportedVersion => Self::new(Code::UnsupportedProtocolVersion, message),
            Error::SignatureInvalid => Self::new(Code::SignatureInvalid, message),
            Error::SignatureReplayed => Self::new(Code::SignatureReplayed, message),
            Error::ProfileNotFound => Self::new(Code::ProfileNotFound, message),
            Error::SessionNotFound | Error::DeviceNotFound | Error::EnrolmentNotFound => {
                Self::new(Code::NotFound, message)
            }
            Error::TwoFactorRequired(_)
            | Error::TwoFactorInvalid
            | Error::TwoFactorLocked(_)
            | Error::TwoFactorNotEnrolled => two_factor_error(&error, message),
            Error::DeviceConflict(_) => Self::new(Code::DeviceConflict, message),
            Error::ProfileFrozen(_) => Self::new(Code::ProfileFrozen, message),
            Error::CommandRefused(_) => Self::new(Code::CommandRefused, message),
            Error::KeyQuarantined => Self::new(Code::KeyQuarantined, message),
            Error::KeyRefreshRequired => Self::new(Code::KeyRefreshRequired, message),
            Error::RateLimited(exceeded) => Self::rate_exceeded(exceeded, message),
            Error::LimitReached(reached) => {
                Self::new(Code::PolicyDenied, message).details(format!("limit: {}", reached.name))
            }
            Error::PolicyDenied => Self::new(Code::PolicyDenied, message),
            Error::ChainNotAllowed(_) => Self::new(Code::ChainNotAllowed, message),
            Error::PolicyChanged => Self::new(Code::PolicyChanged, message),
            Error::StateConflict { again, .. } => {
                let retry = if again { Retry::Same } else { Retry::Restart };
                Self::new(Code::SessionStateConflict, message).retry(retry)
            }
            Error::Contradiction => Self::new(Code::SessionStateConflict, message),
            Error::NoMoreAttempts => {
                Self::new(Code::SessionStateConflict, message).retry(Retry::Never)
            }
            // The same request reaches its instance when it is routed by `MPC-Session` or `MPC-Instance`.
            Error::Elsewhere(owner) => Self::new(Code::SessionStateConflict, message)
                .details(format!("Instance {}", owner.tag()))
                .instance(owner.tag())
                .retry(Retry::Same),
            Error::SessionLost => Self::new(Code::SessionLost, message),
            Error::SessionExpired => Self::new(Code::SessionExpired, message),
            Error::GenerationMismatch => Self::new(Code::KeyGenerationMismatch, message),
            Error::IdempotencyMismatch => Self::new(Code::IdempotencyMismatch, message),
            Error::MpcFailed(_) => {
                Self::new(Code::MpcSigningFailed, "MPC signing failed").details(message)
            }
            unavailable => unavailable_error(&unavailable),
        }
    }
}

fn two_factor_error(error: &Error, message: String) -> ApiError {
    match error {
        Error::TwoFactorLocked(seconds) => ApiError {
            retry_after: Some(u64::from(*seconds)),
            ..ApiError::new(Code::TwoFactorLocked, message)
        },
        Error::TwoFactorRequired(Some(profile)) => ApiError::new(Code::TwoFactorRequired, message)
            .details(format!("Through profile {profile}, with its code")),
        Error::TwoFactorNotEnrolled => ApiError::new(Code::TwoFactorNotEnrolled, message),
        Error::TwoFactorInvalid => ApiError::new(Code::TwoFactorInvalid, message),
        _ => ApiError::new(Code::TwoFactorRequired, message),
    }
}

/// 5xx bodies are constant: why it happened is in our log, once, with its cause.
fn unavailable_error(error: &Error) -> ApiError {
    match error {
        Error::StoreUnavailable(error) => error.log("a request could not be served"),
        _ => tracing::error!(?error, "a request could not be served"),
    }
    let (code, message) = match error {
        Error::DuoNodeUnavailable
        | Error::LeaseLapsed
        | Error::ShareNotSealed
        | Error::Internal => (Code::DuoNodeUnavailable, "Duo Node service unavailable"),
        Error::ChainUnavailable => (
            Code::ChainUnavailable,
            "The node of this chain is unavailable",
        ),
        Error::Overloaded => (Code::Overloaded, "Too many operations are waiting"),
        _ => (Code::StoreUnavailable, "The database is unavailable"),
    };
    let retry = match error {
        Error::ShareNotSealed => Retry::Restart,
        _ => Retry::Same,
    };
    ApiError::new(code, message).retry(retry)
}

/// With a capital letter.
fn sentence(text: &str) -> String {
    let mut rest = text.chars();
    rest.next()
        .map(|first| first.to_uppercase().chain(rest).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_session_of_another_instance_is_a_409_that_names_it() {
        let owner = crate::domain::InstanceId::generate();
        let response = ApiError::from(Error::Elsewhere(owner)).into_response();
        assert_eq!(response.status(), StatusCode::CONFLICT);
        assert_eq!(
            response.headers().get("mpc-instance").unwrap(),
            owner.tag().as_str()
        );
        assert!(response.headers().contains_key(header::RETRY_AFTER));
    }

    #[test]
    fn a_full_queue_is_a_503_and_the_same_request_may_be_sent_again() {
        let error = ApiError::from(Error::Overloaded);
        assert_eq!(error.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(error.code, Code::Overloaded);
        assert!(matches!(error.retry, Retry::Same));
    }
}
