//! `POST /api/v1/profiles/{id}/2fa/activate`: the first code of a new second factor.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::ToSchema;

use super::Enrolment;
use crate::domain::{EnrolmentId, ProfileId};
use crate::http::code::SecretCode;
use crate::http::error::{ApiError, Code};
use crate::http::extract::{Owned, PathId};
use crate::http::openapi::text;
use crate::http::routes::SMALL;
use crate::limits::Meter;
use crate::service::Error;
use crate::service::two_factor::TwoFactor;

/// The request.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ActivateTwoFactor)]
pub(crate) struct Request {
    #[schema(value_type = text::EnrolmentId)]
    enrolment_id: String,
    /// What the authenticator shows now; no recovery code.
    #[schema(value_type = text::TwoFactorCode)]
    two_factor_code: SecretCode,
}

/// Takes the first code of an enrolment, which shows that the authenticator has its secret.
///
/// The factor counts after its cooling-off, until which any device of the owner can cancel it and the one before goes on to
/// count. Body limit: 32 KiB.
#[utoipa::path(
    post,
    path = "/api/v1/profiles/{id}/2fa/activate",
    operation_id = "activateTwoFactor",
    tag = "wallet",
    security(("clientCertificate" = [], "deviceSignature" = [])),
    params(("id" = text::ProfileId, Path, description = "The profile.")),
    request_body = Request,
    responses((status = 200, description = "The enrolment.", body = Enrolment)),
    extensions(("x-errors" = json!([
        Code::ProfileFrozen, Code::ProfileNotFound, Code::NotFound, Code::SessionStateConflict, Code::TwoFactorRequired, Code::TwoFactorInvalid, Code::TwoFactorLocked,
        Code::DuoNodeUnavailable,
    ]))),
)]
pub(crate) async fn handle(
    State(service): State<Arc<TwoFactor>>,
    Extension(meter): Extension<Meter>,
    PathId(id): PathId,
    owned: Owned<Request, SMALL>,
) -> Result<Json<Enrolment>, ApiError> {
    let Owned {
        owner,
        proof,
        value,
        ..
    } = owned;
    let profile = ProfileId::parse(&id).map_err(|_| Error::ProfileNotFound)?;
    let code = value.two_factor_code.code()?;
    let enrolment =
        EnrolmentId::parse(&value.enrolment_id).map_err(|_| Error::EnrolmentNotFound)?;
    let of = (profile, enrolment);
    let shown = service.activate(owner, proof, of, (code, meter)).await?;
    Ok(Json(shown.into()))
}
