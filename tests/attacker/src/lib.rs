//! Parties that cheat, for the tests of both sides.
//!
//! SECURITY: for tests only; nothing that is shipped depends on this crate. It shares no code with `countersign-mpc`:
//! hashes, envelopes, frames and messages are written a second time from `mpc/README.md`, and the protocol is run
//! straight on the engine. So an honest run of these parties against the product is a check of that page, and a
//! dishonest one meets nothing that could spare it.
//!
//! - [`hashes`]: LP, session ids, the canary digest
//! - [`envelope`]: section 2, `mw1`
//! - [`wire`]: frames and messages, field by field, so that a test can put anything into a field
//! - [`share`]: a stored share, the secret bits in it, and a new generation of a pair
//! - [`sign`], [`keygen`]: the steps of a party, one by one
//! - [`cheat`]: the selective-failure attack on the oblivious-transfer extension

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a tool of tests: what goes wrong here ends the test"
)]

pub mod cheat;
pub mod envelope;
pub mod hashes;
pub mod keygen;
pub mod share;
pub mod sign;
#[cfg(test)]
mod tests;
pub mod wire;

/// 32 random bytes.
#[must_use]
pub fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("randomness");
    bytes
}
