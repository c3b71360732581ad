//! `POST /api/v1/profiles/{id}/transactions`: preparing a transaction for signing.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};

use crate::chain::{RequestFields, TransactionRequest, UnsignedFields};
use crate::domain::ProfileId;
use crate::http::error::ApiError;
use crate::http::extract::{Owned, PathId};
use crate::http::routes::SMALL;
use crate::service::Error;
use crate::service::prepare_transaction::{PrepareTransaction, Prepared};

/// The request. There is no field for a digest, and an unknown field is an error.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Request {
    chain_id: u64,
    to: String,
    value: String,
    data: Option<String>,
    gas: Option<String>,
    max_fee_per_gas: Option<String>,
    max_priority_fee_per_gas: Option<String>,
    key_generation: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Response {
    unsigned_tx: UnsignedFields,
    session_id: String,
    digest: String,
    /// Seconds since the Unix epoch.
    expires_at: i64,
    key_generation: u64,
    attempt: u32,
    server_nonce: String,
    policy_decision_id: String,
}

pub(crate) async fn handle(
    State(service): State<Arc<PrepareTransaction>>,
    PathId(id): PathId,
    owned: Owned<Request, SMALL>,
) -> Result<Json<Response>, ApiError> {
    let profile_id = ProfileId::parse(&id).map_err(|_| Error::ProfileNotFound)?;
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
    };
    let prepared = service.prepare(owned.owner, request).await?;
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
