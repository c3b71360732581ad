//! Looking at a wallet: the server's view of it and its balances.

use std::time::Duration;

use alloy_primitives::U256;
use reqwest::Client;
use rustls::crypto::aws_lc_rs;
use serde::Deserialize;
use serde_json::json;
use url::Url;

use super::Appliance;
use crate::{
    ClientError,
    api::{self, Profile, Quantity},
    keystore::Wallet,
    transport::Request,
};

const NODE_TIMEOUT: Duration = Duration::from_secs(5);

/// The server's view of an active wallet.
///
/// # Errors
/// [`ClientError`]; [`ClientError::Answer`] if the server names another address.
pub async fn profile(wallet: &Wallet, appliance: &Appliance) -> Result<Profile, ClientError> {
    appliance.owns(wallet)?;
    let (profile_id, slot) = wallet.current()?;
    let profile: Profile = appliance
        .call(wallet, &Request::get(api::profile_path(profile_id)))
        .await?;
    if profile
        .session_wallet_address
        .is_none_or(|theirs| theirs.0 != slot.public.address)
    {
        return Err(ClientError::Answer(
            "it names another address for this wallet",
        ));
    }
    Ok(profile)
}

/// Balance of `address` in wei according to a JSON-RPC node; `None` if the node does not give one. For display only.
pub async fn balance(node: &Url, address: &str) -> Option<U256> {
    #[derive(Deserialize)]
    struct Answer {
        result: Quantity,
    }
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_getBalance", "params": [address, "latest"]});
    // The appliance's connection brings its own provider; a node behind https uses the process's. An earlier choice stays.
    drop(aws_lc_rs::default_provider().install_default());
    let client = Client::builder()
        .no_proxy()
        .timeout(NODE_TIMEOUT)
        .build()
        .ok()?;
    let post = client
        .post(node.clone())
        .header("content-type", "application/json")
        .body(request.to_string());
    let answer = post.send().await.ok()?.bytes().await.ok()?;
    serde_json::from_slice::<Answer>(&answer)
        .ok()
        .map(|answer| answer.result.0)
}
