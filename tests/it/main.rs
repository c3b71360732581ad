//! Behaviour of the appliance, one module per topic. Attack tests are named by attack id.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod environment;
mod repository;
