//! `GET /api/v2/profiles/{id}`, and the same under `/api/v1`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{ProfileId, ProfileState};
use crate::http::error::{ApiError, Code};
use crate::http::extract::{OwnedQuery, PathId};
use crate::http::openapi::text;
use crate::service::Error;
use crate::service::show::Show;
use crate::sessions::Key;

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Profile)]
pub(crate) struct Response {
    #[schema(value_type = text::ProfileId)]
    profile_id: String,
    /// As its owner named it.
    #[schema(min_length = 1, max_length = 64)]
    name: String,
    /// Only of an active profile: nobody should fund an address whose key is not proven.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = text::Address, required = false)]
    session_wallet_address: Option<String>,
    #[schema(value_type = text::ProfileStatus)]
    status: &'static str,
    /// 1 at creation, one more after each rotation of the key.
    #[schema(minimum = 1)]
    key_generation: u64,
    #[schema(value_type = text::KeyUse)]
    key_state: &'static str,
    /// Whether a freeze, of its owner or of the operators, stops all signing.
    frozen: bool,
    #[schema(value_type = text::Time)]
    created_at: String,
}

/// Shows a profile.
///
/// A profile of somebody else and one that does not exist are the same answer.
#[utoipa::path(
    get,
    path = "/api/v2/profiles/{id}",
    operation_id = "showProfile",
    tag = "wallet",
    security(("clientCertificate" = [], "deviceSignature" = [])),
    params(("id" = text::ProfileId, Path, description = "The profile.")),
    responses((status = 200, description = "The profile.", body = Response)),
    extensions(("x-errors" = json!([Code::ProfileNotFound]))),
)]
pub(crate) async fn handle(
    State(service): State<Arc<Show>>,
    PathId(id): PathId,
    OwnedQuery(owner): OwnedQuery,
) -> Result<Json<Response>, ApiError> {
    let id = ProfileId::parse(&id).map_err(|_| Error::ProfileNotFound)?;
    let (profile, frozen) = service.profile(&owner, id).await?;
    let address = profile
        .address
        .filter(|_| profile.state == ProfileState::Active)
        .map(|bytes| alloy_primitives::Address::from(bytes).to_checksum(None));
    let key_state = Key::of(profile.key()).name();
    Ok(Json(Response {
        profile_id: profile.profile_id.to_string(),
        name: profile.name,
        session_wallet_address: address,
        status: profile.state.as_str(),
        key_generation: profile.generation.0,
        key_state,
        frozen,
        created_at: profile.created_at.to_rfc3339(),
    }))
}

/// Shows a profile, as `/api/v2/profiles/{id}` does.
#[utoipa::path(
    get,
    path = "/api/v1/profiles/{id}",
    operation_id = "showProfileV1",
    tag = "wallet",
    security(("clientCertificate" = [], "deviceSignature" = [])),
    params(("id" = text::ProfileId, Path, description = "The profile.")),
    responses((status = 200, description = "The profile.", body = Response)),
    extensions(("x-errors" = json!([Code::ProfileNotFound]))),
)]
pub(crate) async fn handle_v1(
    state: State<Arc<Show>>,
    id: PathId,
    owner: OwnedQuery,
) -> Result<Json<Response>, ApiError> {
    handle(state, id, owner).await
}
