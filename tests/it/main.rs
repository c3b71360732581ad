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

mod a01_probing;
mod a03_verdicts;
mod a04_injection;
mod a06_generations;
mod a07_snapshot;
mod a11_rogue;
mod a18_restore;
mod a27_calls;
mod a33_gateway;
mod activation;
mod at_most_once;
mod attacks;
mod audit;
mod bad_input;
mod check_order;
mod copy;
mod crashes;
mod devices;
mod durable_operations;
mod environment;
mod explain;
mod first_light;
mod freeze;
mod front_door;
mod gateway;
mod gateway_jwt;
mod hostile_messages;
mod identity;
mod indistinguishable;
mod instances;
mod invariant;
mod kem;
mod lifecycle;
mod limits;
mod listing;
mod mixing;
mod mutated;
mod outages;
mod owner_proof;
mod policy;
mod postgres;
mod rates;
mod replay;
mod repository;
mod revocation;
mod routes;
mod secrets;
mod sessions;
mod spending;
mod step_up;
mod store_faults;
mod support;
mod two_factor;
mod two_factor_cli;
