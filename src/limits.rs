//! How much there may be of what is allowed: exact limits, beside the rules (`protocol.md` 5.1).
//!
//! A rate is a sliding-window log: of a subject's requests there are never more than N with a time after
//! `now - W`, whatever W is looked at. Nothing of it is in memory: what is counted is rows, and the time is the
//! database's, so the limits are those of all instances together. Here is the arithmetic over such rows; the rows are in
//! `store::limits`, and `gate::rates` puts the two together inside the durable operation that admits a request.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::clock::Timestamp;
use crate::domain::RateClass;

pub mod file;
pub mod spend;

pub use file::FileError;
pub use spend::SpendLimit;

/// At most so many requests of a class in any so many seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Of which requests.
    pub class: RateClass,
    /// How many.
    pub requests: u32,
    /// In so many seconds.
    pub seconds: u32,
}

/// A subject's requests in the window that ends now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// How many there are.
    pub count: u64,
    /// When the first of them was.
    pub oldest: Option<Timestamp>,
}

/// What is left of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The rate.
    pub rate: Rate,
    /// Requests that may follow at once.
    pub remaining: u32,
    /// Seconds until there is room for one more than that; 0 when nothing is used.
    pub reset: u32,
}

/// There is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// In this rate.
    pub rate: Rate,
    /// Seconds after which there is, if nobody else takes it; at least 1.
    pub retry_after: u32,
}

impl Rate {
    /// Only what was after this counts.
    #[must_use]
    pub fn since(&self, now: Timestamp) -> Timestamp {
        now.plus_seconds(-i64::from(self.seconds))
    }

    /// When a request of this time counts no more.
    #[must_use]
    pub fn leaves(&self, at: Timestamp) -> Timestamp {
        at.plus_seconds(i64::from(self.seconds))
    }

    /// How many of a subject's requests, the oldest first, must have left before `more` fit in; 0 if they fit in now,
    /// `None` if they never do.
    #[must_use]
    pub fn excess(&self, log: Log, more: u32) -> Option<u64> {
        let limit = u64::from(self.requests);
        let more = u64::from(more);
        if more > limit {
            return None;
        }
        Some(log.count.saturating_add(more).saturating_sub(limit))
    }

    /// What is left, `log` counted.
    #[must_use]
    pub fn standing(&self, log: Log, now: Timestamp) -> Standing {
        let used = u32::try_from(log.count).unwrap_or(u32::MAX);
        Standing {
            rate: *self,
            remaining: self.requests.saturating_sub(used),
            reset: log
                .oldest
                .map_or(0, |oldest| seconds_until(self.leaves(oldest), now)),
        }
    }

    /// There is no room until the request of the time `last` has left.
    #[must_use]
    pub fn exceeded(&self, last: Option<Timestamp>, now: Timestamp) -> Exceeded {
        Exceeded {
            rate: *self,
            retry_after: last.map_or(self.seconds, |last| seconds_until(self.leaves(last), now)),
        }
    }
}

/// Whole seconds, rounded up: after so many the time has come, and it has not come yet.
fn seconds_until(at: Timestamp, now: Timestamp) -> u32 {
    let micros = at.as_micros().saturating_sub(now.as_micros()).max(1);
    let seconds = micros.saturating_add(999_999).div_euclid(1_000_000);
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

/// Everything that is limited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    rates: [Rate; RateClass::ALL.len()],
    spends: Vec<SpendLimit>,
}

impl Limits {
    /// The rate of a class.
    #[must_use]
    pub fn rate(&self, class: RateClass) -> Rate {
        let found = self.rates.iter().find(|rate| rate.class == class);
        // Each class has one; nothing would be admitted without.
        found.copied().unwrap_or(Rate {
            class,
            requests: 0,
            seconds: 1,
        })
    }

    /// Every rate, in the order of the classes.
    #[must_use]
    pub const fn rates(&self) -> &[Rate] {
        &self.rates
    }

    /// Every spending limit, in the order of the file.
    #[must_use]
    pub fn spends(&self) -> &[SpendLimit] {
        &self.spends
    }

    /// The rates that admit more than those that the program comes with.
    #[must_use]
    pub fn raised(&self) -> Vec<Rate> {
        let builtin = file::builtin();
        let more = |rate: &&Rate| {
            let usual = builtin.rate(rate.class);
            rate.requests > usual.requests || rate.seconds < usual.seconds
        };
        self.rates.iter().filter(more).copied().collect()
    }
}

/// The limits that count now, and where the next ones come from.
pub struct InForce {
    current: RwLock<Arc<Limits>>,
    /// Without one, those that the program comes with.
    file: Option<PathBuf>,
    /// The chains that a limit may name.
    chains: Vec<u64>,
    /// One reload at a time: the last one asked for wins.
    reloading: Mutex<()>,
}

impl InForce {
    /// The limits of a file, for these chains, or those that the program comes with.
    ///
    /// # Errors
    /// [`FileError`] names file and line.
    pub fn open(file: Option<&Path>, chains: Vec<u64>) -> Result<Self, FileError> {
        Ok(Self {
            current: RwLock::new(Arc::new(load(file, &chains)?)),
            file: file.map(Path::to_owned),
            chains,
            reloading: Mutex::default(),
        })
    }

