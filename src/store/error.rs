//! Why the store did not do what it was asked.

use std::path::PathBuf;

use super::engine::EngineError;
use crate::domain::{EnvironmentId, OperationId};

/// Why the store could not answer. None of these says that an operation did not happen, except
/// [`StoreError::Unavailable`], [`StoreError::Overloaded`] and [`StoreError::RowChanged`].
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database could not be reached or refused a statement; the operation did not happen.
    #[error("the database is unavailable")]
    Unavailable(#[from] EngineError),
    /// COMMIT gave no answer and the operation's record could not be looked up.
    #[error("the outcome of operation {0} is unknown; look it up by its id")]
    OutcomeUnknown(OperationId),
    /// Too many operations are waiting; nothing was done.
    #[error("too many durable operations are waiting")]
    Overloaded,
    /// A row holds a value that this version cannot read.
    #[error("column {column} of table {table} holds an unreadable value")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
    },
    /// A row was changed by somebody else inside the operation that has it for itself; nothing was done.
    #[error("a row of table {0} was changed from outside: the operation is tried again")]
    RowChanged(&'static str),
    /// A page of the database is not what it was when it was written.
    #[error("the database is damaged: restore it from a backup")]
    Damaged,
    /// The schema is older than this program.
    #[error(
        "the database has schema version {found}, this program needs {needed}: back it up and run countersignd migrate"
    )]
    SchemaOld {
        /// The version of the database.
        found: i64,
        /// The version of the program.
        needed: i64,
    },
    /// The schema is newer than this program.
    #[error(
        "the database has schema version {found}, this program knows up to {known}: use the program that wrote it, or a newer one"
    )]
    SchemaNew {
        /// The version of the database.
        found: i64,
        /// The newest version of the program.
        known: i64,
    },
    /// A step of the schema failed; the steps before it are made.
    #[error("schema step {version} ({name}) failed and left nothing behind")]
    Migrate {
        /// The version of the step.
        version: i64,
        /// Its name.
        name: &'static str,
        /// What the engine said.
        #[source]
        source: EngineError,
    },
    /// Another process has this database open.
    #[error("another countersignd is using {0}: stop it first")]
    InUse(PathBuf),
    /// The lock file beside the database could not be opened.
    #[error("the lock file {path} cannot be used")]
    LockFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The database already holds an environment.
    #[error("the database already holds environment {0}")]
    EnvironmentExists(EnvironmentId),
    /// A copy into the database was interrupted, or is not finished yet.
    #[error(
        "the database holds an unfinished copy of an environment: run the same countersignd migrate --from again"
    )]
    CopyUnfinished,
    /// The database holds no environment: `countersignd init` was not run or not finished.
    #[error("the database holds no environment: run countersignd init")]
    NoEnvironment,
}

impl StoreError {
    /// Logs what failed because of this. An outage is told by the store, once when it begins and once
    /// when it ends, not by everybody who runs into it.
    pub fn log(&self, what: &'static str) {
        match self {
            Self::Unavailable(error) if error.is_outage() || error.is_damage() => {
                tracing::debug!(error = ?self, "{what}");
            }
            _ => tracing::error!(error = ?self, "{what}"),
        }
    }
}

/// Why an operation was not committed.
#[derive(Debug)]
pub enum CommitError<R> {
    /// The operation itself refused, by looking at the rows; everything was rolled back.
    Refused(R),
    /// The store failed.
    Store(StoreError),
}

impl<R> From<StoreError> for CommitError<R> {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
