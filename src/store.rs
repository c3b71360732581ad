//! The durable operation and all SQL.
//!
//! A state change is an [`Operation`]: it carries its facts, awaits SQL only, may be run again, and
//! returns its result together with its audit record. [`Store::commit`] runs it in a transaction and
//! answers after COMMIT. SQL stands once, one file per aggregate, for both engines.
//!
//! INVARIANT: only this module makes a [`Committed`], and only after COMMIT. Whoever holds one knows
//! that the state change and its audit record are on disk.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::time::Instant;

use crate::clock::{self, Timestamp};
use crate::domain::{
    DeviceKeyId, EnvironmentId, EnvironmentKind, InstanceId, OperationId, OwnerId, ProfileId,
    TenantId, TransactionId,
};
use crate::telemetry::metrics::{Metrics, Outcome};

pub mod audit;
pub mod copy;
pub mod decisions;
pub mod devices;
mod engine;
pub mod environment;
mod health;
pub mod idempotency;
pub mod instances;
pub mod kem_keys;
mod leases;
mod location;
pub mod profiles;
mod readers;
pub mod replay;
pub mod retention;
pub mod schema;
pub mod sessions;
pub mod shares;
pub mod steps;
pub mod transactions;
mod writer;

use engine::{Connection, EngineError, Row, Value};

pub use audit::chain::LinkHash;
pub use audit::{AuditEvent, AuditOutcome, AuditRecord};
pub use environment::EnvironmentRecord;
pub use location::{Location, Password, PostgresOptions};
pub use readers::Reader;
pub use writer::Reservation;

/// Operations in one transaction.
const GROUP: usize = 64;
/// Readers of a SQLite file.
const SQLITE_READERS: usize = 4;

/// Why the store could not answer. None of these says that an operation did not happen, except
/// [`StoreError::Unavailable`] and [`StoreError::Overloaded`].
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

/// What an operation concerns. Operations with the same key exclude each other and run in the order in
/// which they were handed over; whatever an operation reads and then relies on belongs to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(Option<i64>);

impl Key {
    /// Nothing that another operation changes.
    pub const NONE: Self = Self(None);
    /// The keys and settings of the whole environment.
    pub const ENVIRONMENT: Self = Self(Some(1));
    /// The audit chain.
    pub const CHAIN: Self = Self(Some(2));
    /// Rows that nobody asks for any more.
    pub const RETENTION: Self = Self(Some(3));

    /// A profile with its key, sessions and transactions.
    #[must_use]
    pub fn profile(id: ProfileId) -> Self {
        Self::hash(&[&id.to_string()])
    }

    /// An owner with their devices.
    #[must_use]
    pub fn owner(id: OwnerId) -> Self {
        Self::hash(&["owner", &id.to_string()])
    }

    /// A device that has no profile yet.
    #[must_use]
    pub fn device(tenant: &TenantId, device: &DeviceKeyId) -> Self {
        Self::hash(&[tenant.as_str(), device.as_str()])
    }

    /// The same in every process. Two things with one number only wait for each other.
    fn hash(parts: &[&str]) -> Self {
        // FNV-1a.
        let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(Some(hash.cast_signed()))
    }

    const fn number(self) -> Option<i64> {
        self.0
    }

    fn lane(self, lanes: usize) -> usize {
        let number = self.0.unwrap_or_default().cast_unsigned();
        let lanes = u64::try_from(lanes).unwrap_or(1).max(1);
        usize::try_from(number % lanes).unwrap_or_default()
    }
}

/// One durable state change with its audit record.
pub trait Operation: Send + 'static {
    /// What the operation returns once it is committed.
    type Output: Send + 'static;
    /// Why it may refuse, having looked at the rows.
    type Refusal: Send + 'static;

    /// What it concerns.
    fn key(&self) -> Key;

    /// Reads and writes rows inside the transaction. SQL only: no HSM, no RPC, no policy engine. It may
    /// be called again after a try that left nothing behind.
    ///
    /// # Errors
    /// [`CommitError::Refused`] rolls everything back.
    fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> impl Future<Output = Result<(Self::Output, AuditRecord), CommitError<Self::Refusal>>> + Send;
}