    /// The limits that count for a request that comes now.
    #[must_use]
    pub fn current(&self) -> Arc<Limits> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the file again; whether anything is different now. What was in force stays so if it is not good.
    ///
    /// # Errors
    /// [`FileError`] names file and line.
    pub fn reload(&self) -> Result<bool, FileError> {
        let _one = self
            .reloading
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let limits = load(self.file.as_deref(), &self.chains)?;
        let changed = *self.current() != limits;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(limits);
        Ok(changed)
    }
}

fn load(file: Option<&Path>, chains: &[u64]) -> Result<Limits, FileError> {
    file.map_or_else(|| Ok(file::builtin()), |file| file::load(file, chains))
}

/// What the limiter found for one request, for the headers of its answer.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Mutex<Option<Found>>>);

/// What is left, and whether the request was refused for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// What is left.
    pub standing: Standing,
    /// Whether there was no room.
    pub exceeded: bool,
}

impl Meter {
    /// The limiter found this. An operation that is run again finds it again.
    pub fn set(&self, standing: Standing, exceeded: bool) {
        let found = Found { standing, exceeded };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
    }

    /// What it found, if it was asked.
    #[must_use]
    pub fn read(&self) -> Option<Found> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::{InForce, Log, Meter, Rate, Standing};
    use crate::clock::Timestamp;
    use crate::domain::RateClass;

    const RATE: Rate = Rate {
        class: RateClass::Signing,
        requests: 10,
        seconds: 60,
    };

    const fn at(tenths: i64) -> Timestamp {
        Timestamp::from_micros(tenths * 100_000)
    }

    const fn log(count: u64, oldest: i64) -> Log {
        Log {
            count,
            oldest: Some(at(oldest)),
        }
    }

    #[test]
    fn a25_what_was_a_window_ago_has_left_and_what_was_a_moment_later_has_not() {
        assert_eq!(RATE.since(at(600)), at(0));
        assert_eq!(RATE.leaves(at(0)), at(600));
    }

    #[test]
    fn a25_requests_fit_in_up_to_the_limit_and_all_or_none_of_a_batch() {
        assert_eq!(RATE.excess(log(9, 0), 1), Some(0));
        assert_eq!(RATE.excess(log(10, 0), 1), Some(1));
        assert_eq!(RATE.excess(log(8, 0), 2), Some(0));
        assert_eq!(RATE.excess(log(8, 0), 3), Some(1));
        assert_eq!(RATE.excess(log(0, 0), 10), Some(0));
        assert_eq!(RATE.excess(log(0, 0), 11), None, "never");
        // After a reload there may be more than the limit.
        assert_eq!(RATE.excess(log(25, 0), 1), Some(16));
    }

    #[test]
    fn a25_the_wait_is_whole_seconds_and_never_too_short() {
        for (now, wait) in [(0, 60), (1, 60), (9, 60), (10, 59), (599, 1), (600, 1)] {
            assert_eq!(
                RATE.exceeded(Some(at(0)), at(now)).retry_after,
                wait,
                "{now}"
            );
        }
        assert_eq!(RATE.exceeded(None, at(0)).retry_after, 60);
        // A clock that was set back: the request is in the future, and is waited for.
        assert_eq!(RATE.exceeded(Some(at(300)), at(0)).retry_after, 90);
    }

    fn rates(signing: &str) -> String {
        format!("[rates]\nsigning = {{ {signing} }}\n")
    }

    #[test]
    fn more_requests_or_the_same_in_a_shorter_time_are_a_higher_rate() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("limits.toml");
        let raised = |signing: &str| {
            std::fs::write(&file, rates(signing)).unwrap();
            let limits = InForce::open(Some(&file), Vec::new()).unwrap().current();
            limits.raised().len()
        };
        assert_eq!(raised("requests = 10, seconds = 60"), 0);
        assert_eq!(raised("requests = 11, seconds = 60"), 1);
        assert_eq!(raised("requests = 10, seconds = 59"), 1);
        assert_eq!(raised("requests = 9, seconds = 61"), 0);
    }

    #[test]
    fn a_reload_says_whether_anything_is_different_and_a_bad_file_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("limits.toml");
        std::fs::write(&file, rates("requests = 2, seconds = 60")).unwrap();
        let in_force = InForce::open(Some(&file), Vec::new()).unwrap();
        assert!(!in_force.reload().unwrap());
        std::fs::write(&file, rates("requests = 3, seconds = 60")).unwrap();
        let requests = || in_force.current().rate(RateClass::Signing).requests;
        assert_eq!(requests(), 2);
        assert!(in_force.reload().unwrap());
        assert_eq!(requests(), 3);
        std::fs::write(&file, rates("requests = 0, seconds = 60")).unwrap();
        assert!(in_force.reload().is_err());
        assert_eq!(requests(), 3);
    }

    #[test]
    fn a_meter_tells_what_the_limiter_found_last() {
        let meter = Meter::default();
        assert_eq!(meter.read(), None);
        let standing = RATE.standing(log(3, 0), at(190));
        meter.set(standing, true);
        let found = meter.read().unwrap();
        assert!(found.exceeded && found.standing == standing);
    }

    #[test]
    fn what_is_left_is_told() {
        let standing = |log, now| {
            let Standing {
                remaining, reset, ..
            } = RATE.standing(log, at(now));
            (remaining, reset)
        };
        assert_eq!(standing(log(3, 0), 190), (7, 41));
        let nothing = Log {
            count: 0,
            oldest: None,
        };
        assert_eq!(standing(nothing, 0), (10, 0));
        assert_eq!(standing(log(12, 0), 0), (0, 60));
    }
}
