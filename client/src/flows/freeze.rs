//! Stopping a wallet: the appliance signs nothing with it any more, whoever asks and from whichever device.

use super::Appliance;
use crate::{
    ClientError,
    api::{self, Frozen},
    keystore::Wallet,
    transport::Request,
};

/// Has the appliance freeze the wallet. Doing it again changes nothing. Only the appliance's operators lift it.
///
/// # Errors
/// [`ClientError`]; whether the wallet is frozen is then not known, and it may be done again.
pub async fn freeze(wallet: &Wallet, appliance: &Appliance) -> Result<Frozen, ClientError> {
    appliance.owns(wallet)?;
    let (profile_id, _) = wallet.current()?;
    let request = Request::post(api::freeze_path(profile_id), &serde_json::json!({}))?;
    let frozen: Frozen = appliance.call(wallet, &request).await?;
    if frozen.profile_id != profile_id {
        return Err(ClientError::Answer("it froze another wallet"));
    }
    Ok(frozen)
}
