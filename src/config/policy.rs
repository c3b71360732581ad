//! `[policy]`: the files that say who may do what, and how much.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::Config;
use super::owners::Problem;
use crate::operators::Operators;

/// `[policy]` as written.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyTable {
    directory: Option<PathBuf>,
    limits_file: Option<PathBuf>,
    #[serde(default)]
    activation: ActivatedBy,
}

/// Who puts rules into force.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum ActivatedBy {
    /// Whoever writes the files and has them read.
    #[default]
    Files,
    /// Operators, who have signed for them.
    Operators,
}

/// Where the policy is. Its files are read when the appliance starts, and again when it is told to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PolicyFiles {
    /// The directory of the operator's rules; without one, those that the program comes with.
    pub directory: Option<PathBuf>,
    /// The exact limits; without one, those that the program comes with.
    pub limits: Option<PathBuf>,
    /// Who puts the rules into force.
    pub activation: ActivatedBy,
}

impl Config {
    /// Who must agree before rules take effect, and the directory of those; `None` where nobody must.
    #[must_use]
    pub fn activators(&self) -> Option<(Arc<Operators>, PathBuf)> {
        match self.policy.activation {
            ActivatedBy::Files => None,
            // There are both, or the configuration is refused.
            ActivatedBy::Operators => {
                let operators = Arc::clone(self.operators.as_ref()?);
                Some((operators, self.policy.directory.clone()?))
            }
        }
    }
}

/// Completes `[policy]`.
pub(super) fn policy(
    table: PolicyTable,
    directory: &Path,
    has_operators: bool,
) -> Result<PolicyFiles, Problem> {
    let missing = |what: &str, instead| Err(("policy.activation", what.to_owned(), instead));
    if table.activation == ActivatedBy::Operators {
        if table.directory.is_none() {
            let instead =
                "name policy.directory, or leave it out: nobody changes the built-in rules";
            return missing("there are no rules to activate", instead);
        }
        if !has_operators {
            return missing("there are no operators", "list them in [operators.keys]");
        }
    }
    Ok(PolicyFiles {
        directory: table.directory.map(|rules| directory.join(rules)),
        limits: table.limits_file.map(|file| directory.join(file)),
        activation: table.activation,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::path::Path;

    use super::{ActivatedBy, policy};

    fn read(text: &str, has_operators: bool) -> Result<ActivatedBy, String> {
        let table = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        policy(table, Path::new("/etc"), has_operators)
            .map(|files| files.activation)
            .map_err(|(key, problem, _)| format!("{key}: {problem}"))
    }

    #[test]
    fn rules_are_activated_by_operators_where_there_are_both() {
        assert_eq!(read("", false), Ok(ActivatedBy::Files));
        assert_eq!(read("activation = \"files\"", true), Ok(ActivatedBy::Files));
        let both = "directory = \"rules\"\nactivation = \"operators\"";
        assert_eq!(read(both, true), Ok(ActivatedBy::Operators));
        assert_eq!(
            read(both, false).unwrap_err(),
            "policy.activation: there are no operators"
        );
        assert_eq!(
            read("activation = \"operators\"", true).unwrap_err(),
            "policy.activation: there are no rules to activate"
        );
        assert!(read("activation = \"everybody\"", true).is_err());
    }
}
