//! Counts and times every request, by route template.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use tokio::time::Instant;

use crate::telemetry::metrics::Metrics;

/// Middleware for a whole router: `Router::layer(middleware::from_fn_with_state(metrics, observe))`.
pub async fn observe(
    State(metrics): State<Arc<Metrics>>,
    path: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let response = next.run(request).await;
    let route = path.as_ref().map_or("unmatched", MatchedPath::as_str);
    metrics.http_request(route, response.status().as_u16(), started.elapsed());
    response
}
