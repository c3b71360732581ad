//! One row per permit: what makes `unwraps <= records <= permits` countable.

use std::collections::HashSet;

use super::engine::{Value, values};
use super::{Reads, StoreError, Tx};
use crate::domain::{OperationId, SessionId};

/// How a permitted step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepOutcome {
    /// The step ran and passed.
    Done,
    /// A check of the counterparty's message failed.
    Denied,
    /// The step could not run.
    Failed,
    /// The process died in it.
    Orphaned,
}

impl StepOutcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Denied => "denied",
            Self::Failed => "failed",
            Self::Orphaned => "orphaned",
        }
    }
}

/// Records that a permit was given.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn open(
    tx: &mut Tx<'_>,
    session: SessionId,
    attempt: u32,
    step: u8,
) -> Result<(), StoreError> {
    let now = tx.now().as_micros();
    let permit = tx.operation_id();
    tx.execute(
        "INSERT INTO steps (permit_id, session_id, attempt, step, outcome, started_at) \
         VALUES ($1, $2, $3, $4, 'open', $5)",
        values![
            permit.to_string(),
            session.to_string(),
            i64::from(attempt),
            i64::from(step),
            now
        ],
    )
    .await?;
    Ok(())
}

/// Records how a permitted step ended; false if it was not open.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn close(
    tx: &mut Tx<'_>,
    permit: OperationId,
    outcome: StepOutcome,
) -> Result<bool, StoreError> {
    let now = tx.now().as_micros();
    tx.execute_one(
        "UPDATE steps SET outcome = $2, ended_at = $3 WHERE permit_id = $1 AND outcome = 'open'",
        values![permit.to_string(), outcome.as_str(), now],
    )
    .await
}

/// Whether this step passed.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn passed(reads: &mut impl Reads, permit: OperationId) -> Result<bool, StoreError> {
    Ok(outcome(reads, permit).await?.as_deref() == Some(StepOutcome::Done.as_str()))
}

async fn outcome(
    reads: &mut impl Reads,
    permit: OperationId,
) -> Result<Option<String>, StoreError> {
    let row = reads
        .query_one(
            "SELECT outcome FROM steps WHERE permit_id = $1",
            values![permit.to_string()],
        )
        .await?;
    row.map(|row| row.of("steps").text("outcome")).transpose()
}

/// Whether this step was ended as one of a process that died.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn was_orphaned(reads: &mut impl Reads, permit: OperationId) -> Result<bool, StoreError> {
    Ok(outcome(reads, permit).await?.as_deref() == Some(StepOutcome::Orphaned.as_str()))
}

/// How many permits [`recorded`] looks up in one query.
pub const RECORDED_AT_ONCE: usize = 16;

/// Which of these permits have both their step and their audit record.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn recorded(
    reads: &mut impl Reads,
    permits: &[OperationId],
) -> Result<HashSet<OperationId>, StoreError> {
    let mut asked: Vec<Value<'_>> = permits
        .iter()
        .take(RECORDED_AT_ONCE)
        .map(|permit| permit.to_string().into())
        .collect();
    asked.resize(RECORDED_AT_ONCE, Value::Text(None));
    let rows = reads
        .query(
            "SELECT steps.permit_id FROM steps \
             JOIN audit_records ON audit_records.operation_id = steps.permit_id \
             WHERE steps.permit_id IN ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
            &asked,
        )
        .await?;
    rows.into_iter()
        .map(|row| row.of("steps").parsed("permit_id", OperationId::parse))
        .collect()
}

/// Ends every open step of a session whose process died.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn orphan(tx: &mut Tx<'_>, session: SessionId) -> Result<(), StoreError> {
    let now = tx.now().as_micros();
    tx.execute(
        "UPDATE steps SET outcome = $2, ended_at = $3 WHERE session_id = $1 AND outcome = 'open'",
        values![session.to_string(), StepOutcome::Orphaned.as_str(), now],
    )
    .await?;
    Ok(())
}