/// A change that is no state of anything, so it leaves no record: chaining records, looking again later.
pub(crate) trait Upkeep: Send + 'static {
    /// What it returns once it is committed.
    type Output: Send + 'static;

    /// What it concerns.
    fn key(&self) -> Key;

    /// Reads and writes rows inside the transaction; may be called again.
    fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> impl Future<Output = Result<Self::Output, StoreError>> + Send;
}

/// Something that rows can be read through: the transaction of an operation, or a [`Reader`].
pub trait Reads: Send {
    /// The rows of a query.
    #[doc(hidden)]
    fn query(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Vec<Row>, StoreError>> + Send;

    /// The first row of a query.
    #[doc(hidden)]
    fn query_one(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Option<Row>, StoreError>> + Send {
        async move { Ok(self.query(sql, values).await?.into_iter().next()) }
    }
}

/// The transaction of one durable operation.
pub struct Tx<'a> {
    connection: &'a mut Connection,
    operation_id: OperationId,
    now: Timestamp,
    changed: bool,
}

impl<'a> Tx<'a> {
    const fn new(
        connection: &'a mut Connection,
        operation_id: OperationId,
        now: Timestamp,
    ) -> Self {
        Self {
            connection,
            operation_id,
            now,
            changed: false,
        }
    }

    /// Whether any row was changed.
    const fn changed(&self) -> bool {
        self.changed
    }

    /// The id of the operation, which is also the id of its audit record.
    #[must_use]
    pub const fn operation_id(&self) -> OperationId {
        self.operation_id
    }

    /// The time of the operation: every row it writes carries this one.
    #[must_use]
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// The time of the database server, which all processes of it share; ours where there is no server.
    async fn server_clock(&mut self) -> Result<Timestamp, StoreError> {
        let theirs = self.connection.server_clock().await?;
        Ok(theirs.map_or_else(clock::now, time))
    }

    /// Changes rows; how many.
    async fn execute(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<u64, StoreError> {
        let rows = self.connection.execute(sql, values).await?;
        self.changed |= rows > 0;
        Ok(rows)
    }

    /// Changes at most one row; whether it did.
    async fn execute_one(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<bool, StoreError> {
        Ok(self.execute(sql, values).await? == 1)
    }
}

impl Reads for Tx<'_> {
    async fn query(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        Ok(self.connection.query(sql, values).await?)
    }
}

/// The appliance's database.
#[derive(Clone)]
pub struct Store {
    readers: readers::Readers,
    writer: writer::Writer,
    /// Where leases are renewed: on a server by a connection of their own, so that a lease never lapses
    /// behind a queue.
    leases: writer::Writer,
    alone: bool,
    health: health::Health,
    environment: EnvironmentRecord,
    metrics: Option<Arc<Metrics>>,
}

impl Store {
    /// Creates the database for a new environment, or completes a creation of the same environment that
    /// was interrupted.
    ///
    /// # Errors
    /// [`StoreError::EnvironmentExists`] if the database belongs to another environment.
    pub async fn create(
        location: impl Into<Arc<Location>>,
        environment: &EnvironmentRecord,
    ) -> Result<Self, StoreError> {
        let location = location.into();
        let mut opening = Opening::new(&location, true).await?;
        schema::migrate(&mut opening.connection, &location).await?;
        environment::create(&mut opening.connection, environment).await?;
        Self::start(location, opening, *environment, GROUP).await
    }

    /// Opens the database.
    ///
    /// # Errors
    /// [`StoreError::NoEnvironment`], [`StoreError::InUse`], [`StoreError::SchemaOld`],
    /// [`StoreError::SchemaNew`] or [`StoreError::Unavailable`].
    pub async fn open(location: impl Into<Arc<Location>>) -> Result<Self, StoreError> {
        Self::open_grouping(location, GROUP).await
    }

    /// As [`Store::open`], with at most `group` operations in one transaction: what grouping is worth can
    /// then be measured.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn open_grouping(
        location: impl Into<Arc<Location>>,
        group: usize,
    ) -> Result<Self, StoreError> {
        let location = location.into();
        let mut opening = Opening::new(&location, false).await?;
        schema::check(&mut opening.connection).await?;
        let environment = environment::load(&mut opening.connection)
            .await?
            .ok_or(StoreError::NoEnvironment)?;
        Self::start(location, opening, environment, group).await
    }

