//! `countersignd doctor`: one line for each thing that must be right, with the way out when it is not.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use countersign_hsm::{KekName, Purpose, Token};

use super::token::{self, Environment, EnvironmentError};
use super::{Exit, Failure, anchor, identity, output};
use crate::chain::{Chains, NodeLimits};
use crate::clock::{self, Timestamp};
use crate::config::{Chain, Config, Listener};
use crate::http::tls::Trust;
use crate::limits::{InForce, Rate};
use crate::service::{activation, policy_files};
use crate::store::{Store, StoreError};

/// A certificate that expires sooner is reported.
const RENEW_BEFORE_DAYS: i64 = 30;

/// A revocation list that is due sooner is reported: they are renewed often.
const RENEW_LIST_BEFORE_DAYS: i64 = 1;

/// Some checks failed; each has been reported in a line of its own.
#[derive(Debug, thiserror::Error)]
#[error("{0} of the checks above failed")]
struct Unwell(usize);

/// The lines of a report.
#[derive(Default)]
struct Report {
    failed: usize,
    disagreement: bool,
}

impl Report {
    fn add(&mut self, what: &str, result: Result<String, Failure>) {
        match result {
            Ok(detail) => output::line(format_args!("ok    {what}: {detail}")),
            Err(failure) => {
                self.failed += 1;
                self.disagreement |= failure.exit() == Exit::Environment;
                output::line(format_args!(
                    "FAIL  {what}: {}",
                    output::chain(failure.error())
                ));
            }
        }
    }
}

/// Checks everything that `serve` needs; the configuration itself has been checked by loading it.
///
/// # Errors
/// Exit code 3 when environments disagree, 1 when anything else is wrong.
pub async fn run(config: Config) -> Result<(), Failure> {
    let mut report = Report::default();
    let path = config.path.display();
    report.add(
        "configuration",
        Ok(format!("{path}, secret files are private")),
    );
    report.add("limits", limits(&config));
    for (name, listener) in [("api", &config.api), ("operator", &config.operator)] {
        report.add(&format!("{name} certificates"), certificates(listener));
    }
    report.add("policy", policy(&config));
    match token::open(&config.hsm) {
        Ok(token) => {
            check_token(&mut report, &config, &token).await;
            token.close().await?;
        }
        Err(error) => report.add("token", Err(error.into())),
    }
    report.add("database", database(&config).await);
    report.add("operators", Ok(operators(&config)));
    check_chains(&mut report, config.chains).await;
    match report {
        Report { failed: 0, .. } => Ok(()),
        Report {
            failed,
            disagreement: true,
        } => Err(Failure::environment(Unwell(failed))),
        Report { failed, .. } => Err(Unwell(failed).into()),
    }
}

fn limits(config: &Config) -> Result<String, Failure> {
    let file = config.policy.limits.as_deref();
    let chains = config.chains.iter().map(|chain| chain.id).collect();
    let limits = InForce::open(file, chains)?.current();
    let said = |rate: &Rate| {
        let (class, requests, seconds) = (rate.class.as_str(), rate.requests, rate.seconds);
        format!("{class} {requests} per {seconds}s")
    };
    let rates: Vec<String> = limits.rates().iter().map(said).collect();
    let raised: Vec<&str> = limits
        .raised()
        .iter()
        .map(|rate| rate.class.as_str())
        .collect();
    let origin = file.map_or_else(|| "built in".to_owned(), |file| file.display().to_string());
    let above = if raised.is_empty() {
        String::new()
    } else {
        format!("; above the usual: {}", raised.join(", "))
    };
    Ok(format!("{origin}: {}{above}", rates.join(", ")))
}

fn policy(config: &Config) -> Result<String, Failure> {
    let bundle = policy_files::load(config.policy.directory.as_deref())?;
    let (version, rules) = (bundle.version(), bundle.rules().count());
    let mut said = format!(
        "version {version}, {rules} rules, {}",
        hex::encode(bundle.hash())
    );
    if let Some((operators, directory)) = config.activators() {
        let here = (&*operators, config.environment_id);
        let approved = activation::approved(&directory, &bundle, here)?;
        write!(said, ", approved by {}", approved.by()).ok();
    }
    Ok(said)
}

fn certificates(listener: &Listener) -> Result<String, Failure> {
    let files = &listener.tls;
    let expiry = Trust::load(files)?.expiry();
    let own = days_left(expiry.certificate, &files.certificate, RENEW_BEFORE_DAYS)?;
    let ca = days_left(expiry.client_ca, &files.client_ca, RENEW_BEFORE_DAYS)?;
    let crl = match (expiry.crl, files.crls.first()) {
        (Some(at), Some(path)) => {
            let days = days_left(at, path, RENEW_LIST_BEFORE_DAYS)?;
            format!("its revocation list in {days} days")
        }
        _ => "which has no revocation list".to_owned(),
    };
    Ok(format!(
        "server expires in {own} days, client CA in {ca} days, {crl}"
    ))
}

