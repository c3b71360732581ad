//! Wallets as their owners use them: through the client library.

use std::time::Duration;

use alloy_primitives::U256;
use countersign_client::ClientError;
use countersign_client::flows::create::create_wallet;
use countersign_client::flows::payment::wait_until_mined;
use countersign_client::flows::send::{self, Sent};
use countersign_client::keystore::{Passphrase, Wallet};
use countersign_client::tx::{DEFAULT_FEE_CAP, Intent};

use super::{Appliance, CHAIN, Node, RECIPIENT};

/// The passphrase of every test wallet.
pub(crate) fn passphrase() -> Passphrase {
    Passphrase::new("correct horse battery staple".to_owned().into())
}

/// Creates a wallet, or goes on with one whose creation was interrupted.
pub(crate) async fn try_create(appliance: &Appliance, name: &str) -> Result<Wallet, ClientError> {
    create_wallet(
        &appliance.keystore(),
        &appliance.client,
        &name.parse().unwrap(),
        &passphrase(),
        &mut |_| (),
    )
    .await
}

/// A new wallet that has 100 ether.
pub(crate) async fn wallet_of(appliance: &Appliance, node: &Node, name: &str) -> Wallet {
    let wallet = try_create(appliance, name).await.unwrap();
    node.fund(&address(&wallet)).await;
    wallet
}

/// Its checksummed address.
pub(crate) fn address(wallet: &Wallet) -> String {
    wallet.current().unwrap().1.address()
}

/// Its profile id.
pub(crate) fn profile(wallet: &Wallet) -> String {
    wallet.current().unwrap().0.to_owned()
}

/// `wei` for [`RECIPIENT`].
pub(crate) fn intent(wei: u64) -> Intent {
    Intent {
        to: RECIPIENT.parse().unwrap(),
        value: U256::from(wei),
        chain_id: CHAIN,
        data: alloy_primitives::Bytes::new(),
        gas: None,
        max_fee_per_gas: None,
        max_priority_fee_per_gas: None,
        fee_cap: DEFAULT_FEE_CAP,
    }
}

/// Proposes and signs.
pub(crate) async fn send(
    wallet: &mut Wallet,
    appliance: &Appliance,
    wei: u64,
) -> Result<Sent, ClientError> {
    let proposal = send::propose(wallet, &appliance.client, intent(wei)).await?;
    send::sign(wallet, &appliance.client, &proposal, &mut |_| ()).await
}

/// Waits until a sent transaction is mined.
pub(crate) async fn mined(
    wallet: &Wallet,
    appliance: &Appliance,
    sent: &Sent,
) -> Result<(), ClientError> {
    let limit = Duration::from_secs(20);
    wait_until_mined(wallet, &appliance.client, sent, limit, |_, _| ())
        .await
        .map(drop)
}

/// Sends and waits; the transaction's hash.
pub(crate) async fn send_and_mine(wallet: &mut Wallet, appliance: &Appliance, wei: u64) -> String {
    let sent = send(wallet, appliance, wei).await.unwrap();
    mined(wallet, appliance, &sent).await.unwrap();
    sent.tx_hash
}
