//! Policy decisions.

use super::engine::{Row, values};
use super::{Reads, StoreError, Tx, time};
use crate::clock::Timestamp;
use crate::domain::{DecisionId, ProfileId};

/// A decision as recorded.
#[derive(Clone, Debug)]
pub struct DecisionRow {
    /// Its id.
    pub decision_id: DecisionId,
    /// The profile it concerns.
    pub profile_id: ProfileId,
    /// The action that was asked for.
    pub action: &'static str,
    /// Whether it was allowed.
    pub allowed: bool,
    /// The ids of the rules that decided, comma-separated.
    pub rules: String,
    /// Why it was denied, by the reason's stable name; empty if it was allowed.
    pub reason: &'static str,
    /// SHA-256 of the policy bundle.
    pub bundle_hash: [u8; 32],
    /// What the bundle's authors call it.
    pub bundle_version: String,
    /// SHA-256 of the facts that were judged.
    pub inputs_hash: [u8; 32],
    /// The facts that were judged, as text.
    pub inputs: String,
    /// When it stops being good.
    pub expires_at: Timestamp,
    /// Whether it was made with a second factor, which is used up in the operation that records it.
    pub second_factor: bool,
}

/// What has to be known of a decision to act on it again.
pub struct Standing {
    /// Whether it was allowed.
    pub allowed: bool,
    /// The policy bundle it was made under.
    pub bundle_hash: [u8; 32],
    /// When it stops being good.
    pub expires_at: Timestamp,
    /// When the code was used up that it was made with.
    pub second_factor_at: Option<Timestamp>,
}

/// A decision as it was recorded, to be explained or judged again.
pub struct Recorded {
    /// Its id.
    pub decision_id: DecisionId,
    /// Whether it was allowed.
    pub allowed: bool,
    /// Why it was denied, by the reason's stable name; empty if it was allowed, or is older than reasons.
    pub reason: String,
    /// The ids of the rules that decided, comma-separated.
    pub rules: String,
    /// SHA-256 of the policy bundle.
    pub bundle_hash: [u8; 32],
    /// What the bundle's authors call it.
    pub bundle_version: String,
    /// The facts that were judged, as text; empty in a decision that is older than this record of them.
    pub inputs: String,
    /// When.
    pub created_at: Timestamp,
}

impl Recorded {
    fn read(row: Row) -> Result<Self, StoreError> {
        let mut row = row.of("decisions");
        Ok(Self {
            decision_id: row.parsed("decision_id", DecisionId::parse)?,
            allowed: row.text("outcome")? == "allowed",
            reason: row.text("reason")?,
            rules: row.text("rules")?,
            bundle_hash: row.array("bundle_hash")?,
            bundle_version: row.text("bundle_version")?,
            inputs: row.text("inputs")?,
            created_at: time(row.int("created_at")?),
        })
    }
}

/// Records a decision.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn insert(tx: &mut Tx<'_>, decision: &DecisionRow) -> Result<(), StoreError> {
    let now = tx.now().as_micros();
    let outcome = if decision.allowed {
        "allowed"
    } else {
        "denied"
    };
    tx.execute(
        "INSERT INTO decisions (decision_id, profile_id, action, outcome, rules, bundle_hash, \
         inputs_hash, created_at, expires_at, reason, bundle_version, inputs, second_factor_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        values![
            decision.decision_id.to_string(),
            decision.profile_id.to_string(),
            decision.action,
            outcome,
            decision.rules.as_str(),
            &decision.bundle_hash,
            &decision.inputs_hash,
            now,
            decision.expires_at.as_micros(),
            decision.reason,
            decision.bundle_version.as_str(),
            decision.inputs.as_str(),
            (decision.allowed && decision.second_factor).then_some(now)
        ],
    )
    .await?;
    Ok(())
}

/// What a decision said.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn find(reads: &mut impl Reads, id: DecisionId) -> Result<Option<Standing>, StoreError> {
    let row = reads
        .query_one(
            "SELECT outcome, bundle_hash, expires_at, second_factor_at FROM decisions WHERE decision_id = $1",
            values![id.to_string()],
        )
        .await?;
    row.map(|row| {
        let mut row = row.of("decisions");
        Ok(Standing {
            allowed: row.text("outcome")? == "allowed",
            bundle_hash: row.array("bundle_hash")?,
            expires_at: time(row.int("expires_at")?),
            second_factor_at: row.int_or_null("second_factor_at")?.map(time),
        })
    })
    .transpose()
}

/// Gives a decision a new end, when a new attempt is judged under the same policy.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn extend(
    tx: &mut Tx<'_>,
    id: DecisionId,
    expires_at: Timestamp,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE decisions SET expires_at = $2 WHERE decision_id = $1",
        values![id.to_string(), expires_at.as_micros()],
    )
    .await?;
    Ok(())
}

/// A decision goes on, on the ground of another code.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn stepped_up(tx: &mut Tx<'_>, id: DecisionId) -> Result<(), StoreError> {
    let now = tx.now().as_micros();
    tx.execute(
        "UPDATE decisions SET second_factor_at = $2 WHERE decision_id = $1",
        values![id.to_string(), now],
    )
    .await?;
    Ok(())
}

/// A decision with all that was recorded of it.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn recorded(
    reads: &mut impl Reads,
    id: DecisionId,
) -> Result<Option<Recorded>, StoreError> {
    let row = reads
        .query_one(
            "SELECT decision_id, outcome, reason, rules, bundle_hash, bundle_version, inputs, created_at \
             FROM decisions WHERE decision_id = $1",
            values![id.to_string()],
        )
        .await?;
    row.map(Recorded::read).transpose()
}

/// The next of the decisions whose inputs are known, in the order of their ids, which is that of their time.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn after(reads: &mut impl Reads, id: DecisionId) -> Result<Vec<Recorded>, StoreError> {
    let rows = reads
        .query(
            "SELECT decision_id, outcome, reason, rules, bundle_hash, bundle_version, inputs, created_at \
             FROM decisions WHERE decision_id > $1 ORDER BY decision_id LIMIT 500",
            values![id.to_string()],
        )
        .await?;
    rows.into_iter().map(Recorded::read).collect()
}
