//! Files that hold a secret: nobody but their owner may access them.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// It is not there, or we may not look.
    #[error("cannot be read")]
    Unreadable(#[source] io::Error),
    /// Others may access it.
    #[error("{problem}; {instead}")]
    Open {
        /// What is wrong.
        problem: String,
        /// What to do.
        instead: String,
    },
}

/// The file exists and nobody but its owner may access it.
pub(crate) fn check(file: &Path) -> Result<(), SecretFileError> {
    let metadata = fs::metadata(file).map_err(SecretFileError::Unreadable)?;
    let mode = metadata.permissions().mode();
    if mode & forbidden_bits(file) == 0 {
        return Ok(());
    }
    Err(SecretFileError::Open {
        problem: format!(
            "others than its owner may access {} (mode {:03o})",
            file.display(),
            mode & 0o777
        ),
        instead: format!("run: chmod 600 {}", file.display()),
    })
}

/// systemd grants a service its credential by ACL, which shows as the group's read bit.
fn forbidden_bits(path: &Path) -> u32 {
    match std::env::var_os("CREDENTIALS_DIRECTORY") {
        Some(directory) if path.starts_with(&directory) => 0o037,
        _ => 0o077,
    }
}