    /// Opens the database for reading only, beside any process that uses it.
    ///
    /// # Errors
    /// As [`Store::open`], without [`StoreError::InUse`].
    pub async fn inspect(location: impl Into<Arc<Location>>) -> Result<Reader, StoreError> {
        let location = location.into();
        let mut connection = Connection::reader(&location).await?;
        schema::check(&mut connection).await?;
        environment::load(&mut connection)
            .await?
            .ok_or(StoreError::NoEnvironment)?;
        readers::Readers::new(location, health::Health::new(), 1)
            .acquire()
            .await
    }

    /// Brings the schema to this version and says which steps that took; with `dry_run`, which it would
    /// take, and changes nothing.
    ///
    /// # Errors
    /// [`StoreError::SchemaNew`], [`StoreError::Migrate`], [`StoreError::InUse`] or
    /// [`StoreError::Unavailable`].
    pub async fn migrate(
        location: impl Into<Arc<Location>>,
        dry_run: bool,
    ) -> Result<Vec<schema::Step>, StoreError> {
        let location = location.into();
        let mut opening = Opening::new(&location, false).await?;
        if dry_run {
            schema::missing(&mut opening.connection).await
        } else {
            schema::migrate(&mut opening.connection, &location).await
        }
    }

    async fn start(
        location: Arc<Location>,
        opening: Opening,
        environment: EnvironmentRecord,
        group: usize,
    ) -> Result<Self, StoreError> {
        let (lanes, readers) = match &*location {
            Location::Sqlite(_) => (1, SQLITE_READERS),
            Location::Postgres(options) => {
                let lanes = usize::try_from(options.connections).unwrap_or(1).max(1);
                (lanes, lanes.div_ceil(2))
            }
        };
        let mut connections = vec![opening.connection];
        while connections.len() < lanes {
            connections.push(Connection::writer(&location).await?);
        }
        let health = health::Health::new();
        let writer = writer::Writer::start(&location, &health, connections, opening.lock, group);
        let alone = matches!(*location, Location::Sqlite(_));
        let leases = if alone {
            writer.clone()
        } else {
            let connection = Connection::writer(&location).await?;
            writer::Writer::start(&location, &health, vec![connection], None, 1)
        };
        Ok(Self {
            readers: readers::Readers::new(location, health.clone(), readers),
            writer,
            leases,
            alone,
            health,
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
    /// Operations on one [`Key`] run one after another in the order in which they were handed over.
    /// Dropping the returned future does not cancel the operation.
    ///
    /// # Errors
    /// [`CommitError::Refused`] as the operation says; [`CommitError::Store`] when the store failed.
    pub async fn commit<O: Operation>(
        &self,
        operation: O,
    ) -> Result<Committed<O::Output>, CommitError<O::Refusal>> {
        let started = Instant::now();
        let result = self.writer.commit(operation).await;
        count(self.metrics.as_deref(), started, result)
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
        let result = self.writer.conclude(operation).await;
        count(self.metrics.as_deref(), started, result)
    }

    /// Reserves a place for the operation that will end what an admission begins, so that it never has
    /// to wait behind admissions.
    ///
    /// # Errors
    /// [`StoreError::Overloaded`] when every place is taken.
    pub fn reserve(&self) -> Result<Reservation, StoreError> {
        self.writer.reserve()
    }

    /// As [`Store::conclude`], in a reserved place. The operation is handed over at once; the future
    /// only waits for its answer.
    pub fn conclude_reserved<O: Operation>(
        &self,
        operation: O,
        place: Reservation,
    ) -> impl Future<Output = Result<Committed<O::Output>, CommitError<O::Refusal>>> + Send + use<O>
    {
        let started = Instant::now();
        let answer = self.writer.conclude_reserved(operation, place);
        let metrics = self.metrics.clone();
        async move { count(metrics.as_deref(), started, answer.await) }
    }

    /// Appends links for committed records that no link covers yet, in one batch, and a checkpoint when one
    /// is due; as the process that extends the chain, which `holder` is or becomes, or only this once.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails; nothing was appended, and it may be called again.
    pub async fn extend_chain(
        &self,
        hash: LinkHash,
        holder: Option<InstanceId>,
    ) -> Result<audit::chain::Extended, StoreError> {
        let extend = audit::chain::Extend { hash, holder };
        // A flood of requests must not keep records out of the chain.
        self.writer.insist(extend).await
    }

    /// Leaves the chain to the next process that looks at it.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails; the others then wait a few seconds.
    pub async fn release_chain(&self, holder: InstanceId) -> Result<(), StoreError> {
        let lease = audit::chain::SEQUENCER;
        self.writer.insist(leases::LetGo { lease, holder }).await
    }

    /// Deletes a batch of rows that are older than they are kept, and says how many; `None` while another
    /// process does.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails or is busy; nothing was deleted.
    pub async fn prune(
        &self,
        aged: retention::Aged,
        retention: retention::Retention,
        holder: InstanceId,
    ) -> Result<Option<retention::Deleted>, StoreError> {
        let prune = retention::Prune {
            aged,
            retention,
            holder,
        };
        self.writer.maintain(prune).await
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
        self.writer
            .maintain(transactions::Postpone { transaction, until })
            .await
    }

    /// Whether no other process can have this database open: a SQLite file with its process lock.
    #[must_use]
    pub const fn is_alone(&self) -> bool {
        self.alone
    }

    /// Takes or renews the lease of an instance; how far our clock is from the database server's. Where no
    /// other process can have the database open, all other instances are ended with it.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn renew_lease(
        &self,
        lease: instances::Lease,
    ) -> Result<instances::Skew, StoreError> {
        let alone = self.alone;
        self.leases.insist(instances::Renew { lease, alone }).await
    }

    /// Ends an instance that has let its lease lapse; false if it has not.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn end_lapsed(&self, instance: InstanceId) -> Result<bool, StoreError> {
        let only_lapsed = true;
        self.writer
            .insist(instances::End {
                instance,
                only_lapsed,
            })
            .await
    }

    /// Ends an instance whose process is about to end.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn end_lease(&self, instance: InstanceId) -> Result<bool, StoreError> {
        let only_lapsed = false;
        self.leases
            .insist(instances::End {
                instance,
                only_lapsed,
            })
            .await
    }

