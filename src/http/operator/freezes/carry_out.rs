//! `POST /commands`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ACTORS, SMALL};
use crate::http::error::{ApiError, Code};
use crate::http::extract::OfOperator;
use crate::operators::{Approval, Command, OperatorName};
use crate::service::freeze::Freezing;

/// A command and the signatures of those who agree.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = CarryOut)]
pub(in crate::http::operator) struct Request {
    /// The text that was signed, as `countersignd approve draft` wrote it.
    #[schema(min_length = 1, max_length = 4096)]
    command: String,
    #[schema(max_items = 32)]
    approvals: Vec<Signed>,
}

/// One operator's signature.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = OperatorApproval)]
struct Signed {
    /// Their name in `[operators.keys]`.
    #[schema(min_length = 1, max_length = 32, pattern = "^[a-z0-9._-]+$")]
    by: String,
    /// Ed25519 over the text, in hex.
    #[schema(min_length = 128, max_length = 128, pattern = "^[0-9a-f]{128}$")]
    signature: String,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = CarriedOut)]
pub(in crate::http::operator) struct Response {
    /// What was carried out, in words.
    done: String,
}

/// Carries out what several operators have signed, once.
///
/// Whoever brings it needs no right of their own to it: the signatures decide. A command names its environment, its reason,
/// a number that is used once, and until when it is good: 24 hours at most. Body limit: 32 KiB.
#[utoipa::path(
    post,
    path = "/commands",
    operation_id = "carryOut",
    tag = "operators",
    security(("clientCertificate" = [])),
    request_body = Request,
    responses((status = 200, description = "It was carried out.", body = Response)),
    extensions(
        ("x-roles" = json!(ACTORS)),
        ("x-errors" = json!([Code::CommandRefused, Code::StoreUnavailable])),
    ),
)]
pub(in crate::http::operator) async fn handle(
    State(service): State<Arc<Freezing>>,
    request: OfOperator<Request, SMALL>,
) -> Result<Json<Response>, ApiError> {
    let Request { command, approvals } = &request.value;
    // What is no command is no question of who signed it.
    Command::parse(command).map_err(|error| ApiError::invalid(error.to_string()))?;
    let approvals: Option<Vec<Approval>> = approvals.iter().map(approval).collect();
    let approvals = approvals.ok_or_else(|| {
        ApiError::invalid("approvals must have a name of an operator and 128 hex digits each")
    })?;
    let brought_by = request.client.san().to_string();
    let deed = service.carry_out(brought_by, command, &approvals).await?;
    Ok(Json(Response { done: deed.name() }))
}

fn approval(signed: &Signed) -> Option<Approval> {
    let signature = hex::decode(&signed.signature).ok()?;
    Some(Approval {
        by: OperatorName::parse(&signed.by)?,
        signature: signature.try_into().ok()?,
    })
}