/// Days until `at`, when something in a file expires.
fn days_left(at: Timestamp, path: &Path, enough: i64) -> Result<i64, Failure> {
    let left = at.as_seconds() - clock::now().as_seconds();
    if left < 0 {
        return Err(problem(format!("{} has expired; renew it", path.display())));
    }
    let days = left.div_euclid(86_400);
    if days < enough {
        return Err(problem(format!(
            "{} expires in {days} days; renew it now",
            path.display()
        )));
    }
    Ok(days)
}

async fn check_token(report: &mut Report, config: &Config, token: &Token) {
    let info = token.info();
    report.add(
        "token",
        Ok(format!(
            "{} ({} {})",
            info.label, info.manufacturer, info.model
        )),
    );
    let environment = Environment::configured(config);
    let confirmed = environment
        .confirm(token)
        .await
        .map_err(EnvironmentError::failure);
    report.add(
        "environment on token",
        confirmed.map(|()| environment.to_string()),
    );
    for tenant in &config.tenants {
        for purpose in [Purpose::Share, Purpose::Totp] {
            let name = KekName {
                environment_id: config.environment_id.0,
                tenant: tenant.as_str().to_owned(),
                purpose,
                epoch: 1,
            };
            let what = format!("{} key encryption key of {tenant}", purpose.as_str());
            report.add(&what, key_encryption_key(token, &name).await);
        }
    }
    report.add("identity", identity(token, config).await);
    report.add("anchor", anchor::check(config, token).await);
    let label = token::audit_key_label(&config.environment_id);
    report.add(
        &format!("signing key {label}"),
        signing_key(token, &label).await,
    );
}

/// The certificate holds, and its key signs.
async fn identity(token: &Token, config: &Config) -> Result<String, Failure> {
    let identity = identity::of_token(token, config).await?;
    token.sign(identity.key, [0x5a; 32]).await?;
    let not_after = i64::try_from(identity.certificate.not_after)?;
    let left = (not_after - clock::now().as_seconds()).div_euclid(86_400);
    if left < RENEW_BEFORE_DAYS {
        return Err(problem(format!(
            "its certificate expires in {left} days; run countersignd identity request now"
        )));
    }
    Ok(format!("signs, its certificate expires in {left} days"))
}

async fn key_encryption_key(token: &Token, name: &KekName) -> Result<String, Failure> {
    let id = token
        .find_kek(name)
        .await?
        .ok_or_else(|| missing(&name.tenant))?;
    token.check(id, None).await?;
    Ok("wraps and unwraps".to_owned())
}

async fn signing_key(token: &Token, label: &str) -> Result<String, Failure> {
    let id = token
        .find_signing_key(label)
        .await?
        .ok_or_else(|| missing("this environment"))?;
    token.sign(id, [0x5a; 32]).await?;
    Ok("signs".to_owned())
}

fn missing(owner: &str) -> Failure {
    problem(format!(
        "the token has no such key for {owner}; connect the token that countersignd init wrote to"
    ))
}

async fn database(config: &Config) -> Result<String, Failure> {
    let store = match Store::open(Arc::clone(&config.store)).await {
        Ok(store) => store,
        Err(StoreError::InUse(_)) => return Ok("in use by a running countersignd".to_owned()),
        Err(error) => return Err(error.into()),
    };
    let found = Environment {
        id: store.environment_id(),
        kind: store.environment_kind(),
    };
    Environment::configured(config)
        .agrees("database", found)
        .map_err(EnvironmentError::failure)?;
    Ok(format!("{}, schema up to date", config.store))
}

fn operators(config: &Config) -> String {
    match &config.operators {
        Some(operators) => format!(
            "{} of {} must sign what one alone may not do; at every instance the same: {}",
            operators.required(),
            operators.known(),
            operators.fingerprint()
        ),
        None => "none configured: a freeze cannot be lifted".to_owned(),
    }
}

async fn check_chains(report: &mut Report, configured: Vec<Chain>) {
    if configured.is_empty() {
        report.add(
            "chains",
            Ok("none configured: no transaction can be signed".to_owned()),
        );
    }
    let nodes = configured
        .into_iter()
        .map(|chain| (chain.id, chain.rpc_url))
        .collect();
    let chains = match Chains::new(nodes, NodeLimits::default()) {
        Ok(chains) => chains,
        Err(error) => return report.add("chains", Err(error.into())),
    };
    for id in chains.ids() {
        if let Some(node) = chains.node(id) {
            let verified = node.verify_chain_id().await;
            let result = verified.map(|()| "its node answers with this id".to_owned());
            report.add(&format!("chain {id}"), result.map_err(Into::into));
        }
    }
}

fn problem(text: String) -> Failure {
    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Problem(String);
    Problem(text).into()
}
