//! `[policy]`: the files that say who may do what, and how much.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// `[policy]` as written.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyTable {
    directory: Option<PathBuf>,
    limits_file: Option<PathBuf>,
}

/// Where the policy is. Its files are read when the appliance starts, and again when it is told to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PolicyFiles {
    /// The directory of the operator's rules; without one, those that the program comes with.
    pub directory: Option<PathBuf>,
    /// The exact limits; without one, those that the program comes with.
    pub limits: Option<PathBuf>,
}

/// Completes `[policy]`.
pub(super) fn policy(table: PolicyTable, directory: &Path) -> PolicyFiles {
    PolicyFiles {
        directory: table.directory.map(|rules| directory.join(rules)),
        limits: table.limits_file.map(|file| directory.join(file)),
    }
}
