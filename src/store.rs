//! The durable operation and all SQL.
//!
//! A state change is an [`Operation`]: it carries its facts, awaits SQL only, may be run again, and
//! returns its result together with its audit record. [`Store::commit`] runs it in a transaction and
//! answers after COMMIT. SQL stands once, one file per aggregate, for both engines.
//!
//! INVARIANT: only this module makes a [`Committed`], and only after COMMIT. Whoever holds one knows
//! that the state change and its audit record are on disk.

use std::sync::Arc;

use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::domain::{EnvironmentId, EnvironmentKind, InstanceId, TransactionId};
use crate::telemetry::metrics::{Metrics, Outcome};

pub mod activations;
pub mod audit;
pub mod bans;
pub mod copy;
pub mod decisions;
pub mod devices;
mod engine;
pub mod environment;
mod error;
pub mod freezes;
mod health;
pub mod idempotency;
pub mod instances;
pub mod kem_keys;
mod leases;
pub mod limits;
mod location;
mod operation;
pub mod operator_commands;
pub mod profiles;
mod readers;
pub mod replay;
pub mod retention;
pub mod schema;
pub mod sessions;
pub mod shares;
pub mod spends;
pub mod steps;
pub mod transactions;
pub mod two_factor;
mod writer;

use engine::Connection;

pub use audit::chain::LinkHash;
pub use audit::{AuditEvent, AuditOutcome, AuditRecord};
pub use environment::EnvironmentRecord;
pub use error::{CommitError, StoreError};
pub use location::{Location, Password, PostgresOptions};
pub(crate) use operation::Upkeep;
pub use operation::{Key, Operation, Reads, Tx};
pub use readers::Reader;
pub use writer::Reservation;

/// Operations in one transaction.
const GROUP: usize = 64;
/// Readers of a SQLite file.
const SQLITE_READERS: usize = 4;

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

impl<T, E> Committed<Result<T, E>> {
    /// The one of two results that was committed.
    ///
    /// # Errors
    /// The other one.
    pub fn transpose(self) -> Result<Committed<T>, E> {
        self.value.map(|value| Committed { value })
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
    /// Where freezes of more than a profile are placed, and where it is waited for what looked before them: on a server by
    /// two connections of their own, so that neither waits behind what hangs.
    freezing: writer::Writer,
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
        let (leases, freezing) = if alone {
            (writer.clone(), writer.clone())
        } else {
            let connection = || Connection::writer(&location);
            let apart =
                |connections| writer::Writer::start(&location, &health, connections, None, 1);
            (
                apart(vec![connection().await?]),
                apart(vec![connection().await?, connection().await?]),
            )
        };
        Ok(Self {
            readers: readers::Readers::new(location, health.clone(), readers),
            writer,
            leases,
            freezing,
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

    /// As [`Store::conclude`], for what must not wait behind operations that have nothing to do with it: on a server it has
    /// a connection of its own. In which order it and others run is not said; on one key they exclude each other as ever.
    ///
    /// # Errors
    /// As [`Store::conclude`].
    pub async fn conclude_apart<O: Operation>(
        &self,
        operation: O,
    ) -> Result<Committed<O::Output>, CommitError<O::Refusal>> {
        let started = Instant::now();
        let result = self.freezing.conclude(operation).await;
        count(self.metrics.as_deref(), started, result)
    }

    /// Answers once every operation is over that has looked at freezes before this began: what is placed by now, all that
    /// comes later has seen.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails, or one of them takes too long.
    pub async fn pass_freezes(&self) -> Result<(), StoreError> {
        self.freezing.insist(freezes::Pass).await
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
