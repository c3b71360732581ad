//! Decisions that an appliance recorded, for `policy explain` and `diff`. Reads the database, also beside a running
//! appliance, and changes nothing.

use std::sync::Arc;

use super::Failure;
use super::standing::Transaction;
use crate::chain::Unsigned1559;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::domain::{DecisionId, ProfileId};
use crate::policy::Facts;
use crate::store::decisions::{self, Recorded};
use crate::store::{Location, Store, transactions};

const DAY: i64 = 86_400;

/// Why a decision cannot be looked at.
#[derive(Debug, thiserror::Error)]
enum NotFound {
    #[error("{0} is no decision id: it is the policyDecisionId of a prepared transaction")]
    NoId(String),
    #[error("the database has no decision {0}")]
    Unknown(DecisionId),
    #[error("decision {0} was recorded before its inputs were")]
    NoInputs(DecisionId),
    #[error("the inputs of decision {0} cannot be read")]
    Unreadable(DecisionId, #[source] serde_json::Error),
    #[error("the transaction of decision {0} cannot be read")]
    NoTransaction(DecisionId),
}

/// A decision, and what was judged.
pub(super) struct Found {
    /// The decision.
    pub(super) decision: Recorded,
    /// The facts.
    pub(super) facts: Facts,
    /// What was prepared on its ground; nothing, if it was denied.
    pub(super) transaction: Option<Transaction>,
}

/// A decision.
pub(super) async fn one(config: &Config, id: &str) -> Result<Found, Failure> {
    let id = DecisionId::parse(id).map_err(|_| Failure::usage(NotFound::NoId(id.to_owned())))?;
    let location: Arc<Location> = Arc::clone(&config.store);
    let mut reader = Store::inspect(location).await?;
    let found = decisions::recorded(&mut reader, id).await?;
    let found = found.ok_or(NotFound::Unknown(id))?;
    if found.inputs.is_empty() {
        return Err(NotFound::NoInputs(id).into());
    }
    let facts = Facts::from_text(&found.inputs);
    let facts = facts.map_err(|error| NotFound::Unreadable(id, error))?;
    let transaction = match ProfileId::parse(&facts.profile.id) {
        Ok(profile) => transactions::of_decision(&mut reader, profile, id).await?,
        Err(_) => None,
    };
    let unsigned = transaction.map(|row| Unsigned1559::from_payload(&row.payload));
    let unsigned = unsigned
        .transpose()
        .map_err(|_| NotFound::NoTransaction(id))?;
    Ok(Found {
        decision: found,
        facts,
        transaction: unsigned.as_ref().map(Transaction::of),
    })
}

/// Goes through the decisions since `days` ago whose inputs were recorded, oldest first.
pub(super) async fn since(
    config: &Config,
    (now, days): (Timestamp, u32),
    mut each: impl FnMut(&Recorded, &Facts),
) -> Result<(), Failure> {
    let location: Arc<Location> = Arc::clone(&config.store);
    let mut reader = Store::inspect(location).await?;
    let from = now.plus_seconds(-i64::from(days) * DAY);
    let mut last = DecisionId::first_of(from);
    loop {
        let page = decisions::after(&mut reader, last).await?;
        let Some(end) = page.last() else {
            return Ok(());
        };
        last = end.decision_id;
        for decision in page.iter().filter(|decision| !decision.inputs.is_empty()) {
            let facts = Facts::from_text(&decision.inputs);
            let facts = facts.map_err(|error| NotFound::Unreadable(decision.decision_id, error))?;
            each(decision, &facts);
        }
    }
}
