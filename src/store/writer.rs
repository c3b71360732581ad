//! The one writer: a task that owns the writing connection and runs operations in order.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use sqlx::{Connection, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use super::sqlite::{self, Tx};
use super::{CommitError, Committed, Operation, StoreError, audit, transactions};
use crate::clock::{self, Timestamp};
use crate::domain::{OperationId, TransactionId};

/// Operations that may wait. More are shed: a queue that grows without bound answers nobody in time.
const QUEUE: usize = 1024;

type Run<'a> = Pin<Box<dyn Future<Output = Health> + Send + 'a>>;

/// Whether the connection can be used for the next operation.
#[derive(PartialEq, Eq)]
enum Health {
    Good,
    Doubtful,
}

/// An operation whose types are erased, so that the queue can hold any.
trait Job: Send {
    fn run<'a>(self: Box<Self>, connection: &'a mut SqliteConnection, path: &'a Path) -> Run<'a>;
}

/// How an operation ended, in its own types.
type Outcome<O> =
    Result<Committed<<O as Operation>::Output>, CommitError<<O as Operation>::Refusal>>;

struct Queued<O: Operation> {
    operation: O,
    reply: oneshot::Sender<Outcome<O>>,
}

impl<O: Operation> Job for Queued<O> {
    fn run<'a>(
        mut self: Box<Self>,
        connection: &'a mut SqliteConnection,
        path: &'a Path,
    ) -> Run<'a> {
        Box::pin(async move {
            let (result, health) = execute(&mut self.operation, connection, path).await;
            // The caller may be gone; the operation has happened all the same.
            drop(self.reply.send(result));
            health
        })
    }
}

/// The hash of a link: of the link before it and the record it covers.
pub type LinkHash = fn(&[u8; 32], &audit::StoredRecord) -> [u8; 32];

/// Chains records that are committed already. It is no [`Operation`]: it changes no state that needs
/// a record, and a record of every chaining would never end.
struct Sequence {
    hash: LinkHash,
    reply: oneshot::Sender<Result<usize, StoreError>>,
}

/// Records chained in one transaction.
const CHAIN_BATCH: i64 = 256;

impl Job for Sequence {
    fn run<'a>(self: Box<Self>, connection: &'a mut SqliteConnection, _: &'a Path) -> Run<'a> {
        Box::pin(async move {
            let result = sequence(self.hash, connection).await;
            let health = match &result {
                Ok(_) => Health::Good,
                Err(_) => Health::Doubtful,
            };
            drop(self.reply.send(result));
            health
        })
    }
}

/// Puts the next look at a transaction off. When we look again is no state of anything, so it
/// leaves no record.
struct Postpone {
    transaction: TransactionId,
    until: Timestamp,
    reply: oneshot::Sender<Result<(), StoreError>>,
}

impl Job for Postpone {
    fn run<'a>(self: Box<Self>, connection: &'a mut SqliteConnection, _: &'a Path) -> Run<'a> {
        Box::pin(async move {
            let result = transactions::postpone(connection, self.transaction, self.until).await;
            drop(self.reply.send(result));
            Health::Good
        })
    }
}

async fn sequence(hash: LinkHash, connection: &mut SqliteConnection) -> Result<usize, StoreError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let mut tx = Tx::new(&mut transaction, OperationId::generate(), clock::now());
    let records = audit::unchained(&mut tx, CHAIN_BATCH).await?;
    let (mut position, mut previous) = audit::head(&mut tx).await?.unwrap_or((0, [0; 32]));
    for record in &records {
        position += 1;
        let link = audit::Link {
            position,
            operation_id: record.operation_id.clone(),
            previous_hash: previous,
            hash: hash(&previous, record),
        };
        audit::append(&mut tx, &link).await?;
        previous = link.hash;
    }
    transaction.commit().await?;
    Ok(records.len())
}

/// The handle to the writer task.
#[derive(Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Box<dyn Job>>,
}

