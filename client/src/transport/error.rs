//! What can go wrong between a request and its answer.

use std::{path::PathBuf, time::Duration};

use thiserror::Error;

use super::AnswerError;
use crate::api::Retry;

/// The exchange did not take place or gave no usable answer. Whether the server acted on it is unknown.
#[derive(Debug, Error)]
pub enum TransportError {
    /// A certificate or key file is not usable.
    #[error("cannot use {path}: {message}")]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The TLS configuration was refused.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// The HTTP client could not be built.
    #[error("cannot set up the HTTP client")]
    Setup(#[source] reqwest::Error),
    /// The body could not be encoded.
    #[error("cannot encode the request")]
    Encode(#[source] serde_json::Error),
    /// The path is not one.
    #[error("not a request path")]
    Path,
    /// There is no token of the gateway.
    #[error("cannot get the gateway's token: {message}")]
    Token {
        /// Why.
        message: String,
    },
    /// The device key could not sign the request.
    #[error("cannot sign the request")]
    Sign,
    /// No connection: refused, unknown host, or the TLS handshake failed.
    #[error("cannot connect to the appliance")]
    Connect(#[source] reqwest::Error),
    /// The connection broke or timed out after the request may have left.
    #[error("the connection broke before the answer arrived")]
    Interrupted(#[source] reqwest::Error),
    /// Somebody else answered, or altered the answer.
    #[error(
        "an answer came that is not the appliance's: what stands between this device and the appliance, such as the gateway, \
         answers in its name or alters answers. Nothing of it was believed"
    )]
    Unbelievable(#[source] AnswerError),
    /// The answer is longer than any honest one.
    #[error("the answer is too long")]
    TooLarge,
    /// The answer is not the JSON that was expected.
    #[error("unexpected answer with status {status}")]
    NotJson {
        /// HTTP status.
        status: u16,
    },
}

/// The appliance answered with an error.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message} ({code}{})", details.as_ref().map(|details| format!(": {details}")).unwrap_or_default())]
pub struct ServerError {
    /// HTTP status.
    pub status: u16,
    /// Stable code such as `POLICY_DENIED`.
    pub code: String,
    /// A sentence for people.
    pub message: String,
    /// More, where it helps.
    pub details: Option<String>,
    /// What may be done.
    pub retry: Retry,
    /// `Retry-After`.
    pub retry_after: Option<Duration>,
}

/// A failed call.
#[derive(Debug, Error)]
pub enum CallError {
    /// No usable answer.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// An error answer.
    #[error(transparent)]
    Server(ServerError),
}

impl ServerError {
    /// Whether it must be the answer to the request as it was sent. A refusal that is given before the owner is known also
    /// comes, genuinely signed, when somebody altered the request on its way and left its signature.
    #[must_use]
    pub fn is_of_this_request(&self) -> bool {
        !matches!(self.status, 400 | 401 | 404 | 405 | 413) && self.code != "FORBIDDEN_ROLE"
    }
}

impl TransportError {
    pub(super) fn from_exchange(error: reqwest::Error) -> Self {
        // The URL is the configured one and adds nothing.
        let error = error.without_url();
        if error.is_connect() {
            Self::Connect(error)
        } else {
            Self::Interrupted(error)
        }
    }
}

impl CallError {
    /// Whether sending the identical request again is right.
    pub(super) fn same_again(&self) -> bool {
        match self {
            Self::Transport(
                TransportError::Connect(_)
                | TransportError::Interrupted(_)
                | TransportError::Unbelievable(_),
            ) => true,
            Self::Transport(_) => false,
            Self::Server(error) => error.retry == Retry::Same,
        }
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Server(error) => error.retry_after,
            Self::Transport(_) => None,
        }
    }

    /// The server's code, if it answered.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Server(error) => Some(&error.code),
            Self::Transport(_) => None,
        }
    }
}
