//! Requests written down by hand, for `policy test`, `explain` and `diff`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;

use super::standing::Transaction;
use crate::chain::{RequestFields, TransactionRequest};
use crate::clock::Timestamp;
use crate::domain::EnvironmentKind;
use crate::policy::{Asked, ChainFacts, DeviceFacts, Facts, Problem, ProfileFacts, Reason};
use crate::service::facts;

/// A Wednesday at noon.
const WHEN: &str = "2026-01-07T12:00:00Z";
const DAY: i64 = 86_400;

/// A file of cases, as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    case: Vec<CaseTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseTable {
    name: Spanned<String>,
    expect: Spanned<String>,
    rule: Option<String>,
    request: RequestTable,
}

/// A file with one request, as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Single {
    request: RequestTable,
}

/// What is not said is harmless: the owner asks, through a gateway of their tenant, on a known chain, at noon.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestTable {
    action: Spanned<String>,
    chain: Option<u64>,
    to: Option<String>,
    value: Option<String>,
    data: Option<String>,
    chain_configured: Option<bool>,
    environment: Option<EnvironmentKind>,
    owner: Option<String>,
    asked_by: Option<String>,
    device: Option<String>,
    device_age_days: Option<u32>,
    profile: Option<String>,
    tenant: Option<String>,
    asked_through: Option<String>,
    client_role: Option<String>,
    at: Option<String>,
    #[serde(default)]
    second_factor: bool,
}

/// What a case expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// It is allowed.
    Allow,
    /// It is denied, for whatever reason.
    Deny,
    /// It is denied, and would be allowed with a second factor.
    SecondFactor,
}

impl Expected {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "allow" => Some(Self::Allow),
            "deny" => Some(Self::Deny),
            "second-factor" => Some(Self::SecondFactor),
            _ => None,
        }
    }

    /// Whether a verdict is what was expected.
    pub(super) fn is(self, denied: Option<Reason>) -> bool {
        match self {
            Self::Allow => denied.is_none(),
            Self::SecondFactor => denied == Some(Reason::SecondFactor),
            Self::Deny => denied.is_some_and(|reason| reason != Reason::SecondFactor),
        }
    }
}

/// A request and what the rules should say of it.
pub(super) struct Case {
    /// The file.
    pub(super) file: PathBuf,
    /// The line of its name, from 1.
    pub(super) line: usize,
    /// What it is about.
    pub(super) name: String,
    /// What is expected.
    pub(super) expected: Expected,
    /// A rule that must be among those that decide.
    pub(super) rule: Option<String>,
    /// The request.
    pub(super) facts: Facts,
}

/// The cases in the `*.toml` files of a directory, in the order of their names.
///
/// # Errors
/// A [`Problem`] with file and line.
pub(super) fn cases(directory: &Path) -> Result<Vec<Case>, Problem> {
    let cannot = |path: &Path, error: std::io::Error| {
        Problem::of_file(
            path.display().to_string(),
            format!("cannot be read: {error}"),
        )
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(|error| cannot(directory, error))? {
        let path = entry.map_err(|error| cannot(directory, error))?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            files.push(path);
        }
    }
    files.sort();
    let mut cases = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).map_err(|error| cannot(&path, error))?;
        let reading = Reading {
            path: &path,
            text: &text,
        };
        let file: File = reading.parse()?;
        for case in file.case {
            cases.push(reading.case(case)?);
        }
    }
    Ok(cases)
}

/// A request, and what it would sign.
pub(super) struct OneRequest {
    /// What the rules see of it.
    pub(super) facts: Facts,
    /// The transaction, if it is one that could be prepared.
    pub(super) transaction: Option<Transaction>,
}

/// The one request of a file.
///
/// # Errors
/// A [`Problem`] with file and line.
pub(super) fn single(path: &Path) -> Result<OneRequest, Problem> {
    let text = fs::read_to_string(path).map_err(|error| {
        Problem::of_file(
            path.display().to_string(),
            format!("cannot be read: {error}"),
        )
    })?;
    let reading = Reading { path, text: &text };
    let file: Single = reading.parse()?;
    reading.request(file.request)
}

