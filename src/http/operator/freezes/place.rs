//! `POST /freezes`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{ACTORS, Freeze, SMALL};
use crate::domain::{FreezeScope, Reason, Target};
use crate::http::error::{ApiError, Code};
use crate::http::extract::OfOperator;
use crate::http::openapi::text;
use crate::service::freeze::Freezing;

/// What to stop.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = PlaceFreeze)]
pub(in crate::http::operator) struct Request {
    #[schema(value_type = text::FreezeScope)]
    scope: String,
    /// The profile's id or the tenant's name; absent for everything.
    #[schema(value_type = String, required = false, nullable = false)]
    subject: Option<String>,
    /// For those who read the audit trail: one line, no control characters, no surrounding space.
    #[schema(min_length = 1, max_length = 200)]
    reason: String,
}

/// Stops all signing for a profile, a tenant or everything: from the answer on, at every instance.
///
/// One operator is enough, and it is not shed under load. What was signed before is broadcast and settled. A freeze that an
/// operator has placed already is replaced: what was signed to lift that one lifts nothing any more. Body limit: 32 KiB.
#[utoipa::path(
    post,
    path = "/freezes",
    operation_id = "placeFreeze",
    tag = "operators",
    security(("clientCertificate" = [])),
    request_body = Request,
    responses((status = 200, description = "It is frozen.", body = Freeze)),
    extensions(
        ("x-roles" = json!(ACTORS)),
        ("x-errors" = json!([Code::ProfileNotFound, Code::StoreUnavailable])),
    ),
)]
pub(in crate::http::operator) async fn handle(
    State(service): State<Arc<Freezing>>,
    request: OfOperator<Request, SMALL>,
) -> Result<Json<Freeze>, ApiError> {
    let Request {
        scope,
        subject,
        reason,
    } = &request.value;
    let target = FreezeScope::parse(scope)
        .and_then(|scope| Target::of(scope, subject.as_deref().unwrap_or_default()));
    let target = target.ok_or_else(|| {
        ApiError::invalid(
            "scope must be profile, tenant or global, with a profile's id, a tenant's name or nothing as subject",
        )
    })?;
    let reason = Reason::parse(reason).ok_or_else(|| {
        ApiError::invalid("reason must be one line of 1 to 200 visible characters")
    })?;
    let who = request.client.san().to_string();
    let freeze = service.by_operator(who, target, &reason).await?;
    Ok(Json(freeze.into()))
}
