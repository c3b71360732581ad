//! Behaviour of the wallet client against a real TLS server that runs the real protocol, honest or not.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod support;

mod a01_appliance;
mod a01_client;
mod a33_client;
mod cli;
mod create;
mod keystore;
mod send;
mod transport;
