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

use super::connect::ConnectOption;
use super::files::{self, Access};
use super::freeze::{self, Freeze, Freezes};
use super::{Failure, output};
use crate::clock::{self, Timestamp};
use crate::config::secret_file::{self, SecretFileError};
use crate::domain::{EnvironmentId, OperationId, PlacedBy, Reason, Target};
use crate::operators::{Approval, Command, Deed, InvalidCommand, NotNow, OperatorName};

/// What stands before a signature in the file of a command.
const APPROVED_BY: &str = "approved by ";

/// The verbs of `approve`.
#[derive(clap::Subcommand)]
pub(super) enum Verb {
    /// Make an operator's key. Prints the public key, for [operators.keys] in the configuration of every instance
    NewKey {
        /// File to create, mode 600; for its operator alone
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Write a command that lifts a freeze, for operators to read and sign
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
    #[command(flatten)]
    connect: ConnectOption,
    /// What is frozen: "profile ID", "tenant NAME" or "global"
    #[arg(long, value_name = "WHAT")]
    unfreeze: String,
    /// Whose freeze of the profile, if both have placed one: owner or operator
    #[arg(long, value_name = "WHO")]
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
    Command {
        path: PathBuf,
        #[source]
        cause: InvalidCommand,
    },
    #[error("{}: line {line} is no signature of an operator", path.display())]
    Approval { path: PathBuf, line: usize },
    #[error("{} and {} are different commands", one.display(), other.display())]
    Different { one: PathBuf, other: PathBuf },
    #[error("{0:?} is not \"profile ID\", \"tenant NAME\" or \"global\"")]
    Target(String),
    #[error("{0:?} is not owner or operator")]
    PlacedBy(String),
    #[error("{0:?} is no name of an operator: 1 to 32 characters of a-z 0-9 . - _")]
    Name(String),
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
    let wanted = &options.unfreeze;
    let target = Target::parse(wanted).ok_or_else(|| ApproveError::Target(wanted.clone()));
    let target = target.map_err(Failure::usage)?;
    let reason = Reason::parse(&options.reason).ok_or(ApproveError::Reason);
    let reason = reason.map_err(Failure::usage)?;
    let placed_by = options.placed_by.as_deref().map(|who| {
        let known = PlacedBy::parse(who);
        known.ok_or_else(|| Failure::usage(ApproveError::PlacedBy(who.to_owned())))
    });
    let placed_by = placed_by.transpose()?;
    let remote = options.connect.open()?;
    let standing = freeze::standing(&remote, Some(&target)).await?;
    let (environment, freeze) = choose(&standing, &target, placed_by)?;
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(|_| ApproveError::Crypto)?;
    let now = Timestamp::from_micros(clock::now().as_seconds().saturating_mul(1_000_000));
    let command = Command {
        environment,
        deed: Deed::Unfreeze {
            target,
            freeze_id: OperationId::parse(&freeze.freeze_id).map_err(|_| ApproveError::Answer)?,
        },
        reason,
        nonce,
        issued: now,
        expires: now.plus_seconds(options.hours.saturating_mul(3600)),
    };
    output::line(freeze::line(freeze));
    write_new(&options.out, &command.text())?;
    output::line(format_args!(
        "Next: each operator signs {} with countersignd approve sign, then countersignd approve run",
        options.out.display()
    ));
    Ok(())
}

/// The freeze that is meant.
fn choose<'a>(
    standing: &'a Freezes,
    target: &Target,
    placed_by: Option<PlacedBy>,
) -> Result<(EnvironmentId, &'a Freeze), ApproveError> {
    let environment = EnvironmentId::parse(&standing.environment_id);
    let environment = environment.ok_or(ApproveError::Answer)?;
    let meant = |freeze: &&Freeze| {
        freeze.target().as_ref() == Some(target)
            && placed_by.is_none_or(|who| who.as_str() == freeze.placed_by)
    };
    let mut found = standing.freezes.iter().filter(meant);
    match (found.next(), found.next()) {
        (Some(freeze), None) => Ok((environment, freeze)),
        (None, _) => Err(ApproveError::NotFrozen(target.clone())),
        (Some(_), Some(_)) => Err(ApproveError::TwoFreezes(target.clone())),
    }
}

