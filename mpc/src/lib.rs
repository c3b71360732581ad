//! The two-party DKLs23 protocol of countersign, without IO.
//!
//! Everything on which the wallet (party P1) and the appliance (party P2) must agree byte for byte lives here:
//! hashes, message frames, the sealed envelope, the device signature, and the protocol steps themselves.
//! There is no network, no clock and no storage: time is a parameter, and callers decide what they persist.
//!
//! This is the only crate that names `dkls23`. That engine has **no independent audit**; see `README.md`
//! ("What is not proven") for what is done about it and what is not.
//!
//! # How a caller reads errors
//!
//! Every protocol step returns [`error::MpcError`]. [`error::MpcError::Ban`] is the one that matters: it says that
//! one more session with this counterparty and this key leaks long-lived secrets. It must be stored durably before
//! anything else happens, by both parties alike.

pub mod binding;
pub mod canary;
mod engine;
pub mod envelope;
pub mod error;
pub mod hexadecimal;
pub mod identity;
pub mod keygen;
pub mod lp;
pub mod owner_proof;
pub mod response_proof;
pub mod share;
pub mod sign;
pub mod signature;
mod wire;

#[cfg(any(test, fuzzing))]
pub mod mutated_tests;

#[cfg(test)]
mod tests;
