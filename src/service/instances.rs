//! This process among those that serve one database: its lease, its clock, and what the others left behind.
//!
//! INVARIANT: a check is ended only once its process was ended, and a process is ended only by one that
//! has itself held its lease for as long as a lease lasts: after the database was away for everybody, nobody
//! is mistaken for dead.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::domain::{InstanceId, InstanceTag};
use crate::sessions::lifecycle::{Left, Orphan};
use crate::store::instances::{self, InstanceRow, Lease, Skew};
use crate::store::{CommitError, Store, StoreError, sessions};
use crate::telemetry::metrics::Metrics;

/// How long an instance lives without a sign of life. Its wallets wait that long when it dies, and it may
/// be paused or cut off from the database that long without being taken for dead.
const LEASE: Duration = Duration::from_secs(10);
/// How often the lease is renewed: four tries may fail, and a try that hangs is given up in between.
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// How far our clock may be from the database server's. Sessions and decisions live for minutes and begin
/// on one machine and end on another; leases do not depend on it.
const MAX_SKEW: Duration = Duration::from_secs(5);
/// How often the age of the lease is shown while a renewal is under way.
const SHOW_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for the end of the lease at an orderly stop. Without it the lease lapses by itself.
const LEAVE: Duration = Duration::from_secs(3);

/// Our clock and the database server's are too far apart.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the clock of this machine is {tenths} s {direction} the database server's: set both by the same time service (chrony, systemd-timesyncd)",
    tenths = tenths(.0.micros),
    direction = if .0.micros < 0 { "behind" } else { "ahead of" }
)]
pub struct ClocksDiffer(Skew);

