//! The handshakes in progress: a bounded number, of which the oldest gives way.
//!
//! INVARIANT: who opens connections and never finishes a handshake keeps nobody out: new connections are taken at a rate
//! of at least `limit / GRACE`, and each has at least [`GRACE`] for its handshake, which takes a few round trips.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// A handshake is left alone for this long. Many that come at once wait for each other, instead of ending each other.
const GRACE: Duration = Duration::from_millis(250);

pub(super) struct Handshakes {
    limit: usize,
    running: Mutex<Running>,
    ended: Notify,
}

#[derive(Default)]
struct Running {
    next: u64,
    by_age: BTreeMap<u64, (Instant, CancellationToken)>,
}

/// One handshake; leaves the list when dropped.
pub(super) struct Handshake {
    all: Arc<Handshakes>,
    id: u64,
    pub(super) crowded_out: CancellationToken,
}

impl Handshakes {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: limit.max(1),
            running: Mutex::default(),
            ended: Notify::new(),
        })
    }

    /// A place for one more, as soon as one has ended or the oldest has had its time.
    pub(super) async fn begin(self: &Arc<Self>) -> Handshake {
        loop {
            let wait = {
                let mut running = self.lock();
                let wait = running.time_for_oldest(self.limit);
                if wait.is_zero() {
                    return self.place(&mut running);
                }
                wait
            };
            timeout(wait, self.ended.notified()).await.ok();
        }
    }

    fn place(self: &Arc<Self>, running: &mut Running) -> Handshake {
        while running.by_age.len() >= self.limit {
            running.end_oldest();
        }
        let crowded_out = CancellationToken::new();
        let id = running.next;
        running.next = id.wrapping_add(1);
        let entry = (Instant::now(), crowded_out.clone());
        running.by_age.insert(id, entry);
        Handshake {
            all: Arc::clone(self),
            id,
            crowded_out,
        }
    }

    /// Ends the oldest one: file descriptors have run out.
    pub(super) fn end_oldest(&self) {
        self.lock().end_oldest();
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// How long the oldest one is still left alone; nothing if there is room.
    fn time_for_oldest(&self, limit: usize) -> Duration {
        match self.by_age.first_key_value() {
            Some((_, (begun, _))) if self.by_age.len() >= limit => {
                GRACE.saturating_sub(begun.elapsed())
            }
            _ => Duration::ZERO,
        }
    }

    fn end_oldest(&mut self) {
        if let Some((_, (_, oldest))) = self.by_age.pop_first() {
            oldest.cancel();
        }
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.all.lock().by_age.remove(&self.id);
        self.all.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::{GRACE, Handshakes};

    #[tokio::test]
    async fn a37_the_oldest_handshake_gives_way_after_its_time_and_a_finished_one_at_once() {
        let handshakes = Handshakes::new(2);
        let start = Instant::now();
        let (first, second) = (handshakes.begin().await, handshakes.begin().await);
        assert!(start.elapsed() < GRACE);
        let third = handshakes.begin().await;
        assert!(first.crowded_out.is_cancelled() && start.elapsed() >= GRACE);
        assert!(!second.crowded_out.is_cancelled());
        drop(second);
        let before = Instant::now();
        let fourth = handshakes.begin().await;
        assert!(before.elapsed() < GRACE);
        assert!(!third.crowded_out.is_cancelled() && !fourth.crowded_out.is_cancelled());
        handshakes.end_oldest();
        assert!(third.crowded_out.is_cancelled() && !fourth.crowded_out.is_cancelled());
    }
}
