//! `countersignd audit`: what the audit trail says of itself.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Failure, output};
use crate::audit::Verified;
use crate::audit::verify::{From, Progress, verify};
use crate::clock;
use crate::config::Config;
use crate::domain::InstanceId;
use crate::store::audit::chain::standing;
use crate::store::{Location, Store};

/// How often a verification says how far it is.
const REPORT: Duration = Duration::from_secs(2);

/// The verbs of `audit`.
#[derive(clap::Subcommand)]
pub(super) enum Verb {
    /// Recompute the chain over the audit records and say where it breaks first; changes nothing, and may
    /// run beside a countersignd that serves
    Verify(Options),
}

/// Options of `audit verify`.
#[derive(clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    pub(super) config: super::ConfigOption,
    /// Believe the chain up to its last checkpoint and verify what is newer
    #[arg(long)]
    from_checkpoint: bool,
}

/// Verifies the chain.
pub(super) async fn run(config: &Config, options: &Options) -> Result<(), Failure> {
    let location: Arc<Location> = Arc::clone(&config.store);
    let mut reader = Store::inspect(location).await?;
    let from = if options.from_checkpoint {
        From::LastCheckpoint
    } else {
        From::Beginning
    };
    let mut next = Instant::now() + REPORT;
    let report = |progress: Progress| {
        if Instant::now() >= next {
            next = Instant::now() + REPORT;
            output::progress(describe(progress));
        }
    };
    match verify(&mut reader, from, report).await? {
        Verified::Broken(found) => Err(found.into()),
        Verified::Intact(links) => {
            output::line(format_args!("the audit chain is intact: {links} links"));
            let standing = standing(&mut reader, InstanceId::generate(), clock::now()).await?;
            if standing.waiting > 0 {
                output::line(format_args!(
                    "{} records wait for the chain; countersignd chains them while it serves",
                    standing.waiting
                ));
            }
            Ok(())
        }
    }
}

fn describe(progress: Progress) -> String {
    let Progress { links, of, records } = progress;
    if records == 0 {
        format!("{links} of {of} links hold")
    } else {
        format!("all {of} links hold; {records} records compared with them")
    }
}
