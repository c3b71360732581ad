//! `countersignd migrate`: brings the database's schema to the version of this program, or copies an environment
//! into another database.

mod copy;

use std::sync::Arc;

use super::{ConfigOption, Failure, output};
use crate::config::Config;
use crate::store::{Store, schema};

/// Options of `migrate`.
#[derive(clap::Args)]
pub(super) struct Options {
    /// The configuration that `countersignd init` wrote
    #[arg(long, value_name = "FILE", required_unless_present = "from")]
    config: Option<std::path::PathBuf>,
    /// Say what would be done and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    copy: copy::CopyOptions,
}

/// Makes the missing steps of the schema, or lists them; or copies.
pub(super) async fn run(options: &Options) -> Result<(), Failure> {
    match &options.config {
        None => copy::run(&options.copy, options.dry_run).await,
        Some(config) => {
            let config = config.clone();
            let config = super::load(&ConfigOption { config })?;
            schema(&config, options.dry_run).await
        }
    }
}

async fn schema(config: &Config, dry_run: bool) -> Result<(), Failure> {
    let steps = Store::migrate(Arc::clone(&config.store), dry_run).await?;
    let done = if dry_run { "would make" } else { "made" };
    for schema::Step { version, name } in &steps {
        output::line(format_args!("{done} schema version {version}: {name}"));
    }
    if steps.is_empty() {
        let latest = schema::latest();
        output::line(format_args!("schema version {latest} is up to date"));
    }
    Ok(())
}
