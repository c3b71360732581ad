//! The hash chain over audit records.
//!
//! Records are written inside their operations; the chain follows behind, off the hot path. A link
//! covers the whole record and the link before it, so an edit, a gap or a reordering shows.

use std::sync::Arc;
use std::time::Duration;

use countersign_mpc::lp::Lp;
use tokio_util::sync::CancellationToken;

use crate::store::audit::{self, StoredRecord, chained_after};
use crate::store::{Reads, Store, StoreError};
use crate::telemetry::metrics::Metrics;

/// How often the sequencer looks for new records.
const INTERVAL: Duration = Duration::from_millis(500);
/// Unchained records that are counted; more are as bad.
const BACKLOG: i64 = 10_000;
/// Links read at a time when the chain is verified.
const VERIFY_BATCH: i64 = 500;

/// `H(LP("audit/1", previous, operation id, at, event, outcome, profile id, session id, detail))`;
/// an absent id is the empty string.
#[must_use]
pub fn link_hash(previous: &[u8; 32], record: &StoredRecord) -> [u8; 32] {
    Lp::new("audit/1")
        .bytes(previous)
        .str(&record.operation_id)
        .u64(u64::try_from(record.at).unwrap_or(0))
        .str(&record.event)
        .str(&record.outcome)
        .str(record.profile_id.as_deref().unwrap_or_default())
        .str(record.session_id.as_deref().unwrap_or_default())
        .str(&record.detail)
        .hash()
}

/// Chains records until told to stop, and then once more, so that an orderly stop leaves none behind.
pub async fn sequence(store: Store, metrics: Arc<Metrics>, stop: CancellationToken) {
    loop {
        if let Err(error) = catch_up(&store).await {
            error.log("audit records could not be chained");
        }
        metrics.audit_unchained(backlog(&store).await);
        if stop.is_cancelled() {
            return;
        }
        drop(tokio::time::timeout(INTERVAL, stop.cancelled()).await);
    }
}

/// Chains everything that is committed now.
///
/// # Errors
/// [`StoreError`] when the database fails; what is chained stays chained.
pub async fn catch_up(store: &Store) -> Result<(), StoreError> {
    while store.extend_chain(link_hash).await? > 0 {}
    Ok(())
}

async fn backlog(store: &Store) -> i64 {
    let counted = async {
        let mut reader = store.reader().await?;
        audit::backlog(&mut reader, BACKLOG).await
    };
    counted.await.unwrap_or(-1)
}

/// What a verification found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    /// The chain holds; it has this many links.
    Intact(i64),
    /// The chain breaks at this position.
    BrokenAt(i64),
}

/// Recomputes the whole chain.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn verify(store: &Store) -> Result<Verified, StoreError> {
    verify_through(&mut store.reader().await?).await
}

/// As [`verify`], of a database that no store has open.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn verify_through(reads: &mut impl Reads) -> Result<Verified, StoreError> {
    let mut position = 0;
    let mut previous = [0; 32];
    loop {
        let links = chained_after(reads, position, VERIFY_BATCH).await?;
        if links.is_empty() {
            return Ok(Verified::Intact(position));
        }
        for (link, record) in links {
            position += 1;
            let holds = record.is_some_and(|record| {
                link.position == position
                    && link.previous_hash == previous
                    && link.hash == link_hash(&previous, &record)
            });
            if !holds {
                return Ok(Verified::BrokenAt(position));
            }
            previous = link.hash;
        }
    }
}
