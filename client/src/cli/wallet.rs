//! `countersign wallet …`

use std::path::PathBuf;

use alloy_primitives::U256;
use clap::Subcommand;
use serde_json::{Value, json};

use super::{Context, device::DeviceKind, passphrase};
use crate::{
    ClientError,
    api::Profile,
    flows::{create::create_wallet_for, freeze::freeze, show},
    keystore::{Header, KdfParams, KeystoreError, Wallet, WalletName},
    units::format_ether,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a wallet, or start a creation that was interrupted anew
    ///
    /// Generates a device key and, together with the appliance, a key that exists nowhere as a whole. The address is shown
    /// only after a test signature has proven that both shares work. Run the same command again after any interruption.
    Create {
        /// Name of the wallet on this device: letters, digits, - and _
        name: WalletName,
        /// Kind of key with which this device signs its requests
        #[arg(long, value_enum, default_value_t)]
        device_key: DeviceKind,
    },
    /// List the wallets on this device; needs no passphrase
    List,
    /// Show a wallet: state, address, balances, the appliance's view, last payment
    Show {
        /// Name of the wallet
        name: WalletName,
    },
    /// Have the appliance sign nothing with a wallet any more, at once and whichever device asks
    ///
    /// For a device that was lost or stolen: any other device of the owner freezes. What was signed before is paid. Only the
    /// appliance's operators can lift the freeze, two of them together.
    Freeze {
        /// Name of the wallet
        name: WalletName,
    },
    /// Write a wallet to a new file under a passphrase of its own, and check that it can be read back
    ///
    /// Together with a backup of the appliance's share it recovers the key; alone it is useless to a thief who does not
    /// know the passphrase, and cannot spend without the appliance. Export again after every key rotation.
    Export {
        /// Name of the wallet
        name: WalletName,
        /// File to write; never overwritten
        file: PathBuf,
        /// File that holds the export's passphrase [default: the wallet's passphrase file, else a prompt]
        #[arg(long, value_name = "FILE")]
        export_passphrase_file: Option<PathBuf>,
    },
    /// Take over an exported wallet on this device
    Import {
        /// File written by `wallet export`
        file: PathBuf,
        /// Name on this device [default: the exported name]
        #[arg(long)]
        name: Option<WalletName>,
        /// File that holds the export's passphrase [default: the wallet's passphrase file, else a prompt]
        #[arg(long, value_name = "FILE")]
        export_passphrase_file: Option<PathBuf>,
    },
}

impl Command {
    pub(super) async fn run(self, context: &Context) -> Result<(), ClientError> {
        match self {
            Self::Create { name, device_key } => create(context, &name, device_key).await,
            Self::List => list(context),
            Self::Show { name } => show_wallet(context, &name).await,
            Self::Freeze { name } => freeze_wallet(context, &name).await,
            Self::Export {
                name,
                file,
                export_passphrase_file,
            } => export(context, &name, &file, export_passphrase_file),
            Self::Import {
                file,
                name,
                export_passphrase_file,
            } => import(context, &file, name, export_passphrase_file),
        }
    }
}

async fn create(
    context: &Context,
    name: &WalletName,
    device: DeviceKind,
) -> Result<(), ClientError> {
    let (keystore, appliance) = (context.keystore(), context.appliance()?);
    let passphrase = if keystore.contains(name) {
        context.passphrase(name)?
    } else {
        passphrase::fresh(
            context.passphrase_file.as_deref(),
            &format!("New passphrase for {name}: "),
        )?
    };
    let secret = (&passphrase, device.algorithm());
    let wallet = create_wallet_for(&keystore, &appliance, name, secret, &mut |step| {
        context.output.step(&step);
    })
    .await?;
    let header = wallet.header();
    let mut lines = describe(&header);
    lines.push(format!("Next: countersign wallet export {name} FILE   (without an export, losing this device loses the wallet)"));
    context.output.result(&header_json(&header), &lines);
    Ok(())
}

fn list(context: &Context) -> Result<(), ClientError> {
    let wallets = context.keystore().list()?;
    let (values, mut lines): (Vec<Value>, Vec<String>) = wallets
        .iter()
        .map(|(name, header)| match header {
            Ok(header) => {
                let address = header.address.as_deref().unwrap_or("(no address yet)");
                (
                    header_json(header),
                    format!("{name:<20} {:<12} {address}", header.state),
                )
            }
            Err(error) => (
                json!({"name": name, "error": error.to_string()}),
                format!("{name:<20} {error}"),
            ),
        })
        .unzip();
    if lines.is_empty() {
        lines.push("no wallets yet: countersign wallet create NAME".to_owned());
    }
    context.output.result(&Value::Array(values), &lines);
    Ok(())
}

