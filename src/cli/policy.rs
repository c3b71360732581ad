//! `countersignd policy …`: the rules, for those who write them and for those who answer for them.

mod explain;
mod recorded;
mod request;
mod standing;

use std::path::{Path, PathBuf};

use super::{Failure, output};
use crate::clock;
use crate::operators::{Deed, Paper};
use crate::policy::{Bundle, Facts, Reason, Verdict};
use crate::service::policy_files::{self, APPROVED};
use crate::store::decisions::Recorded;

const HELP: &str = "\
Rules are written in Cedar: `permit` and `forbid` with the circumstances in which they hold. What no rule permits is
denied, and one rule that forbids wins over all that permit. The program's own guardrails come on top of yours: nobody
acts on another owner's wallet, for a chain that is not configured, or for a chain of another kind of environment.

A directory of rules holds
  bundle.toml   version = \"2026-11-22\": what you call this state of the rules; every decision names it
  *.cedar       the rules, each with @id(\"team.what-it-says\") and @description(\"a sentence\")
  tests/*.toml  requests and what the rules must say of them

To begin: copy policies/default.cedar into a directory, write bundle.toml, then
  countersignd policy check DIR     finds what is wrong, with file, line and rule
  countersignd policy test DIR      runs DIR/tests
  countersignd policy diff OLD NEW --requests DIR/tests
                                    shows which verdicts change
and put `[policy] directory = \"DIR\"` into the configuration. SIGHUP loads the rules again; if anything is wrong with
them, those before stay in force. With `[policy] activation = \"operators\"` they also take a command that operators have
signed, in the file bundle.approved beside them: countersignd approve draft --activate DIR.

  countersignd policy diff OLD NEW --config FILE
                                    the same, on the requests that an appliance judged in the last days
  countersignd policy explain --decision ID --config FILE
                                    says why a decision was made, what the rules say now, and what is left of the limits

These verbs change nothing. They need no token and no running appliance, and only those with --config a database.";

/// The verbs.
#[derive(clap::Subcommand)]
#[command(after_long_help = HELP)]
pub(super) enum Verb {
    /// Check rules against the schema, and say what is in force when they are
    Check(Rules),
    /// Run test tables: requests, and what the rules must say of them
    Test(Test),
    /// Say what the rules say of a request, which of them decided, what they saw of it, and which limits it falls under
    Explain(explain::Explain),
    /// Print the verdicts on a fixed set of requests: one page for a review
    Matrix(Rules),
    /// Say which verdicts on requests differ between two sets of rules
    Diff(Diff),
}

/// Which rules.
#[derive(clap::Args)]
pub(super) struct Rules {
    /// Directory of the rules; without it, those built into the program
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

/// Options of `policy test`.
#[derive(clap::Args)]
pub(super) struct Test {
    #[command(flatten)]
    rules: Rules,
    /// Directory of the test tables; DIR/tests without it
    #[arg(long, value_name = "DIR")]
    tests: Option<PathBuf>,
}

/// Options of `policy diff`.
#[derive(clap::Args)]
pub(super) struct Diff {
    /// Directory of the rules as they are, or `builtin`
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// Directory of the rules as they would be, or `builtin`
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// Directory of test tables, whose requests are judged
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "config",
        conflicts_with = "config"
    )]
    requests: Option<PathBuf>,
    /// The configuration of an appliance: the requests that it judged are judged again
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How far back
    #[arg(long, value_name = "DAYS", default_value = "30", requires = "config")]
    days: u32,
}

/// Some cases did not end as they should.
#[derive(Debug, thiserror::Error)]
#[error("{failed} of {all} cases failed")]
struct Failed {
    failed: usize,
    all: usize,
}

/// There is nothing to run.
#[derive(Debug, thiserror::Error)]
enum Nothing {
    #[error("{} holds no cases: write [[case]] tables into *.toml files there", .0.display())]
    NoCases(PathBuf),
    #[error("name the test tables with --tests: the built-in rules have no directory")]
    NoTests,
}

/// Runs a verb.
pub(super) async fn run(verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::Check(rules) => {
            let bundle = rules.load()?;
            check(&bundle)?;
            tell_approval(rules.directory.as_deref(), &bundle)
        }
        Verb::Matrix(rules) => {
            output::line(rules.load()?.matrix().trim_end());
            Ok(())
        }
        Verb::Test(options) => test(options),
        Verb::Explain(options) => explain::run(options).await,
        Verb::Diff(options) => diff(options).await,
    }
}

impl Rules {
    fn load(&self) -> Result<Bundle, Failure> {
        Ok(policy_files::load(self.directory.as_deref())?)
    }
}

impl Failure {
    fn of_problem(problem: crate::policy::Problem) -> Self {
        crate::policy::Refused(vec![problem]).into()
    }
}

fn check(bundle: &Bundle) -> Result<(), Failure> {
    for rule in bundle.rules() {
        let word = if rule.forbids { "forbid" } else { "permit" };
        output::line(format_args!(
            "{word}  {:<32}  {}",
            rule.id, rule.description
        ));
    }
    let rules = bundle.rules().count();
    output::line(format_args!("{rules} rules hold, {}", title(bundle)));
    Ok(())
}

/// What the command beside the rules says of them, if there is one; an appliance may ask for it.
fn tell_approval(directory: Option<&Path>, bundle: &Bundle) -> Result<(), Failure> {
    let Some(file) = directory.map(|rules| rules.join(APPROVED)) else {
        return Ok(());
    };
    if !file.exists() {
        return Ok(());
    }
    let shown = file.display();
    let paper = Paper::parse(&std::fs::read_to_string(&file)?)?;
    match paper.command.deed {
        Deed::Activate { rules } if rules == *bundle.hash() => {
            let signers: Vec<String> = paper.approvals.iter().map(|a| a.by.to_string()).collect();
            output::line(format_args!(
                "{shown} names these rules and claims to be signed by {}; countersignd doctor checks that",
                match signers.is_empty() {
                    true => "nobody".to_owned(),
                    false => signers.join(", "),
                }
            ));
        }
        _ => output::line(format_args!(
            "{shown} does not name these rules: where operators must agree, they do not take effect"
        )),
    }
    Ok(())
}

fn title(bundle: &Bundle) -> String {
    format!(
        "version {}, hash {}",
        bundle.version(),
        hex::encode(bundle.hash())
    )
}

fn test(options: &Test) -> Result<(), Failure> {
    let bundle = options.rules.load()?;
    let own = options.rules.directory.as_ref();
    let tests = options
        .tests
        .clone()
        .or_else(|| own.map(|own| own.join("tests")));
    let tests = tests.ok_or(Nothing::NoTests).map_err(Failure::usage)?;
    let cases = request::cases(&tests).map_err(Failure::of_problem)?;
    if cases.is_empty() {
        return Err(Nothing::NoCases(tests).into());
    }
    let mut failed = 0;
    for case in &cases {
        let verdict = bundle.decide(&case.facts);
        let rule = case.rule.as_ref();
        let named = rule.is_none_or(|rule| verdict.rules.contains(rule));
        if case.expected.is(verdict.denied) && named {
            continue;
        }
        failed += 1;
        let (file, line) = (case.file.display(), case.line);
        let expected = match rule {
            Some(rule) => format!("{} by {rule}", word_of(case.expected)),
            None => word_of(case.expected).to_owned(),
        };
        output::line(format_args!(
            "{file}:{line}: {}: expected {expected}, got {}",
            case.name,
            told(&verdict)
        ));
    }
    let all = cases.len();
    if failed > 0 {
        return Err(Failed { failed, all }.into());
    }
    output::line(format_args!("{all} cases pass, {}", title(&bundle)));
    Ok(())
}

const fn word_of(expected: request::Expected) -> &'static str {
    match expected {
        request::Expected::Allow => "allow",
        request::Expected::Deny => "deny",
        request::Expected::SecondFactor => "second-factor",
    }
}

/// A verdict in a line.
fn told(verdict: &Verdict) -> String {
    let rules = verdict.rules.join(", ");
    match verdict.denied {
        None => format!("allow by {rules}"),
        Some(Reason::SecondFactor) => format!("second-factor (now denied by {rules})"),
        Some(reason) => format!("deny ({}) by {rules}", reason.as_str()),
    }
}

async fn diff(options: &Diff) -> Result<(), Failure> {
    let load = |path: &Path| -> Result<Bundle, Failure> {
        let directory = (path != Path::new("builtin")).then_some(path);
        Ok(policy_files::load(directory)?)
    };
    let mut differences = Differences {
        old: load(&options.old)?,
        new: load(&options.new)?,
        changed: 0,
        all: 0,
    };
    if let Some(file) = &options.config {
        let config = super::load_file(file)?;
        let judge = |decision: &Recorded, facts: &Facts| {
            let when = decision.created_at.to_rfc3339();
            differences.judge(&format!("{} of {when}", decision.decision_id), facts);
        };
        recorded::since(&config, (clock::now(), options.days), judge).await?;
    }
    if let Some(directory) = &options.requests {
        let cases = request::cases(directory).map_err(Failure::of_problem)?;
        if cases.is_empty() {
            return Err(Nothing::NoCases(directory.clone()).into());
        }
        for case in &cases {
            let place = format!("{}:{}: {}", case.file.display(), case.line, case.name);
            differences.judge(&place, &case.facts);
        }
    }
    let Differences { changed, all, .. } = differences;
    output::line(format_args!("{changed} of {all} verdicts change"));
    Ok(())
}

/// Two sets of rules, and on how many requests they differ.
struct Differences {
    old: Bundle,
    new: Bundle,
    changed: usize,
    all: usize,
}

impl Differences {
    fn judge(&mut self, request: &str, facts: &Facts) {
        self.all += 1;
        let (before, after) = (self.old.decide(facts), self.new.decide(facts));
        if before == after {
            return;
        }
        let same = before.denied == after.denied;
        self.changed += usize::from(!same);
        output::line(format_args!(
            "{} {request}\n  - {}\n  + {}",
            if same { "rules  " } else { "VERDICT" },
            told(&before),
            told(&after)
        ));
    }
}