fn sign(options: &Sign) -> Result<(), Failure> {
    let name = OperatorName::parse(&options.name)
        .ok_or_else(|| Failure::usage(ApproveError::Name(options.name.clone())))?;
    let mut paper = Paper::read(&options.file)?;
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
        .map(|file| Paper::read(file).map(|paper| (file, paper)));
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

/// A command and its signatures, in a file.
#[derive(Debug, PartialEq, Eq)]
struct Paper {
    command: Command,
    text: String,
    approvals: Vec<Approval>,
}

impl Paper {
    fn read(path: &Path) -> Result<Self, ApproveError> {
        let content = fs::read_to_string(path).map_err(|cause| ApproveError::Read {
            path: path.to_owned(),
            cause,
        })?;
        Self::parse(&content, path)
    }

    fn parse(content: &str, path: &Path) -> Result<Self, ApproveError> {
        let is_signature = |line: &&str| line.starts_with(APPROVED_BY);
        let lines: Vec<&str> = content.split_inclusive('\n').collect();
        let length = lines.iter().take_while(|line| !is_signature(line)).count();
        let (text, signatures) = lines.split_at_checked(length).unwrap_or_default();
        let text = text.concat();
        let command = Command::parse(&text).map_err(|cause| ApproveError::Command {
            path: path.to_owned(),
            cause,
        })?;
        let mut approvals = Vec::new();
        for (line, number) in signatures.iter().zip(length + 1..) {
            let wrong = || ApproveError::Approval {
                path: path.to_owned(),
                line: number,
            };
            approvals.push(approval(line).ok_or_else(wrong)?);
        }
        Ok(Self {
            command,
            text,
            approvals,
        })
    }

    fn content(&self) -> String {
        let signatures = self.approvals.iter().map(|Approval { by, signature }| {
            format!("{APPROVED_BY}{by} {}\n", hex::encode(signature))
        });
        std::iter::once(self.text.clone())
            .chain(signatures)
            .collect()
    }
}

fn approval(line: &str) -> Option<Approval> {
    let rest = line.strip_prefix(APPROVED_BY)?;
    let (name, signature) = rest.trim_end().split_once(' ')?;
    Some(Approval {
        by: OperatorName::parse(name)?,
        signature: hex::decode(signature).ok()?.try_into().ok()?,
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::path::Path;

    use super::{Approval, Command, Deed, OperatorName, Paper};
    use crate::clock::Timestamp;
    use crate::domain::{EnvironmentId, OperationId, Reason, Target};

    fn paper() -> Paper {
        let command = Command {
            environment: EnvironmentId([1; 32]),
            deed: Deed::Unfreeze {
                target: Target::Global,
                freeze_id: OperationId::generate(),
            },
            reason: Reason::parse("approved by nobody").unwrap(),
            nonce: [2; 16],
            issued: Timestamp::from_micros(1_800_000_000_000_000),
            expires: Timestamp::from_micros(1_800_003_600_000_000),
        };
        let approval = |name, byte| Approval {
            by: OperatorName::parse(name).unwrap(),
            signature: [byte; 64],
        };
        Paper {
            text: command.text(),
            command,
            approvals: vec![approval("alice", 3), approval("bob", 4)],
        }
    }

    #[test]
    fn a_command_in_a_file_grows_by_signatures_and_by_nothing_else() {
        let file = Path::new("unfreeze");
        let mut paper = paper();
        let content = paper.content();
        assert_eq!(Paper::parse(&content, file).unwrap(), paper);
        for (altered, expected) in [
            (
                content.replace("alice ", "Alice "),
                "line 9 is no signature",
            ),
            (
                content.replace(&"03".repeat(64), "03"),
                "line 9 is no signature",
            ),
            (format!("{content}\n"), "line 11 is no signature"),
            (format!("{content}more\n"), "line 11 is no signature"),
            (content.replace("global", "glob"), "unfreeze"),
        ] {
            let error = Paper::parse(&altered, file).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        paper.approvals.clear();
        assert_eq!(Paper::parse(&paper.text, file).unwrap(), paper);
    }
}
