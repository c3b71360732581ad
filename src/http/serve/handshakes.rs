//! The handshakes in progress: a bounded number, of which the oldest gives way.
//!
//! INVARIANT: who opens connections and never finishes a handshake keeps nobody out: an honest client needs a few round
//! trips, and is only disturbed by whoever opens `limit` connections within that time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

pub(super) struct Handshakes {
    limit: usize,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    next: u64,
    by_age: BTreeMap<u64, CancellationToken>,
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
        })
    }

    pub(super) fn begin(self: &Arc<Self>) -> Handshake {
        let crowded_out = CancellationToken::new();
        let mut running = self.lock();
        while running.by_age.len() >= self.limit {
            running.end_oldest();
        }
        let id = running.next;
        running.next = id.wrapping_add(1);
        running.by_age.insert(id, crowded_out.clone());
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

    fn lock(&self) -> std::sync::MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn end_oldest(&mut self) {
        if let Some((_, oldest)) = self.by_age.pop_first() {
            oldest.cancel();
        }
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.all.lock().by_age.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::Handshakes;

    #[test]
    fn a37_the_oldest_handshake_gives_way_and_a_finished_one_frees_its_place() {
        let handshakes = Handshakes::new(2);
        let (first, second) = (handshakes.begin(), handshakes.begin());
        assert!(!first.crowded_out.is_cancelled());
        let third = handshakes.begin();
        assert!(first.crowded_out.is_cancelled());
        assert!(!second.crowded_out.is_cancelled());
        drop(second);
        let fourth = handshakes.begin();
        assert!(!third.crowded_out.is_cancelled() && !fourth.crowded_out.is_cancelled());
        handshakes.end_oldest();
        assert!(third.crowded_out.is_cancelled() && !fourth.crowded_out.is_cancelled());
    }
}
