//! `/api/v1/mpc`.

pub(super) mod identity;
pub(super) mod session;
pub(super) mod sign;
