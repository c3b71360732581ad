//! JSON-RPC over HTTP for alloy's client, for nodes that may be slow, broken or hostile.
//!
//! alloy's own HTTP transport puts the URL into its spans and reads bodies of any size; this one does neither. It follows
//! no redirect, asks no proxy from the environment, and gives up at a deadline and at a body size.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use alloy_json_rpc::{RequestPacket, ResponsePacket};
use alloy_transport::{TransportError, TransportErrorKind, TransportFut};
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::redirect::Policy;
use tower::Service;
use url::Url;

use super::NodeError;

/// The URL of a node. It often carries an access token, so it is a secret: no Debug, Display or Serialize.
///
/// It is not wiped from memory: the HTTP client holds copies that nobody can reach.
pub struct NodeUrl(Url);

impl NodeUrl {
    /// Reads an `http` or `https` URL.
    ///
    /// # Errors
    /// Any other text. The error does not repeat it.
    pub fn parse(text: &str) -> Result<Self, InvalidNodeUrl> {
        match Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(Self(url)),
            _ => Err(InvalidNodeUrl),
        }
    }
}

/// A text that is no URL of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the URL of a node must begin with http:// or https:// and name a host")]
pub struct InvalidNodeUrl;

/// An HTTP client that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The process has not chosen its TLS implementation.
    #[error("no default TLS crypto provider is installed")]
    NoCryptoProvider,
    /// The client refuses its settings or finds no root certificates.
    #[error("set up the client")]
    Client(#[source] reqwest::Error),
}

/// HTTP POST with limits, as a transport for alloy's `RpcClient`.
#[derive(Clone)]
pub(super) struct BoundedHttp {
    client: reqwest::Client,
    url: Arc<NodeUrl>,
    max_body: usize,
}

impl BoundedHttp {
    /// A transport that gives each request `deadline`, from connecting to the last byte, and reads at most `max_body`
    /// bytes of an answer.
    pub(super) fn new(
        url: NodeUrl,
        deadline: Duration,
        max_body: usize,
    ) -> Result<Self, ClientError> {
        // reqwest panics without one.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err(ClientError::NoCryptoProvider);
        }
        let client = reqwest::Client::builder()
            .connect_timeout(deadline)
            .timeout(deadline)
            .redirect(Policy::none())
            .no_proxy()
            .referer(false)
            .build()
            .map_err(ClientError::Client)?;
        Ok(Self {
            client,
            url: Arc::new(url),
            max_body,
        })
    }

    async fn post(self, request: RequestPacket) -> Result<ResponsePacket, NodeError> {
        let body = request.serialize().map_err(|_| NodeError::Malformed)?;
        let response = self
            .client
            .post(self.url.0.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(body.get().to_owned())
            .send()
            .await
            .map_err(|error| failure(&error))?;
        let status = response.status();
        if status.is_redirection() {
            return Err(NodeError::Redirected);
        }
        // What a gateway says in front of the node is not the node's word, JSON or not.
        if matches!(status.as_u16(), 429 | 502..=504) {
            return Err(NodeError::Status(status.as_u16()));
        }
        let body = self.body(response).await?;
        serde_json::from_slice(&body).map_err(|_| {
            if status.is_success() {
                NodeError::Malformed
            } else {
                NodeError::Status(status.as_u16())
            }
        })
    }

    async fn body(&self, mut response: reqwest::Response) -> Result<Vec<u8>, NodeError> {
        let limit = self.max_body;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| failure(&error))? {
            if body.len().saturating_add(chunk.len()) > limit {
                return Err(NodeError::TooLarge { limit });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// The class of an HTTP error; the error itself shows the URL.
fn failure(error: &reqwest::Error) -> NodeError {
    if error.is_timeout() {
        NodeError::Timeout
    } else {
        NodeError::Unreachable
    }
}

impl Service<RequestPacket> for BoundedHttp {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: RequestPacket) -> Self::Future {
        let answer = self.clone().post(request);
        Box::pin(async { answer.await.map_err(TransportErrorKind::custom) })
    }
}

impl fmt::Debug for BoundedHttp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundedHttp").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static_assertions::assert_not_impl_any!(NodeUrl: fmt::Debug, fmt::Display, serde::Serialize, Clone);

    #[test]
    fn a_node_is_reached_by_http_only() {
        for good in ["http://127.0.0.1:8545", "https://node.example/v3/token"] {
            assert!(NodeUrl::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "node.example",
            "ws://node.example",
            "file:///etc/passwd",
            "data:,x",
            "https://",
        ] {
            assert!(NodeUrl::parse(bad).is_err(), "{bad}");
        }
    }
}
