//! Request rates: counted inside the operation that admits a request, with the database's time (`protocol.md` 5.1).
//!
//! What is counted is every request that reaches the limiter, whatever becomes of it then. What comes before does not
//! count: requests that are malformed, of strangers, or repeated, and those that the limiter itself refuses. Nothing is
//! ever given back.

use crate::clock::Timestamp;
use crate::domain::{RateClass, RateSubject};
use crate::limits::{Exceeded, InForce, Log, Meter, Rate};
use crate::store::{Key, Reader, Reads, StoreError, Tx, limits};

/// The rate that a request falls under, and whose it is.
#[derive(Clone)]
pub struct Metering {
    rate: Rate,
    subject: RateSubject,
    meter: Meter,
}

/// Why a request is not counted, and not admitted.
#[derive(Debug)]
pub enum NotCounted {
    /// There were too many.
    Exceeded(Exceeded),
    /// The store failed: nobody knows, so nothing is admitted.
    Store(StoreError),
}

impl From<StoreError> for NotCounted {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Metering {
    /// A request of a class by a subject, under the limits that are in force now; `meter` is told what is left.
    #[must_use]
    pub fn new(limits: &InForce, class: RateClass, subject: RateSubject, meter: Meter) -> Self {
        Self {
            rate: limits.current().rate(class),
            subject,
            meter,
        }
    }

    /// What an operation that counts has for a key, beside its own.
    #[must_use]
    pub fn key(&self) -> Key {
        Key::rate(self.subject)
    }

    /// Counts the request, if there is room.
    ///
    /// # Errors
    /// [`NotCounted::Exceeded`] when there is none.
    pub async fn take(&self, tx: &mut Tx<'_>) -> Result<(), NotCounted> {
        let now = tx.server_clock().await?;
        self.take_at(tx, now, 1).await
    }

    /// Counts a request that is admitted in any case; when there is no room, it is not counted either.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn note(&self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        match self.take(tx).await {
            Ok(()) | Err(NotCounted::Exceeded(_)) => Ok(()),
            Err(NotCounted::Store(error)) => Err(error),
        }
    }

    /// Counts `events` requests at a time, or none of them.
    pub(crate) async fn take_at(
        &self,
        tx: &mut Tx<'_>,
        now: Timestamp,
        events: u32,
    ) -> Result<(), NotCounted> {
        let log = self.admits(tx, now, events).await?;
        let until = self.rate.leaves(now);
        limits::add(tx, (self.rate.class, self.subject), now, until, events).await?;
        let log = Log {
            count: log.count.saturating_add(u64::from(events)),
            oldest: log.oldest.or(Some(now)),
        };
        self.meter.set(self.rate.standing(log, now), false);
        Ok(())
    }

    /// Whether there is room now; nothing is counted. What it costs to carry out a request is spared when there is none.
    ///
    /// # Errors
    /// [`NotCounted::Exceeded`] when there is none.
    pub async fn look(&self, reader: &mut Reader) -> Result<(), NotCounted> {
        let now = reader.server_clock().await?;
        self.admits(reader, now, 1).await.map(|_| ())
    }

    /// Tells the meter what is left, for the answer to a request that is not counted.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn show(&self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let now = tx.now();
        let log = self.log(tx, now).await?;
        self.meter.set(self.rate.standing(log, now), false);
        Ok(())
    }

    async fn admits(
        &self,
        reads: &mut impl Reads,
        now: Timestamp,
        events: u32,
    ) -> Result<Log, NotCounted> {
        let log = self.log(reads, now).await?;
        let excess = self.rate.excess(log, events);
        let exceeded = excess != Some(0);
        self.meter.set(self.rate.standing(log, now), exceeded);
        let last = match excess {
            Some(0) => return Ok(log),
            Some(nth) => {
                let (class, since) = (self.rate.class, self.rate.since(now));
                limits::nth(reads, class, self.subject, since, nth).await?
            }
            None => None,
        };
        Err(NotCounted::Exceeded(self.rate.exceeded(last, now)))
    }

    async fn log(&self, reads: &mut impl Reads, now: Timestamp) -> Result<Log, StoreError> {
        let (class, since) = (self.rate.class, self.rate.since(now));
        let (count, oldest) = limits::count(reads, class, self.subject, since).await?;
        Ok(Log { count, oldest })
    }
}
