//! `POST /api/v1/profiles/{id}/devices`: an enrolled device vouches for a new one.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_mpc::owner_proof::PublicKey;
use serde::Deserialize;
use utoipa::ToSchema;

use super::Device;
use crate::domain::{DeviceName, ProfileId};
use crate::http::code::SecretCode;
use crate::http::error::{ApiError, Code};
use crate::http::extract::{Owned, PathId};
use crate::http::openapi::{header, text};
use crate::http::routes::SMALL;
use crate::limits::Meter;
use crate::service::Error;
use crate::service::devices::{Change, Devices, Presented};

/// The request: a new device and its own statement.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = EnrolDevice)]
pub(crate) struct Request {
    /// The new device's public key.
    #[schema(schema_with = text::public_key)]
    public_key: serde_json::Value,
    /// What its owner calls it: no control characters, no surrounding space.
    #[schema(min_length = 1, max_length = 64)]
    name: String,
    proof: Proof,
    /// Needed when the owner has a second factor.
    #[schema(value_type = Option<text::TwoFactorCode>)]
    two_factor_code: Option<SecretCode>,
}

/// The new device's signature over its statement (`mpc/README.md`).
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = EnrolmentProof)]
struct Proof {
    /// 16 bytes, base64url, fresh.
    #[schema(
        min_length = 22,
        max_length = 22,
        pattern = "^[A-Za-z0-9_-]{21}[AQgw]$"
    )]
    nonce: String,
    /// Seconds since the Unix epoch; at most a day ahead.
    #[schema(minimum = 0)]
    expires: i64,
    /// 64 bytes, base64url.
    #[schema(
        min_length = 86,
        max_length = 86,
        pattern = "^[A-Za-z0-9_-]{85}[AQgw]$"
    )]
    signature: String,
}

/// Enrols a device, which speaks for the owner once its cooling-off is over.
///
/// Signed by a device that is enrolled already. Any enrolled device can revoke the new one, also before it may act.
/// A key that was enrolled once, here or for somebody else, is not enrolled again. When a wallet of the owner has a second
/// factor, it takes a code of the one that has had it longest, and the request goes through that wallet. Body limit: 32 KiB.
#[utoipa::path(
    post,
    path = "/api/v1/profiles/{id}/devices",
    operation_id = "enrolDevice",
    tag = "wallet",
    security(("clientCertificate" = [], "deviceSignature" = [])),
    params(
        ("id" = text::ProfileId, Path, description = "The profile."),
        header::IdempotencyKey,
    ),
    request_body = Request,
    responses((status = 201, description = "The device.", body = Device)),
    extensions(("x-errors" = json!([
        Code::ProfileNotFound, Code::DeviceConflict, Code::SessionStateConflict, Code::IdempotencyMismatch,
        Code::TwoFactorRequired, Code::TwoFactorInvalid, Code::TwoFactorNotEnrolled, Code::TwoFactorLocked,
        Code::DuoNodeUnavailable,
    ]))),
)]
pub(crate) async fn handle(
    State(service): State<Arc<Devices>>,
    Extension(meter): Extension<Meter>,
    PathId(id): PathId,
    mut owned: Owned<Request, SMALL>,
) -> Result<(StatusCode, Json<Device>), ApiError> {
    let change = Change {
        profile_id: ProfileId::parse(&id).map_err(|_| Error::ProfileNotFound)?,
        idempotency_key: owned.required_key()?,
        body_hash: owned.body_hash,
        code: SecretCode::read(owned.value.two_factor_code.take())?,
        meter,
    };
    let presented = presented(&owned.value)?;
    let enrolled = service
        .enrol(owned.owner, owned.proof, change, presented)
        .await?;
    Ok((StatusCode::CREATED, Json(enrolled.into())))
}

fn presented(request: &Request) -> Result<Presented, ApiError> {
    let name = DeviceName::parse(&request.name).ok_or_else(|| {
        ApiError::invalid("name must be 1 to 64 characters without control characters")
    })?;
    let public_key = PublicKey::parse(&request.public_key)
        .map_err(|error| ApiError::invalid(format!("publicKey: {error}")))?;
    Ok(Presented {
        public_key,
        name,
        nonce: bytes("proof.nonce", &request.proof.nonce)?,
        expires: request.proof.expires,
        signature: bytes("proof.signature", &request.proof.signature)?,
    })
}

fn bytes<const N: usize>(field: &str, text: &str) -> Result<[u8; N], ApiError> {
    URL_SAFE_NO_PAD
        .decode(text)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| ApiError::invalid(format!("{field} must be {N} bytes in base64url")))
}
