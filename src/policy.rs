//! The rules in force: which bundle it is, and how another one takes its place.
//!
//! What rules are and how they are asked is the business of `countersign-policy`; a verdict is a pure function of facts
//! and bundle.

use std::sync::{Arc, PoisonError, RwLock};

pub use countersign_policy::{
    Asked, Bundle, ChainFacts, DeviceFacts, Facts, Problem, ProfileFacts, Reason, Refused, Rule,
    Source, TransactionFacts, TypedDataFacts, Verdict,
};

/// The rules in force. A clone is the same thing: what replaces them replaces them everywhere.
#[derive(Clone)]
pub struct Policy(Arc<RwLock<Arc<Bundle>>>);

impl Policy {
    /// These rules are in force.
    #[must_use]
    pub fn new(bundle: Bundle) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(bundle))))
    }

    /// The rules as they are now. Whoever judges takes them once and judges by them alone.
    #[must_use]
    pub fn current(&self) -> Arc<Bundle> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts other rules into force. Nobody waits for it: the lock is held for as long as a pointer takes to be copied.
    pub fn replace(&self, bundle: Bundle) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(bundle);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::{Bundle, Policy, Reason};

    #[test]
    fn every_reason_of_a_denial_is_documented_and_no_other() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/policies/README.md");
        let page = std::fs::read_to_string(path).unwrap();
        let (_, table) = page.split_once("| reason |").unwrap();
        let rows = table.lines().skip(2);
        let rows = rows.map_while(|line| line.strip_prefix("| `")?.split_once('`'));
        let documented: Vec<&str> = rows.map(|(name, _)| name).collect();
        let of_rules = Reason::ALL.map(Reason::as_str);
        assert_eq!(documented, [&of_rules[..], &[crate::gate::LIMIT]].concat());
    }

    #[test]
    fn rules_are_replaced_for_everybody_at_once_and_a_judgement_keeps_its_own() {
        let policy = Policy::new(Bundle::builtin().unwrap());
        let elsewhere = policy.clone();
        let under_way = elsewhere.current();
        policy.replace(Bundle::compile("2", &[]).unwrap());
        assert_eq!(elsewhere.current().hash(), policy.current().hash());
        assert_ne!(elsewhere.current().hash(), under_way.hash());
        assert_eq!(under_way.hash(), Bundle::builtin().unwrap().hash());
    }
}
