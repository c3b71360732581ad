//! `POST /api/v1/profiles/{id}/devices/{keyId}/revoke`.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::ToSchema;

use super::Device;
use crate::domain::{DeviceKeyId, ProfileId};
use crate::http::code::SecretCode;
use crate::http::error::{ApiError, Code};
use crate::http::extract::{Owned, PathIds};
use crate::http::openapi::{header, text};
use crate::http::routes::SMALL;
use crate::limits::Meter;
use crate::service::Error;
use crate::service::devices::{Change, Devices};

/// The request: an empty object, or a code.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = RevokeDevice)]
pub(crate) struct Request {
    /// Needed when the owner has a second factor.
    #[schema(value_type = Option<text::TwoFactorCode>)]
    two_factor_code: Option<SecretCode>,
}

/// Revokes a device, for good, and gives up what it had begun.
///
/// Signed by any device that may act, also the one that is revoked; the last one that may act stays. From the answer on,
/// the device's signature is refused everywhere. When a wallet of the owner has a second factor, it takes a code, or a recovery
/// code, of the one that has had it longest, and the request goes through that wallet. Body limit: 32 KiB.
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
        Code::IdempotencyMismatch, Code::TwoFactorRequired, Code::TwoFactorInvalid, Code::TwoFactorLocked,
        Code::DuoNodeUnavailable,
    ]))),
)]
pub(crate) async fn handle(
    State(service): State<Arc<Devices>>,
    Extension(meter): Extension<Meter>,
    PathIds([id, key_id]): PathIds<2>,
    mut owned: Owned<Request, SMALL>,
) -> Result<Json<Device>, ApiError> {
    let change = Change {
        profile_id: ProfileId::parse(&id).map_err(|_| Error::ProfileNotFound)?,
        idempotency_key: owned.required_key()?,
        body_hash: owned.body_hash,
        code: SecretCode::read(owned.value.two_factor_code.take())?,
        meter,
    };
    // What is no key id is the id of no device.
    let device = DeviceKeyId::parse(&key_id).ok();
    let revoked = service
        .revoke(owned.owner, owned.proof, change, device)
        .await?;
    Ok(Json(revoked.into()))
}
