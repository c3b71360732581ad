//! `POST /api/v1/profiles/{id}/unfreeze`.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::ProfileId;
use crate::http::code::SecretCode;
use crate::http::error::{ApiError, Code};
use crate::http::extract::{Owned, PathId};
use crate::http::openapi::text;
use crate::http::routes::SMALL;
use crate::limits::Meter;
use crate::service::Error;
use crate::service::unfreeze::Unfreezing;

/// The request: a code of the second factor, or a recovery code.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = UnfreezeProfile)]
pub(crate) struct Request {
    /// Needed while a freeze of the owner stands.
    #[schema(value_type = Option<text::TwoFactorCode>)]
    two_factor_code: Option<SecretCode>,
}

/// Nothing that the owner froze stops the profile any more.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProfileUnfrozen)]
pub(crate) struct Response {
    #[schema(value_type = text::ProfileId)]
    profile_id: String,
    /// Whether something else stops it still: a freeze of operators.
    frozen: bool,
}

/// Lifts the owner's freeze of a profile, with a code of its second factor.
///
/// Whoever stole a device must not lift the freeze that stopped it. A profile without a second factor, and a freeze that
/// operators placed, take two operators. Where no freeze of the owner stands nothing is done, and no code is used up. Body
/// limit: 32 KiB.
#[utoipa::path(
    post,
    path = "/api/v1/profiles/{id}/unfreeze",
    operation_id = "unfreezeProfile",
    tag = "wallet",
    security(("clientCertificate" = [], "deviceSignature" = [])),
    params(("id" = text::ProfileId, Path, description = "The profile.")),
    request_body = Request,
    responses((status = 200, description = "No freeze of the owner stands.", body = Response)),
    extensions(
        ("x-errors" = json!([
            Code::ProfileNotFound, Code::TwoFactorRequired, Code::TwoFactorInvalid, Code::TwoFactorNotEnrolled,
            Code::TwoFactorLocked, Code::DuoNodeUnavailable,
        ])),
    ),
)]
pub(crate) async fn handle(
    State(service): State<Arc<Unfreezing>>,
    Extension(meter): Extension<Meter>,
    PathId(id): PathId,
    mut owned: Owned<Request, SMALL>,
) -> Result<Json<Response>, ApiError> {
    let id = ProfileId::parse(&id).map_err(|_| Error::ProfileNotFound)?;
    let code = SecretCode::read(owned.value.two_factor_code.take())?;
    let with = (code, meter);
    let frozen = service.lift(owned.owner, owned.proof, id, with).await?;
    Ok(Json(Response {
        profile_id: id.to_string(),
        frozen,
    }))
}
