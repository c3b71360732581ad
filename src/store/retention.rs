//! Rows that have served their purpose, and their deletion: the oldest first, a few at a time.
//!
//! INVARIANT: what goes is what no request and no verification asks for any more. Never deleted are audit
//! records and their chain, transactions that were signed with their sessions and decisions, sessions that
//! ended in a key or in a ban, profiles, shares, devices, owners and the idempotency keys of spends.

use super::engine::values;
use super::leases::{self, Lease};
use super::{Key, Reads, StoreError, Tx, Upkeep};
use crate::clock::Timestamp;
use crate::domain::InstanceId;
use crate::telemetry::metrics::AgedTable;

/// The process that deletes.
const PRUNER: Lease = Lease {
    name: "retention",
    seconds: 120,
};

/// Seconds for which rows are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Idempotency keys, from their request. A repeated request finds its first answer for as long; those of spends
    /// are kept for ever.
    pub idempotency: i64,
    /// Signing sessions that were given up, from their end, with their unsigned transaction, its decision
    /// and their steps. They can be restarted for as long.
    pub sessions: i64,
    /// Steps that ended, from their start. Their audit records stay.
    pub steps: i64,
    /// Decisions that denied something. Their audit records stay.
    pub denials: i64,
}

/// What one batch deletes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aged {
    /// Idempotency keys.
    Idempotency,
    /// Signing sessions that were given up.
    Sessions,
    /// Steps that ended.
    Steps,
    /// Denials.
    Denials,
    /// Nonces of requests that cannot come again.
    Nonces,
    /// Requests that no rate counts any more.
    RateEvents,
}

impl Aged {
    /// Everything, in an order in which nothing is left that refers to what is gone.
    pub const ALL: [Self; 6] = [
        Self::Idempotency,
        Self::Sessions,
        Self::Steps,
        Self::Denials,
        Self::Nonces,
        Self::RateEvents,
    ];

    /// What is older than this goes.
    const fn before(self, retention: &Retention, now: Timestamp) -> Timestamp {
        let seconds = match self {
            Self::Idempotency => retention.idempotency,
            Self::Sessions => retention.sessions,
            Self::Steps => retention.steps,
            Self::Denials => retention.denials,
            // Their rows say themselves until when they are kept.
            Self::Nonces | Self::RateEvents => 0,
        };
        now.plus_seconds(seconds.saturating_neg())
    }
}

/// How many rows a batch deleted, by table.
pub type Deleted = Vec<(AgedTable, u64)>;

/// Deletes a batch of old rows: of no state that anybody still asks for, so it leaves no record.
pub(super) struct Prune {
    pub(super) aged: Aged,
    pub(super) retention: Retention,
    pub(super) holder: InstanceId,
}

impl Upkeep for Prune {
    type Output = Option<Deleted>;

    fn key(&self) -> Key {
        Key::RETENTION
    }

    /// `None` while another process deletes.
    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<Option<Deleted>, StoreError> {
        if !leases::hold(tx, PRUNER, self.holder).await? {
            return Ok(None);
        }
        // The clock that all processes share: one that is ahead would forget what still counts, for all of them.
        let now = tx.server_clock().await?;
        let before = self.aged.before(&self.retention, now);
        let deleted = match self.aged {
            Aged::Idempotency => vec![(AgedTable::Idempotency, idempotency(tx, before).await?)],
            Aged::Sessions => sessions(tx, before).await?,
            Aged::Steps => vec![(AgedTable::Steps, steps(tx, before).await?)],
            Aged::Denials => vec![(AgedTable::Decisions, denials(tx, before).await?)],
            Aged::Nonces => vec![(AgedTable::Nonces, nonces(tx, before).await?)],
            Aged::RateEvents => vec![(AgedTable::RateEvents, rate_events(tx, before).await?)],
        };
        Ok(Some(deleted))
    }
}

async fn idempotency(tx: &mut Tx<'_>, before: Timestamp) -> Result<u64, StoreError> {
    tx.execute(
        "DELETE FROM idempotency WHERE created_at <= (SELECT MAX(created_at) FROM \
         (SELECT created_at FROM idempotency WHERE spend = 0 AND created_at < $1 ORDER BY created_at LIMIT 500) \
         AS oldest) AND spend = 0",
        values![before.as_micros()],
    )
    .await
}

async fn nonces(tx: &mut Tx<'_>, before: Timestamp) -> Result<u64, StoreError> {
    tx.execute(
        "DELETE FROM request_nonces WHERE expires_at <= (SELECT MAX(expires_at) FROM \
         (SELECT expires_at FROM request_nonces WHERE expires_at < $1 ORDER BY expires_at LIMIT 2000) AS oldest)",
        values![before.as_micros()],
    )
    .await
}

async fn rate_events(tx: &mut Tx<'_>, before: Timestamp) -> Result<u64, StoreError> {
    tx.execute(
        "DELETE FROM rate_events WHERE expires_at <= (SELECT MAX(expires_at) FROM \
         (SELECT expires_at FROM rate_events WHERE expires_at < $1 ORDER BY expires_at LIMIT 2000) AS oldest)",
        values![before.as_micros()],
    )
    .await
}

