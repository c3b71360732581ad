//! `POST /api/v1/profiles/{id}/devices/{keyId}/revoke`.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::ToSchema;

use super::Device;
use crate::domain::{DeviceKeyId, ProfileId};
use crate::http::error::{ApiError, Code};
use crate::http::extract::{Owned, PathIds};
use crate::http::openapi::{header, text};
use crate::http::routes::SMALL;
use crate::limits::Meter;
use crate::service::Error;
use crate::service::devices::{Change, Devices};

/// The request: an empty object.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RevokeDevice)]
pub(crate) struct Request {}

/// Revokes a device, for good, and gives up what it had begun.
///
/// Signed by any device that may act, also the one that is revoked; the last one that may act stays. From the answer on,
/// the device's signature is refused everywhere. Body limit: 32 KiB.
#[utoipa::path(
    post,
    path = "/api/v1/profiles/{id}/devices/{keyId}/revoke",
    operation_id = "revokeDevice",
    tag = "wallet",
    security(("clientCertificate" = [], "deviceSignature" = [])),
    params(
        ("id" = text::ProfileId, Path, description = "The profile."),
        ("keyId" = text::DeviceKeyId, Path, description = "The device."),
        header::IdempotencyKey,
    ),
    request_body = Request,
    responses((status = 200, description = "The device.", body = Device)),
    extensions(("x-errors" = json!([
        Code::ProfileNotFound, Code::NotFound, Code::DeviceConflict, Code::SessionStateConflict,
        Code::IdempotencyMismatch,
    ]))),
)]
pub(crate) async fn handle(
    State(service): State<Arc<Devices>>,
    Extension(meter): Extension<Meter>,
    PathIds([id, key_id]): PathIds<2>,
    owned: Owned<Request, SMALL>,
) -> Result<Json<Device>, ApiError> {
    let change = Change {
        profile_id: ProfileId::parse(&id).map_err(|_| Error::ProfileNotFound)?,
        idempotency_key: owned.required_key()?,
        body_hash: owned.body_hash,
        meter,
    };
    // What is no key id is the id of no device.
    let device = DeviceKeyId::parse(&key_id).ok();
    let revoked = service
        .revoke(owned.owner, owned.proof, change, device)
        .await?;
    Ok(Json(revoked.into()))
}
