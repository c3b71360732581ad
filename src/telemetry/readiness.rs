//! Whether the appliance can do its work, as background checks last saw it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

/// Something that must work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// The database answers.
    Store,
    /// Our lease among the instances of this database holds.
    Lease,
    /// Our clock agrees with the database server's.
    Clock,
    /// The token opens and closes a test object.
    Hsm,
    /// The database contains what its anchor says.
    Anchor,
    /// The node of the chain with this EIP-155 id answers with this id.
    Chain(u64),
}

impl Check {
    /// Whether its failure makes the appliance unready. A chain's does not: the wallets of other chains
    /// go on working, and taking the appliance out of service would not bring the node back.
    #[must_use]
    pub const fn is_required(self) -> bool {
        !matches!(self, Self::Chain(_))
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store => f.write_str("store"),
            Self::Lease => f.write_str("lease"),
            Self::Clock => f.write_str("clock"),
            Self::Hsm => f.write_str("hsm"),
            Self::Anchor => f.write_str("anchor"),
            Self::Chain(id) => write!(f, "chain:{id}"),
        }
    }
}

/// The last known state of a check. The reason is a safe sentence: it is shown to operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It worked.
    Ok,
    /// It did not.
    Failed(String),
    /// It has not been looked at, or not for too long.
    Unknown,
}

impl State {
    /// The name in `/readyz`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed(_) => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// The checks of one appliance; clones share them.
#[derive(Clone)]
pub struct Readiness {
    results: Arc<RwLock<BTreeMap<Check, Option<Outcome>>>>,
    max_age: Duration,
}

struct Outcome {
    at: Instant,
    result: Result<(), String>,
}

impl Readiness {
    /// All `checks` start as unknown; a result older than `max_age` counts as unknown again, so that
    /// a check that hangs is not mistaken for one that succeeds.
    #[must_use]
    pub fn new(checks: impl IntoIterator<Item = Check>, max_age: Duration) -> Self {
        let results = checks.into_iter().map(|check| (check, None)).collect();
        Self {
            results: Arc::new(RwLock::new(results)),
            max_age,
        }
    }

    /// Records what a check found.
    pub fn record(&self, check: Check, result: Result<(), String>) {
        let outcome = Outcome {
            at: Instant::now(),
            result,
        };
        self.results
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(check, Some(outcome));
    }

    /// Every check and its state.
    #[must_use]
    pub fn states(&self) -> Vec<(Check, State)> {
        let results = self.results.read().unwrap_or_else(PoisonError::into_inner);
        let state = |outcome: &Option<Outcome>| match outcome {
            Some(Outcome { at, .. }) if at.elapsed() > self.max_age => State::Unknown,
            Some(Outcome { result: Ok(()), .. }) => State::Ok,
            Some(Outcome {
                result: Err(reason),
                ..
            }) => State::Failed(reason.clone()),
            None => State::Unknown,
        };
        results
            .iter()
            .map(|(check, outcome)| (*check, state(outcome)))
            .collect()
    }

    /// Whether every required check is ok.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.states()
            .iter()
            .all(|(check, state)| !check.is_required() || *state == State::Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::{Check, Readiness, State};
    use std::time::Duration;
    use tokio::time::sleep;

    #[tokio::test]
    async fn ready_means_every_required_check_succeeded_lately() {
        let readiness = Readiness::new(
            [Check::Store, Check::Hsm, Check::Chain(1)],
            Duration::from_millis(500),
        );
        assert!(!readiness.is_ready());
        readiness.record(Check::Store, Ok(()));
        readiness.record(Check::Hsm, Ok(()));
        readiness.record(Check::Chain(1), Err("no answer".to_owned()));
        assert!(readiness.is_ready());
        readiness.record(Check::Hsm, Err("pin locked".to_owned()));
        assert!(!readiness.is_ready());
        readiness.record(Check::Hsm, Ok(()));
        sleep(Duration::from_millis(600)).await;
        assert!(!readiness.is_ready());
        assert!(
            readiness
                .states()
                .iter()
                .all(|(_, state)| *state == State::Unknown)
        );
    }
}
