//! The invariant of custody: unwraps <= records <= permits, as this process has seen it.
//!
//! The types already say that a share is unwrapped under a committed permit only. This is the account of it at run
//! time: a permit unwraps one share once, and what was unwrapped is looked up in the database afterwards. A database
//! that answered COMMIT and has no record of it is not one to go on with.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::OperationId;

/// What is open and what is not proven yet.
#[derive(Default)]
pub(super) struct Ledger(Mutex<Account>);

#[derive(Default)]
struct Account {
    /// Permits of steps that run, and whether a share was unwrapped under them.
    open: HashMap<OperationId, bool>,
    /// Permits under which a share was unwrapped, and whose records nobody has seen yet.
    unproven: HashSet<OperationId>,
}

impl Ledger {
    /// A step begins under a committed permit; until the guard is dropped, one share may be unwrapped under it.
    pub(super) fn begin(&self, permit: OperationId) -> Begun<'_> {
        self.account().open.insert(permit, false);
        Begun {
            ledger: self,
            permit,
        }
    }

    /// A share is about to be unwrapped: false if no step runs under this permit, or it has unwrapped one already.
    #[must_use]
    pub(super) fn unwrap(&self, permit: OperationId) -> bool {
        let mut account = self.account();
        let first = matches!(account.open.insert(permit, true), Some(false));
        account.unproven.insert(permit);
        first
    }

    /// The permits whose records are still to be looked up.
    pub(super) fn unproven(&self) -> Vec<OperationId> {
        self.account().unproven.iter().copied().collect()
    }

    /// The record of a permit was found.
    pub(super) fn proven(&self, permit: OperationId) {
        self.account().unproven.remove(&permit);
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A step that runs; ends when it is dropped, also in a panic.
pub(super) struct Begun<'a> {
    ledger: &'a Ledger,
    permit: OperationId,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.ledger.account().open.remove(&self.permit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_unwraps_one_share_while_its_step_runs() {
        let ledger = Ledger::default();
        let permit = OperationId::generate();
        let begun = ledger.begin(permit);
        assert!(ledger.unwrap(permit));
        assert!(!ledger.unwrap(permit), "once");
        drop(begun);
        assert!(!ledger.unwrap(permit), "its step is over");
        assert!(!ledger.unwrap(OperationId::generate()), "never given");
    }

    #[test]
    fn what_was_unwrapped_is_looked_for_until_it_is_found() {
        let ledger = Ledger::default();
        let [used, unused] = [OperationId::generate(), OperationId::generate()];
        let _unused = ledger.begin(unused);
        let begun = ledger.begin(used);
        assert!(ledger.unproven().is_empty());
        assert!(ledger.unwrap(used));
        drop(begun);
        assert_eq!(ledger.unproven(), [used]);
        ledger.proven(used);
        assert!(ledger.unproven().is_empty());
    }
}
