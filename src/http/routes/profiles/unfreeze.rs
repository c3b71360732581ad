//! `POST /api/v1/profiles/{id}/unfreeze`.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
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
#[schema(as = UnfreezeProfile)]
pub(crate) struct Request {}

/// Refuses: lifting a freeze takes a second factor, which this version does not have yet.
///
/// Whoever stole a device must not lift the freeze that stopped it. Until there is a second factor, two operators lift the
/// freeze with a command that both have signed. Body limit: 32 KiB.
#[utoipa::path(
    post,
    path = "/api/v1/profiles/{id}/unfreeze",
    operation_id = "unfreezeProfile",
    tag = "wallet",
    security(("clientCertificate" = [], "deviceSignature" = [])),
    params(("id" = text::ProfileId, Path, description = "The profile.")),
    request_body = Request,
    responses((status = 204, description = "It is lifted. Never, in this version.")),
    extensions(("x-errors" = json!([Code::ProfileNotFound, Code::TwoFactorRequired]))),
)]
pub(crate) async fn handle(
    State(service): State<Arc<Freezing>>,
    PathId(id): PathId,
    owned: Owned<Request, SMALL>,
) -> Result<StatusCode, ApiError> {
    let id = ProfileId::parse(&id).map_err(|_| Error::ProfileNotFound)?;
    let never: Infallible = service.lift_by_owner(&owned.owner, id).await?;
    match never {}
}
