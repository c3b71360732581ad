//! `GET /api/v1/mpc/sessions/{id}`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::SessionId;
use crate::http::error::{ApiError, Code};
use crate::http::extract::{OwnedQuery, PathId};
use crate::http::openapi::text;
use crate::service::Error;
use crate::service::show::Show;

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Session)]
pub(crate) struct Response {
    #[schema(value_type = text::SessionId)]
    session_id: String,
    #[schema(value_type = text::ProfileId)]
    profile_id: String,
    #[schema(value_type = text::SessionStatus)]
    state: String,
    /// From 1; a session that is started again has the next.
    #[schema(minimum = 1)]
    attempt: u32,
    /// Of a signed transaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = text::Hash, required = false)]
    tx_hash: Option<String>,
    /// Of a signed transaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = text::TransactionStatus, required = false)]
    status: Option<&'static str>,
    /// Of a transaction in a block.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = u64, required = false)]
    block_number: Option<u64>,
}

/// Shows a session and what became of its transaction.
///
/// A session of somebody else or of another device and one that does not exist are the same answer.
#[utoipa::path(
    get,
    path = "/api/v1/mpc/sessions/{id}",
    operation_id = "showSession",
    tag = "wallet",
    security(("clientCertificate" = [], "deviceSignature" = [])),
    params(("id" = text::SessionId, Path, description = "The session.")),
    responses((status = 200, description = "The session.", body = Response)),
    extensions(("x-errors" = json!([Code::NotFound]))),
)]
pub(crate) async fn handle(
    State(service): State<Arc<Show>>,
    PathId(id): PathId,
    OwnedQuery(owner): OwnedQuery,
) -> Result<Json<Response>, ApiError> {
    let id = SessionId::parse(&id).map_err(|_| Error::SessionNotFound)?;
    let view = service.session(&owner, id).await?;
    let transaction = view.transaction.as_ref();
    Ok(Json(Response {
        session_id: view.session.session_id.to_string(),
        profile_id: view.session.profile_id.to_string(),
        state: view.session.state.as_str().to_ascii_uppercase(),
        attempt: view.session.attempt,
        tx_hash: transaction
            .and_then(|row| row.tx_hash)
            .map(|hash| format!("0x{}", hex::encode(hash))),
        status: transaction.map(|row| row.state.as_str()),
        block_number: transaction.and_then(|row| row.block_number),
    }))
}
