//! The durable operation and all SQL.
//!
//! A state change is an [`Operation`]: it carries its facts, awaits SQL only, may be run again, and
//! returns its result together with its audit record. [`Store::commit`] runs it in one transaction
//! on the single writer and answers after COMMIT.
//!
//! INVARIANT: only this module makes a [`Committed`], and only after COMMIT. Whoever holds one knows
//! that the state change and its audit record are on disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::domain::{EnvironmentId, EnvironmentKind, OperationId, TransactionId};
use crate::telemetry::metrics::{Metrics, Outcome};

pub mod audit;
pub mod decisions;
pub mod devices;
pub mod environment;
pub mod idempotency;
pub mod kem_keys;
mod location;
pub mod profiles;
pub mod sessions;
pub mod shares;
mod sqlite;
pub mod steps;
pub mod transactions;
mod writer;

pub use audit::{AuditEvent, AuditOutcome, AuditRecord};
pub use environment::EnvironmentRecord;
pub use location::{Location, Password, PostgresOptions};
pub use sqlite::{Reader, Reads, Tx};
pub use writer::LinkHash;

/// Why the store could not answer. None of these says that an operation did not happen, except
/// [`StoreError::Overloaded`]; see each.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database could not be reached or refused a statement; the operation did not happen.
    #[error("the database is unavailable")]
    Unavailable(#[source] sqlx::Error),
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
    /// The schema could not be brought to this version.
    #[error("the database schema could not be migrated")]
    Migrate(#[source] sqlx::migrate::MigrateError),
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
    /// The database holds no environment: `countersignd init` was not run or not finished.
    #[error("the database holds no environment: run countersignd init")]
    NoEnvironment,
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Unavailable(error)
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

/// A value that a durable operation returned, after its COMMIT.
#[must_use = "a committed result must be acted on"]
pub struct Committed<T> {
    value: T,
}

impl<T> Committed<T> {
    /// The value, by reference.
    pub const fn get(&self) -> &T {
        &self.value
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.value
    }
}

/// One durable state change with its audit record.
pub trait Operation: Send + 'static {
    /// What the operation returns once it is committed.
    type Output: Send + 'static;
    /// Why it may refuse, having looked at the rows.
    type Refusal: Send + 'static;

    /// Reads and writes rows inside the transaction. SQL only: no HSM, no RPC, no policy engine.
    ///
    /// # Errors
    /// [`CommitError::Refused`] rolls everything back.
    fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> impl Future<Output = Result<(Self::Output, AuditRecord), CommitError<Self::Refusal>>> + Send;
}

/// The appliance's database.
#[derive(Clone)]
pub struct Store {
    readers: sqlx::SqlitePool,
    writer: writer::Writer,
    environment: EnvironmentRecord,
    metrics: Option<Arc<Metrics>>,
}

impl Store {
    /// Creates the database at `path` for a new environment, or completes a creation of the same
    /// environment that was interrupted.
    ///
    /// # Errors
    /// [`StoreError::EnvironmentExists`] if the database belongs to another environment.
    pub async fn create(path: &Path, environment: &EnvironmentRecord) -> Result<Self, StoreError> {
        let lock = sqlite::lock(path)?;
        let mut connection = sqlite::connect_writer(path, true).await?;
        environment::create(&mut connection, environment).await?;
        Self::start(path, connection, lock, *environment).await
    }

    /// Opens the database at `path` and brings its schema to this version.
    ///
    /// # Errors
    /// [`StoreError::NoEnvironment`], [`StoreError::InUse`], [`StoreError::Migrate`] or
    /// [`StoreError::Unavailable`].
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let lock = sqlite::lock(path)?;
        let mut connection = sqlite::connect_writer(path, false).await?;
        let environment = environment::load(&mut connection)
            .await?
            .ok_or(StoreError::NoEnvironment)?;
        Self::start(path, connection, lock, environment).await
    }

    async fn start(
        path: &Path,
        connection: sqlx::SqliteConnection,
        lock: std::fs::File,
        environment: EnvironmentRecord,
    ) -> Result<Self, StoreError> {
        let readers = sqlite::connect_readers(path).await?;
        let writer = writer::Writer::start(path.to_path_buf(), connection, lock);
        Ok(Self {
            readers,
            writer,
            environment,
            metrics: None,
        })
    }

    /// This store, counting and timing its durable operations.
    #[must_use]
    pub fn observed(mut self, metrics: Arc<Metrics>) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// The environment this database belongs to.
    #[must_use]
    pub const fn environment(&self) -> &EnvironmentRecord {
        &self.environment
    }

    /// The environment's id.
    #[must_use]
    pub const fn environment_id(&self) -> EnvironmentId {
        self.environment.id
    }

    /// The environment's kind.
    #[must_use]
    pub const fn environment_kind(&self) -> EnvironmentKind {
        self.environment.kind
    }

    /// Runs an operation and answers after COMMIT.
    ///
    /// Operations run one after another in the order in which they were handed over. Dropping the
    /// returned future does not cancel the operation.
    ///
    /// # Errors
    /// [`CommitError::Refused`] as the operation says; [`CommitError::Store`] when the store failed.
    pub async fn commit<O: Operation>(
        &self,
        operation: O,
    ) -> Result<Committed<O::Output>, CommitError<O::Refusal>> {
        let started = Instant::now();
        self.count(started, self.writer.commit(operation).await)
    }

    fn count<T, R>(
        &self,
        started: Instant,
        result: Result<T, CommitError<R>>,
    ) -> Result<T, CommitError<R>> {
        if let Some(metrics) = &self.metrics {
            let outcome = match &result {
                Ok(_) => Outcome::Done,
                Err(CommitError::Refused(_)) => Outcome::Denied,
                Err(CommitError::Store(_)) => Outcome::Failed,
            };
            metrics.durable_operation(outcome, started.elapsed());
        }
        result
    }

    /// As [`Store::commit`], for operations that end something: they wait for a place in the queue and
    /// are never shed.
    ///
    /// # Errors
    /// As [`Store::commit`], without [`StoreError::Overloaded`].
    pub async fn conclude<O: Operation>(
        &self,
        operation: O,
    ) -> Result<Committed<O::Output>, CommitError<O::Refusal>> {
        let started = Instant::now();
        self.count(started, self.writer.conclude(operation).await)
    }

    /// Appends links for committed records that no link covers yet, in one batch, and says how many.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails; nothing was appended, and it may be called again.
    pub async fn extend_chain(&self, hash: LinkHash) -> Result<usize, StoreError> {
        self.writer.extend_chain(hash).await
    }

    /// Puts the next look at a transaction off.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn postpone(
        &self,
        transaction: TransactionId,
        until: Timestamp,
    ) -> Result<(), StoreError> {
        self.writer.postpone(transaction, until).await
    }

    /// A read-only view of committed rows.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when no connection can be had.
    pub async fn reader(&self) -> Result<Reader, StoreError> {
        Ok(Reader::new(self.readers.acquire().await?))
    }

    /// Whether the database answers: one read and the writer's life sign.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let mut reader = self.reader().await?;
        environment::load(reader.connection()).await.map(|_| ())?;
        self.writer.ping()
    }
}

/// Converts an unsigned count for a 64-bit signed column; saturates, because no count gets there.
fn to_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Fails with [`StoreError::Corrupt`] when a column does not hold what its type requires.
fn readable<T>(
    value: Option<T>,
    table: &'static str,
    column: &'static str,
) -> Result<T, StoreError> {
    value.ok_or(StoreError::Corrupt { table, column })
}

/// The time of a column.
const fn time(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

#[cfg(test)]
mod tests;