async fn show_wallet(context: &Context, name: &WalletName) -> Result<(), ClientError> {
    let wallet = context.keystore().open(name, &context.passphrase(name)?)?;
    let appliance = context.appliance()?;
    let header = wallet.header();
    let mut lines = describe(&header);
    let mut value = header_json(&header);
    if let Some(address) = &header.address {
        for chain in &appliance.config().chains {
            let Some(node) = &chain.rpc else { continue };
            let balance = show::balance(node, address).await;
            let shown = balance.map_or_else(|| "node not reachable".to_owned(), format_ether);
            lines.push(line("balance", &format!("{shown} on chain {}", chain.id)));
            if let Some(balances) = value.get_mut("balances").and_then(Value::as_array_mut) {
                balances.push(
                    json!({"chainId": chain.id, "wei": balance.map(|wei: U256| wei.to_string())}),
                );
            }
        }
        match show::profile(&wallet, &appliance).await {
            Ok(Profile {
                status,
                key_state,
                frozen,
                ..
            }) => {
                lines.push(line(
                    "appliance",
                    &format!(
                        "{status}, key {}{}",
                        key_state.as_deref().unwrap_or("unknown"),
                        if frozen { ", FROZEN" } else { "" }
                    ),
                ));
                insert(
                    &mut value,
                    "appliance",
                    json!({"status": status, "keyState": key_state, "frozen": frozen}),
                );
            }
            Err(error) => lines.push(line("appliance", &error.to_string())),
        }
    }
    describe_history(&wallet, &mut lines, &mut value);
    context.output.result(&value, &lines);
    Ok(())
}

async fn freeze_wallet(context: &Context, name: &WalletName) -> Result<(), ClientError> {
    let wallet = context.keystore().open(name, &context.passphrase(name)?)?;
    let frozen = freeze(&wallet, &context.appliance()?).await?;
    let lines = [
        format!("wallet {name} is frozen: the appliance signs nothing with it"),
        format!(
            "Next: ask its operators to lift freeze {} once it is safe",
            frozen.freeze_id
        ),
    ];
    context.output.result(&json!(frozen), &lines);
    Ok(())
}

fn describe_history(wallet: &Wallet, lines: &mut Vec<String>, value: &mut Value) {
    if wallet.suspect_events() > 0 {
        lines.push(line(
            "suspicious",
            &format!(
                "{} failed or interrupted checks of the appliance",
                wallet.suspect_events()
            ),
        ));
    }
    if let Some(payment) = wallet.payment() {
        let outcome = payment
            .tx_hash
            .as_deref()
            .unwrap_or("not finished: send --resume or send --abandon");
        lines.push(line(
            "last payment",
            &format!("{}: {outcome}", payment.describe()),
        ));
        let shown = json!({
            "to": payment.intent.to, "value": payment.intent.value.to_string(),
            "chainId": payment.intent.chain_id, "txHash": payment.tx_hash,
        });
        insert(value, "lastPayment", shown);
    }
    if let Some(ban) = wallet.quarantine() {
        lines.push(ban.to_string());
        insert(
            value,
            "quarantine",
            json!({"reason": ban.reason, "session": ban.session, "at": ban.at}),
        );
    }
}

fn export(
    context: &Context,
    name: &WalletName,
    file: &std::path::Path,
    export_passphrase_file: Option<PathBuf>,
) -> Result<(), ClientError> {
    let wallet = context.keystore().open(name, &context.passphrase(name)?)?;
    let passphrase_file = export_passphrase_file.or_else(|| context.passphrase_file.clone());
    let passphrase = passphrase::fresh(
        passphrase_file.as_deref(),
        "New passphrase for the export: ",
    )?;
    let header = wallet.export(file, &passphrase, KdfParams::DEFAULT)?;
    let mut lines = vec![format!("exported to {} and read back", file.display())];
    lines.extend(describe(&header));
    context.output.result(&header_json(&header), &lines);
    Ok(())
}

fn import(
    context: &Context,
    file: &std::path::Path,
    name: Option<WalletName>,
    export_passphrase_file: Option<PathBuf>,
) -> Result<(), ClientError> {
    if let Some(name) = name
        .as_ref()
        .filter(|name| context.keystore().contains(name))
    {
        return Err(KeystoreError::Exists(context.keystore().path(name)).into());
    }
    let of_export = export_passphrase_file.or_else(|| context.passphrase_file.clone());
    let exported = passphrase::existing(of_export.as_deref(), "Passphrase of the export: ")?;
    let fresh = passphrase::fresh(
        context.passphrase_file.as_deref(),
        "New passphrase on this device: ",
    )?;
    let header = context
        .keystore()
        .import(file, name, &exported, &fresh)?
        .header();
    context
        .output
        .result(&header_json(&header), &describe(&header));
    Ok(())
}

fn describe(header: &Header) -> Vec<String> {
    let mut lines = vec![
        format!("wallet {}", header.name),
        line("state", &header.state.to_string()),
    ];
    let generation = header
        .key_generation
        .map(|generation| generation.to_string());
    for (label, value) in [
        ("address", &header.address),
        ("profile", &header.profile_id),
        ("generation", &generation),
        ("fingerprint", &header.fingerprint),
    ] {
        lines.extend(value.as_deref().map(|value| line(label, value)));
    }
    lines
}

fn header_json(header: &Header) -> Value {
    json!({
        "name": header.name, "state": header.state, "address": header.address, "profileId": header.profile_id,
        "keyGeneration": header.key_generation, "fingerprint": header.fingerprint,
        "environmentId": header.environment_id, "balances": [],
    })
}

fn insert(object: &mut Value, key: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(key.to_owned(), value);
    }
}

fn line(label: &str, value: &str) -> String {
    format!("  {label:<14}{value}")
}