fn tenths(micros: i64) -> String {
    let tenths = micros.unsigned_abs() / 100_000;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// Why this process cannot take its place.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The database failed.
    #[error("this process could not be entered into the database")]
    Store(#[source] StoreError),
    /// The clocks are too far apart.
    #[error(transparent)]
    Clock(#[from] ClocksDiffer),
}

fn compared(skew: Skew) -> Result<(), ClocksDiffer> {
    let allowed = i64::try_from(MAX_SKEW.as_micros()).unwrap_or(i64::MAX);
    if skew.at_least() > allowed {
        return Err(ClocksDiffer(skew));
    }
    Ok(())
}

/// What is known of the own lease.
#[derive(Clone, Copy, Debug)]
struct Standing {
    /// When the last renewal that succeeded was begun.
    renewed: Instant,
    /// Since when the lease has held without a break.
    since: Instant,
    skew: Skew,
}

impl Standing {
    fn holds(&self, now: Instant) -> bool {
        now.duration_since(self.renewed) < LEASE
    }

    /// After a renewal that was begun at `begun`; whether the lease had lapsed.
    fn renew(&mut self, begun: Instant, skew: Skew) -> bool {
        let lapsed = !self.holds(begun);
        if lapsed {
            self.since = begun;
        }
        self.renewed = begun;
        self.skew = skew;
        lapsed
    }

    fn may_judge(&self, now: Instant) -> bool {
        self.holds(now) && now.duration_since(self.since) >= LEASE
    }
}

/// The place of this process.
pub struct Membership {
    store: Store,
    lease: Lease,
    metrics: Arc<Metrics>,
    standing: Mutex<Standing>,
}

impl Membership {
    /// Takes the first lease of this process; in a database that no other can have open, ends all others.
    ///
    /// # Errors
    /// [`JoinError`]; the process must not serve then.
    pub async fn join(
        store: Store,
        boot_id: String,
        metrics: Arc<Metrics>,
    ) -> Result<Self, JoinError> {
        let lease = Lease {
            instance: InstanceId::generate(),
            boot_id,
            seconds: seconds(LEASE),
        };
        let begun = Instant::now();
        let joined = store.renew_lease(lease.clone()).await;
        let skew = joined.map_err(JoinError::Store)?;
        metrics.clock_skew(skew.seconds());
        metrics.instances_alive(1);
        if let Err(differ) = compared(skew) {
            drop(store.end_lease(lease.instance).await);
            return Err(differ.into());
        }
        let standing = Standing {
            renewed: begun,
            since: begun,
            skew,
        };
        Ok(Self {
            store,
            lease,
            metrics,
            standing: Mutex::new(standing),
        })
    }

    /// This process.
    #[must_use]
    pub const fn instance(&self) -> InstanceId {
        self.lease.instance
    }

    /// What the outside sees of it.
    #[must_use]
    pub fn tag(&self) -> InstanceTag {
        self.lease.instance.tag()
    }

    /// Whether the lease holds, so that a check may begin. Where no other process can have the database
    /// open, it does: the process lock is the proof, and nobody looks at the lease.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.store.is_alone() || self.standing().holds(Instant::now())
    }

    /// The lease, for operators.
    ///
    /// # Errors
    /// Since when it has not been renewed.
    pub fn lease(&self) -> Result<(), String> {
        if self.holds() {
            return Ok(());
        }
        let age = self.standing().renewed.elapsed().as_secs();
        Err(format!(
            "the lease lapsed: the database has taken no renewal for {age} s"
        ))
    }

    /// The clock, for operators.
    ///
    /// # Errors
    /// How far it is off.
    pub fn clock(&self) -> Result<(), String> {
        compared(self.standing().skew).map_err(|differ| differ.to_string())
    }

    /// Renews the lease until told to stop, where others look at it.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        if self.store.is_alone() {
            return;
        }
        while timeout(RENEW_EVERY, stop.cancelled()).await.is_err() {
            self.renew().await;
        }
    }

    async fn renew(&self) {
        let begun = Instant::now();
        let mut renewal = Box::pin(self.store.renew_lease(self.lease.clone()));
        // Only the waiting is cut up; the renewal goes on.
        let renewed = loop {
            match timeout(SHOW_EVERY, renewal.as_mut()).await {
                Ok(renewed) => break renewed,
                Err(_) => self.show(),
            }
        };
        match renewed {
            Ok(skew) => {
                if self.standing().renew(begun, skew) {
                    tracing::warn!("the lease had lapsed and is renewed");
                }
                if let Err(differ) = compared(skew) {
                    tracing::error!(error = %differ, "the clocks differ");
                }
                self.metrics.clock_skew(skew.seconds());
            }
            Err(error) => error.log("the lease could not be renewed"),
        }
        self.show();
    }

    fn show(&self) {
        self.metrics.lease_age(self.standing().renewed.elapsed());
    }

    /// Ends the lease: what this process left behind may be looked after at once.
    pub async fn leave(&self) {
        match timeout(LEAVE, self.store.end_lease(self.instance())).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::error!(?error, "the lease could not be ended; it will lapse");
            }
            Err(_) => tracing::error!("the database did not end the lease in time; it will lapse"),
        }
    }

    /// Ends instances whose lease has lapsed, and the checks of all that have ended; how many checks.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn reap(&self) -> Result<usize, StoreError> {
        if !self.store.is_alone() {
            self.judge().await?;
        }
        let mut reaped = 0;
        loop {
            let mut reader = self.store.reader().await?;
            let orphans = sessions::orphaned(&mut reader).await?;
            drop(reader);
            let before = reaped;
            for session in orphans {
                reaped += usize::from(self.end(session).await?);
            }
            if reaped == before {
                return Ok(reaped);
            }
        }
    }

    async fn end(&self, session: sessions::SessionRow) -> Result<bool, StoreError> {
        let (id, profile, owner) = (
            session.session_id,
            session.profile_id,
            session.instance_id.tag(),
        );
        let left = Left::Died;
        match self.store.conclude(Orphan { session, left }).await {
            Ok(_) => {
                self.metrics.orphan_reaped();
                tracing::warn!(session = %id, %profile, %owner, "a check was left behind by a process that died");
                Ok(true)
            }
            // Its process lives after all, or another one was first.
            Err(CommitError::Refused(_)) => Ok(false),
            Err(CommitError::Store(error)) => Err(error),
        }
    }

    async fn judge(&self) -> Result<(), StoreError> {
        let mut reader = self.store.reader().await?;
        let living = instances::living(&mut reader).await?;
        drop(reader);
        let standing = *self.standing();
        let mut alive = living.len();
        if standing.may_judge(Instant::now()) {
            // Their server's time is near enough to look; the operation asks the server itself.
            let skew = standing.skew.micros;
            let server = clock::now().as_micros().saturating_sub(skew);
            let lapsed = |row: &InstanceRow| {
                row.instance_id != self.instance() && row.lease_until.as_micros() <= server
            };
            for row in living.into_iter().filter(lapsed) {
                if self.store.end_lapsed(row.instance_id).await? {
                    tracing::warn!(instance = %row.tag, "an instance let its lease lapse and was ended");
                    alive = alive.saturating_sub(1);
                }
            }
        }
        self.metrics.instances_alive(alive);
        Ok(())
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{ClocksDiffer, LEASE, Standing, compared};
    use crate::store::instances::Skew;

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    fn standing(start: Instant) -> Standing {
        Standing {
            renewed: start,
            since: start,
            skew: Skew::default(),
        }
    }

    #[test]
    fn a_lease_lapses_when_it_is_not_renewed_and_holds_again_when_it_is() {
        let start = Instant::now();
        let mut standing = standing(start);
        assert!(standing.holds(after(start, 9)));
        assert!(!standing.holds(start + LEASE));
        assert!(standing.renew(after(start, 15), Skew::default()));
        assert!(standing.holds(after(start, 24)));
        assert!(!standing.renew(after(start, 17), Skew::default()));
    }

    #[test]
    fn only_who_has_held_a_lease_for_a_whole_lease_judges_others() {
        let start = Instant::now();
        let mut standing = standing(start);
        for second in (2..30).step_by(2) {
            standing.renew(after(start, second), Skew::default());
            assert_eq!(standing.may_judge(after(start, second)), second >= 10);
        }
        // The database was away for everybody: the others get the time to come back.
        assert!(standing.renew(after(start, 60), Skew::default()));
        for second in (62..80).step_by(2) {
            standing.renew(after(start, second), Skew::default());
            assert_eq!(standing.may_judge(after(start, second)), second >= 70);
        }
        assert!(!standing.may_judge(after(start, 90)));
    }

    #[test]
    fn five_seconds_between_the_clocks_are_told_from_a_slow_answer() {
        let skew = |micros, doubt| Skew { micros, doubt };
        assert_eq!(compared(skew(5_000_000, 0)), Ok(()));
        assert_eq!(compared(skew(8_000_000, 3_000_000)), Ok(()));
        let far = skew(-8_260_000, 3_000_000);
        assert_eq!(compared(far), Err(ClocksDiffer(far)));
        assert!(
            ClocksDiffer(far)
                .to_string()
                .contains("is 8.2 s behind the database server's")
        );
    }
}
