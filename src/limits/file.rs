//! `limits.toml`: read strictly. A file with anything wrong in it is refused as a whole, with file and line.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::{Limits, Rate};
use crate::domain::RateClass;

mod spends;

use spends::SpendTable;

/// The limits that the program comes with; an operator's file begins as a copy of it.
const BUILTIN: &str = include_str!("../../policies/limits.toml");

/// Requests that a rate may admit: each check reads as many rows at most.
const MAX_REQUESTS: u32 = 100_000;
/// Seconds that a window may have: 31 days.
const MAX_SECONDS: u32 = 31 * 24 * 3600;

/// Why a file of limits is refused.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read the limits in {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The operating system's answer.
        #[source]
        cause: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("{}:{line}: {problem}", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong, and what to write instead.
        problem: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rates: RateTables,
    #[serde(default)]
    spend: Vec<SpendTable>,
}

/// `[rates]`. One that is left out is that of the program.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RateTables {
    signing: Option<RateTable>,
    key_operations: Option<RateTable>,
    backup: Option<RateTable>,
    transactions: Option<RateTable>,
    reconcile: Option<RateTable>,
}

impl RateTables {
    const fn of(&self, class: RateClass) -> Option<&RateTable> {
        match class {
            RateClass::Signing => self.signing.as_ref(),
            RateClass::KeyOperations => self.key_operations.as_ref(),
            RateClass::Backup => self.backup.as_ref(),
            RateClass::Transactions => self.transactions.as_ref(),
            RateClass::Reconcile => self.reconcile.as_ref(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RateTable {
    requests: Spanned<i64>,
    seconds: Spanned<i64>,
}

/// Something wrong at a place of the text.
#[derive(Debug)]
struct Problem {
    place: Range<usize>,
    problem: String,
}

/// The limits that the program comes with.
#[must_use]
pub fn builtin() -> Limits {
    // A test shows that the text is in order. If it were not, nothing would be admitted.
    parse(BUILTIN, &[]).unwrap_or_else(|_| Limits {
        spends: Vec::new(),
        rates: RateClass::ALL.map(|class| Rate {
            class,
            requests: 0,
            seconds: 1,
        }),
    })
}

/// The limits of a file; `chains` are those that it may name.
///
/// # Errors
/// [`FileError`] says where it is wrong.
pub fn load(file: &Path, chains: &[u64]) -> Result<Limits, FileError> {
    let text = fs::read_to_string(file).map_err(|cause| FileError::Read {
        file: file.to_owned(),
        cause,
    })?;
    parse(&text, chains).map_err(|Problem { place, problem }| {
        let before = text.as_bytes().get(..place.start).unwrap_or_default();
        FileError::Invalid {
            file: file.to_owned(),
            line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
            problem,
        }
    })
}

fn parse(text: &str, chains: &[u64]) -> Result<Limits, Problem> {
    let file: File = toml::from_str(text).map_err(|error| Problem {
        place: error.span().unwrap_or_default(),
        problem: error.message().to_owned(),
    })?;
    let mut rates = RateClass::ALL.map(usual);
    for rate in &mut rates {
        if let Some(table) = file.rates.of(rate.class) {
            let class = rate.class.as_str();
            rate.requests = number(&table.requests, MAX_REQUESTS, class, "requests")?;
            rate.seconds = number(&table.seconds, MAX_SECONDS, class, "seconds")?;
        }
    }
    let spends = spends::spends(&file.spend, chains)?;
    Ok(Limits { rates, spends })
}

/// The rate of a class that a file does not name: that of the seed.
const fn usual(class: RateClass) -> Rate {
    let (requests, seconds) = match class {
        RateClass::Signing => (10, 60),
        RateClass::KeyOperations => (5, 3600),
        RateClass::Backup => (3, 86_400),
        RateClass::Transactions => (30, 60),
        RateClass::Reconcile => (30, 3600),
    };
    Rate {
        class,
        requests,
        seconds,
    }
}

fn number(value: &Spanned<i64>, most: u32, class: &str, name: &str) -> Result<u32, Problem> {
    let number = u32::try_from(*value.get_ref()).ok();
    let fits = number.filter(|number| (1..=most).contains(number));
    fits.ok_or_else(|| Problem {
        place: value.span(),
        problem: format!(
            "rates.{class}: {name} is {}; write a number from 1 to {most}",
            value.get_ref()
        ),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use super::{FileError, builtin, load, parse, usual};
    use crate::domain::RateClass;

    #[test]
    fn the_limits_of_the_program_are_those_of_the_seed() {
        let builtin = builtin();
        assert_eq!(builtin.rates(), RateClass::ALL.map(usual));
        let named = |class| {
            let rate = builtin.rate(class);
            (rate.requests, rate.seconds)
        };
        assert_eq!(named(RateClass::Signing), (10, 60));
        assert_eq!(named(RateClass::KeyOperations), (5, 3600));
        assert_eq!(named(RateClass::Backup), (3, 86_400));
        assert_eq!(named(RateClass::Transactions), (30, 60));
        assert_eq!(named(RateClass::Reconcile), (30, 3600));
        assert!(builtin.raised().is_empty());
    }

    #[test]
    fn a_rate_that_a_file_leaves_out_is_the_usual_one() {
        let limits = parse("[rates]\nsigning = { requests = 20, seconds = 60 }\n", &[]).unwrap();
        assert_eq!(limits.rate(RateClass::Signing).requests, 20);
        assert_eq!(limits.rate(RateClass::Backup), usual(RateClass::Backup));
        let raised: Vec<_> = limits.raised().iter().map(|rate| rate.class).collect();
        assert_eq!(raised, [RateClass::Signing]);
        assert_eq!(parse("", &[]).unwrap(), builtin());
    }

    #[test]
    fn whatever_is_wrong_is_refused_with_its_line() {
        let signing = |rest: &str| format!("# comment\n[rates]\nsigning = {{ {rest} }}\n");
        for (text, line, says) in [
            (signing("requests = 0, seconds = 60"), 3, "from 1 to"),
            (signing("requests = -1, seconds = 60"), 3, "requests is -1"),
            (signing("requests = 10, seconds = 0"), 3, "seconds is 0"),
            (signing("requests = 100001, seconds = 60"), 3, "to 100000"),
            (signing("requests = 4294967306, seconds = 60"), 3, "4294967306"),
            (signing("requests = 99999999999999999999, seconds = 60"), 3, ""),
            (signing("requests = 10, seconds = 2678401"), 3, "to 2678400"),
            (signing("requests = 1.5, seconds = 60"), 3, "expected"),
            (signing("requests = \"10\", seconds = 60"), 3, "expected"),
            (signing("requests = 10"), 3, "seconds"),
            (signing("requests = 10, seconds = 60, burst = 3"), 3, "burst"),
            ("[rates]\nsignin = { requests = 1, seconds = 1 }".to_owned(), 2, "signin"),
            ("[rates]\n\n[rate]\n".to_owned(), 3, "rate"),
            ("[rates]\nbackup = { requests = 1, seconds = 1 }\nbackup = { requests = 2, seconds = 1 }".to_owned(), 3, "duplicate"),
            ("[rates\n".to_owned(), 1, ""),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("limits.toml");
            std::fs::write(&file, &text).unwrap();
            let error = load(&file, &[]).unwrap_err();
            let FileError::Invalid { line: found, ref problem, .. } = error else {
                panic!("{text}: {error}");
            };
            assert_eq!(found, line, "{text}: {problem}");
            assert!(problem.contains(says), "{text}: {problem}");
            assert!(error.to_string().starts_with(&format!("{}:{line}: ", file.display())));
        }
        let missing = std::path::Path::new("/nonexistent/limits.toml");
        assert!(matches!(load(missing, &[]), Err(FileError::Read { .. })));
    }
}
