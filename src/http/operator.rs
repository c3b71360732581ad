//! The operator listener: liveness, readiness, metrics, freezes, and the description of every route.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{FromRef, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tracing::error;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::http::error::ApiError;
use crate::http::observe::observe;
use crate::http::openapi;
use crate::http::quota;
use crate::http::tls::Peer;
use crate::identity::certificate::Role;
use crate::service::freeze::Freezing;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::{Readiness, State as CheckState};

mod freezes;

/// Routes of the role `metrics`; it sees nothing else, whatever is added to this listener.
const MONITORING: &[&str] = &["/healthz", "/readyz", "/metrics"];

/// The roles of [`MONITORING`].
const MONITORS: &[&str] = &["operator", "security-officer", "auditor", "metrics"];

/// The text format of Prometheus.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the routes of the operator listener show.
#[derive(Clone)]
pub(super) struct Shown {
    metrics: Arc<Metrics>,
    readiness: Readiness,
    freezing: Arc<Freezing>,
    description: Description,
}

/// The description of every route, as it is sent.
#[derive(Clone)]
struct Description(Arc<String>);

/// What `/readyz` says.
#[derive(Serialize, ToSchema)]
struct Ready {
    /// Whether every required check is ok.
    ready: bool,
    /// By name: `store`, `lease`, `clock`, `hsm`, and `chain:` with an EIP-155 id.
    checks: BTreeMap<String, ReadyCheck>,
}

/// One check.
#[derive(Serialize, ToSchema)]
struct ReadyCheck {
    /// `unknown`: it has not been looked at, or not for too long.
    #[schema(pattern = "^(ok|failed|unknown)$")]
    status: &'static str,
    /// Whether its failure makes the appliance unready.
    required: bool,
    /// Of a failed check: a sentence that is safe to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    reason: Option<String>,
}

/// Every route, with its description.
pub(super) fn described() -> OpenApiRouter<Shown> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(scrape))
        .routes(routes!(freezes::list::handle, freezes::place::handle))
        .routes(routes!(freezes::carry_out::handle))
        .routes(routes!(description))
}

/// The routes of the operator listener.
pub fn router(metrics: Arc<Metrics>, readiness: Readiness, freezing: Arc<Freezing>) -> Router {
    Router::from(described())
        .fallback(async || ApiError::no_route())
        .method_not_allowed_fallback(async || ApiError::no_method())
        .layer(middleware::from_fn(monitoring_only))
        .layer(middleware::from_fn(quota::admit))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&metrics),
            observe,
        ))
        .with_state(Shown {
            metrics,
            readiness,
            freezing,
            description: Description(Arc::new(openapi::document().to_string())),
        })
}

impl FromRef<Shown> for Description {
    fn from_ref(shown: &Shown) -> Self {
        shown.description.clone()
    }
}

impl FromRef<Shown> for Arc<Metrics> {
    fn from_ref(shown: &Shown) -> Self {
        Arc::clone(&shown.metrics)
    }
}

impl FromRef<Shown> for Arc<Freezing> {
    fn from_ref(shown: &Shown) -> Self {
        Arc::clone(&shown.freezing)
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

/// Says that the process runs and answers; nothing about its dependencies.
#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "healthz",
    tag = "operators",
    security(("clientCertificate" = [])),
    responses((status = 200, description = "It runs.", body = String, content_type = "text/plain; charset=utf-8")),
    extensions(("x-roles" = json!(MONITORS))),
)]
async fn healthz() -> &'static str {
    "ok\n"
}

/// Says whether the appliance can do its work, and names every check either way.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "readyz",
    tag = "operators",
    security(("clientCertificate" = [])),
    responses(
        (status = 200, description = "It can do its work.", body = Ready),
        (status = 503, description = "A required check has failed.", body = Ready),
    ),
    extensions(("x-roles" = json!(MONITORS))),
)]
async fn readyz(State(readiness): State<Readiness>) -> Response {
    let ready = readiness.is_ready();
    let checks = readiness
        .states()
        .into_iter()
        .map(|(check, state)| {
            let value = ReadyCheck {
                status: state.as_str(),
                required: check.is_required(),
                reason: match state {
                    CheckState::Failed(reason) => Some(reason),
                    CheckState::Ok | CheckState::Unknown => None,
                },
            };
            (check.to_string(), value)
        })
        .collect();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(Ready { ready, checks })).into_response()
}

/// Shows the metrics, in the text format of Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "metrics",
    tag = "operators",
    security(("clientCertificate" = [])),
    responses(
        (status = 200, description = "The metrics.", body = String, content_type = EXPOSITION),
        (status = 500, description = "They cannot be written down."),
    ),
    extensions(("x-roles" = json!(MONITORS))),
)]
async fn scrape(State(metrics): State<Arc<Metrics>>) -> Response {
    match metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, EXPOSITION)], text).into_response(),
        Err(cause) => {
            error!(%cause, "cannot encode metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Shows this description.
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "openapi",
    tag = "operators",
    security(("clientCertificate" = [])),
    responses((status = 200, description = "The description.", body = Object)),
)]
async fn description(State(description): State<Description>) -> Response {
    (
        [(header::CONTENT_TYPE, "application/json")],
        description.0.as_str().to_owned(),
    )
        .into_response()
}
