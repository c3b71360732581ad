//! `POST /api/v1/profiles/{id}/freeze`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::ProfileId;
use crate::http::error::{ApiError, Code};
use crate::http::extract::{Owned, PathId};
use crate::http::openapi::text;
use crate::http::routes::SMALL;
use crate::service::Error;
use crate::service::freeze::Freezing;

/// The request: an empty object.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FreezeProfile)]
pub(crate) struct Request {}

/// The owner's freeze, which stands.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProfileFreeze)]
pub(crate) struct Response {
    #[schema(value_type = text::ProfileId)]
    profile_id: String,
    #[schema(value_type = text::FreezeId)]
    freeze_id: String,
    /// When this freeze was placed.
    #[schema(value_type = text::Time)]
    frozen_at: String,
}

/// Stops all signing for a profile, from the answer on and at every instance, and gives up what it has open.
///
/// Any device of the owner that may act is enough, and it is let in beside all else that its gateway sends. What was signed
/// before is broadcast and settled. A freeze that the owner has placed already is replaced. Body limit: 32 KiB.
#[utoipa::path(
    post,
    path = "/api/v1/profiles/{id}/freeze",
    operation_id = "freezeProfile",
    tag = "wallet",
    security(("clientCertificate" = [], "deviceSignature" = [])),
    params(("id" = text::ProfileId, Path, description = "The profile.")),
    request_body = Request,
    responses((status = 200, description = "It is frozen.", body = Response)),
    extensions(("x-errors" = json!([Code::ProfileNotFound]))),
)]
pub(crate) async fn handle(
    State(service): State<Arc<Freezing>>,
    PathId(id): PathId,
    owned: Owned<Request, SMALL>,
) -> Result<Json<Response>, ApiError> {
    let id = ProfileId::parse(&id).map_err(|_| Error::ProfileNotFound)?;
    let freeze = service.by_owner(owned.owner, owned.proof, id).await?;
    Ok(Json(Response {
        profile_id: id.to_string(),
        freeze_id: freeze.freeze_id.to_string(),
        frozen_at: freeze.frozen_at.to_rfc3339(),
    }))
}
