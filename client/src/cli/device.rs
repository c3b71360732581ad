//! `countersign device …`

use std::{fs, path::PathBuf};

use clap::{Subcommand, ValueEnum};
use countersign_mpc::owner_proof::Algorithm;
use serde_json::{Value, json};

use super::{Context, second_factor::SecondFactor};
use crate::{
    ClientError,
    api::{Device, EnrolDevice},
    flows::devices,
    keystore::{Wallet, WalletName},
    two_factor::TwoFactorCode,
};

/// The kinds of device keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum DeviceKind {
    /// ECDSA on P-256, as security chips make them
    #[default]
    P256,
    /// Ed25519
    Ed25519,
}

impl DeviceKind {
    pub(super) const fn algorithm(self) -> Algorithm {
        match self {
            Self::P256 => Algorithm::P256,
            Self::Ed25519 => Algorithm::Ed25519,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// On the new device: give an imported wallet a device key of its own, and write what asks for its enrolment
    ///
    /// Import an export of the wallet first. Take the file to a device that is enrolled, and run `device add` there within
    /// a day. The file is no secret.
    New {
        /// Name of the imported wallet
        wallet: WalletName,
        /// File to write; never overwritten
        file: PathBuf,
        /// What to call this device
        #[arg(long)]
        name: Option<String>,
        /// Kind of key with which this device signs its requests
        #[arg(long, value_enum, default_value_t)]
        device_key: DeviceKind,
    },
    /// On an enrolled device: vouch for the new device that wrote the file
    Add {
        /// Name of the wallet
        wallet: WalletName,
        /// File written by `device new`
        file: PathBuf,
        #[command(flatten)]
        second_factor: SecondFactor,
    },
    /// List the devices that may sign for the wallet, or might
    List {
        /// Name of the wallet
        wallet: WalletName,
    },
    /// Stop a device from signing, for good; what it has begun is given up
    Revoke {
        /// Name of the wallet
        wallet: WalletName,
        /// Its key id, from `device list`
        key_id: String,
        #[command(flatten)]
        second_factor: SecondFactor,
    },
}

impl Command {
    pub(super) async fn run(self, context: &Context) -> Result<(), ClientError> {
        let open = |name: &WalletName| -> Result<Wallet, ClientError> {
            Ok(context.keystore().open(name, &context.passphrase(name)?)?)
        };
        match self {
            Self::New {
                wallet,
                file,
                name,
                device_key,
            } => {
                let name = name.unwrap_or_else(|| wallet.to_string());
                new(context, open(&wallet)?, &file, &name, device_key)
            }
            Self::Add {
                wallet,
                file,
                second_factor,
            } => {
                let asked = read(&file)?;
                let (wallet, appliance) = (open(&wallet)?, context.appliance()?);
                let add = async |code: Option<&TwoFactorCode>| {
                    devices::add_with(&wallet, &appliance, &asked, code).await
                };
                let device = second_factor.with(context.output, add).await?;
                show(context, &device);
                Ok(())
            }
            Self::List { wallet } => {
                let wallet = open(&wallet)?;
                let all = devices::list(&wallet, &context.appliance()?).await?;
                let own = wallet.device().thumbprint();
                let lines: Vec<String> = all.iter().map(|device| line(device, &own)).collect();
                context.output.result(&json!(all), &lines);
                Ok(())
            }
            Self::Revoke {
                wallet,
                key_id,
                second_factor,
            } => {
                let (wallet, appliance) = (open(&wallet)?, context.appliance()?);
                let revoke = async |code: Option<&TwoFactorCode>| {
                    devices::revoke_with(&wallet, &appliance, &key_id, code).await
                };
                let device = second_factor.with(context.output, revoke).await?;
                show(context, &device);
                Ok(())
            }
        }
    }
}

fn new(
    context: &Context,
    mut wallet: Wallet,
    file: &PathBuf,
    name: &str,
    device_key: DeviceKind,
) -> Result<(), ClientError> {
    let usage = |what: String| ClientError::Usage(format!("{}: {what}", file.display()));
    let appliance = context.appliance()?;
    // Reserved first: without it the new key could not be enrolled.
    let mut out = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(file)
        .map_err(|error| usage(error.to_string()))?;
    wallet.renew_device(device_key.algorithm())?;
    let asked = devices::ask(&wallet, &appliance, name)?;
    serde_json::to_writer_pretty(&mut out, &asked).map_err(|error| usage(error.to_string()))?;
    let lines = vec![
        format!(
            "device {} asks in {}",
            wallet.device().thumbprint(),
            file.display()
        ),
        "Next, on a device that is enrolled: countersign device add WALLET FILE".to_owned(),
    ];
    let value = json!({"keyId": wallet.device().thumbprint(), "file": file});
    context.output.result(&value, &lines);
    Ok(())
}

fn read(file: &PathBuf) -> Result<EnrolDevice, ClientError> {
    let usage = |what: String| ClientError::Usage(format!("{}: {what}", file.display()));
    let text = fs::read(file).map_err(|error| usage(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| usage(error.to_string()))
}

fn show(context: &Context, device: &Device) {
    let value: Value = json!(device);
    context.output.result(&value, &[line(device, "")]);
}

fn line(device: &Device, own: &str) -> String {
    let Device {
        key_id,
        algorithm,
        status,
        active_at,
        ..
    } = device;
    let when = match status.as_str() {
        "pending" => format!(" until {}", plain(active_at)),
        _ => String::new(),
    };
    let this = if key_id == own { "  (this device)" } else { "" };
    format!(
        "{key_id}  {status}{when}  {algorithm}  {}{this}",
        plain(&device.name)
    )
}

/// SECURITY: what the server wrote must not drive the terminal.
fn plain(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).collect()
}
