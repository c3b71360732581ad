//! `POST /api/v1/profiles/{id}/2fa/cancel`: gives up a new second factor before it counts.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{EnrolmentId, ProfileId};
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
#[schema(as = CancelTwoFactor)]
pub(crate) struct Request {
    #[schema(value_type = text::EnrolmentId)]
    enrolment_id: String,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TwoFactorCancelled)]
pub(crate) struct Response {
    #[schema(value_type = text::EnrolmentId)]
    enrolment_id: String,
    /// Always `cancelled`.
    #[schema(pattern = "^cancelled$")]
    status: &'static str,
}

/// Gives up an enrolment that waits, for its first code or for its time.
///
/// Signed by any device of the owner that may act; no code is needed. The factor that counts already stays. Body limit:
/// 32 KiB.
#[utoipa::path(
    post,
    path = "/api/v1/profiles/{id}/2fa/cancel",
    operation_id = "cancelTwoFactor",
    tag = "wallet",
    security(("clientCertificate" = [], "deviceSignature" = [])),
    params(("id" = text::ProfileId, Path, description = "The profile.")),
    request_body = Request,
    responses((status = 200, description = "It is gone.", body = Response)),
    extensions(("x-errors" = json!([Code::ProfileNotFound, Code::NotFound]))),
)]
pub(crate) async fn handle(
    State(service): State<Arc<TwoFactor>>,
    Extension(meter): Extension<Meter>,
    PathId(id): PathId,
    owned: Owned<Request, SMALL>,
) -> Result<Json<Response>, ApiError> {
    let profile = ProfileId::parse(&id).map_err(|_| Error::ProfileNotFound)?;
    let text = &owned.value.enrolment_id;
    let enrolment = EnrolmentId::parse(text).map_err(|_| Error::EnrolmentNotFound)?;
    let of = (profile, enrolment);
    service.cancel(owned.owner, owned.proof, of, meter).await?;
    Ok(Json(Response {
        enrolment_id: enrolment.to_string(),
        status: "cancelled",
    }))
}
