//! `countersignd anchor …`: what is kept outside the database so that nobody can put it back unnoticed.

use std::sync::Arc;

use countersign_hsm::Token;

use super::token::{self, Environment, EnvironmentError};
use super::{ConfigOption, Failure, output};
use crate::audit::verify::onward;
use crate::config::Config;
use crate::custody::anchor::{Anchor, AnchorError, Place};
use crate::custody::guard::{GuardError, compare, verified_bans};
use crate::custody::listing::list_quarantines;
use crate::domain::ChainHead;
use crate::store::audit::chain;
use crate::store::{Reads, Store};

/// The verbs of `anchor`.
#[derive(clap::Subcommand)]
pub(super) enum Verb {
    /// Print the anchor and whether the database contains it; changes nothing, and may run beside a countersignd that
    /// serves
    Show(ConfigOption),
    /// Make the anchor of an environment that has none: one that is older than anchors, or has got a new token or witness
    /// file. It says that the database, as it is now, is the newest there is
    Make(ConfigOption),
    /// Accept a database that is older than its anchor, after a loss of the newer one. Stop every countersignd before
    Replace(Replace),
}

/// Options of `anchor replace`.
#[derive(clap::Args)]
pub(super) struct Replace {
    #[command(flatten)]
    config: ConfigOption,
    /// Wallets that were caught since the database was current can attack again, each from where it stopped: with enough
    /// tries one learns the appliance's share of its key. Needed when the database lacks bans or audit links
    #[arg(long)]
    danger_forget_what_is_newer: bool,
}

/// Why an anchor is not made or replaced.
#[derive(Debug, thiserror::Error)]
enum CannotAnchor {
    #[error(
        "there is an anchor already, of {0}; countersignd anchor show compares it with the database"
    )]
    Exists(Anchor),
    #[error("the database contains its anchor: there is nothing to replace")]
    Met,
    #[error(
        "the anchor has {anchor}, the database {database}: what is missing would be forgotten. Look for a newer database \
         first; if there is none, add --danger-forget-what-is-newer"
    )]
    WouldForget { anchor: Anchor, database: Anchor },
}

/// Runs one of them.
pub(super) async fn run(verb: &Verb) -> Result<(), Failure> {
    let (Verb::Show(option) | Verb::Make(option) | Verb::Replace(Replace { config: option, .. })) =
        verb;
    let config = super::load(option)?;
    let token = token::open(&config.hsm)?;
    let done = async {
        Environment::configured(&config)
            .confirm(&token)
            .await
            .map_err(EnvironmentError::failure)?;
        let place = token::anchor(&token, &config);
        match verb {
            Verb::Show(_) => show(&config, &place).await,
            Verb::Make(_) => make(&config, &place).await,
            Verb::Replace(options) => {
                replace(&config, &place, options.danger_forget_what_is_newer).await
            }
        }
    };
    let done = done.await;
    // Also after a failure: a process that ends under the module's threads may crash.
    let closed = token.close().await;
    done?;
    Ok(closed?)
}

async fn show(config: &Config, place: &Place) -> Result<(), Failure> {
    output::line(format_args!("place     {}", place.describe()));
    let anchor = place.read().await?;
    output::line(format_args!("anchor    {anchor}"));
    let mut reader = Store::inspect(Arc::clone(&config.store)).await?;
    let database = ends(&mut reader).await?;
    output::line(format_args!("database  {database}"));
    compare(&mut reader, &anchor).await?;
    output::line("The database contains its anchor.");
    Ok(())
}

/// One line for `doctor`.
pub(super) async fn check(config: &Config, token: &Token) -> Result<String, Failure> {
    let place = token::anchor(token, config);
    let anchor = place.read().await?;
    let mut reader = Store::inspect(Arc::clone(&config.store)).await?;
    compare(&mut reader, &anchor).await?;
    Ok(format!("{anchor}, which the database contains"))
}

async fn make(config: &Config, place: &Place) -> Result<(), Failure> {
    match place.read().await {
        Err(AnchorError::Missing) => {}
        Ok(anchor) => return Err(CannotAnchor::Exists(anchor).into()),
        Err(error) => return Err(error.into()),
    }
    // Not beside a countersignd that serves.
    let store = Store::open(Arc::clone(&config.store)).await?;
    let listed = list_quarantines(&store).await?;
    if listed > 0 {
        output::line(format_args!(
            "Put {listed} quarantines from before on the list of bans."
        ));
    }
    let anchor = verified(&mut store.reader().await?).await?;
    place.advance(&anchor).await?;
    output::line(format_args!("Anchored {anchor}."));
    Ok(())
}

async fn replace(config: &Config, place: &Place, forget: bool) -> Result<(), Failure> {
    let store = Store::open(Arc::clone(&config.store)).await?;
    let mut reader = store.reader().await?;
    let found = match place.read().await {
        // Two databases were served: neither has all.
        Err(AnchorError::Split { .. }) => None,
        found => Some(found?),
    };
    if let Some(anchor) = &found {
        match compare(&mut reader, anchor).await {
            Ok(_) => return Err(CannotAnchor::Met.into()),
            Err(GuardError::PutBack(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let database = verified(&mut reader).await?;
    if !forget {
        let anchor = found.unwrap_or_default();
        return Err(CannotAnchor::WouldForget { anchor, database }.into());
    }
    place.danger_replace(&database).await?;
    output::line(format_args!(
        "Anchored {database}; what was newer is forgotten."
    ));
    Ok(())
}

/// What the database has, verified from its beginning.
async fn verified(reads: &mut impl Reads) -> Result<Anchor, Failure> {
    Ok(Anchor {
        bans: verified_bans(reads).await?,
        audit: onward(reads, ChainHead::default()).await??,
    })
}

/// What the database has, without a look at all of it.
async fn ends(reads: &mut impl Reads) -> Result<Anchor, Failure> {
    let audit = chain::head(reads).await?;
    let (count, hash) = audit.unwrap_or_default();
    Ok(Anchor {
        bans: verified_bans(reads).await?,
        audit: ChainHead { count, hash },
    })
}
