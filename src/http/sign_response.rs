//! Signs every answer, of every status (RFC 9421, `protocol.md` 4): the gateway cannot make one, nor alter one, nor pass
//! one off as the answer to another request.
//!
//! The outermost layer: what the routes answer, what is answered without them, and what is answered for a handler that
//! panicked. Covered are the status, the body and the request's signature. No other header of an answer is: wallets take
//! none of them for more than a hint (`Retry-After` is waited for a few seconds at most).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use axum::response::{IntoResponse, Response};
use countersign_mpc::identity::RESPONSE_KEY_HEADER;
use countersign_mpc::response_proof;
use tower::ServiceExt;

use super::error::ApiError;
use crate::clock;
use crate::custody::ResponseKeys;
use crate::service::Error;

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
const SIGNATURE_INPUT: HeaderName = HeaderName::from_static("signature-input");
const SIGNATURE: HeaderName = HeaderName::from_static("signature");
const RESPONSE_KEY: HeaderName = HeaderName::from_static(RESPONSE_KEY_HEADER);

/// Longer than any answer of ours.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// The routes of a listener, and what signs their answers.
#[derive(Clone)]
pub struct App {
    router: Router,
    keys: Option<Arc<ResponseKeys>>,
}

impl App {
    /// Routes whose answers are signed.
    #[must_use]
    pub const fn signed(router: Router, keys: Arc<ResponseKeys>) -> Self {
        Self {
            router,
            keys: Some(keys),
        }
    }

    /// The answer to `request`, or `refusal` in its place, signed.
    pub(super) fn answer(
        &self,
        request: Request<Body>,
        refusal: Option<ApiError>,
    ) -> impl Future<Output = Response> + use<> {
        let bound = request_signature(request.headers());
        let keys = self.keys.clone();
        let routed = match refusal {
            None => Ok(self.router.clone().oneshot(request)),
            Some(refusal) => Err(refusal),
        };
        async move {
            let response = match routed {
                Ok(routed) => unless_it_panics(async { routed.await.into_response() }).await,
                Err(refusal) => refusal.into_response(),
            };
            match keys {
                Some(keys) => signed(&keys, bound.as_deref(), response).await,
                None => response,
            }
        }
    }
}

/// Routes whose answers nobody signs: for tests of the listener alone.
#[cfg(test)]
impl From<Router> for App {
    fn from(router: Router) -> Self {
        Self { router, keys: None }
    }
}

/// What of a request its answer is bound to, if there is one such header and it is well-formed.
fn request_signature(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(SIGNATURE).iter();
    let value = values.next()?.to_str().ok()?;
    match values.next() {
        None => response_proof::request_signature(value).map(str::to_owned),
        Some(_) => None,
    }
}

/// The answer of a handler, or a 500 in place of a panic: a connection that breaks tells a wallet less.
async fn unless_it_panics(handler: impl Future<Output = Response>) -> Response {
    let mut handler = pin!(handler);
    std::future::poll_fn(|context| {
        let poll = || handler.as_mut().poll(context);
        // The handler is not polled again; what it shares with others survives panics (poisoned locks are entered).
        catch_unwind(AssertUnwindSafe(poll)).unwrap_or_else(|_| {
            tracing::error!("a request handler panicked");
            std::task::Poll::Ready(ApiError::from(Error::Internal).into_response())
        })
    })
    .await
}

async fn signed(keys: &ResponseKeys, request: Option<&str>, response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let Ok(body) = to_bytes(body, MAX_ANSWER).await else {
        // Bodies are made in memory; none fails or is this long.
        tracing::error!("an answer could not be read and is not signed");
        return ApiError::from(Error::Internal).into_response();
    };
    let key = keys.current();
    let digest = response_proof::content_digest(&body);
    let parameters =
        response_proof::parameters(request.is_some(), clock::now().as_seconds(), key.kid());
    let status = parts.status.as_u16();
    let base = response_proof::signature_base(status, &digest, request, &parameters);
    if let Some(raw) = key.sign(base.as_bytes()) {
        let (input, signature) = response_proof::headers(&parameters, raw.as_ref());
        insert(&mut parts.headers, CONTENT_DIGEST, &digest);
        insert(&mut parts.headers, SIGNATURE_INPUT, &input);
        insert(&mut parts.headers, SIGNATURE, &signature);
        insert(&mut parts.headers, RESPONSE_KEY, key.chain());
    } else {
        tracing::error!("the system has no random numbers: an answer is not signed");
    }
    parts.headers.remove(header::TRANSFER_ENCODING);
    Response::from_parts(parts, Body::from(body))
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // All of them are plain text of ours.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::unless_it_panics;

    #[tokio::test]
    async fn a_handler_that_panics_is_answered_for() {
        let answer = unless_it_panics(async {
            tokio::task::yield_now().await;
            assert_eq!(1 + 1, 3, "a defect");
            axum::response::Response::default()
        });
        assert_eq!(answer.await.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
