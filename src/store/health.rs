//! What the connections last saw of the database, and one log line when that changes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::StoreError;
use super::engine::EngineError;

/// After so long without a commit, one is tried to see whether it works.
const IDLE: Duration = Duration::from_secs(10);

/// Shared by all connections of a store.
#[derive(Clone)]
pub(super) struct Health(Arc<Mutex<State>>);

struct State {
    written: Instant,
    away: bool,
    damaged: bool,
}

impl Health {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            written: Instant::now(),
            away: false,
            damaged: false,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A transaction was committed.
    pub(super) fn wrote(&self) {
        let mut state = self.state();
        state.written = Instant::now();
        if std::mem::take(&mut state.away) {
            tracing::info!("the database works again");
        }
    }

    /// A transaction or a connection was lost, or a statement failed.
    pub(super) fn saw(&self, error: &EngineError) {
        let mut state = self.state();
        if error.is_damage() {
            if !std::mem::replace(&mut state.damaged, true) {
                tracing::error!(?error, "the database is damaged: restore it from a backup");
            }
        } else if error.is_outage() {
            if std::mem::replace(&mut state.away, true) {
                tracing::debug!(?error, "the database is still unavailable");
            } else {
                tracing::error!(?error, "the database is unavailable");
            }
        }
    }

    /// Whether a commit has worked lately and nothing has failed since.
    pub(super) fn is_fresh(&self) -> bool {
        let state = self.state();
        !state.away && state.written.elapsed() < IDLE
    }

    /// Damage does not heal: what is readable now may be wrong.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if self.state().damaged {
            return Err(StoreError::Damaged);
        }
        Ok(())
    }
}
