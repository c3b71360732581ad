//! The `countersign` command line.

mod device;
mod passphrase;
mod second_factor;
mod send;
mod two_factor;
mod wallet;

use std::{env, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::{
    Appliance, ClientError, Config, Keystore,
    error::EXIT_CODES,
    keystore::{KeystoreError, Passphrase, WalletName},
    output::Output,
};

const EXAMPLES: &str = "\
Examples:
  countersign wallet create main
  countersign wallet export main /media/stick/main.countersign
  countersign wallet show main
  countersign send main --to 0x70997970C51812dc3A010C7d01b50e0d17dc79C8 --value 0.01 --wait
  countersign send main --resume
  countersign two-factor enrol main

client.toml names the appliance and pins its offline root keys (root_keys): whoever holds one of them can be the appliance.
Get it from the operator by another way than through the gateway, and compare the keys with what `countersignd root show`
or `countersignd identity show` prints there.

The key of a wallet exists nowhere: this device holds one share, the appliance the other. Without an export, losing this
device loses the wallet.";

/// A wallet whose key is split between this device and a countersign appliance.
#[derive(Debug, Parser)]
#[command(name = "countersign", version, after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Global {
    /// Which appliance: client.toml [default: $COUNTERSIGN_CONFIG, then client.toml in the home directory below]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the wallets [default: $COUNTERSIGN_HOME, then ~/.countersign]
    #[arg(long, global = true, value_name = "DIR")]
    home: Option<PathBuf>,
    /// File that holds the passphrase [default: $COUNTERSIGN_PASSPHRASE_FILE, then a prompt]
    #[arg(long, global = true, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Print results and errors as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create, list, show, export and import wallets
    #[command(subcommand)]
    Wallet(wallet::Command),
    /// Let a second device sign for a wallet, or stop one from signing
    #[command(subcommand)]
    Device(device::Command),
    /// Set up a second factor: an authenticator app whose code is asked for where a stolen device alone must not be enough
    #[command(subcommand)]
    TwoFactor(two_factor::Command),
    /// Send ether or call a contract
    Send(Box<send::Command>),
}

/// What every command needs.
struct Context {
    config: Option<PathBuf>,
    home: PathBuf,
    passphrase_file: Option<PathBuf>,
    output: Output,
}

/// Runs the command line of this process.
pub async fn main() -> ExitCode {
    let Cli { global, command } = Cli::parse();
    let output = Output { json: global.json };
    match run(global, command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

async fn run(global: Global, command: Command) -> Result<(), ClientError> {
    let context = Context::new(global)?;
    match command {
        Command::Wallet(command) => command.run(&context).await,
        Command::Device(command) => command.run(&context).await,
        Command::TwoFactor(command) => command.run(&context).await,
        Command::Send(command) => command.run(&context).await,
    }
}

impl Context {
    fn new(global: Global) -> Result<Self, ClientError> {
        let home = global
            .home
            .or_else(|| env::var_os("COUNTERSIGN_HOME").map(PathBuf::from))
            .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".countersign")))
            .ok_or_else(|| ClientError::Usage("no home directory: use --home".to_owned()))?;
        let config = global
            .config
            .or_else(|| env::var_os("COUNTERSIGN_CONFIG").map(PathBuf::from));
        let passphrase_file = global
            .passphrase_file
            .or_else(|| env::var_os("COUNTERSIGN_PASSPHRASE_FILE").map(PathBuf::from));
        Ok(Self {
            config,
            home,
            passphrase_file,
            output: Output { json: global.json },
        })
    }

    fn keystore(&self) -> Keystore {
        Keystore::new(self.home.join("wallets"))
    }

    fn config(&self) -> Result<Config, ClientError> {
        let default = || self.home.join("client.toml");
        Ok(Config::load(&self.config.clone().unwrap_or_else(default))?)
    }

    fn appliance(&self) -> Result<Appliance, ClientError> {
        Appliance::new(self.config()?)
    }

    /// The passphrase of the existing wallet `name`.
    fn passphrase(&self, name: &WalletName) -> Result<Passphrase, ClientError> {
        if !self.keystore().contains(name) {
            return Err(KeystoreError::NotFound(name.clone()).into());
        }
        passphrase::existing(
            self.passphrase_file.as_deref(),
            &format!("Passphrase of {name}: "),
        )
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_teaches() {
        let mut command = Cli::command();
        command.clone().debug_assert();
        let help = command.render_long_help().to_string();
        assert!(help.contains("countersign wallet create main"));
        assert!(help.contains("7   the wallet is QUARANTINED"));
        assert!(help.contains("root_keys"));
    }
}
