//! Which instance answered, for gateways that route a session to the one that holds its state.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

use crate::domain::InstanceTag;

/// Names the instance that answered, or the one that can.
const HEADER: HeaderName = HeaderName::from_static("mpc-instance");

/// Middleware for a whole router: names this instance in every answer that does not name another one.
pub async fn sign(State(tag): State<InstanceTag>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if !response.headers().contains_key(HEADER) {
        name_instance(response.headers_mut(), &tag);
    }
    response
}

pub(super) fn name_instance(headers: &mut HeaderMap, tag: &InstanceTag) {
    if let Ok(value) = HeaderValue::from_str(tag.as_str()) {
        headers.insert(HEADER, value);
    }
}
