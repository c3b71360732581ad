//! Reading the bodies of requests, for the fuzz targets. In no other build.

use serde::de::DeserializeOwned;

use super::{mpc, profiles};

/// Reads a body as the request of a route: creating a wallet, preparing a transaction, signing, enrolling a device,
/// revoking one.
pub fn body(route: u8, body: &[u8]) {
    match route {
        0 => read::<profiles::create::Request>(body),
        1 => read::<profiles::prepare_transaction::Request>(body),
        2 => read::<mpc::sign::Request>(body),
        3 => read::<profiles::devices::enrol::Request>(body),
        _ => read::<profiles::devices::revoke::Request>(body),
    }
}

fn read<T: DeserializeOwned>(body: &[u8]) {
    drop(serde_json::from_slice::<T>(body));
}
