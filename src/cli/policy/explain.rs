//! `countersignd policy explain`: one request, or one decision that was recorded, with everything that bears on it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::super::{Failure, load_file, output};
use super::standing::Standing;
use super::{Rules, recorded, request, title, told};
use crate::policy::{Asked, Bundle, Facts, TransactionFacts};
use crate::service::policy_files;
use crate::store::decisions::Recorded;

/// Options of `policy explain`.
#[derive(clap::Args)]
pub(in crate::cli) struct Explain {
    #[command(flatten)]
    rules: Rules,
    /// A file with a table [request], written as in a test table; `profile` is the id of a wallet whose limits count
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "decision",
        conflicts_with = "decision"
    )]
    request: Option<PathBuf>,
    /// A decision that was recorded: what was said then, and what the rules say now
    #[arg(long, value_name = "ID", requires = "config")]
    decision: Option<String>,
    /// The configuration: its database has the decision and what is left of the limits, its rules are asked where no DIR is
    /// given. Without it the rules and limits that the program comes with are shown, and not what is left
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Explains.
pub(super) async fn run(options: &Explain) -> Result<(), Failure> {
    let config = options.config.as_deref().map(load_file).transpose()?;
    let configured = config.as_ref();
    let directory = options.rules.directory.as_ref();
    let directory = directory.or_else(|| configured?.policy.directory.as_ref());
    let bundle = policy_files::load(directory.map(PathBuf::as_path))?;
    let (facts, transaction) = match (&options.request, &options.decision, configured) {
        (Some(file), ..) => {
            let single = request::single(file).map_err(Failure::of_problem)?;
            (single.facts, single.transaction)
        }
        (None, Some(id), Some(config)) => {
            let found = recorded::one(config, id).await?;
            say_decision(&found.decision);
            output::line("the rules say now:");
            (found.facts, found.transaction)
        }
        // The options do not allow it.
        _ => return Ok(()),
    };
    say(&bundle, &facts);
    let standing = Standing::open(configured, &facts).await?;
    standing.say(&facts.asked, transaction.as_ref()).await
}

fn say_decision(decision: &Recorded) {
    let then = match decision.reason.as_str() {
        "" if decision.allowed => "allow".to_owned(),
        reason => format!("deny ({reason})"),
    };
    output::line(format_args!(
        "decided {}: {then} by {}, under version {}, hash {}",
        decision.created_at.to_rfc3339(),
        decision.rules,
        decision.bundle_version,
        hex::encode(decision.bundle_hash)
    ));
}

fn say(bundle: &Bundle, facts: &Facts) {
    let verdict = bundle.decide(facts);
    output::line(told(&verdict));
    for id in &verdict.rules {
        let text = match bundle.rule(id) {
            Some(rule) => format!("{}:{}: {}", rule.file, rule.line, rule.description),
            None => "no rule permits it".to_owned(),
        };
        output::line(format_args!("  {id}: {text}"));
    }
    output::line("what the rules saw:");
    for line in seen(facts) {
        output::line(format_args!("  {line}"));
    }
    output::line(format_args!("rules: {}", title(bundle)));
}

/// The facts, a line for each.
fn seen(facts: &Facts) -> Vec<String> {
    let mut lines = vec![
        format!("action              {}", facts.asked.action()),
        format!(
            "wallet              {} of {}, tenant {}",
            facts.profile.id, facts.profile.owner, facts.profile.tenant
        ),
        format!(
            "asked by            {} with device {}, enrolled for {} days, through a {} of tenant {}",
            facts.device.owner,
            facts.device.id,
            facts.device.age_seconds / 86_400,
            facts.device.client_role,
            facts.device.tenant
        ),
        format!("second factor       {}", facts.second_factor),
        format!("environment         {}", facts.environment),
    ];
    if let Asked::PrepareTransaction(content) | Asked::SignTransaction(content) = &facts.asked {
        lines.extend(seen_of(content));
    }
    lines
}

fn seen_of(content: &TransactionFacts) -> [String; 11] {
    let chain = content.chain;
    [
        format!(
            "chain               {}, configured: {}, fits the environment: {}",
            chain.id, chain.configured, chain.fits_environment
        ),
        format!("to                  {}", content.to),
        format!(
            "value               {} gwei, and {} gwei inside",
            content.value_gwei, content.inner_value_gwei
        ),
        format!(
            "kinds               {} ({} calls)",
            list(&content.kinds),
            content.calls
        ),
        format!("contracts           {}", list(&content.contracts)),
        format!("tokens              {}", list(&content.tokens)),
        format!("recipients          {}", list(&content.recipients)),
        format!("spenders            {}", list(&content.spenders)),
        format!("sources             {}", list(&content.sources)),
        format!("unlimited approval  {}", content.unlimited_approval),
        format!("delegatecall        {}", content.delegatecall),
    ]
}

fn list(names: &BTreeSet<String>) -> String {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(" ")
    }
}
