//! `POST /api/v1/mpc/sign`: the two rounds of a signature, and its next attempt.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::SessionId;
use crate::http::code::SecretCode;
use crate::http::error::{ApiError, Code};
use crate::http::extract::Owned;
use crate::http::openapi::{header, text};
use crate::limits::Meter;
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
    two_factor_code: Option<SecretCode>,
}

// How `Request` is described.
/// The message of a round, or a new start.
#[derive(ToSchema)]
#[serde(untagged)]
#[schema(as = SignRequest)]
#[expect(dead_code, reason = "describes Request")]
enum Described {
    Message(SignMessage),
    Restart(SignRestart),
}

/// The message of a round.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "describes Request")]
struct SignMessage {
    #[schema(value_type = text::SessionId)]
    session_id: String,
    #[schema(value_type = text::SealedRequest)]
    p1_signature_share: SealedText,
}

/// The next attempt of a session that was given up, lost or has expired.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "describes Request")]
struct SignRestart {
    #[schema(value_type = text::SessionId)]
    session_id: String,
    /// `true`.
    #[schema(schema_with = text::yes)]
    restart: bool,
    /// Needed when a rule asks for a second factor and the code of before was used up more than ten minutes ago.
    #[schema(value_type = Option<text::TwoFactorCode>)]
    two_factor_code: Option<SecretCode>,
}

#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Response {
    Round1(Round1),
    Finished(Finished),
}

/// The first round is done.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SignRound1)]
pub(crate) struct Round1 {
    #[schema(value_type = text::SessionId)]
    session_id: String,
    #[schema(pattern = "^round_1_complete$")]
    status: &'static str,
    #[schema(value_type = text::SealedAnswer)]
    mpc_message: String,
}

/// Signed, or started again.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = SignFinished)]
pub(crate) enum Finished {
    /// The transaction is signed and stored; it is or will be broadcast.
    #[serde(rename_all = "camelCase")]
    Signed {
        #[schema(value_type = text::SessionId)]
        session_id: String,
        #[schema(value_type = text::Hash)]
        tx_hash: String,
        #[schema(value_type = text::TransactionStatus)]
        status: &'static str,
    },
    /// The next attempt.
    #[serde(rename_all = "camelCase")]
    Restarted {
        #[schema(value_type = text::SessionId)]
        session_id: String,
        #[schema(minimum = 2)]
        attempt: u32,
        #[schema(value_type = text::ServerNonce)]
        server_nonce: String,
    },
}

/// Signs a prepared transaction, in two requests, or starts its session again.
///
/// The raw transaction is stored before it is broadcast; a node that is away gets it later. An identical request gets the
/// identical answer. Body limit: 192 KiB.
#[utoipa::path(
    post,
    path = "/api/v1/mpc/sign",
    operation_id = "sign",
    tag = "wallet",
    security(("clientCertificate" = [], "deviceSignature" = [])),
    params(header::Session, header::OptionalIdempotencyKey),
    request_body = Described,
    responses(
        (status = 202, description = "The first round is done.", body = Round1),
        (status = 200, description = "Signed, or started again.", body = Finished),
    ),
    extensions(("x-errors" = json!([
        Code::InvalidKeyShare, Code::UnsupportedProtocolVersion, Code::TwoFactorRequired, Code::TwoFactorInvalid, Code::TwoFactorNotEnrolled,
        Code::TwoFactorLocked, Code::PolicyDenied, Code::ChainNotAllowed,
        Code::ProfileFrozen, Code::KeyQuarantined, Code::NotFound, Code::SessionStateConflict, Code::SessionLost,
        Code::KeyGenerationMismatch, Code::KeyRefreshRequired, Code::PolicyChanged, Code::SessionExpired,
        Code::IdempotencyMismatch, Code::MpcSigningFailed, Code::DuoNodeUnavailable,
    ]))),
)]
pub(crate) async fn handle(
    State(service): State<Arc<Sign>>,
    Extension(meter): Extension<Meter>,
    owned: Owned<Request, LIMIT>,
) -> Result<(StatusCode, Json<Response>), ApiError> {
    let session_id =
        SessionId::parse(&owned.value.session_id).map_err(|_| Error::SessionNotFound)?;
    let code = SecretCode::read(owned.value.two_factor_code)?;
    match (owned.value.p1_signature_share, owned.value.restart) {
        (Some(message), false) if code.is_none() => {
            let round = Round {
                session_id,
                body_hash: owned.body_hash,
                message,
                idempotency_key: owned.idempotency_key,
            };
            Ok(answer(
                service
                    .round(owned.owner, owned.proof, round, meter)
                    .await?,
            ))
        }
        (None, true) => {
            let request = (owned.idempotency_key, owned.body_hash);
            let restarted = service
                .restart(owned.owner, owned.proof, session_id, request, code)
                .await?;
            let response = Finished::Restarted {
                session_id: session_id.to_string(),
                attempt: restarted.attempt,
                server_nonce: hex::encode(restarted.server_nonce),
            };
            Ok((StatusCode::OK, Json(Response::Finished(response))))
        }
        _ => Err(ApiError::invalid(
            "A request has either p1SignatureShare, or restart: true and perhaps twoFactorCode",
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
            Json(Response::Round1(Round1 {
                session_id: session_id.to_string(),
                status: "round_1_complete",
                mpc_message: message,
            })),
        ),
        Reply::Signed {
            session_id,
            tx_hash,
            state,
        } => (
            StatusCode::OK,
            Json(Response::Finished(Finished::Signed {
                session_id: session_id.to_string(),
                tx_hash: format!("0x{}", hex::encode(tx_hash)),
                status: state.as_str(),
            })),
        ),
    }
}
