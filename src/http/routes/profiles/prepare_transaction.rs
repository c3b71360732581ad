//! `POST /api/v1/profiles/{id}/transactions`: preparing a transaction for signing.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::chain::{RequestFields, TransactionRequest, UnsignedFields};
use crate::domain::ProfileId;
use crate::http::code::SecretCode;
use crate::http::error::{ApiError, Code};
use crate::http::extract::{Owned, PathId};
use crate::http::openapi::{header, text};
use crate::http::routes::SMALL;
use crate::limits::Meter;
use crate::service::Error;
use crate::service::prepare_transaction::{PrepareTransaction, Prepared};

/// The request. There is no field for a digest, and an unknown field is an error.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = PrepareTransactionRequest)]
pub(crate) struct Request {
    /// The EIP-155 id.
    #[schema(minimum = 1)]
    chain_id: u64,
    #[schema(value_type = text::Recipient)]
    to: String,
    #[schema(value_type = text::Wei)]
    value: String,
    /// The call data; absent for none.
    #[schema(value_type = Option<text::CallData>)]
    data: Option<String>,
    /// The gas limit, at least 21000; absent for an estimate.
    #[schema(value_type = Option<text::Number>)]
    gas: Option<String>,
    /// In wei; absent for our own choice.
    #[schema(value_type = Option<text::Number>)]
    max_fee_per_gas: Option<String>,
    /// In wei; absent for our own choice.
    #[schema(value_type = Option<text::Number>)]
    max_priority_fee_per_gas: Option<String>,
    /// The generation of the wallet's share; refused if it is not the appliance's.
    #[schema(minimum = 1)]
    key_generation: Option<u64>,
    /// Needed when a rule asks for a second factor; otherwise it is not looked at, and stays good.
    #[schema(value_type = Option<text::TwoFactorCode>)]
    two_factor_code: Option<SecretCode>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = PreparedTransaction)]
pub(crate) struct Response {
    #[schema(value_type = UnsignedTransaction)]
    unsigned_tx: UnsignedFields,
    #[schema(value_type = text::SessionId)]
    session_id: String,
    /// What will be signed: keccak-256 of `unsignedTx.raw`.
    #[schema(value_type = text::Hash)]
    digest: String,
    /// Seconds since the Unix epoch.
    expires_at: i64,
    #[schema(minimum = 1)]
    key_generation: u64,
    #[schema(minimum = 1)]
    attempt: u32,
    #[schema(value_type = text::ServerNonce)]
    server_nonce: String,
    #[schema(value_type = text::DecisionId)]
    policy_decision_id: String,
}

// How `UnsignedFields` are described.
/// An EIP-1559 transaction before its signature.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UnsignedTransaction {
    /// Always `0x2`.
    #[schema(pattern = "^0x2$")]
    r#type: String,
    /// The EIP-155 id.
    #[schema(minimum = 1)]
    chain_id: u64,
    #[schema(value_type = text::Quantity)]
    nonce: String,
    #[schema(value_type = text::Address)]
    to: String,
    #[schema(value_type = text::Wei)]
    value: String,
    /// The call data.
    #[schema(value_type = text::Bytes)]
    data: String,
    #[schema(value_type = text::Quantity)]
    gas: String,
    #[schema(value_type = text::Quantity)]
    max_fee_per_gas: String,
    #[schema(value_type = text::Quantity)]
    max_priority_fee_per_gas: String,
    /// Always empty.
    #[schema(max_items = 0)]
    access_list: Vec<String>,
    /// The EIP-2718 signing payload, from which `digest` and all else here is recomputed.
    #[schema(value_type = text::Bytes)]
    raw: String,
    /// What it does, for a human; for display only.
    summary: String,
}

/// Builds a transaction, decides about it, and opens the session that signs it.
///
/// The chain's node gives what the request leaves open. A transaction that the node would refuse, for instance for want
/// of funds, is `INVALID_REQUEST`. Body limit: 32 KiB.
#[utoipa::path(
    post,
    path = "/api/v1/profiles/{id}/transactions",
    operation_id = "prepareTransaction",
    tag = "wallet",
    security(("clientCertificate" = [], "deviceSignature" = [])),
    params(
        ("id" = text::ProfileId, Path, description = "The profile."),
        header::IdempotencyKey,
    ),
    request_body = Request,
    responses((status = 200, description = "The transaction and its session.", body = Response)),
    extensions(("x-errors" = json!([
        Code::ProfileFrozen, Code::TwoFactorRequired, Code::TwoFactorInvalid, Code::TwoFactorNotEnrolled, Code::TwoFactorLocked,
        Code::KeyQuarantined, Code::PolicyDenied, Code::ChainNotAllowed, Code::ProfileNotFound,
        Code::SessionStateConflict, Code::KeyGenerationMismatch, Code::KeyRefreshRequired,
        Code::IdempotencyMismatch, Code::ChainUnavailable, Code::DuoNodeUnavailable,
    ]))),
)]
pub(crate) async fn handle(
    State(service): State<Arc<PrepareTransaction>>,
    Extension(meter): Extension<Meter>,
    PathId(id): PathId,
    mut owned: Owned<Request, SMALL>,
) -> Result<Json<Response>, ApiError> {
    let profile_id = ProfileId::parse(&id).map_err(|_| Error::ProfileNotFound)?;
    let code = SecretCode::read(owned.value.two_factor_code.take())?;
    let request = &owned.value;
    let fields = RequestFields {
        chain_id: request.chain_id,
        to: &request.to,
        value: &request.value,
        data: request.data.as_deref(),
        gas: request.gas.as_deref(),
        max_fee_per_gas: request.max_fee_per_gas.as_deref(),
        max_priority_fee_per_gas: request.max_priority_fee_per_gas.as_deref(),
    };
    let transaction = TransactionRequest::parse(&fields)
        .map_err(|error| Error::InvalidRequest(error.to_string()))?;
    let request = crate::service::prepare_transaction::Request {
        profile_id,
        transaction,
        generation: request.key_generation,
        idempotency_key: owned
            .idempotency_key
            .ok_or_else(|| ApiError::invalid("Idempotency-Key is required"))?,
        body_hash: owned.body_hash,
        code,
        meter,
    };
    let prepared = service.prepare(owned.owner, owned.proof, request).await?;
    Ok(Json(response(prepared)))
}

fn response(prepared: Prepared) -> Response {
    Response {
        unsigned_tx: prepared.unsigned,
        session_id: prepared.session_id.to_string(),
        digest: format!("0x{}", hex::encode(prepared.digest)),
        expires_at: prepared.expires_at.as_seconds(),
        key_generation: prepared.generation.0,
        attempt: prepared.attempt,
        server_nonce: hex::encode(prepared.server_nonce),
        policy_decision_id: prepared.decision_id.to_string(),
    }
}
