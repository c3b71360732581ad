//! The command line of `countersignd`: one file per verb.

mod anchor;
mod approve;
mod audit;
mod connect;
pub mod doctor;
mod files;
mod freeze;
pub mod identity;
pub mod init;
mod limits;
mod migrate;
mod output;
pub mod pki;
mod policy;
mod root;
pub mod serve;
pub mod token;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Config;
use crate::store::Location;

/// Holds one of the two shares of every wallet's key and signs together with the wallet.
///
/// Start with `countersignd init`, which makes an environment: an id, keys in the HSM token, a database
/// and, for development, certificates. Then `countersignd serve` runs the appliance, and
/// `countersignd doctor` finds out what is wrong when it does not start.
#[derive(Parser)]
#[command(name = "countersignd", version, after_long_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  failed; the message says what to do
  2  wrong option or configuration: nothing was started
  3  token, database and configuration belong to different environments, or the token is not fit for
     this kind of environment: nothing was started

The configuration is a TOML file; unknown keys are errors. Secrets are read from files that only their
owner may access, or from systemd credentials; no setting is read from the environment.
Logs are JSON lines on standard error, from level info; RUST_LOG=debug shows more.";

#[derive(Subcommand)]
enum Verb {
    /// Make a new environment: keys in the token, database, configuration
    Init(Box<init::Options>),
    /// Run the appliance until SIGTERM or SIGINT, then finish what is running
    Serve(ConfigOption),
    /// Check configuration, certificates, token, database and chains; change nothing
    Doctor(ConfigOption),
    /// Revoke certificates that `init` made for a development environment
    #[command(subcommand)]
    Pki(pki::Verb),
    /// Ask for a certificate of the identity key, and install it
    #[command(subcommand)]
    Identity(identity::Verb),
    /// Make an offline root key and sign identity keys with it; needs no configuration and no token
    #[command(subcommand)]
    Root(root::Verb),
    /// Check, test, explain and compare policy rules; needs no configuration and no token
    #[command(subcommand)]
    Policy(policy::Verb),
    /// Verify the audit trail
    #[command(subcommand)]
    Audit(audit::Verb),
    /// Show the exact limits and how much of them is left
    #[command(subcommand)]
    Limits(limits::Verb),
    /// Look after the anchor: what shows, outside the database, that the database was put back
    #[command(subcommand)]
    Anchor(anchor::Verb),
    /// Stop signing at once: for a profile, a tenant or everything; or list what is stopped. Of a running appliance, through
    /// its operators' listener
    #[command(subcommand)]
    Freeze(freeze::Verb),
    /// Do together what one operator alone may not: draft a command, sign it, have it carried out
    #[command(subcommand)]
    Approve(approve::Verb),
    /// Bring the database's schema to this version, while no countersignd serves it; back it up before.
    /// Or copy an environment from SQLite to PostgreSQL
    Migrate(Box<migrate::Options>),
}

#[derive(clap::Args)]
struct ConfigOption {
    /// The configuration that `countersignd init` wrote
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// How the program ended; the numbers are part of its interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Something failed.
    Failed = 1,
    /// Wrong option or configuration.
    Usage = 2,
    /// Token, database and configuration disagree about the environment.
    Environment = 3,
}

/// An error that ends the program, with its exit code. `?` makes it from any error with [`Exit::Failed`].
pub struct Failure {
    exit: Exit,
    error: Box<dyn Error + Send + Sync>,
}

impl Failure {
    /// Wrong option or configuration: exit code 2.
    pub fn usage(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            exit: Exit::Usage,
            error: error.into(),
        }
    }

    /// Environments disagree: exit code 3.
    pub fn environment(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            exit: Exit::Environment,
            error: error.into(),
        }
    }

    /// The exit code.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        self.exit
    }

    /// The error.
    #[must_use]
    pub fn error(&self) -> &(dyn Error + Send + Sync) {
        self.error.as_ref()
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self {
            exit: Exit::Failed,
            error: error.into(),
        }
    }
}

