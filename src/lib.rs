//! countersign: the appliance that holds the second share (P2) of a 2-of-2 threshold ECDSA key.
//!
//! The signing path can be read off the module tree: [`http`] extracts, [`service`] runs a use case,
//! [`identity`] says who asks, [`gate`] says whether they may, [`store`] makes it durable, [`custody`]
//! unwraps the share for one protocol step, [`chain`] encodes and broadcasts.
//!
//! The spine is a chain of proof values, each made in one place and consumed by the next step:
//! `ClientIdentity` -> `Owner` -> `Allowed` -> `Committed<Permit>` -> `Verdict` -> `Committed<Reply>`.

pub mod audit;
pub mod chain;
pub mod cli;
pub mod clock;
pub mod config;
pub mod custody;
pub mod domain;
pub mod gate;
pub mod http;
pub mod identity;
pub mod limits;
pub mod operators;
pub mod policy;
pub mod service;
pub mod sessions;
pub mod store;
pub mod telemetry;
pub mod two_factor;
