//! The processes that serve this database: who lives, who has ended.
//!
//! A process renews its lease; one that stops is ended by another one, and from then on it is dead to
//! everybody: its checks are ended, and it admits nothing before it has renewed. INVARIANT: whether an
//! instance lives is what its row says, so that no two clocks are ever compared; the lease, by the database
//! server's clock, only says when a row may be ended.

use super::engine::{Row, values};
use super::{Key, Reads, StoreError, Tx, Upkeep, time};
use crate::clock::{self, Timestamp};
use crate::domain::{InstanceId, InstanceTag};

/// How long the row of an ended instance is kept for operators to see, in seconds: a week. A missing row
/// is that of an ended instance.
const KEEP_ENDED: i64 = 7 * 24 * 3600;

/// A start of a process.
#[derive(Clone, Debug)]
pub struct InstanceRow {
    /// Its id.
    pub instance_id: InstanceId,
    /// What clients and gateways see of it.
    pub tag: InstanceTag,
    /// Until when nobody may end it, by the database server's clock.
    pub lease_until: Timestamp,
    /// When it ended or was ended.
    pub ended_at: Option<Timestamp>,
}

impl InstanceRow {
    fn read(row: Row) -> Result<Self, StoreError> {
        let mut row = row.of("instances");
        Ok(Self {
            instance_id: row.parsed("instance_id", InstanceId::parse)?,
            tag: row.parsed("tag", InstanceTag::parse)?,
            lease_until: time(row.int("lease_until")?),
            ended_at: row.int_or_null("ended_at")?.map(time),
        })
    }
}

/// The instances that live.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn living(reads: &mut impl Reads) -> Result<Vec<InstanceRow>, StoreError> {
    let rows = reads
        .query(
            "SELECT instance_id, tag, lease_until, ended_at FROM instances \
             WHERE ended_at IS NULL ORDER BY lease_until LIMIT 1000",
            &[],
        )
        .await?;
    rows.into_iter().map(InstanceRow::read).collect()
}

/// This instance, if it lives.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn find_living(
    reads: &mut impl Reads,
    id: InstanceId,
) -> Result<Option<InstanceRow>, StoreError> {
    let row = reads
        .query_one(
            "SELECT instance_id, tag, lease_until, ended_at FROM instances \
             WHERE instance_id = $1 AND ended_at IS NULL",
            values![id.to_string()],
        )
        .await?;
    row.map(InstanceRow::read).transpose()
}

/// How far our clock is from the database server's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skew {
    /// Ours minus theirs, in microseconds, if both ways of the question took as long.
    pub micros: i64,
    /// How far from that it can be: half the time of the round trip.
    pub doubt: i64,
}

impl Skew {
    /// From the server's time and ours before and after it was asked.
    #[must_use]
    pub const fn measured(before: Timestamp, server: Timestamp, after: Timestamp) -> Self {
        let doubt = after.as_micros().saturating_sub(before.as_micros()) / 2;
        let middle = before.as_micros().saturating_add(doubt);
        Self {
            micros: middle.saturating_sub(server.as_micros()),
            // A clock that was set back meanwhile says nothing of the round trip.
            doubt: if doubt < 0 { 0 } else { doubt },
        }
    }

    /// The clocks are at least this far apart, whatever the round trip hides; in microseconds.
    #[must_use]
    pub const fn at_least(self) -> i64 {
        let apart = self.micros.saturating_abs().saturating_sub(self.doubt);
        if apart < 0 { 0 } else { apart }
    }

    /// In seconds; positive when our clock is ahead.
    #[must_use]
    pub fn seconds(self) -> f64 {
        std::time::Duration::from_micros(self.micros.unsigned_abs()).as_secs_f64()
            * if self.micros < 0 { -1.0 } else { 1.0 }
    }
}

/// Who takes or renews a lease.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The instance.
    pub instance: InstanceId,
    /// The boot of the machine it runs on.
    pub boot_id: String,
    /// How long nobody may end it, in seconds.
    pub seconds: i64,
}

/// Takes the first lease, or the next one. A new instance of a database that only one process can have
/// open ends all others.
pub(super) struct Renew {
    pub(super) lease: Lease,
    pub(super) alone: bool,
}

impl Upkeep for Renew {
    type Output = Skew;

    /// Only its own row is written, so that nobody waits for a process that was paused in the middle of it.
    fn key(&self) -> Key {
        Key::NONE
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<Skew, StoreError> {
        let before = clock::now();
        let server = tx.server_clock().await?;
        let skew = Skew::measured(before, server, clock::now());
        let Lease {
            instance,
            boot_id,
            seconds,
        } = &self.lease;
        tx.execute(
            "INSERT INTO instances (instance_id, tag, boot_id, started_at, lease_until) \
             VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (instance_id) DO UPDATE SET lease_until = excluded.lease_until, ended_at = NULL",
            values![
                instance.to_string(),
                instance.tag().as_str(),
                boot_id.as_str(),
                server.as_micros(),
                server.plus_seconds(*seconds).as_micros()
            ],
        )
        .await?;
        if self.alone {
            tx.execute(
                "UPDATE instances SET ended_at = $2 WHERE instance_id <> $1 AND ended_at IS NULL",
                values![instance.to_string(), server.as_micros()],
            )
            .await?;
        }
        Ok(skew)
    }
}

/// Ends an instance: itself, or one that has let its lease lapse.
pub(super) struct End {
    pub(super) instance: InstanceId,
    pub(super) only_lapsed: bool,
}

impl Upkeep for End {
    type Output = bool;

    fn key(&self) -> Key {
        Key::NONE
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<bool, StoreError> {
        let now = tx.server_clock().await?.as_micros();
        tx.execute(
            "DELETE FROM instances WHERE ended_at < $1",
            values![now.saturating_sub(KEEP_ENDED.saturating_mul(1_000_000))],
        )
        .await?;
        let latest = if self.only_lapsed { now } else { i64::MAX };
        tx.execute_one(
            "UPDATE instances SET ended_at = $2 \
             WHERE instance_id = $1 AND ended_at IS NULL AND lease_until <= $3",
            values![self.instance.to_string(), now, latest],
        )
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::Skew;
    use crate::clock::Timestamp;

    const fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    #[test]
    fn the_round_trip_is_no_skew() {
        // Asked at 0, answered at 8 s with 4 s or anything else that may have been read on the way.
        for server in [0, 4_000_000, 8_000_000] {
            let skew = Skew::measured(at(0), at(server), at(8_000_000));
            assert_eq!(skew.at_least(), 0, "{skew:?}");
        }
    }

    #[test]
    fn what_no_round_trip_explains_is_skew() {
        let ahead = Skew::measured(at(10_000_000), at(4_000_000), at(10_200_000));
        assert_eq!(ahead.at_least(), 6_000_000);
        assert!((ahead.seconds() - 6.1).abs() < 1e-9);
        let behind = Skew::measured(at(0), at(6_000_000), at(0));
        assert_eq!(behind.at_least(), 6_000_000);
        assert!((behind.seconds() + 6.0).abs() < 1e-9);
    }
}
