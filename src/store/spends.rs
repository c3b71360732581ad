//! What was claimed from spending limits.
//!
//! A claim is reserved with its transaction, committed with its signature, and released when it is given up. A bucket is
//! what one limit adds up; its total is the sum of its claims.
//!
//! INVARIANT: only an operation that has the bucket to itself changes its total, together with the claims that leave it.
//! A release only marks them: whoever does not see the mark yet counts too much, never too little.

use super::engine::values;
use super::{Reads, StoreError, Tx};
use crate::clock::Timestamp;
use crate::domain::SessionId;

/// An amount, big-endian.
pub type Amount = [u8; 32];

/// A claim, as it is shown.
pub struct ClaimRow {
    /// Since when it counts.
    pub at: Timestamp,
    /// How much.
    pub amount: Amount,
    /// Whether it is given back.
    pub released: bool,
    /// Whether it was signed.
    pub committed: bool,
}

/// The total of a bucket, as it was left.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn total(reads: &mut impl Reads, bucket: &str) -> Result<Option<Amount>, StoreError> {
    let row = reads
        .query_one(
            "SELECT total FROM spend_totals WHERE bucket = $1",
            values![bucket],
        )
        .await?;
    row.map(|row| row.of("spend_totals").array("total"))
        .transpose()
}

/// Leaves a total.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn set_total(tx: &mut Tx<'_>, bucket: &str, total: &Amount) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO spend_totals (bucket, total) VALUES ($1, $2) \
         ON CONFLICT (bucket) DO UPDATE SET total = excluded.total",
        values![bucket, total],
    )
    .await?;
    Ok(())
}

/// Takes the claims out of a bucket that count no more: those released, and those signed at `since` or before. What they
/// were.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn leave(
    tx: &mut Tx<'_>,
    bucket: &str,
    since: Timestamp,
) -> Result<Vec<Amount>, StoreError> {
    let mut left = Vec::new();
    let past = tx
        .query(
            "DELETE FROM spend_claims WHERE bucket = $1 AND state = 'committed' AND at <= $2 RETURNING amount",
            values![bucket, since.as_micros()],
        )
        .await?;
    let released = tx
        .query(
            "DELETE FROM spend_claims WHERE bucket = $1 AND state = 'released' RETURNING amount",
            values![bucket],
        )
        .await?;
    for row in past.into_iter().chain(released) {
        left.push(row.of("spend_claims").array("amount")?);
    }
    Ok(left)
}

/// Reserves an amount for a session's transaction.
///
/// # Errors
/// [`StoreError`] when the database fails, or the session has a claim in this bucket.
pub async fn reserve(
    tx: &mut Tx<'_>,
    bucket: &str,
    session: SessionId,
    at: Timestamp,
    amount: &Amount,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO spend_claims (bucket, session_id, state, at, amount) VALUES ($1, $2, 'reserved', $3, $4)",
        values![bucket, session.to_string(), at.as_micros(), amount],
    )
    .await?;
    Ok(())
}

/// The transaction of a session is signed: from now on its claims count for the time of their limits.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub(super) async fn commit(tx: &mut Tx<'_>, session: SessionId) -> Result<(), StoreError> {
    let now = tx.server_clock().await?;
    tx.execute(
        "UPDATE spend_claims SET state = 'committed', at = $2 WHERE session_id = $1 AND state = 'reserved'",
        values![session.to_string(), now.as_micros()],
    )
    .await?;
    Ok(())
}

/// The transaction of a session is given up, unsigned: its claims count no more.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub(super) async fn release(tx: &mut Tx<'_>, session: SessionId) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE spend_claims SET state = 'released' WHERE session_id = $1 AND state = 'reserved'",
        values![session.to_string()],
    )
    .await?;
    Ok(())
}

/// Every claim of a bucket.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn claims(reads: &mut impl Reads, bucket: &str) -> Result<Vec<ClaimRow>, StoreError> {
    let rows = reads
        .query(
            "SELECT at, amount, state FROM spend_claims WHERE bucket = $1",
            values![bucket],
        )
        .await?;
    rows.into_iter()
        .map(|row| {
            let mut row = row.of("spend_claims");
            let (at, amount) = (super::time(row.int("at")?), row.array("amount")?);
            let state = row.text("state")?;
            Ok(ClaimRow {
                at,
                amount,
                released: state == "released",
                committed: state == "committed",
            })
        })
        .collect()
}
