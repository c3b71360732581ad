//! Altered messages for both parties: what the fuzz targets and the long tests run. In no other build.
//!
//! A message is altered by a short program, so that a fuzzer's own mutations stay meaningful: its bytes say which field of
//! which list takes which value. Whoever receives the altered message must not panic and must not accept it, and a message
//! that does not decode must never reach the engine.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "tests: what must not happen panics"
)]

pub(crate) mod fixtures;
mod layout;
mod program;
mod stage;

pub use stage::{Outcome, Stage, Target};

#[cfg(test)]
mod long;
