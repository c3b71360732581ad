//! `GET /api/v1/profiles/{id}/transactions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::chain::Unsigned1559;
use crate::domain::ProfileId;
use crate::http::error::{ApiError, Code};
use crate::http::extract::{OwnedQuery, PathId};
use crate::http::openapi::text;
use crate::service::Error;
use crate::service::show::Show;
use crate::store::transactions::TransactionRow;

/// Transactions in an answer: what a request gets that does not say, and the most.
const USUAL: u32 = 20;
const MOST: u32 = 50;

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TransactionPage)]
pub(crate) struct Response {
    /// The highest nonce first.
    #[schema(max_items = 50)]
    transactions: Vec<Item>,
    /// The `before` of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = u64, required = false)]
    next: Option<u64>,
}

/// A transaction that was prepared and not given up.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Transaction)]
struct Item {
    #[schema(value_type = text::SessionId)]
    session_id: String,
    /// The EIP-155 id.
    #[schema(minimum = 1)]
    chain_id: u64,
    nonce: u64,
    #[schema(value_type = text::Address)]
    to: String,
    #[schema(value_type = text::Wei)]
    value: String,
    #[schema(value_type = text::TransactionStatus)]
    status: &'static str,
    /// Of a signed transaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = text::Hash, required = false)]
    tx_hash: Option<String>,
    /// Of a transaction in a block.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = u64, required = false)]
    block_number: Option<u64>,
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    chain_id: u64,
    before: Option<u64>,
    limit: u32,
}

impl Wanted {
    /// Every parameter once, in its one spelling, and no other.
    fn parse(query: &str) -> Result<Self, ApiError> {
        let (mut chain_id, mut before, mut limit) = (None, None, None);
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let place = match &*name {
                "chainId" => &mut chain_id,
                "before" => &mut before,
                "limit" => &mut limit,
                _ => return Err(ApiError::invalid("The query has an unknown parameter")),
            };
            // 63 bits, which is what the description promises and the database holds.
            let number = value.parse::<i64>().ok();
            let number = number.filter(|number| number.to_string() == value);
            let number = number.and_then(|number| u64::try_from(number).ok());
            let invalid = || ApiError::invalid("A parameter of the query is no decimal number");
            if place.replace(number.ok_or_else(invalid)?).is_some() {
                return Err(ApiError::invalid("A parameter of the query comes twice"));
            }
        }
        let chain_id = chain_id.filter(|id| *id > 0);
        let limit = limit.map_or(Ok(USUAL), |limit| {
            u32::try_from(limit)
                .ok()
                .filter(|limit| (1..=MOST).contains(limit))
                .ok_or_else(|| ApiError::invalid("limit must be from 1 to 50"))
        });
        Ok(Self {
            chain_id: chain_id
                .ok_or_else(|| ApiError::invalid("chainId must be the id of a chain"))?,
            before,
            limit: limit?,
        })
    }
}

/// Lists a profile's transactions on a chain, page by page.
///
/// Whatever was prepared is listed until it is given up and its nonce is free again.
#[utoipa::path(
    get,
    path = "/api/v1/profiles/{id}/transactions",
    operation_id = "listTransactions",
    tag = "wallet",
    security(("clientCertificate" = [], "deviceSignature" = [])),
    params(
        ("id" = text::ProfileId, Path, description = "The profile."),
        ("chainId" = u64, Query, minimum = 1, description = "The chain, by its EIP-155 id."),
        ("before" = inline(Option<u64>), Query, description = "Nonces below this one only: `next` of the page before."),
        ("limit" = inline(Option<u32>), Query, minimum = 1, maximum = 50, description = "Transactions in the answer: 20 if absent."),
    ),
    responses((status = 200, description = "The transactions.", body = Response)),
    extensions(("x-errors" = json!([Code::ProfileNotFound, Code::DuoNodeUnavailable]))),
)]
pub(crate) async fn handle(
    State(service): State<Arc<Show>>,
    PathId(id): PathId,
    OwnedQuery(owner): OwnedQuery,
    RawQuery(query): RawQuery,
) -> Result<Json<Response>, ApiError> {
    let wanted = Wanted::parse(&query.unwrap_or_default())?;
    let id = ProfileId::parse(&id).map_err(|_| Error::ProfileNotFound)?;
    let page = service
        .transactions(&owner, id, wanted.chain_id, wanted.before, wanted.limit)
        .await?;
    let items = page.transactions.iter().map(item);
    Ok(Json(Response {
        transactions: items.collect::<Result<_, _>>()?,
        next: page.next,
    }))
}

fn item(row: &TransactionRow) -> Result<Item, Error> {
    let unsigned = Unsigned1559::from_payload(&row.payload).map_err(|_| Error::Internal)?;
    let fields = unsigned.fields();
    Ok(Item {
        session_id: row.session_id.to_string(),
        chain_id: row.chain_id,
        nonce: row.nonce,
        to: fields.to,
        value: fields.value,
        status: row.state.as_str(),
        tx_hash: row.tx_hash.map(|hash| format!("0x{}", hex::encode(hash))),
        block_number: row.block_number,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::Wanted;

    fn parsed(query: &str) -> Option<(u64, Option<u64>, u32)> {
        let wanted = Wanted::parse(query).ok()?;
        Some((wanted.chain_id, wanted.before, wanted.limit))
    }

    #[test]
    fn a_query_has_each_parameter_once_in_one_spelling_and_no_other() {
        assert_eq!(parsed("chainId=1"), Some((1, None, 20)));
        assert_eq!(
            parsed("limit=50&before=7&chainId=1"),
            Some((1, Some(7), 50))
        );
        assert_eq!(
            parsed("chainId=1&before=9223372036854775807").unwrap().1,
            Some(9_223_372_036_854_775_807)
        );
        for query in [
            "",
            "chainId=0",
            "chainId=x",
            "chainId=+1",
            "chainId=01",
            "chainId=-1",
            "chainId=9223372036854775808",
            "chainId=1&chainId=1",
            "chainId=1&limit=0",
            "chainId=1&limit=51",
            "chainId=1&limit=4294967297",
            "chainId=1&before=",
            "chainId=1&offset=3",
        ] {
            assert_eq!(parsed(query), None, "{query}");
        }
    }
}
