//! `GET /api/v1/mpc/sessions/{id}`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use crate::domain::SessionId;
use crate::http::error::ApiError;
use crate::http::extract::{OwnedQuery, PathId};
use crate::service::Error;
use crate::service::show::Show;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Response {
    session_id: String,
    profile_id: String,
    /// As in `protocol.md` 2.4, for instance `R1_DONE`.
    state: String,
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    tx_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_number: Option<u64>,
}

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
