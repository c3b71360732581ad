//! `/api/v1/profiles` and `/api/v2/profiles`.

pub(super) mod create;
pub(super) mod devices;
pub(super) mod freeze;
pub(super) mod prepare_transaction;
pub(super) mod show;
pub(super) mod transactions;
pub(super) mod two_factor;
pub(super) mod unfreeze;
