//! `GET /api/v1/mpc/identity`: what a wallet checks before it seals anything.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use countersign_mpc::identity::IdentityDocument;

use crate::http::error::ApiError;
use crate::service::identity_document::ShowIdentity;

pub(crate) async fn handle(
    State(service): State<Arc<ShowIdentity>>,
) -> Result<Json<IdentityDocument>, ApiError> {
    Ok(Json(service.show()?))
}