async fn denials(tx: &mut Tx<'_>, before: Timestamp) -> Result<u64, StoreError> {
    tx.execute(
        "DELETE FROM decisions WHERE outcome = 'denied' AND created_at <= (SELECT MAX(created_at) FROM \
         (SELECT created_at FROM decisions WHERE outcome = 'denied' AND created_at < $1 \
         ORDER BY created_at LIMIT 500) AS oldest)",
        values![before.as_micros()],
    )
    .await
}

/// Their ids begin with their time, so the oldest are found without an index of their own, which every
/// step would pay for.
async fn steps(tx: &mut Tx<'_>, before: Timestamp) -> Result<u64, StoreError> {
    tx.execute(
        "DELETE FROM steps WHERE permit_id IN (SELECT permit_id FROM steps \
         WHERE permit_id < $1 AND started_at < $2 AND outcome <> 'open' ORDER BY permit_id LIMIT 500)",
        values![earliest_id(before), before.as_micros()],
    )
    .await
}

/// No identifier made at this time or later is less.
fn earliest_id(at: Timestamp) -> String {
    let milliseconds = u64::try_from(at.as_micros() / 1000).unwrap_or(0) & 0xffff_ffff_ffff;
    let (high, low) = (milliseconds >> 16, milliseconds & 0xffff);
    format!("{high:08x}-{low:04x}-7000-8000-000000000000")
}

/// A session whose idempotency key is still remembered for a while stays: its answer is read from it. The key of a
/// spend outlives its session and then says that it is over. The first
/// statement takes the transaction that a restart would need, so none of these sessions comes back to life
/// before the last statement.
async fn sessions(tx: &mut Tx<'_>, before: Timestamp) -> Result<Deleted, StoreError> {
    let oldest = tx
        .query_one(
            "SELECT MAX(updated_at) FROM (SELECT updated_at FROM sessions WHERE state IN ('aborted', 'expired') \
             AND updated_at < $1 AND updated_at < COALESCE((SELECT MIN(created_at) FROM idempotency WHERE spend = 0), $1) \
             ORDER BY updated_at LIMIT 100) AS oldest",
            values![before.as_micros()],
        )
        .await?;
    let upto = match oldest {
        Some(row) => row.of("sessions").int_or_null("updated_at")?,
        None => None,
    };
    let Some(upto) = upto else {
        return Ok(Vec::new());
    };
    let transactions = tx
        .execute(
            "DELETE FROM transactions WHERE state = 'released' AND session_id IN ( \
             SELECT session_id FROM sessions WHERE state IN ('aborted', 'expired') AND updated_at <= $1 \
             ORDER BY updated_at, session_id LIMIT 100)",
            values![upto],
        )
        .await?;
    let steps = tx
        .execute(
            "DELETE FROM steps WHERE session_id IN ( \
             SELECT session_id FROM sessions WHERE state IN ('aborted', 'expired') AND updated_at <= $1 \
             AND (SELECT COUNT(*) FROM transactions AS kept WHERE kept.session_id = sessions.session_id) = 0 \
             ORDER BY updated_at, session_id LIMIT 100)",
            values![upto],
        )
        .await?;
    let decisions = tx
        .execute(
            "DELETE FROM decisions WHERE decision_id IN ( \
             SELECT decision_id FROM sessions WHERE state IN ('aborted', 'expired') AND updated_at <= $1 \
             AND (SELECT COUNT(*) FROM transactions AS kept WHERE kept.session_id = sessions.session_id) = 0 \
             ORDER BY updated_at, session_id LIMIT 100)",
            values![upto],
        )
        .await?;
    let sessions = tx
        .execute(
            "DELETE FROM sessions WHERE session_id IN ( \
             SELECT session_id FROM sessions WHERE state IN ('aborted', 'expired') AND updated_at <= $1 \
             AND (SELECT COUNT(*) FROM transactions AS kept WHERE kept.session_id = sessions.session_id) = 0 \
             ORDER BY updated_at, session_id LIMIT 100)",
            values![upto],
        )
        .await?;
    Ok(vec![
        (AgedTable::Transactions, transactions),
        (AgedTable::Steps, steps),
        (AgedTable::Decisions, decisions),
        (AgedTable::Sessions, sessions),
    ])
}

/// When the oldest row was made that retention looks after, by table.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn oldest(
    reads: &mut impl Reads,
) -> Result<[(AgedTable, Option<Timestamp>); 6], StoreError> {
    let row = reads
        .query_one(
            "SELECT (SELECT MIN(created_at) FROM idempotency WHERE spend = 0), \
             (SELECT updated_at FROM sessions WHERE state IN ('aborted', 'expired') ORDER BY updated_at LIMIT 1), \
             (SELECT started_at FROM steps ORDER BY permit_id LIMIT 1), \
             (SELECT created_at FROM decisions WHERE outcome = 'denied' ORDER BY created_at LIMIT 1), \
             (SELECT MIN(expires_at) FROM request_nonces), \
             (SELECT MIN(expires_at) FROM rate_events)",
            &[],
        )
        .await?;
    let mut row = row.ok_or(StoreError::NoEnvironment)?.of("oldest");
    let mut next = |table: AgedTable| {
        let at = row.int_or_null(table.as_str())?;
        Ok::<_, StoreError>((table, at.map(super::time)))
    };
    Ok([
        next(AgedTable::Idempotency)?,
        next(AgedTable::Sessions)?,
        next(AgedTable::Steps)?,
        next(AgedTable::Decisions)?,
        next(AgedTable::Nonces)?,
        next(AgedTable::RateEvents)?,
    ])
}
