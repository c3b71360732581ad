//! The operator listener: liveness, readiness and metrics.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{FromRef, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Map, Value, json};
use tracing::error;
use utoipa_axum::router::OpenApiRouter;

use crate::http::error::ApiError;
use crate::http::observe::observe;
use crate::http::tls::Peer;
use crate::identity::certificate::Role;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::{Readiness, State as CheckState};

/// Routes of the role `metrics`; it sees nothing else, whatever is added to this listener.
const MONITORING: &[&str] = &["/healthz", "/readyz", "/metrics"];

/// What the routes of the operator listener show.
#[derive(Clone)]
pub(super) struct Shown {
    metrics: Arc<Metrics>,
    readiness: Readiness,
}

/// Every route, with its description.
pub(super) fn described() -> OpenApiRouter<Shown> {
    OpenApiRouter::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
}

/// The routes of the operator listener.
pub fn router(metrics: Arc<Metrics>, readiness: Readiness) -> Router {
    Router::from(described())
        .fallback(not_found)
        .layer(middleware::from_fn(monitoring_only))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&metrics),
            observe,
        ))
        .with_state(Shown { metrics, readiness })
}

impl FromRef<Shown> for Arc<Metrics> {
    fn from_ref(shown: &Shown) -> Self {
        Arc::clone(&shown.metrics)
    }
}

impl FromRef<Shown> for Readiness {
    fn from_ref(shown: &Shown) -> Self {
        shown.readiness.clone()
    }
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
