//! Places at the engine, and in the queue in front of it: how many steps run, and how many wait.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::SessionKind;

/// Steps of one kind that may wait for the engine.
const WAITING: usize = 128;

/// A place at the engine: the CPU time for one step, taken before the step is admitted, so that a key
/// is never locked while its step queues.
pub struct EngineSlot {
    _permit: OwnedSemaphorePermit,
}

/// A place in the queue for the engine.
pub struct QueuePlace {
    _permit: OwnedSemaphorePermit,
    kind: SessionKind,
}

/// All places, by kind: one kind never waits for the other.
pub(super) struct Places {
    signing: Lane,
    keygen: Lane,
}

struct Lane {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Places {
    /// Room for `cores` signing steps at once, and for a quarter as many that make keys.
    pub(super) fn new(cores: usize) -> Self {
        Self {
            signing: Lane::new(cores),
            keygen: Lane::new(cores / 4),
        }
    }

    /// A place in the queue for the engine; `None` when the queue is full.
    pub(super) fn queue(&self, kind: SessionKind) -> Option<QueuePlace> {
        let permit = self.lane(kind).waiting.clone().try_acquire_owned().ok()?;
        Some(QueuePlace {
            _permit: permit,
            kind,
        })
    }

    /// Waits for a place at the engine and gives the one in the queue back.
    pub(super) async fn slot(&self, place: QueuePlace) -> EngineSlot {
        let running = &self.lane(place.kind).running;
        loop {
            if let Ok(permit) = running.clone().acquire_owned().await {
                return EngineSlot { _permit: permit };
            }
        }
    }

    const fn lane(&self, kind: SessionKind) -> &Lane {
        match kind {
            SessionKind::Sign => &self.signing,
            SessionKind::Keygen => &self.keygen,
        }
    }
}

impl Lane {
    fn new(running: usize) -> Self {
        Self {
            running: Arc::new(Semaphore::new(running.max(1))),
            waiting: Arc::new(Semaphore::new(WAITING)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const KINDS: [(SessionKind, SessionKind); 2] = [
        (SessionKind::Sign, SessionKind::Keygen),
        (SessionKind::Keygen, SessionKind::Sign),
    ];

    fn fill(places: &Places, kind: SessionKind) -> Vec<QueuePlace> {
        (0..128).map(|_| places.queue(kind).unwrap()).collect()
    }

    #[test]
    fn the_129th_waiting_step_of_a_kind_is_shed_and_the_other_kind_still_gets_a_place() {
        for (kind, other) in KINDS {
            let places = Places::new(4);
            let held = fill(&places, kind);
            assert!(places.queue(kind).is_none());
            let others = fill(&places, other);
            assert!(places.queue(kind).is_none() && places.queue(other).is_none());
            drop((held, others));
            drop(fill(&places, kind));
        }
    }

    #[test]
    fn a_place_is_free_again_when_its_holder_is_dropped() {
        for (kind, _) in KINDS {
            let places = Places::new(4);
            let mut held = fill(&places, kind);
            drop(held.pop());
            let _last = places.queue(kind).unwrap();
            assert!(places.queue(kind).is_none());
        }
    }

    #[tokio::test]
    async fn a_place_is_free_again_when_its_holder_reaches_the_engine_or_gives_up() {
        for (kind, _) in KINDS {
            let places = Places::new(1);
            let mut held = fill(&places, kind);
            let running = places.slot(held.pop().unwrap()).await;
            held.push(places.queue(kind).unwrap());
            assert!(places.queue(kind).is_none());

            // The engine is taken: the next one waits, keeps its place, and leaves it when it goes away.
            let waiting = places.slot(held.pop().unwrap());
            assert!(timeout(Duration::from_millis(20), waiting).await.is_err());
            held.push(places.queue(kind).unwrap());
            drop(running);
            let next = places.slot(held.pop().unwrap());
            assert!(timeout(Duration::from_secs(5), next).await.is_ok());
        }
    }

    #[tokio::test]
    async fn one_kind_does_not_wait_for_the_other() {
        for (kind, other) in KINDS {
            let places = Places::new(1);
            let _running = places.slot(places.queue(kind).unwrap()).await;
            let slot = places.slot(places.queue(other).unwrap());
            assert!(timeout(Duration::from_secs(5), slot).await.is_ok());
        }
    }
}
