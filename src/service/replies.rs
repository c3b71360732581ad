//! The last answer of each open session, in memory: the identical request gets the identical answer.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::Timestamp;
use crate::domain::SessionId;

/// Seconds an answer is kept: as long as the state in memory that it belongs to.
const MAX_AGE: i64 = 60;

struct Entry<R> {
    request_hash: [u8; 32],
    reply: R,
    until: Timestamp,
}

/// Answers by session.
pub struct Replies<R>(Mutex<HashMap<SessionId, Entry<R>>>);

impl<R> Default for Replies<R> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<R: Clone> Replies<R> {
    /// Remembers the answer to a request.
    pub fn put(&self, session: SessionId, request_hash: [u8; 32], reply: R, now: Timestamp) {
        let entry = Entry {
            request_hash,
            reply,
            until: now.plus_seconds(MAX_AGE),
        };
        self.entries().insert(session, entry);
    }

    /// The answer to this very request, if it is remembered.
    #[must_use]
    pub fn find(&self, session: SessionId, request_hash: &[u8; 32]) -> Option<R> {
        let entries = self.entries();
        let entry = entries.get(&session)?;
        (entry.request_hash == *request_hash).then(|| entry.reply.clone())
    }

    /// Forgets the answer of a session that ended: from here on the database answers for it.
    pub fn forget(&self, session: SessionId) {
        self.entries().remove(&session);
    }

    /// Forgets answers that are past their time.
    pub fn sweep(&self, now: Timestamp) {
        self.entries().retain(|_, entry| entry.until > now);
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<SessionId, Entry<R>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::Replies;
    use crate::clock::Timestamp;
    use crate::domain::SessionId;

    const NOW: Timestamp = Timestamp::from_micros(0);

    #[test]
    fn a07_only_the_identical_request_gets_the_answer_and_only_while_it_is_kept() {
        let replies = Replies::default();
        let session = SessionId::generate();
        replies.put(session, [1; 32], "answer", NOW);
        assert_eq!(replies.find(session, &[1; 32]), Some("answer"));
        assert_eq!(replies.find(session, &[2; 32]), None);
        assert_eq!(replies.find(SessionId::generate(), &[1; 32]), None);
        replies.sweep(NOW.plus_seconds(59));
        assert_eq!(replies.find(session, &[1; 32]), Some("answer"));
        replies.sweep(NOW.plus_seconds(60));
        assert_eq!(replies.find(session, &[1; 32]), None);
    }

    #[test]
    fn the_answer_of_a_session_that_ended_is_not_kept() {
        let replies = Replies::default();
        let session = SessionId::generate();
        replies.put(session, [1; 32], "answer", NOW);
        replies.forget(session);
        assert_eq!(replies.find(session, &[1; 32]), None);
    }
}
