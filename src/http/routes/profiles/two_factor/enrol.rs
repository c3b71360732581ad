//! `POST /api/v1/profiles/{id}/2fa`: a new second factor.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::ProfileId;
use crate::http::code::SecretCode;
use crate::http::error::{ApiError, Code};
use crate::http::extract::{Owned, PathId};
use crate::http::openapi::{header, text};
use crate::http::routes::SMALL;
use crate::limits::Meter;
use crate::service::Error;
use crate::service::sealed::SealedText;
use crate::service::two_factor::{Asked, TwoFactor};

/// The request.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = EnrolTwoFactor)]
pub(crate) struct Request {
    client_share: Sealed,
    /// Needed when the wallet has a second factor: it is replaced only with a code of the one before.
    #[schema(value_type = Option<text::TwoFactorCode>)]
    two_factor_code: Option<SecretCode>,
}

/// The message to which the secret is the answer.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = TwoFactorMessage)]
struct Sealed {
    /// An empty message of type `tf1`, sealed for this profile and this `Idempotency-Key`, generation 0, attempt 1.
    #[schema(value_type = text::SealedRequest)]
    share: SealedText,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TwoFactorBegun)]
pub(crate) struct Response {
    #[schema(value_type = text::EnrolmentId)]
    enrolment_id: String,
    #[schema(value_type = text::EnrolmentStatus)]
    status: &'static str,
    /// JSON in it: `otpauth`, the URI for the authenticator, and `recoveryCodes`, ten of them. It is told once.
    #[schema(value_type = text::SealedAnswer)]
    sealed: String,
    /// Until when the first code may come.
    #[schema(value_type = text::Time)]
    expires_at: String,
}

/// Begins the enrolment of a second factor, in place of one that waits for its first code.
///
/// The secret is told to the wallet alone. It counts once its first code has come (`…/2fa/activate`, within an hour) and its
/// cooling-off is over. Body limit: 32 KiB.
#[utoipa::path(
    post,
    path = "/api/v1/profiles/{id}/2fa",
    operation_id = "enrolTwoFactor",
    tag = "wallet",
    security(("clientCertificate" = [], "deviceSignature" = [])),
    params(
        ("id" = text::ProfileId, Path, description = "The profile."),
        header::IdempotencyKey,
    ),
    request_body = Request,
    responses((status = 201, description = "The enrolment.", body = Response)),
    extensions(("x-errors" = json!([
        Code::InvalidKeyShare, Code::UnsupportedProtocolVersion, Code::ProfileFrozen, Code::ProfileNotFound, Code::SessionStateConflict,
        Code::IdempotencyMismatch, Code::TwoFactorRequired, Code::TwoFactorInvalid, Code::TwoFactorLocked,
        Code::DuoNodeUnavailable,
    ]))),
)]
pub(crate) async fn handle(
    State(service): State<Arc<TwoFactor>>,
    Extension(meter): Extension<Meter>,
    PathId(id): PathId,
    owned: Owned<Request, SMALL>,
) -> Result<(StatusCode, Json<Response>), ApiError> {
    let idempotency_key = owned.required_key()?;
    let Owned {
        owner,
        proof,
        value,
        body_hash,
        ..
    } = owned;
    let asked = Asked {
        profile_id: ProfileId::parse(&id).map_err(|_| Error::ProfileNotFound)?,
        idempotency_key,
        body_hash,
        message: value.client_share.share,
        code: SecretCode::read(value.two_factor_code)?,
        meter,
    };
    let begun = service.enrol(owner, proof, asked).await?;
    let response = Response {
        enrolment_id: begun.enrolment_id.to_string(),
        status: text::PENDING,
        sealed: begun.sealed,
        expires_at: begun.expires_at.to_rfc3339(),
    };
    Ok((StatusCode::CREATED, Json(response)))
}
