//! Whether a connection is in use.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Requests in progress on a connection, and when the last one ended.
pub(super) struct Activity(Mutex<(usize, Instant)>);

impl Activity {
    pub(super) fn new() -> Self {
        Self(Mutex::new((0, Instant::now())))
    }

    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.change(|running| running.saturating_add(1));
        Busy(self.clone())
    }

    fn change(&self, change: impl FnOnce(usize) -> usize) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = (change(state.0), Instant::now());
    }

    /// Resolves once no request has been in progress for `limit`.
    pub(super) async fn idle_for(&self, limit: Duration) {
        loop {
            let (running, since) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let idle = if running == 0 {
                since.elapsed()
            } else {
                Duration::ZERO
            };
            match limit.checked_sub(idle) {
                None | Some(Duration::ZERO) => return,
                Some(left) => sleep(left).await,
            }
        }
    }
}

/// One request in progress.
pub(super) struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.change(|running| running.saturating_sub(1));
    }
}
