//! `GET /api/v2/profiles/{id}`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use crate::domain::{ProfileId, ProfileState};
use crate::http::error::ApiError;
use crate::http::extract::{OwnedQuery, PathId};
use crate::service::Error;
use crate::service::show::Show;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Response {
    profile_id: String,
    name: String,
    /// Only of an active profile: nobody should fund an address whose key is not proven.
    #[serde(skip_serializing_if = "Option::is_none")]
    session_wallet_address: Option<String>,
    status: &'static str,
    key_generation: u64,
    /// As in `protocol.md` 2.6, for instance `STABLE`.
    key_state: String,
    /// RFC 3339, UTC.
    created_at: String,
}

pub(crate) async fn handle(
    State(service): State<Arc<Show>>,
    PathId(id): PathId,
    OwnedQuery(owner): OwnedQuery,
) -> Result<Json<Response>, ApiError> {
    let id = ProfileId::parse(&id).map_err(|_| Error::ProfileNotFound)?;
    let profile = service.profile(&owner, id).await?;
    let address = profile
        .address
        .filter(|_| profile.state == ProfileState::Active)
        .map(|bytes| alloy_primitives::Address::from(bytes).to_checksum(None));
    let created_at = jiff::Timestamp::from_microsecond(profile.created_at.as_micros())
        .map(|time| time.to_string())
        .unwrap_or_default();
    Ok(Json(Response {
        profile_id: profile.profile_id.to_string(),
        name: profile.name,
        session_wallet_address: address,
        status: profile.state.as_str(),
        key_generation: profile.generation.0,
        key_state: profile.key_state.as_str().to_ascii_uppercase(),
        created_at,
    }))
}
