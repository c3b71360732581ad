//! Behaviour of the HSM boundary against a real SoftHSM.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod envelope;
mod faults;
mod keys;
mod opening;
mod sets;
mod support;
