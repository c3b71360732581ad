//! Errors as clients see them: a stable code, a safe sentence, and what to do (`protocol.md` 2.9).

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::instance::name_instance;
use crate::domain::InstanceTag;
use crate::identity::owner::OwnerError;
use crate::service::Error;

/// What a program should do about an error.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum Retry {
    /// Send the same request again.
    Same,
    /// Start the flow again.
    Restart,
    /// Change something first.
    Never,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    error: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<String>,
    status_code: u16,
    retry: Retry,
}

/// An error on its way to the client.
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    details: Option<String>,
    retry: Retry,
    /// The instance that can answer.
    instance: Option<InstanceTag>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            details: None,
            retry: Retry::Never,
            instance: None,
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
        Self::new(StatusCode::BAD_REQUEST, "INVALID_REQUEST", message)
    }

    /// 413: the body is longer than the route takes.
    #[must_use]
    pub fn too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "PAYLOAD_TOO_LARGE",
            format!("The body is longer than {limit} bytes"),
        )
    }

    /// 401: the request did not come through TLS with a client certificate.
    #[must_use]
    pub fn no_certificate() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "UNAUTHENTICATED",
            "A client certificate is required",
        )
    }

    /// 403: the client certificate is valid but has no business here.
    #[must_use]
    pub fn forbidden_role() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "FORBIDDEN_ROLE",
            "This client certificate has no access here",
        )
    }

    /// 404: no such route.
    #[must_use]
    pub fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", "No such resource")
    }

    /// 405: no such method.
    #[must_use]
    pub fn no_method() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "INVALID_REQUEST",
            "This resource does not take this method",
        )
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
        if busy {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
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
                StatusCode::UNAUTHORIZED,
                "UNAUTHENTICATED",
                "The request is not signed by a device key",
            ),
            OwnerError::Store(error) => Error::from(error).into(),
            OwnerError::WrongAudience | OwnerError::Proof(_) | OwnerError::UnknownDevice => {
                tracing::info!(?error, "an owner proof was refused");
                Self::new(
                    StatusCode::UNAUTHORIZED,
                    "SIGNATURE_INVALID",
                    "The device signature does not hold for this request",
                )
            }
        }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        use StatusCode as S;
        let message = sentence(&error.to_string());
        match error {
            Error::InvalidRequest(_) => Self::invalid(message),
            Error::InvalidKeyShare(_) => Self::new(S::BAD_REQUEST, "INVALID_KEY_SHARE", message),
            Error::UnsupportedVersion => {
                Self::new(S::BAD_REQUEST, "UNSUPPORTED_PROTOCOL_VERSION", message)
            }
            Error::ProfileNotFound => Self::new(S::NOT_FOUND, "PROFILE_NOT_FOUND", message),
            Error::SessionNotFound => Self::new(S::NOT_FOUND, "NOT_FOUND", message),
            Error::KeyQuarantined => Self::new(S::FORBIDDEN, "KEY_QUARANTINED", message),
            Error::KeyRefreshRequired => Self::new(S::CONFLICT, "KEY_REFRESH_REQUIRED", message),
            Error::PolicyDenied => Self::new(S::FORBIDDEN, "POLICY_DENIED", message),
            Error::ChainNotAllowed(_) => Self::new(S::FORBIDDEN, "CHAIN_NOT_ALLOWED", message),
            Error::PolicyChanged => {
                Self::new(S::CONFLICT, "POLICY_CHANGED", message).retry(Retry::Restart)
            }
            Error::StateConflict { again, .. } => {
                let retry = if again { Retry::Same } else { Retry::Restart };
                Self::new(S::CONFLICT, "SESSION_STATE_CONFLICT", message).retry(retry)
            }
            // The same request reaches its instance when it is routed by `MPC-Session` or `MPC-Instance`.
            Error::Elsewhere(owner) => Self::new(S::CONFLICT, "SESSION_STATE_CONFLICT", message)
                .details(format!("Instance {}", owner.tag()))
                .instance(owner.tag())
                .retry(Retry::Same),
            Error::SessionLost => {
                Self::new(S::CONFLICT, "SESSION_LOST", message).retry(Retry::Restart)
            }
            Error::SessionExpired => {
                Self::new(S::GONE, "SESSION_EXPIRED", message).retry(Retry::Restart)
            }
            Error::GenerationMismatch => Self::new(S::CONFLICT, "KEY_GENERATION_MISMATCH", message),
            Error::IdempotencyMismatch => {
                Self::new(S::UNPROCESSABLE_ENTITY, "IDEMPOTENCY_MISMATCH", message)
            }
            Error::MpcFailed(_) => Self::new(
                S::INTERNAL_SERVER_ERROR,
                "MPC_SIGNING_FAILED",
                "MPC signing failed",
            )
            .details(message)
            .retry(Retry::Restart),
            unavailable => unavailable_error(&unavailable),
        }
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
        | Error::Internal => ("DUO_NODE_UNAVAILABLE", "Duo Node service unavailable"),
        Error::ChainUnavailable => ("CHAIN_UNAVAILABLE", "The node of this chain is unavailable"),
        Error::Overloaded => ("OVERLOADED", "Too many operations are waiting"),
        _ => ("STORE_UNAVAILABLE", "The database is unavailable"),
    };
    let retry = match error {
        Error::ShareNotSealed => Retry::Restart,
        _ => Retry::Same,
    };
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, message).retry(retry)
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
        assert_eq!(error.code, "OVERLOADED");
        assert!(matches!(error.retry, Retry::Same));
    }
}
