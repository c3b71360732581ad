//! The hash chain over audit records.
//!
//! Records are written inside their operations; the chain follows behind, off the hot path. A link
//! covers the whole record and the link before it, so an edit, a gap or a reordering shows.

pub mod verify;

use std::sync::Arc;
use std::time::Duration;

use countersign_mpc::lp::Lp;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::domain::InstanceId;
use crate::store::audit::StoredRecord;
use crate::store::audit::chain::{Extended, Standing, standing};
use crate::store::{Reads, Store, StoreError};
use crate::telemetry::metrics::Metrics;

pub use verify::{Break, Flaw, Verified};

/// How often the sequencer looks for new records: what came meanwhile shares a few statements and one
/// fsync.
const INTERVAL: Duration = Duration::from_millis(500);

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

/// Chains records while no other process does, until told to stop; and then once more, whoever does, so
/// that an orderly stop leaves none behind.
pub async fn sequence(
    store: Store,
    metrics: Arc<Metrics>,
    holder: InstanceId,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        let waiting = match turn(&store, holder).await {
            Ok(waiting) => waiting,
            Err(error) => {
                error.log("audit records could not be chained");
                -1
            }
        };
        metrics.audit_unchained(waiting);
        drop(tokio::time::timeout(INTERVAL, stop.cancelled()).await);
    }
    let last = async {
        catch_up(&store).await?;
        store.release_chain(holder).await
    };
    if let Err(error) = last.await {
        error.log("audit records were left unchained");
    }
}

/// One look at what waits, and the chaining of it if that is this process's to do; how many still wait.
///
/// # Errors
/// [`StoreError`] when the database fails; what is chained stays chained.
pub async fn turn(store: &Store, holder: InstanceId) -> Result<i64, StoreError> {
    let now = clock::now();
    let found = {
        let mut reader = store.reader().await?;
        standing(&mut reader, holder, now).await?
    };
    let Standing { waiting, .. } = found;
    if found.led_by_another || !found.is_behind(now) {
        return Ok(waiting);
    }
    let chained = extend(store, Some(holder)).await?;
    if chained == 0 && waiting > 0 {
        tracing::error!(
            waiting,
            "records wait for the audit chain that have a link in it: run countersignd audit verify"
        );
    }
    let chained = i64::try_from(chained).unwrap_or(i64::MAX);
    Ok(waiting.saturating_sub(chained).max(0))
}

/// Chains everything that is committed now, whichever process usually does.
///
/// # Errors
/// [`StoreError`] when the database fails; what is chained stays chained.
pub async fn catch_up(store: &Store) -> Result<(), StoreError> {
    extend(store, None).await.map(|_| ())
}

async fn extend(store: &Store, holder: Option<InstanceId>) -> Result<usize, StoreError> {
    let mut chained: usize = 0;
    loop {
        match store.extend_chain(link_hash, holder).await? {
            Extended::More(links) => chained = chained.saturating_add(links),
            Extended::Done(links) => return Ok(chained.saturating_add(links)),
            Extended::Led => return Ok(chained),
        }
    }
}

/// Verifies the whole chain.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn verify(store: &Store) -> Result<Verified, StoreError> {
    verify_through(&mut store.reader().await?).await
}

/// As [`verify()`], of a database that no store has open.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn verify_through(reads: &mut impl Reads) -> Result<Verified, StoreError> {
    verify::verify(reads, verify::From::Beginning, |_| ()).await
}
