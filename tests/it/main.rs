//! Behaviour of the appliance, one module per topic. Attack tests are named by attack id.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests"
)]

mod environment;
mod first_light;
mod repository;
mod sessions;
mod support;
