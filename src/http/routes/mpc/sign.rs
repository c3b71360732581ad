//! `POST /api/v1/mpc/sign`: the two rounds of a signature, and its next attempt.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::domain::SessionId;
use crate::http::error::ApiError;
use crate::http::extract::Owned;
use crate::service::Error;
use crate::service::sealed::SealedText;
use crate::service::sign::{Reply, Round, Sign};

const LIMIT: usize = 192 * 1024;

/// The request: a message, or `restart: true`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Request {
    session_id: String,
    p1_signature_share: Option<SealedText>,
    #[serde(default)]
    restart: bool,
}

#[derive(Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub(crate) enum Response {
    Round1 {
        session_id: String,
        status: &'static str,
        mpc_message: String,
    },
    Signed {
        session_id: String,
        tx_hash: String,
        status: &'static str,
    },
    Restarted {
        session_id: String,
        attempt: u32,
        server_nonce: String,
    },
}

pub(crate) async fn handle(
    State(service): State<Arc<Sign>>,
    owned: Owned<Request, LIMIT>,
) -> Result<(StatusCode, Json<Response>), ApiError> {
    let session_id =
        SessionId::parse(&owned.value.session_id).map_err(|_| Error::SessionNotFound)?;
    match (owned.value.p1_signature_share, owned.value.restart) {
        (Some(message), false) => {
            let round = Round {
                session_id,
                body_hash: owned.body_hash,
                message,
            };
            Ok(answer(service.round(owned.owner, round).await?))
        }
        (None, true) => {
            let restarted = service.restart(&owned.owner, session_id).await?;
            let response = Response::Restarted {
                session_id: session_id.to_string(),
                attempt: restarted.attempt,
                server_nonce: hex::encode(restarted.server_nonce),
            };
            Ok((StatusCode::OK, Json(response)))
        }
        _ => Err(ApiError::invalid(
            "A request has either p1SignatureShare or restart: true",
        )),
    }
}

fn answer(reply: Reply) -> (StatusCode, Json<Response>) {
    match reply {
        Reply::Round1 {
            session_id,
            message,
        } => (
            StatusCode::ACCEPTED,
            Json(Response::Round1 {
                session_id: session_id.to_string(),
                status: "round_1_complete",
                mpc_message: message,
            }),
        ),
        Reply::Signed {
            session_id,
            tx_hash,
            state,
        } => (
            StatusCode::OK,
            Json(Response::Signed {
                session_id: session_id.to_string(),
                tx_hash: format!("0x{}", hex::encode(tx_hash)),
                status: state.as_str(),
            }),
        ),
    }
}
