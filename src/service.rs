//! The use cases: one file each. They compose identity, gate, custody, sessions, chain and store.

pub mod activation;
pub mod admission;
pub mod anchoring;
pub mod create_profile;
pub mod denial;
pub mod devices;
pub mod error;
pub mod facts;
pub mod freeze;
pub mod housekeeping;
pub mod identity_document;
pub mod instances;
pub mod once;
pub mod policy_files;
pub mod prepare_transaction;
pub mod reload;
pub mod replies;
pub mod retention;
pub mod running;
pub mod sealed;
pub mod second_factor;
pub mod settlement;
pub mod show;
pub mod sign;
pub mod spends;
pub mod steps;
pub mod turns;
pub mod two_factor;
pub mod unfreeze;

pub use error::Error;
