//! Attack tests, named by the attack's id. They work on message bodies, hence inside the crate.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stdout,
    reason = "tests"
)]

mod emptied;
mod keygen_attacks;
mod messages;
mod randomness;
mod secrets;
mod selective_failure;
mod sign_attacks;
mod support;
mod vectors;