    /// A read-only view of committed rows.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when no connection is free in time.
    pub async fn reader(&self) -> Result<Reader, StoreError> {
        self.readers.acquire().await
    }

    /// Whether the database answers, takes writes and is sound: a read and, unless operations were
    /// committed just now, a commit.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Damaged`] when it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let mut reader = self.reader().await?;
        environment::load(&mut reader).await?;
        self.writer.ping()?;
        if !self.health.is_fresh() {
            match self.writer.maintain(environment::Probe).await {
                // Then others find out.
                Ok(()) | Err(StoreError::Overloaded) => {}
                Err(error) => return Err(error),
            }
        }
        self.health.check()
    }
}

/// The first connection of a database, and the process lock that goes with a file.
struct Opening {
    connection: Connection,
    lock: Option<std::fs::File>,
}

impl Opening {
    async fn new(location: &Location, create: bool) -> Result<Self, StoreError> {
        let lock = match location {
            Location::Sqlite(path) => Some(engine::sqlite::lock(path)?),
            Location::Postgres(_) => None,
        };
        if let (Location::Sqlite(path), true) = (location, create) {
            engine::sqlite::create_private(path)?;
        }
        let mut connection = Connection::writer(location).await?;
        copy::marker::refuse_unfinished(&mut connection).await?;
        Ok(Self { connection, lock })
    }
}

fn count<T, R>(
    metrics: Option<&Metrics>,
    started: Instant,
    result: Result<T, CommitError<R>>,
) -> Result<T, CommitError<R>> {
    if let Some(metrics) = metrics {
        let outcome = match &result {
            Ok(_) => Outcome::Done,
            Err(CommitError::Refused(_)) => Outcome::Denied,
            Err(CommitError::Store(_)) => Outcome::Failed,
        };
        metrics.durable_operation(outcome, started.elapsed());
    }
    result
}

/// Converts an unsigned count for a 64-bit signed column; saturates, because no count gets there.
fn to_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The time of a column.
const fn time(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

#[cfg(test)]
mod tests;
