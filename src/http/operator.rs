//! The operator listener: liveness, readiness and metrics.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Map, Value, json};
use tracing::error;

use crate::http::error::ApiError;
use crate::http::observe::observe;
use crate::http::tls::Peer;
use crate::identity::certificate::Role;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::{Readiness, State as CheckState};

/// Routes of the role `metrics`; it sees nothing else, whatever is added to this listener.
const MONITORING: &[&str] = &["/healthz", "/readyz", "/metrics"];

/// The routes of the operator listener.
pub fn router(metrics: Arc<Metrics>, readiness: Readiness) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz).with_state(readiness))
        .route("/metrics", get(scrape).with_state(metrics.clone()))
        .fallback(not_found)
        .layer(middleware::from_fn(monitoring_only))
        .layer(middleware::from_fn_with_state(metrics, observe))
}

async fn monitoring_only(Peer(identity): Peer, request: Request, next: Next) -> Response {
    let allowed = identity.role() != Role::Metrics || MONITORING.contains(&request.uri().path());
    if allowed {
        return next.run(request).await;
    }
    ApiError::forbidden_role().into_response()
}

/// The process runs and answers; says nothing about its dependencies.
async fn healthz() -> &'static str {
    "ok\n"
}

/// 200 when the appliance can do its work, else 503; the body names every check either way.
async fn readyz(State(readiness): State<Readiness>) -> Response {
    let ready = readiness.is_ready();
    let checks: Map<String, Value> = readiness
        .states()
        .into_iter()
        .map(|(check, state)| {
            let mut value = json!({ "status": state.as_str(), "required": check.is_required() });
            if let (CheckState::Failed(reason), Some(fields)) = (state, value.as_object_mut()) {
                fields.insert("reason".to_owned(), reason.into());
            }
            (check.to_string(), value)
        })
        .collect();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(json!({ "ready": ready, "checks": checks }))).into_response()
}

async fn scrape(State(metrics): State<Arc<Metrics>>) -> Response {
    match metrics.encode() {
        Ok(text) => (
            [(
                header::CONTENT_TYPE,
                "text/plain; version=0.0.4; charset=utf-8",
            )],
            text,
        )
            .into_response(),
        Err(cause) => {
            error!(%cause, "cannot encode metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn not_found() -> ApiError {
    ApiError::no_route()
}
