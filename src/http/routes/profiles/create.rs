//! `POST /api/v2/profiles`: creating a wallet in three requests.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::{ProfileId, ProfileName, SessionId};
use crate::http::error::{ApiError, Code};
use crate::http::extract::Signed;
use crate::http::openapi::{header, text};
use crate::limits::Meter;
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

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ClientShare {
    #[schema(value_type = text::DeviceKeyId)]
    key_id: String,
    /// The device's public key: a JWK (P-256), or SEC1 in hex.
    #[schema(schema_with = text::public_key)]
    public_key: serde_json::Value,
    #[schema(value_type = text::SealedRequest)]
    share: SealedText,
}

// How `Request` is described.
/// The first request, or one of those that follow.
#[derive(ToSchema)]
#[serde(untagged)]
#[schema(as = CreateProfileRequest)]
#[expect(dead_code, reason = "describes Request")]
enum Described {
    First(CreateProfileFirst),
    Next(CreateProfileNext),
}

/// The first request.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "describes Request")]
struct CreateProfileFirst {
    /// Without control characters, and without space at either end.
    #[schema(
        min_length = 1,
        max_length = 64,
        pattern = r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$"
    )]
    name: String,
    client_share: ClientShare,
}

/// The second and third request.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "describes Request")]
struct CreateProfileNext {
    #[schema(value_type = text::ProfileId)]
    profile_id: String,
    #[schema(value_type = text::SessionId)]
    keygen_session_id: String,
    client_share: ClientShare,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = CreateProfileResponse)]
pub(crate) struct Response {
    #[schema(value_type = text::ProfileId)]
    profile_id: String,
    /// In the answers to the first and second request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = text::SessionId, required = false)]
    keygen_session_id: Option<String>,
    /// In the answers to the second and third request. Nothing should be paid to it before the third.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = text::Address, required = false)]
    session_wallet_address: Option<String>,
    /// The round that is done; `active` after the third.
    #[schema(pattern = "^(keygen_round_1|keygen_round_2|active)$")]
    status: &'static str,
    #[schema(value_type = text::SealedAnswer)]
    mpc_message: String,
}

/// Creates a wallet, in three requests.
///
/// The first names the wallet and its device key and is signed by that key; it is bound to its `Idempotency-Key`. The
/// second and third carry the ids of the first answer. The profile is active after the third, in which both sides have
/// proven their share by signing a canary. An identical request gets the identical answer. Body limit: 512 KiB.
#[utoipa::path(
    post,
    path = "/api/v2/profiles",
    operation_id = "createProfile",
    tag = "wallet",
    security(("clientCertificate" = [], "deviceSignature" = [])),
    params(header::FirstIdempotencyKey, header::Session),
    request_body = Described,
    responses(
        (status = 202, description = "The first or second round is done.", body = Response),
        (status = 201, description = "The profile is active.", body = Response),
    ),
    extensions(("x-errors" = json!([
        Code::InvalidKeyShare, Code::UnsupportedProtocolVersion, Code::PolicyDenied, Code::ProfileFrozen, Code::KeyQuarantined,
        Code::ProfileNotFound, Code::NotFound, Code::SessionStateConflict, Code::SessionLost,
        Code::SessionExpired, Code::IdempotencyMismatch, Code::MpcSigningFailed, Code::DuoNodeUnavailable,
    ]))),
)]
pub(crate) async fn handle(
    State(service): State<Arc<CreateProfile>>,
    Extension(meter): Extension<Meter>,
    signed: Signed<Request, LIMIT>,
) -> Result<(StatusCode, Json<Response>), ApiError> {
    let share = &signed.value.client_share;
    let reply = match &signed.value {
        Request {
            name: Some(_),
            profile_id: None,
            keygen_session_id: None,
            ..
        } => {
            let signer = signed.applicant(&share.public_key, &share.key_id).await?;
            let first = first(signed)?;
            service.start(signer.0, signer.1, first, meter).await?
        }
        Request {
            name: None,
            profile_id: Some(_),
            keygen_session_id: Some(_),
            ..
        } => {
            let signer = signed.owner(&share.public_key, &share.key_id).await?;
            service.go_on(signer.0, signer.1, next(signed)?).await?
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
        idempotency_key: signed.idempotency_key,
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
