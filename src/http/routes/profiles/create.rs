//! `POST /api/v2/profiles`: creating a wallet in three requests.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::domain::{ProfileId, ProfileName, SessionId};
use crate::http::error::ApiError;
use crate::http::extract::Signed;
use crate::service::create_profile::{CreateProfile, First, Next, Reply};
use crate::service::sealed::SealedText;

/// Key generation messages are the largest there are.
const LIMIT: usize = 512 * 1024;

/// The request: `name` in the first, the two ids in the second and third.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Request {
    name: Option<String>,
    profile_id: Option<String>,
    keygen_session_id: Option<String>,
    client_share: ClientShare,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ClientShare {
    key_id: String,
    public_key: serde_json::Value,
    share: SealedText,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Response {
    profile_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    keygen_session_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_wallet_address: Option<String>,
    status: &'static str,
    mpc_message: String,
}

pub(crate) async fn handle(
    State(service): State<Arc<CreateProfile>>,
    signed: Signed<Request, LIMIT>,
) -> Result<(StatusCode, Json<Response>), ApiError> {
    let share = &signed.value.client_share;
    let applicant = signed.applicant(&share.public_key, &share.key_id)?;
    let reply = match &signed.value {
        Request {
            name: Some(_),
            profile_id: None,
            keygen_session_id: None,
            ..
        } => service.start(applicant, first(signed)?).await?,
        Request {
            name: None,
            profile_id: Some(_),
            keygen_session_id: Some(_),
            ..
        } => {
            let owner = signed.owner().await?;
            service.go_on(owner, next(signed)?).await?
        }
        _ => {
            return Err(ApiError::invalid(
                "The first request has a name, later ones have profileId and keygenSessionId",
            ));
        }
    };
    Ok(answer(reply))
}

fn first(signed: Signed<Request, LIMIT>) -> Result<First, ApiError> {
    let name = signed.value.name.as_deref().and_then(ProfileName::parse);
    Ok(First {
        name: name.ok_or_else(|| {
            ApiError::invalid("name must be 1 to 64 characters without control characters")
        })?,
        idempotency_key: signed
            .idempotency_key
            .ok_or_else(|| ApiError::invalid("Idempotency-Key is required"))?,
        body_hash: signed.body_hash,
        message: signed.value.client_share.share,
    })
}

fn next(signed: Signed<Request, LIMIT>) -> Result<Next, ApiError> {
    let profile = signed.value.profile_id.unwrap_or_default();
    let session = signed.value.keygen_session_id.unwrap_or_default();
    let not_found = |_| crate::service::Error::SessionNotFound;
    Ok(Next {
        profile_id: ProfileId::parse(&profile)
            .map_err(|_| crate::service::Error::ProfileNotFound)?,
        session_id: SessionId::parse(&session).map_err(not_found)?,
        body_hash: signed.body_hash,
        message: signed.value.client_share.share,
    })
}

fn answer(reply: Reply) -> (StatusCode, Json<Response>) {
    let address = |bytes| Some(alloy_primitives::Address::from(bytes).to_checksum(None));
    let (status, response) = match reply {
        Reply::Round1 {
            profile_id,
            session_id,
            message,
        } => (
            StatusCode::ACCEPTED,
            Response {
                profile_id: profile_id.to_string(),
                keygen_session_id: Some(session_id.to_string()),
                session_wallet_address: None,
                status: "keygen_round_1",
                mpc_message: message,
            },
        ),
        Reply::Round2 {
            profile_id,
            session_id,
            address: bytes,
            message,
        } => (
            StatusCode::ACCEPTED,
            Response {
                profile_id: profile_id.to_string(),
                keygen_session_id: Some(session_id.to_string()),
                session_wallet_address: address(bytes),
                status: "keygen_round_2",
                mpc_message: message,
            },
        ),
        Reply::Active {
            profile_id,
            address: bytes,
            message,
            ..
        } => (
            StatusCode::CREATED,
            Response {
                profile_id: profile_id.to_string(),
                keygen_session_id: None,
                session_wallet_address: address(bytes),
                status: "active",
                mpc_message: message,
            },
        ),
    };
    (status, Json(response))
}
