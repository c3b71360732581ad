//! One row per permit: what makes `unwraps <= records <= permits` countable.

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
    sqlx::query(
        "INSERT INTO steps (permit_id, session_id, attempt, step, outcome, started_at) \
         VALUES ($1, $2, $3, $4, 'open', $5)",
    )
    .bind(permit.to_string())
    .bind(session.to_string())
    .bind(i64::from(attempt))
    .bind(i64::from(step))
    .bind(now)
    .execute(tx.connection())
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
    let done = sqlx::query(
        "UPDATE steps SET outcome = $2, ended_at = $3 WHERE permit_id = $1 AND outcome = 'open'",
    )
    .bind(permit.to_string())
    .bind(outcome.as_str())
    .bind(now)
    .execute(tx.connection())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Ends every open step of a session whose process died.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn orphan(tx: &mut Tx<'_>, session: SessionId) -> Result<(), StoreError> {
    let now = tx.now().as_micros();
    sqlx::query(
        "UPDATE steps SET outcome = $2, ended_at = $3 WHERE session_id = $1 AND outcome = 'open'",
    )
    .bind(session.to_string())
    .bind(StepOutcome::Orphaned.as_str())
    .bind(now)
    .execute(tx.connection())
    .await?;
    Ok(())
}
