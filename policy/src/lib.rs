//! Who may do what, under which circumstances: rules over facts.
//!
//! [`Facts`] (what is asked for, by whom, of which wallet, when) go into a [`Bundle`] (checked rules); a [`Verdict`] comes
//! out. Both are plain values: this crate reads no file, no clock and no network.
//!
//! The rules are Cedar, and this is the only crate that names it: it takes minutes to compile, and whoever changes
//! anything else shall not wait for it.
//!
//! INVARIANT: what no rule permits is denied; a rule that forbids wins over all that permit; a rule that cannot be
//! evaluated denies. The guardrails are part of every bundle and forbid, so no other rule can weaken them.

mod bundle;
mod decide;
mod facts;
mod matrix;
mod prepared;
mod problem;

pub use bundle::{Bundle, Rule, Source};
pub use decide::{Reason, Verdict};
pub use facts::{
    Asked, ChainFacts, DeviceFacts, Facts, ProfileFacts, TransactionFacts, TypedDataFacts,
};
pub use problem::{Problem, Refused};

#[cfg(test)]
mod tests;
