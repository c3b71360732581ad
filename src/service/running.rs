//! The steps that run in this process, by session.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::SessionId;

/// The sessions that have a request between its admission and its conclusion.
#[derive(Clone, Default)]
pub struct Running(Arc<Mutex<HashMap<SessionId, Requests>>>);

#[derive(Default)]
struct Requests {
    count: usize,
    check: Check,
}

/// The check that one of them is permitted. There is never a second.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Check {
    /// Not begun, or judged.
    #[default]
    None,
    Open,
    /// Another message came for the same step.
    Contradicted,
}

impl Running {
    /// A request begins.
    #[must_use]
    pub fn enter(&self, id: SessionId) -> Entered {
        self.sessions().entry(id).or_default().count += 1;
        Entered {
            running: self.clone(),
            id,
        }
    }

    /// Whether a session has a request.
    #[must_use]
    pub fn contains(&self, id: SessionId) -> bool {
        self.sessions().contains_key(&id)
    }

    /// Says that the wallet sent another message for the step that is being checked; false if the check was judged
    /// already, or runs elsewhere.
    #[must_use]
    pub fn contradict(&self, id: SessionId) -> bool {
        let mut sessions = self.sessions();
        match sessions.get_mut(&id) {
            Some(requests) if requests.check != Check::None => {
                requests.check = Check::Contradicted;
                true
            }
            _ => false,
        }
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<SessionId, Requests>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request among [`Running`], until dropped.
pub struct Entered {
    running: Running,
    id: SessionId,
}

impl Entered {
    /// Its check begins.
    pub fn begin(&self) {
        self.set(Check::Open);
    }

    /// Its check is judged: whether the wallet contradicted itself until now.
    #[must_use]
    pub fn judge(&self) -> bool {
        self.set(Check::None) == Check::Contradicted
    }

    fn set(&self, check: Check) -> Check {
        let mut sessions = self.running.sessions();
        std::mem::replace(&mut sessions.entry(self.id).or_default().check, check)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut sessions = self.running.sessions();
        if let Some(requests) = sessions.get_mut(&self.id) {
            requests.count = requests.count.saturating_sub(1);
            if requests.count == 0 {
                sessions.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Running, SessionId};

    #[test]
    fn a_second_request_of_a_session_does_not_hide_the_first() {
        let (running, id) = (Running::default(), SessionId::generate());
        let first = running.enter(id);
        drop(running.enter(id));
        assert!(running.contains(id));
        drop(first);
        assert!(!running.contains(id));
    }

    #[test]
    fn only_an_open_check_can_be_contradicted_and_is_told_once() {
        let (running, id) = (Running::default(), SessionId::generate());
        let entered = running.enter(id);
        assert!(!running.contradict(id), "no check has begun");
        entered.begin();
        assert!(!running.contradict(SessionId::generate()));
        assert!(running.contradict(id));
        assert!(entered.judge());
        assert!(!running.contradict(id), "it was judged");
        assert!(!entered.judge());
    }
}
