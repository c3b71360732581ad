//! What the tests share: an appliance in this process, a keystore in a temporary directory.

pub(crate) mod appliance;
pub(crate) mod pki;
pub(crate) mod protocol;

use std::path::Path;

use alloy_primitives::{Bytes, U256};
use countersign_client::{
    Appliance, ClientError, Keystore,
    flows::{
        Step,
        create::create_wallet,
        send::{self, Sent},
    },
    keystore::{KdfParams, Passphrase, Wallet, WalletName},
    tx::{DEFAULT_FEE_CAP, Intent},
};
use zeroize::Zeroizing;

use self::appliance::FakeAppliance;

/// A directory with a keystore and a running appliance.
pub(crate) struct Bench {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) server: FakeAppliance,
    pub(crate) client: Appliance,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let server = FakeAppliance::start(directory.path()).await;
        let client = Appliance::new(server.config(directory.path())).unwrap();
        Self {
            directory,
            server,
            client,
        }
    }

    pub(crate) fn keystore(&self) -> Keystore {
        keystore(self.directory.path())
    }

    pub(crate) async fn create(&self) -> Result<Wallet, ClientError> {
        create_wallet(
            &self.keystore(),
            &self.client,
            &name(),
            &passphrase(),
            &mut |_| {},
        )
        .await
    }

    /// The wallet as it is on disk.
    pub(crate) fn open(&self) -> Wallet {
        self.keystore().open(&name(), &passphrase()).unwrap()
    }

    /// What a second process would find on disk right now: the file alone, without the lock of the one that runs.
    pub(crate) fn snapshot(&self) -> (tempfile::TempDir, Wallet) {
        let elsewhere = tempfile::tempdir().unwrap();
        let copy = keystore(elsewhere.path());
        std::fs::create_dir(elsewhere.path().join("wallets")).unwrap();
        std::fs::copy(self.keystore().path(&name()), copy.path(&name())).unwrap();
        let wallet = copy.open(&name(), &passphrase()).unwrap();
        (elsewhere, wallet)
    }

    /// The whole of `send`, as the command line does it.
    pub(crate) async fn send(&self, wallet: &mut Wallet) -> Result<Sent, ClientError> {
        let proposal = send::propose(wallet, &self.client, intent()).await?;
        send::sign(wallet, &self.client, &proposal, &mut |_: Step| {}).await
    }
}

pub(crate) fn keystore(directory: &Path) -> Keystore {
    Keystore::new(directory.join("wallets")).with_cost(KdfParams::FLOOR)
}

pub(crate) fn name() -> WalletName {
    "main".parse().unwrap()
}

pub(crate) fn passphrase() -> Passphrase {
    phrase("correct horse")
}

pub(crate) fn phrase(text: &str) -> Passphrase {
    Passphrase::new(Zeroizing::new(text.to_owned()))
}

/// 0.01 ether to somebody.
pub(crate) fn intent() -> Intent {
    Intent {
        to: "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
            .parse()
            .unwrap(),
        value: U256::from(10_000_000_000_000_000_u64),
        chain_id: 31337,
        data: Bytes::new(),
        gas: None,
        max_fee_per_gas: None,
        max_priority_fee_per_gas: None,
        fee_cap: DEFAULT_FEE_CAP,
    }
}
