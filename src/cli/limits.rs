//! `countersignd limits show`: the limits, and how much of them is left.

use std::sync::Arc;

use alloy_primitives::U256;
use clap::Subcommand;

use super::{ConfigOption, Failure, output};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::domain::{ProfileId, RateClass, RateSubject, TenantId};
use crate::limits::spend::{Payer, Per, SpendLimit};
use crate::limits::{InForce, Limits, Log, Rate};
use crate::store::{Reader, Store, StoreError, limits, profiles, spends};

/// What `countersignd limits` does.
#[derive(Subcommand)]
pub(super) enum Verb {
    /// Show the limits of the file and how much of them is left; beside any countersignd that serves.
    /// One that runs has the limits of its start, or of its last SIGHUP
    Show(Show),
}

/// Which limits.
#[derive(clap::Args)]
pub(super) struct Show {
    #[command(flatten)]
    pub(super) config: ConfigOption,
    /// Also those of this profile
    #[arg(long, value_name = "ID")]
    profile: Option<String>,
}

/// There is no such profile.
#[derive(Debug, thiserror::Error)]
#[error("there is no profile {0}")]
struct NoProfile(String);

/// Shows the limits.
///
/// # Errors
/// Exit code 2 when the limits are not good or there is no such profile.
pub(super) async fn show(config: Config, options: &Show) -> Result<(), Failure> {
    let in_force = of_configuration(&config)?;
    let mut reader = Store::inspect(config.store).await?;
    let now = reader.server_clock().await?;
    let profile = match &options.profile {
        Some(id) => Some(payer(&mut reader, id).await?),
        None => None,
    };
    for rate in in_force.rates() {
        let used = match &profile {
            Some(payer) => {
                let subject = RateSubject::Profile(payer.profile);
                used(&mut reader, rate, subject, now).await?
            }
            None => String::new(),
        };
        output::line(format_args!("rate   {}{used}", described_rate(rate)));
    }
    for limit in in_force.spends() {
        for (whose, payer) in payers(limit, profile.as_ref(), &config.tenants) {
            let claimed = match payer {
                Some(payer) => claimed(&mut reader, limit, &payer, now).await?,
                None => String::new(),
            };
            output::line(format_args!("spend  {} {whose}{claimed}", described(limit)));
        }
    }
    Ok(())
}

/// The limits that a configuration names.
pub(super) fn of_configuration(config: &Config) -> Result<Arc<Limits>, Failure> {
    let chains = config.chains.iter().map(|chain| chain.id).collect();
    let in_force = InForce::open(config.policy.limits.as_deref(), chains);
    Ok(in_force.map_err(Failure::usage)?.current())
}

async fn payer(reader: &mut Reader, id: &str) -> Result<Payer, Failure> {
    let none = || Failure::usage(NoProfile(id.to_owned()));
    let profile = ProfileId::parse(id).map_err(|_| none())?;
    let row = profiles::find(reader, profile).await?.ok_or_else(none)?;
    Ok(Payer {
        profile,
        tenant: row.tenant,
    })
}

/// How much of a rate a subject has used, and has left.
pub(super) async fn used(
    reader: &mut Reader,
    rate: &Rate,
    subject: RateSubject,
    now: Timestamp,
) -> Result<String, StoreError> {
    let (class, since): (RateClass, _) = (rate.class, rate.since(now));
    let (count, oldest) = limits::count(reader, class, subject, since).await?;
    let left = rate.standing(Log { count, oldest }, now).remaining;
    Ok(format!(": {count} used, {left} left"))
}

/// Whose share of a limit is shown; what is of each recipient is too much to show.
fn payers(
    limit: &SpendLimit,
    profile: Option<&Payer>,
    tenants: &[TenantId],
) -> Vec<(String, Option<Payer>)> {
    let anybody = |tenant: &TenantId| Payer {
        profile: ProfileId::generate(),
        tenant: tenant.clone(),
    };
    match (limit.per, profile) {
        (Per::Transaction | Per::Recipient, _) | (Per::Profile, None) => {
            vec![(format!("per {}", limit.per.as_str()), None)]
        }
        (Per::Profile, Some(payer)) => vec![("of the profile".to_owned(), Some(payer.clone()))],
        (Per::Tenant, Some(payer)) => {
            vec![(format!("of tenant {}", payer.tenant), Some(payer.clone()))]
        }
        (Per::Tenant, None) => tenants
            .iter()
            .map(|tenant| (format!("of tenant {tenant}"), Some(anybody(tenant))))
            .collect(),
        (Per::Environment, _) => {
            let payer = profile.cloned().or_else(|| tenants.first().map(anybody));
            vec![("of the environment".to_owned(), payer)]
        }
    }
}

pub(super) fn described_rate(rate: &Rate) -> String {
    let (class, requests, seconds) = (rate.class.as_str(), rate.requests, rate.seconds);
    format!("{class:<15} {requests} per {seconds}s")
}

pub(super) fn described(limit: &SpendLimit) -> String {
    let asset = limit.asset.token.map_or_else(
        || "native".to_owned(),
        |token| format!("0x{}", hex::encode(token)),
    );
    let window = match limit.seconds {
        0 => String::new(),
        seconds => format!(" in {seconds}s"),
    };
    format!(
        "{} at most {} of {asset} on chain {}{window}",
        limit.name, limit.amount, limit.asset.chain
    )
}

async fn claimed(
    reader: &mut Reader,
    limit: &SpendLimit,
    payer: &Payer,
    now: Timestamp,
) -> Result<String, StoreError> {
    let sum = sum(reader, limit, &limit.bucket(payer, None), now).await?;
    Ok(format!(": {sum} claimed, {} left", limit.left(sum)))
}

/// What counts now, of what is in the rows.
pub(super) async fn sum(
    reader: &mut Reader,
    limit: &SpendLimit,
    bucket: &str,
    now: Timestamp,
) -> Result<U256, StoreError> {
    let since = now.plus_seconds(-i64::from(limit.seconds));
    let claims = spends::claims(reader, bucket).await?;
    let counts = claims
        .into_iter()
        .filter(|claim| !(claim.released || (claim.committed && claim.at <= since)));
    Ok(counts.fold(U256::ZERO, |sum, claim| {
        sum.saturating_add(U256::from_be_bytes(claim.amount))
    }))
}
