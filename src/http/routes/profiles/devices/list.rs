//! `GET /api/v1/profiles/{id}/devices`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Device;
use crate::domain::ProfileId;
use crate::http::error::{ApiError, Code};
use crate::http::extract::{OwnedQuery, PathId};
use crate::http::openapi::text;
use crate::service::Error;
use crate::service::devices::Devices;

#[derive(Serialize, ToSchema)]
#[schema(as = Devices)]
pub(crate) struct Response {
    /// Those that may act now or soon, in the order in which they were enrolled, then the hundred that were revoked last.
    devices: Vec<Device>,
}

/// Lists the devices that speak for the owner of a profile, or did.
#[utoipa::path(
    get,
    path = "/api/v1/profiles/{id}/devices",
    operation_id = "listDevices",
    tag = "wallet",
    security(("clientCertificate" = [], "deviceSignature" = [])),
    params(("id" = text::ProfileId, Path, description = "The profile.")),
    responses((status = 200, description = "The devices.", body = Response)),
    extensions(("x-errors" = json!([Code::ProfileNotFound]))),
)]
pub(crate) async fn handle(
    State(service): State<Arc<Devices>>,
    PathId(id): PathId,
    OwnedQuery(owner): OwnedQuery,
) -> Result<Json<Response>, ApiError> {
    let id = ProfileId::parse(&id).map_err(|_| Error::ProfileNotFound)?;
    let devices = service.list(&owner, id).await?;
    Ok(Json(Response {
        devices: devices.into_iter().map(Device::from).collect(),
    }))
}
