//! Jobs that one process of several does at a time.
//!
//! A lease spares the others the work; it excludes nobody. What must not happen twice at once has a
//! [`Key`](super::Key). So clocks need not agree: one that is wrong makes the job change hands too early
//! or too late, and no more.

use super::engine::values;
use super::{Key, StoreError, Tx, Upkeep};
use crate::clock::Timestamp;
use crate::domain::InstanceId;

/// A job and how long it stays with a process that says nothing.
#[derive(Clone, Copy)]
pub(super) struct Lease {
    pub(super) name: &'static str,
    pub(super) seconds: i64,
}

impl Lease {
    /// A lease that ends later than this was written by a clock far ahead of ours, and counts for nothing:
    /// its holder may be gone, and nobody would do the job until then.
    pub(super) const fn latest(self, now: Timestamp) -> i64 {
        let seconds = self.seconds.saturating_mul(2);
        now.plus_seconds(seconds).as_micros()
    }
}

/// Takes or renews a lease; false while another process holds it.
pub(super) async fn hold(
    tx: &mut Tx<'_>,
    lease: Lease,
    holder: InstanceId,
) -> Result<bool, StoreError> {
    let now = tx.now();
    let until = now.plus_seconds(lease.seconds).as_micros();
    tx.execute_one(
        "INSERT INTO leases (name, holder, until) VALUES ($1, $2, $3) ON CONFLICT (name) \
         DO UPDATE SET holder = $2, until = $3 \
         WHERE leases.holder = $2 OR leases.until <= $4 OR leases.until > $5",
        values![
            lease.name,
            holder.to_string(),
            until,
            now.as_micros(),
            lease.latest(now)
        ],
    )
    .await
}

/// Gives a lease back, so that the next process need not wait until it lapses.
pub(super) struct LetGo {
    pub(super) lease: Lease,
    pub(super) holder: InstanceId,
}

impl Upkeep for LetGo {
    type Output = ();

    fn key(&self) -> Key {
        Key::NONE
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        tx.execute(
            "DELETE FROM leases WHERE name = $1 AND holder = $2",
            values![self.lease.name, self.holder.to_string()],
        )
        .await?;
        Ok(())
    }
}