/// A file that is read, for the lines of what is wrong in it.
struct Reading<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Reading<'_> {
    fn parse<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        toml::from_str(self.text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            self.problem(start, error.message())
        })
    }

    fn line(&self, start: usize) -> usize {
        let before = self.text.as_bytes().get(..start).unwrap_or_default();
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    fn problem(&self, start: usize, message: impl Into<String>) -> Problem {
        Problem {
            file: self.path.display().to_string(),
            line: Some(self.line(start)),
            rule: None,
            message: message.into(),
        }
    }

    fn case(&self, case: CaseTable) -> Result<Case, Problem> {
        let expected = Expected::parse(case.expect.get_ref()).ok_or_else(|| {
            let message = "expect is allow, deny or second-factor";
            self.problem(case.expect.span().start, message)
        })?;
        Ok(Case {
            file: self.path.to_owned(),
            line: self.line(case.name.span().start),
            name: case.name.into_inner(),
            expected,
            rule: case.rule,
            facts: self.request(case.request)?.facts,
        })
    }

    fn request(&self, table: RequestTable) -> Result<OneRequest, Problem> {
        let start = table.action.span().start;
        let kind = table.environment.unwrap_or(EnvironmentKind::Production);
        let at = table.at.as_deref().unwrap_or(WHEN);
        let at = Timestamp::parse_rfc3339(at)
            .ok_or_else(|| self.problem(start, format!("at is a time such as \"{WHEN}\"")))?;
        let (asked, transaction) = self.asked(&table, kind)?;
        let or = |value: Option<String>, default: &str| value.unwrap_or_else(|| default.to_owned());
        let owner = or(table.owner, "owner");
        let tenant = or(table.tenant, "default");
        let facts = Facts {
            asked,
            device: DeviceFacts {
                id: or(table.device, "device"),
                owner: or(table.asked_by, &owner),
                tenant: or(table.asked_through, &tenant),
                client_role: or(table.client_role, "gateway"),
                age_seconds: i64::from(table.device_age_days.unwrap_or(365)) * DAY,
            },
            profile: ProfileFacts {
                id: or(table.profile, "profile"),
                owner,
                tenant,
            },
            environment: kind.as_str().to_owned(),
            at: at.as_seconds(),
            second_factor: table.second_factor,
        };
        Ok(OneRequest { facts, transaction })
    }

    fn asked(
        &self,
        table: &RequestTable,
        kind: EnvironmentKind,
    ) -> Result<(Asked, Option<Transaction>), Problem> {
        let start = table.action.span().start;
        let make: fn(_) -> Asked = match table.action.get_ref().as_str() {
            "create-profile" => return Ok((Asked::CreateProfile, None)),
            "prepare-transaction" => Asked::PrepareTransaction,
            "sign-transaction" => Asked::SignTransaction,
            _ => {
                let message = "action is create-profile, prepare-transaction or sign-transaction";
                return Err(self.problem(start, message));
            }
        };
        let Some(id) = table.chain else {
            return Err(self.problem(start, "the request names no chain"));
        };
        // A creation has no recipient; all else is read as a wallet's request is.
        let fields = RequestFields {
            chain_id: id,
            to: table
                .to
                .as_deref()
                .unwrap_or("0x0000000000000000000000000000000000000000"),
            value: table.value.as_deref().unwrap_or("0"),
            data: table.data.as_deref(),
            ..RequestFields::default()
        };
        let request = TransactionRequest::parse(&fields)
            .map_err(|error| self.problem(start, error.to_string()))?;
        let chain = ChainFacts {
            id,
            configured: table.chain_configured.unwrap_or(true),
            fits_environment: kind.accepts_chain(id),
        };
        let to = table.to.as_ref().map(|_| request.to);
        let content = facts::of_transaction(chain, to, request.value, &request.data);
        let transaction = to.map(|to| Transaction {
            chain: id,
            to,
            value: request.value,
            data: request.data,
            prepared: false,
        });
        Ok((make(Box::new(content)), transaction))
    }
}
