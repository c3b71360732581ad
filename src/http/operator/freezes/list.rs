//! `GET /freezes`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::Freeze;
use crate::domain::{ProfileId, Target};
use crate::http::error::ApiError;
use crate::http::openapi::text;
use crate::service::freeze::Freezing;

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Freezes)]
pub(in crate::http::operator) struct Response {
    /// What a command must name.
    #[schema(min_length = 64, max_length = 64, pattern = "^[0-9a-f]{64}$")]
    environment_id: String,
    /// All of tenants and of everything, then the five hundred of profiles that were placed last.
    freezes: Vec<Freeze>,
}

/// Lists the freezes that stand.
#[utoipa::path(
    get,
    path = "/freezes",
    operation_id = "listFreezes",
    tag = "operators",
    security(("clientCertificate" = [])),
    params(("profile" = inline(Option<text::ProfileId>), Query, description = "Those of this profile only.")),
    responses((status = 200, description = "The freezes.", body = Response)),
    extensions(("x-errors" = json!([
        crate::http::error::Code::InvalidRequest, crate::http::error::Code::StoreUnavailable,
    ]))),
)]
pub(in crate::http::operator) async fn handle(
    State(service): State<Arc<Freezing>>,
    RawQuery(query): RawQuery,
) -> Result<Json<Response>, ApiError> {
    let target = wanted(query.as_deref().unwrap_or_default())?;
    let standing = service.standing(target.as_ref()).await?;
    Ok(Json(Response {
        environment_id: service.environment().to_string(),
        freezes: standing.into_iter().map(Freeze::from).collect(),
    }))
}

fn wanted(query: &str) -> Result<Option<Target>, ApiError> {
    if query.is_empty() {
        return Ok(None);
    }
    let id = query.strip_prefix("profile=").map(ProfileId::parse);
    match id {
        Some(Ok(id)) => Ok(Some(Target::Profile(id))),
        _ => Err(ApiError::invalid(
            "The query must be profile=ID, or nothing",
        )),
    }
}
