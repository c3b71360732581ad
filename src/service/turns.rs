//! One check at a time for each key in this process, whatever the database says of its locks.
//!
//! SECURITY: the lock that counts between processes is a column, and whoever can write to the database can take it away.
//! Without this, many checks of one key could then begin before the first ban, and each tells its wallet one bit (A02).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Mutex as Asynchronous, OwnedMutexGuard};

use crate::domain::ProfileId;

/// Longest wait for a check that should have been concluded already.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who has which turn.
#[derive(Default)]
pub struct Turns(Mutex<HashMap<ProfileId, Weak<Asynchronous<()>>>>);

/// Leave to check a message with the key of one profile; given back when it is dropped.
pub struct Turn(#[expect(dead_code, reason = "held")] OwnedMutexGuard<()>);

impl Turns {
    /// Waits until no other check of this profile's key is running, its conclusion included; `None` if that takes too
    /// long.
    pub async fn take(&self, profile: ProfileId) -> Option<Turn> {
        let own = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            let known = turns.get(&profile).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let new = Arc::default();
                turns.insert(profile, Arc::downgrade(&new));
                new
            })
        };
        let turn = tokio::time::timeout(PATIENCE, own.lock_owned()).await;
        turn.ok().map(Turn)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::{ProfileId, Turns};

    #[tokio::test]
    async fn a02_a_key_has_one_turn_and_others_do_not_wait_for_it() {
        let turns = Turns::default();
        let (one, two) = (ProfileId::generate(), ProfileId::generate());
        let turn = turns.take(one).await;
        assert!(turn.is_some() && turns.take(two).await.is_some());
        let mut waiting = Box::pin(turns.take(one));
        let waited = timeout(Duration::from_millis(50), &mut waiting).await;
        assert!(waited.is_err(), "it is taken");
        drop(turn);
        let waited = timeout(Duration::from_secs(5), waiting).await;
        assert!(matches!(waited, Ok(Some(_))));
    }
}