impl Writer {
    /// Starts the task. It owns the process lock and ends when every handle is gone.
    pub(super) fn start(path: PathBuf, connection: SqliteConnection, lock: File) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE);
        tokio::spawn(work(path, connection, lock, jobs));
        Self { queue }
    }

    pub(super) async fn commit<O: Operation>(
        &self,
        operation: O,
    ) -> Result<Committed<O::Output>, CommitError<O::Refusal>> {
        let (reply, answer) = oneshot::channel();
        self.queue
            .try_send(Box::new(Queued { operation, reply }))
            .map_err(|error| shed(&error))?;
        answer.await.unwrap_or(Err(CommitError::Store(crashed())))
    }

    /// As [`Writer::commit`], but waits for a place instead of being shed. A waiter goes before
    /// everything that is handed over later.
    pub(super) async fn conclude<O: Operation>(&self, operation: O) -> Outcome<O> {
        let (reply, answer) = oneshot::channel();
        self.queue
            .send(Box::new(Queued { operation, reply }))
            .await
            .map_err(|_| crashed())?;
        answer.await.unwrap_or(Err(CommitError::Store(crashed())))
    }

    /// Chains unchained records; see [`super::Store::extend_chain`].
    pub(super) async fn extend_chain(&self, hash: LinkHash) -> Result<usize, StoreError> {
        self.maintain(|reply| Box::new(Sequence { hash, reply }))
            .await
    }

    /// Puts a look off; see [`super::Store::postpone`].
    pub(super) async fn postpone(
        &self,
        transaction: TransactionId,
        until: Timestamp,
    ) -> Result<(), StoreError> {
        self.maintain(|reply| {
            Box::new(Postpone {
                transaction,
                until,
                reply,
            })
        })
        .await
    }

    async fn maintain<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Box<dyn Job>,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.queue
            .try_send(job(reply))
            .map_err(|error| shed(&error))?;
        answer.await.unwrap_or(Err(crashed()))
    }

    pub(super) fn ping(&self) -> Result<(), StoreError> {
        if self.queue.is_closed() {
            return Err(crashed());
        }
        Ok(())
    }
}

fn crashed() -> StoreError {
    StoreError::Unavailable(sqlx::Error::WorkerCrashed)
}

fn shed<T>(error: &mpsc::error::TrySendError<T>) -> StoreError {
    match error {
        mpsc::error::TrySendError::Full(_) => StoreError::Overloaded,
        mpsc::error::TrySendError::Closed(_) => crashed(),
    }
}

async fn work(
    path: PathBuf,
    mut connection: SqliteConnection,
    lock: File,
    mut jobs: mpsc::Receiver<Box<dyn Job>>,
) {
    while let Some(job) = jobs.recv().await {
        if job.run(&mut connection, &path).await == Health::Doubtful {
            match sqlite::reconnect_writer(&path, false).await {
                Ok(fresh) => connection = fresh,
                Err(error) => tracing::error!(?error, "the database cannot be opened again"),
            }
        }
    }
    if let Err(error) = connection.close().await {
        tracing::warn!(?error, "the database was not closed cleanly");
    }
    drop(lock);
}

async fn execute<O: Operation>(
    operation: &mut O,
    connection: &mut SqliteConnection,
    path: &Path,
) -> (Outcome<O>, Health) {
    let operation_id = OperationId::generate();
    let mut transaction = match connection.begin_with("BEGIN IMMEDIATE").await {
        Ok(transaction) => transaction,
        Err(error) => return (Err(StoreError::from(error).into()), Health::Doubtful),
    };
    let mut tx = Tx::new(&mut transaction, operation_id, clock::now());
    let applied = match operation.apply(&mut tx).await {
        Ok((value, record)) => audit::insert(&mut tx, &record)
            .await
            .map(|()| value)
            .map_err(CommitError::Store),
        Err(refused) => Err(refused),
    };
    match applied {
        Ok(value) => match transaction.commit().await {
            Ok(()) => (Ok(Committed { value }), Health::Good),
            Err(error) => look_up::<O>(connection, path, (operation_id, value), error).await,
        },
        Err(error) => match transaction.rollback().await {
            Ok(()) => (Err(error), Health::Good),
            Err(_) => (Err(error), Health::Doubtful),
        },
    }
}

/// An unknown outcome is not a failure: the record says whether COMMIT happened.
async fn look_up<O: Operation>(
    connection: &mut SqliteConnection,
    path: &Path,
    (operation_id, value): (OperationId, O::Output),
    error: sqlx::Error,
) -> (Outcome<O>, Health) {
    tracing::error!(%operation_id, ?error, "COMMIT failed");
    // A COMMIT that failed may leave the transaction open, and inside it the record is visible: only
    // another connection knows what is on disk, and the old one must let go of its lock first.
    let unknown = || StoreError::OutcomeUnknown(operation_id).into();
    let fresh = match sqlx::query("ROLLBACK").execute(&mut *connection).await {
        Ok(_) | Err(sqlx::Error::Database(_)) => sqlite::reconnect_writer(path, false).await,
        Err(error) => Err(error.into()),
    };
    let Ok(fresh) = fresh else {
        return (Err(unknown()), Health::Doubtful);
    };
    *connection = fresh;
    match audit::exists(connection, operation_id).await {
        Ok(true) => (Ok(Committed { value }), Health::Good),
        Ok(false) => (Err(StoreError::Unavailable(error).into()), Health::Good),
        Err(_) => (Err(unknown()), Health::Doubtful),
    }
}
