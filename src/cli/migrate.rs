//! `countersignd migrate`: brings the database's schema to the version of this program.

use std::sync::Arc;

use super::{Failure, output};
use crate::config::Config;
use crate::store::{Store, schema};

/// Options of `migrate`.
#[derive(clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    pub(super) config: super::ConfigOption,
    /// Say what would be done and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Makes the missing steps of the schema, or lists them.
pub(super) async fn run(config: &Config, options: &Options) -> Result<(), Failure> {
    let steps = Store::migrate(Arc::clone(&config.store), options.dry_run).await?;
    let done = if options.dry_run {
        "would make"
    } else {
        "made"
    };
    for schema::Step { version, name } in &steps {
        output::line(format_args!("{done} schema version {version}: {name}"));
    }
    if steps.is_empty() {
        let latest = schema::latest();
        output::line(format_args!("schema version {latest} is up to date"));
    }
    Ok(())
}