/// Runs the program with the arguments of the process.
#[must_use]
pub fn run() -> ExitCode {
    match Arguments::try_parse() {
        Ok(arguments) => match dispatch(arguments.verb) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                output::failure(failure.error());
                ExitCode::from(failure.exit as u8)
            }
        },
        Err(error) => output::usage(&error),
    }
}

fn dispatch(verb: Verb) -> Result<(), Failure> {
    refuse_settings_from_the_environment(std::env::vars_os().map(|(name, _)| name))?;
    // Both our TLS and the RPC client's use this provider and no other.
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        return Err(Failure {
            exit: Exit::Failed,
            error: "a crypto provider is already installed".into(),
        });
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match verb {
            Verb::Init(options) => init::run(&options).await,
            Verb::Serve(option) => {
                let config = load(&option)?;
                crate::telemetry::init().map_err(Failure::usage)?;
                serve::run(config).await
            }
            Verb::Doctor(option) => doctor::run(load(&option)?).await,
            Verb::Pki(verb) => pki::run(&verb),
            Verb::Identity(verb) => identity::run(&verb).await,
            Verb::Root(verb) => root::run(&verb),
            Verb::Policy(verb) => policy::run(&verb).await,
            Verb::Audit(audit::Verb::Verify(options)) => {
                audit::run(&load(&options.config)?, &options).await
            }
            Verb::Limits(limits::Verb::Show(options)) => {
                limits::show(load(&options.config)?, &options).await
            }
            Verb::Anchor(verb) => anchor::run(&verb).await,
            Verb::Freeze(verb) => freeze::run(&verb).await,
            Verb::Approve(verb) => approve::run(&verb).await,
            Verb::Migrate(options) => migrate::run(&options).await,
        }
    })
}

fn load(option: &ConfigOption) -> Result<Config, Failure> {
    load_file(&option.config)
}

fn load_file(file: &Path) -> Result<Config, Failure> {
    let config = Config::load(file).map_err(Failure::usage)?;
    refuse_driver_settings(&config.store)?;
    Ok(config)
}

/// A setting that has no effect is worse than none (`protocol.md` A40): `COUNTERSIGN_DEV=1` stops the
/// start instead of being ignored.
fn refuse_settings_from_the_environment(
    mut names: impl Iterator<Item = std::ffi::OsString>,
) -> Result<(), Failure> {
    let ours = |name: &std::ffi::OsString| name.as_encoded_bytes().starts_with(b"COUNTERSIGN_");
    match names.find(ours) {
        None => Ok(()),
        Some(name) => Err(setting_from_the_environment(&name.display())),
    }
}

/// What PostgreSQL's driver would take from the environment beside our configuration: `PGOPTIONS` alone could make
/// commits that are lost with the power.
const DRIVER_SETTINGS: [&str; 4] = ["PGOPTIONS", "PGPASSWORD", "PGSSLCERT", "PGSSLKEY"];

fn refuse_driver_settings(location: &Location) -> Result<(), Failure> {
    let set = |name: &&&str| std::env::var_os(name).is_some();
    match (location, DRIVER_SETTINGS.iter().find(set)) {
        (Location::Postgres(_), Some(name)) => Err(setting_from_the_environment(name)),
        _ => Ok(()),
    }
}

fn setting_from_the_environment(name: &dyn std::fmt::Display) -> Failure {
    Failure::usage(format!(
        "countersignd takes no settings from the environment: unset {name} and use the configuration file"
    ))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use clap::{CommandFactory, Parser};

    use super::{Arguments, Exit, refuse_settings_from_the_environment};

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a40_development_switches_do_not_exist() {
        for arguments in [
            ["countersignd", "--dev", "serve"],
            ["countersignd", "serve", "--dev"],
            ["countersignd", "init", "--insecure"],
        ] {
            assert_eq!(
                Arguments::try_parse_from(arguments)
                    .err()
                    .unwrap()
                    .exit_code(),
                2
            );
        }
        let refused = refuse_settings_from_the_environment(["COUNTERSIGN_DEV".into()].into_iter());
        assert_eq!(refused.err().unwrap().exit(), Exit::Usage);
        assert!(refuse_settings_from_the_environment(["PATH".into()].into_iter()).is_ok());
    }
}
