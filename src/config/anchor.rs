//! `[anchor]`: what is kept outside the database so that nobody can put it back unnoticed.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

/// Where the anchor is and how often it follows the audit chain. It follows each ban at once.
#[derive(Debug, PartialEq, Eq)]
pub struct Anchor {
    /// How often.
    pub interval: Duration,
    /// A file in place of the token's data objects.
    pub witness_file: Option<PathBuf>,
}

/// `[anchor]` as written.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct AnchorTable {
    interval_seconds: Option<NonZeroU32>,
    witness_file: Option<PathBuf>,
}

/// Paths are relative to `directory`.
pub(super) fn anchor(table: AnchorTable, directory: &Path) -> Anchor {
    let seconds = table.interval_seconds.map_or(60, NonZeroU32::get);
    Anchor {
        interval: Duration::from_secs(seconds.into()),
        witness_file: table.witness_file.map(|file| directory.join(file)),
    }
}
