//! One row per permit: what makes `unwraps <= records <= permits` countable.

use super::engine::values;
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

/// Whether this step was ended as one of a process that died.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn was_orphaned(reads: &mut impl Reads, permit: OperationId) -> Result<bool, StoreError> {
    let row = reads
        .query_one(
            "SELECT outcome FROM steps WHERE permit_id = $1",
            values![permit.to_string()],
        )
        .await?;
    let Some(row) = row else { return Ok(false) };
    Ok(row.of("steps").text("outcome")? == StepOutcome::Orphaned.as_str())
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
