//! Deleting rows that have served their purpose, so that the database does not grow without end.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::domain::InstanceId;
use crate::store::retention::{self, Aged, Retention};
use crate::store::{Store, StoreError};
use crate::telemetry::metrics::Metrics;

/// Batches of one kind in a round: what is more waits for the next one, so that a large backlog does not
/// keep the database busy, nor the housekeeper from sessions that end.
const BATCHES: u32 = 100;

/// Deletes what is old, while no other process does.
pub struct Pruner {
    /// The database.
    pub store: Store,
    /// What is kept for how long.
    pub retention: Retention,
    /// This process.
    pub instance: InstanceId,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

impl Pruner {
    /// One round over everything.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails or is busy; what is deleted is deleted.
    pub async fn round(&self, stop: &CancellationToken) -> Result<(), StoreError> {
        for aged in Aged::ALL {
            self.prune(aged, stop).await?;
        }
        let mut reader = self.store.reader().await?;
        for (table, at) in retention::oldest(&mut reader).await? {
            self.metrics.oldest_row(table, at);
        }
        Ok(())
    }

    async fn prune(&self, aged: Aged, stop: &CancellationToken) -> Result<(), StoreError> {
        for _ in 0..BATCHES {
            if stop.is_cancelled() {
                break;
            }
            let deleted = self.store.prune(aged, self.retention, self.instance);
            let Some(deleted) = deleted.await? else {
                break;
            };
            let mut any = false;
            for (table, rows) in deleted {
                self.metrics.deleted_rows(table, rows);
                any |= rows > 0;
            }
            if !any {
                break;
            }
        }
        Ok(())
    }
}
