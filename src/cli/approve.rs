//! `countersignd approve …`: what one operator alone may not do.
//!
//! One operator drafts a command; each reads it and signs it with a key of their own, on whatever machine that is; anybody
//! who reaches the operators' listener brings it. The file is plain text, and no secret.

use std::fs;
use std::io::{self, BufRead, IsTerminal};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::{self, PemObject};
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::connect::{ConnectOption, Remote};
use super::files::{self, Access};
use super::freeze::{self, Freeze, Freezes};
use super::{Failure, output};
use crate::clock::{self, Timestamp};
use crate::config::secret_file::{self, SecretFileError};
use crate::domain::{EnvironmentId, OperationId, PlacedBy, Reason, Target};
use crate::operators::{Approval, Command, Deed, InvalidPaper, NotNow, OperatorName, Paper};
use crate::policy::Refused;
use crate::service::policy_files::{self, APPROVED};

/// The verbs of `approve`.
#[derive(clap::Subcommand)]
pub(super) enum Verb {
    /// Make an operator's key. Prints the public key, for [operators.keys] in the configuration of every instance
    NewKey {
        /// File to create, mode 600; for its operator alone
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Write a command that lifts a freeze or puts rules into force, for operators to read and sign
    Draft(Draft),
    /// Show a command and sign it
    Sign(Sign),
    /// Have a command carried out that enough operators have signed
    Run {
        #[command(flatten)]
        connect: ConnectOption,
        /// The command with its signatures; several copies, if they were signed apart
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
}

/// Options of `approve draft`.
#[derive(clap::Args)]
pub(super) struct Draft {
    /// How to reach the appliance whose freeze it is: operator.toml, with urls, ca, certificate and key
    #[arg(long, value_name = "FILE", required_unless_present = "activate")]
    connect: Option<PathBuf>,
    /// Lift a freeze. What is frozen: "profile ID", "tenant NAME" or "global"
    #[arg(
        long,
        value_name = "WHAT",
        required_unless_present = "activate",
        conflicts_with = "activate"
    )]
    unfreeze: Option<String>,
    /// Put the rules in this directory into force
    #[arg(
        long,
        value_name = "DIR",
        requires = "environment",
        conflicts_with = "connect"
    )]
    activate: Option<PathBuf>,
    /// The environment that the rules are for: `id` in the [environment] of its configuration
    #[arg(long, value_name = "ID", requires = "activate")]
    environment: Option<String>,
    /// Whose freeze of the profile, if both have placed one: owner or operator
    #[arg(long, value_name = "WHO", conflicts_with = "activate")]
    placed_by: Option<String>,
    /// Why, in one line: what the others read before they sign
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// For how long the command is good
    #[arg(long, value_name = "HOURS", default_value = "8", value_parser = clap::value_parser!(i64).range(1..=24))]
    hours: i64,
    /// File to create
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Options of `approve sign`.
#[derive(clap::Args)]
pub(super) struct Sign {
    /// The operator's key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The operator's name in [operators.keys]
    #[arg(long, value_name = "NAME")]
    name: String,
    /// The directory of the rules that the command puts into force: only those are signed
    #[arg(long, value_name = "DIR")]
    rules: Option<PathBuf>,
    /// Sign without asking: for those who have read it elsewhere
    #[arg(long)]
    yes: bool,
    /// The command
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Why a command was not drafted, signed or brought.
#[derive(Debug, thiserror::Error)]
enum ApproveError {
    #[error("{} is there already; nothing is overwritten", path.display())]
    Exists { path: PathBuf },
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{} holds no private key in PEM", path.display())]
    Pem {
        path: PathBuf,
        #[source]
        cause: pem::Error,
    },
    #[error("{} holds no Ed25519 key", path.display())]
    Kind { path: PathBuf },
    #[error("the key is not safe")]
    Key(#[from] SecretFileError),
    #[error("{}", path.display())]
    Paper {
        path: PathBuf,
        #[source]
        cause: InvalidPaper,
    },
    #[error("the rules do not hold")]
    Rules(#[source] Refused),
    #[error("not signed: the command does not name the rules in {}", .0.display())]
    OtherRules(PathBuf),
    #[error("{} and {} are different commands", one.display(), other.display())]
    Different { one: PathBuf, other: PathBuf },
    #[error("{0:?} is not \"profile ID\", \"tenant NAME\" or \"global\"")]
    Target(String),
    #[error("{0:?} is not owner or operator")]
    PlacedBy(String),
    #[error("{0:?} is no name of an operator: 1 to 32 characters of a-z 0-9 . - _")]
    Name(String),
    #[error("an environment is named by 64 hex digits")]
    Environment,
    #[error("a reason is one line of 1 to 200 visible characters")]
    Reason,
    #[error("{0} is not frozen")]
    NotFrozen(Target),
    #[error("{0} has two freezes, its owner's and an operator's: add --placed-by")]
    TwoFreezes(Target),
    #[error("the appliance names an environment or a freeze in a way this version does not know")]
    Answer,
    #[error("not signed")]
    NotNow(#[source] NotNow),
    #[error("not signed: you did not agree")]
    Declined,
    #[error("{0} has signed this already")]
    SignedAlready(OperatorName),
    #[error("a key could not be made")]
    Crypto,
}

/// Runs a verb.
pub(super) async fn run(verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::NewKey { out } => new_key(out),
        Verb::Draft(options) => draft(options).await,
        Verb::Sign(options) => sign(options),
        Verb::Run { connect, files } => carry_out(connect, files).await,
    }
}

fn new_key(out: &Path) -> Result<(), Failure> {
    refuse_existing(out)?;
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
    let pem = Zeroizing::new(pair.serialize_pem());
    let der = Zeroizing::new(pair.serialize_der());
    let key = Ed25519KeyPair::from_pkcs8(&der).map_err(|_| ApproveError::Crypto)?;
    files::write(out, &pem, Access::Private)?;
    output::line(hex::encode(key.public_key().as_ref()));
    Ok(())
}

fn refuse_existing(path: &Path) -> Result<(), ApproveError> {
    match path.exists() {
        true => Err(ApproveError::Exists {
            path: path.to_owned(),
        }),
        false => Ok(()),
    }
}

async fn draft(options: &Draft) -> Result<(), Failure> {
    refuse_existing(&options.out)?;
    let reason = Reason::parse(&options.reason).ok_or(ApproveError::Reason);
    let reason = reason.map_err(Failure::usage)?;
    let (environment, deed) = match (&options.unfreeze, &options.connect) {
        (Some(wanted), Some(connect)) => {
            let remote = ConnectOption::of(connect.clone()).open()?;
            unfreeze(options, wanted, &remote).await?
        }
        _ => activate(options)?,
    };
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(|_| ApproveError::Crypto)?;
    let now = Timestamp::from_micros(clock::now().as_seconds().saturating_mul(1_000_000));
    let command = Command {
        environment,
        deed,
        reason,
        nonce,
        issued: now,
        expires: now.plus_seconds(options.hours.saturating_mul(3600)),
    };
    write_new(&options.out, &command.text())?;
    let out = options.out.display();
    match &options.activate {
        None => output::line(format_args!(
            "Next: each operator signs {out} with countersignd approve sign, then countersignd approve run"
        )),
        Some(directory) => output::line(format_args!(
            "Next: each operator signs {out} with countersignd approve sign --rules DIR; then copy it to {}, and reload",
            directory.join(APPROVED).display()
        )),
    }
    Ok(())
}

/// The freeze that is to be lifted, and where.
async fn unfreeze(
    options: &Draft,
    wanted: &str,
    remote: &Remote,
) -> Result<(EnvironmentId, Deed), Failure> {
    let target = Target::parse(wanted).ok_or_else(|| ApproveError::Target(wanted.to_owned()));
    let target = target.map_err(Failure::usage)?;
    let placed_by = options.placed_by.as_deref().map(|who| {
        let known = PlacedBy::parse(who);
        known.ok_or_else(|| Failure::usage(ApproveError::PlacedBy(who.to_owned())))
    });
    let placed_by = placed_by.transpose()?;
    let standing = freeze::standing(remote, Some(&target)).await?;
    let environment = EnvironmentId::parse(&standing.environment_id);
    let environment = environment.ok_or(ApproveError::Answer)?;
    let freeze = choose(&standing, &target, placed_by)?;
    let freeze_id = OperationId::parse(&freeze.freeze_id).map_err(|_| ApproveError::Answer)?;
    output::line(freeze::line(freeze));
    Ok((environment, Deed::Unfreeze { target, freeze_id }))
}

/// The rules that are to be put into force, and where.
fn activate(options: &Draft) -> Result<(EnvironmentId, Deed), Failure> {
    let environment = options.environment.as_deref().unwrap_or_default();
    let environment = EnvironmentId::parse(environment).ok_or(ApproveError::Environment);
    let environment = environment.map_err(Failure::usage)?;
    let bundle = policy_files::load(options.activate.as_deref());
    let bundle = bundle.map_err(|refused| Failure::usage(ApproveError::Rules(refused)))?;
    let rules = *bundle.hash();
    output::line(format_args!(
        "rules version {}, hash {}",
        bundle.version(),
        hex::encode(rules)
    ));
    Ok((environment, Deed::Activate { rules }))
}

/// The freeze that is meant.
fn choose<'a>(
    standing: &'a Freezes,
    target: &Target,
    placed_by: Option<PlacedBy>,
) -> Result<&'a Freeze, ApproveError> {
    let meant = |freeze: &&Freeze| {
        freeze.target().as_ref() == Some(target)
            && placed_by.is_none_or(|who| who.as_str() == freeze.placed_by)
    };
    let mut found = standing.freezes.iter().filter(meant);
    match (found.next(), found.next()) {
        (Some(freeze), None) => Ok(freeze),
        (None, _) => Err(ApproveError::NotFrozen(target.clone())),
        (Some(_), Some(_)) => Err(ApproveError::TwoFreezes(target.clone())),
    }
}

fn sign(options: &Sign) -> Result<(), Failure> {
    let name = OperatorName::parse(&options.name)
        .ok_or_else(|| Failure::usage(ApproveError::Name(options.name.clone())))?;
    let mut paper = read(&options.file)?;
    let key = load_key(&options.key)?;
    output::line(paper.text.trim_end());
    // SECURITY: the keys of the others are not at hand here; who signs must not do so because others seem to have.
    for approval in &paper.approvals {
        output::line(format_args!(
            "(claims to be signed by {}; not checked here)",
            approval.by
        ));
    }
    if paper.approvals.iter().any(|approval| approval.by == name) {
        return Err(ApproveError::SignedAlready(name).into());
    }
    let good = paper.command.is_good_at(clock::now());
    good.map_err(ApproveError::NotNow)?;
    check_rules(&paper.command.deed, options.rules.as_deref())?;
    if !options.yes && !agreed(&name)? {
        return Err(ApproveError::Declined.into());
    }
    let signature = key.sign(paper.text.as_bytes());
    let signature = signature.as_ref().try_into();
    paper.approvals.push(Approval {
        by: name,
        signature: signature.map_err(|_| ApproveError::Crypto)?,
    });
    files::write(&options.file, &paper.content(), Access::Public)?;
    output::line(format_args!(
        "Signed: {} has {} signatures",
        options.file.display(),
        paper.approvals.len()
    ));
    Ok(())
}

/// SECURITY: a hash says nothing to people. What they have before them is what they sign, or they are told that they have
/// not looked.
fn check_rules(deed: &Deed, directory: Option<&Path>) -> Result<(), ApproveError> {
    match (deed, directory) {
        (Deed::Activate { rules }, Some(directory)) => {
            let bundle = policy_files::load(Some(directory)).map_err(ApproveError::Rules)?;
            match bundle.hash() == rules {
                true => Ok(()),
                false => Err(ApproveError::OtherRules(directory.to_owned())),
            }
        }
        (Deed::Activate { .. }, None) => {
            output::line("(which rules these are is not checked here: --rules DIR does)");
            Ok(())
        }
        (Deed::Unfreeze { .. }, Some(directory)) => {
            Err(ApproveError::OtherRules(directory.to_owned()))
        }
        (Deed::Unfreeze { .. }, None) => Ok(()),
    }
}

/// Asks at the terminal. Without one nobody is there to read.
fn agreed(name: &OperatorName) -> Result<bool, Failure> {
    let mut input = io::stdin().lock();
    if !input.is_terminal() {
        return Ok(false);
    }
    output::line(format_args!("Sign this as {name}? Write yes:"));
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    Ok(answer.trim_end() == "yes")
}

fn load_key(path: &Path) -> Result<Ed25519KeyPair, ApproveError> {
    secret_file::check(path)?;
    let owned = || path.to_owned();
    let der = PrivateKeyDer::from_pem_file(path).map_err(|cause| ApproveError::Pem {
        path: owned(),
        cause,
    })?;
    let kind = |_| ApproveError::Kind { path: owned() };
    Ed25519KeyPair::from_pkcs8(der.secret_der()).map_err(kind)
}

/// What the appliance says when it has carried a command out.
#[derive(Deserialize)]
struct Done {
    done: String,
}

async fn carry_out(connect: &ConnectOption, files: &[PathBuf]) -> Result<(), Failure> {
    let mut papers = files
        .iter()
        .map(|file| read(file).map(|paper| (file, paper)));
    let Some(first) = papers.next() else {
        return Ok(());
    };
    let (one, mut paper) = first?;
    for next in papers {
        let (other, next) = next?;
        if next.text != paper.text {
            let (one, other) = (one.clone(), other.clone());
            return Err(ApproveError::Different { one, other }.into());
        }
        let new = next.approvals.into_iter();
        let new: Vec<Approval> = new.filter(|new| !paper.approvals.contains(new)).collect();
        paper.approvals.extend(new);
    }
    let approvals: Vec<_> = paper
        .approvals
        .iter()
        .map(|approval| {
            let signature = hex::encode(approval.signature);
            json!({"by": approval.by.to_string(), "signature": signature})
        })
        .collect();
    let body = json!({"command": paper.text, "approvals": approvals});
    let Done { done } = connect.open()?.post("/commands", &body).await?;
    let plain: String = done.chars().filter(|letter| !letter.is_control()).collect();
    output::line(format_args!("Carried out: {plain}"));
    Ok(())
}

fn read(path: &Path) -> Result<Paper, ApproveError> {
    let content = fs::read_to_string(path).map_err(|cause| ApproveError::Read {
        path: path.to_owned(),
        cause,
    })?;
    Paper::parse(&content).map_err(|cause| ApproveError::Paper {
        path: path.to_owned(),
        cause,
    })
}

fn write_new(path: &Path, text: &str) -> Result<(), ApproveError> {
    use std::io::Write as _;
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|cause| ApproveError::Read {
        path: path.to_owned(),
        cause,
    })
}
