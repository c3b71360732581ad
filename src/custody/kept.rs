//! What the engine keeps between two steps of a session: in memory, single use, never copied.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use countersign_mpc::keygen::{P2AfterRound1, P2Canary};
use countersign_mpc::sign::P2SignKept;

use crate::clock::Timestamp;
use crate::domain::SessionId;

/// Kept state, by the step it waits for.
pub(super) enum Kept {
    KeygenRound2(Box<P2AfterRound1>),
    KeygenRound3(Box<P2Canary>),
    SignRound2(Box<P2SignKept>),
}

struct Entry {
    attempt: u32,
    until: Timestamp,
    kept: Kept,
}

/// How many sessions have state in memory.
#[derive(Default)]
pub(super) struct Open {
    pub(super) keygen: usize,
    pub(super) sign: usize,
}

/// The kept states of all sessions of this process.
#[derive(Default)]
pub(super) struct KeptStates(Mutex<HashMap<SessionId, Entry>>);

impl KeptStates {
    pub(super) fn put(&self, session: SessionId, attempt: u32, until: Timestamp, kept: Kept) {
        let entry = Entry {
            attempt,
            until,
            kept,
        };
        self.entries().insert(session, entry);
    }

    /// Moves the state out. INVARIANT: what was taken is gone, so no step runs twice on it.
    pub(super) fn take(&self, session: SessionId, attempt: u32) -> Option<Kept> {
        let entry = self.entries().remove(&session)?;
        (entry.attempt == attempt).then_some(entry.kept)
    }

    pub(super) fn forget(&self, session: SessionId) {
        self.entries().remove(&session);
    }

    pub(super) fn sweep(&self, now: Timestamp) -> Open {
        let mut entries = self.entries();
        entries.retain(|_, entry| entry.until > now);
        let sign = entries
            .values()
            .filter(|entry| matches!(entry.kept, Kept::SignRound2(_)))
            .count();
        Open {
            keygen: entries.len().saturating_sub(sign),
            sign,
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<SessionId, Entry>> {
        // A panic while the lock was held left whole entries only.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
