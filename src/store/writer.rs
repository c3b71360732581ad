//! Group commit: the tasks that own the writing connections and run operations in order.
//!
//! A lane takes what waits in its queue, runs it as one transaction with a savepoint between
//! operations, and answers after COMMIT: one fsync pays for all of them. An operation that refuses or
//! fails is rolled back alone; when the transaction itself is lost, each operation is run again on its own.
//!
//! SQLite has one lane, on a thread of its own. PostgreSQL has several; what concerns one key always
//! goes to the same one, so operations on a key run in the order in which they were handed over.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::engine::{Connection, EngineError, Lock};
use super::health::Health;
use super::{CommitError, Key, Location, Operation, StoreError, Upkeep, audit};
mod job;

use job::{Applied, Fate, Job, Outcome, Queued, Task};

/// Admissions that may wait. More are shed: a queue that grows without bound answers nobody in time.
const QUEUE: usize = 1024;
/// Conclusions that may wait or be reserved.
const RESERVED: usize = 1024;
/// Longest wait for a connection before what waits for it is told that the database is away.
const PATIENCE: Duration = Duration::from_secs(3);
/// After that, for how long nobody waits again.
const AWAY: Duration = Duration::from_millis(500);
/// Pause between two tries to connect, doubled up to a second.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// A place in the queue for the operation that ends what an admission begins.
#[must_use = "a reservation that is dropped is free for others"]
pub struct Reservation(OwnedSemaphorePermit);

/// The handle to the lanes.
#[derive(Clone)]
pub(super) struct Writer {
    lanes: Arc<[mpsc::UnboundedSender<Box<dyn Job>>]>,
    admissions: Arc<Semaphore>,
    conclusions: Arc<Semaphore>,
}

impl Writer {
    /// Starts the lanes over connections that are open already. SQLite's owns the process lock.
    pub(super) fn start(
        location: &Arc<Location>,
        health: &Health,
        connections: Vec<Connection>,
        lock: Option<File>,
        batch: usize,
    ) -> Self {
        let mut lock = lock;
        let lanes = connections
            .into_iter()
            .map(|connection| {
                let (lane, jobs) = mpsc::unbounded_channel();
                let work = Lane {
                    location: Arc::clone(location),
                    health: health.clone(),
                    connection: Some(connection),
                    away_until: None,
                    batch,
                    _lock: lock.take(),
                };
                match **location {
                    Location::Sqlite(_) => {
                        let runtime = Handle::current();
                        std::thread::spawn(move || runtime.block_on(work.run(jobs)));
                    }
                    Location::Postgres(_) => drop(tokio::spawn(work.run(jobs))),
                }
                lane
            })
            .collect();
        Self {
            lanes,
            admissions: Arc::new(Semaphore::new(QUEUE)),
            conclusions: Arc::new(Semaphore::new(RESERVED)),
        }
    }

    pub(super) fn reserve(&self) -> Result<Reservation, StoreError> {
        Arc::clone(&self.conclusions)
            .try_acquire_owned()
            .map(Reservation)
            .map_err(|_| StoreError::Overloaded)
    }

    /// Hands an admission over, if there is a place for it.
    pub(super) async fn commit<O: Operation>(&self, operation: O) -> Outcome<O> {
        let place = Arc::clone(&self.admissions)
            .try_acquire_owned()
            .map_err(|_| StoreError::Overloaded)?;
        self.hand_over(operation, place).await
    }

    /// Hands over an operation that ends something, as soon as there is a place.
    pub(super) async fn conclude<O: Operation>(&self, operation: O) -> Outcome<O> {
        let place = Arc::clone(&self.conclusions).acquire_owned().await;
        let place = place.map_err(|_| gone())?;
        self.hand_over(operation, place).await
    }

    /// Hands over the operation that a place was reserved for; at once, before it is awaited.
    pub(super) fn conclude_reserved<O: Operation>(
        &self,
        operation: O,
        place: Reservation,
    ) -> impl Future<Output = Outcome<O>> + Send + use<O> {
        self.hand_over(operation, place.0)
    }

    fn hand_over<O: Operation>(
        &self,
        operation: O,
        place: OwnedSemaphorePermit,
    ) -> impl Future<Output = Outcome<O>> + Send + use<O> {
        let key = operation.key();
        let (reply, answer) = oneshot::channel();
        self.send(key, Box::new(Queued::new(operation, place, reply)));
        async move { answer.await.unwrap_or(Err(CommitError::Store(gone()))) }
    }

    /// Runs upkeep in the same queue, if there is a place for it.
    pub(super) async fn maintain<U: Upkeep>(&self, upkeep: U) -> Result<U::Output, StoreError> {
        let place = Arc::clone(&self.admissions)
            .try_acquire_owned()
            .map_err(|_| StoreError::Overloaded)?;
        self.hand_over_upkeep(upkeep, place).await
    }

    /// As [`Writer::maintain`], for upkeep that must not be shed.
    pub(super) async fn insist<U: Upkeep>(&self, upkeep: U) -> Result<U::Output, StoreError> {
        let place = Arc::clone(&self.conclusions).acquire_owned().await;
        let place = place.map_err(|_| gone())?;
        self.hand_over_upkeep(upkeep, place).await
    }

    async fn hand_over_upkeep<U: Upkeep>(
        &self,
        upkeep: U,
        place: OwnedSemaphorePermit,
    ) -> Result<U::Output, StoreError> {
        let (reply, answer) = oneshot::channel();
        let key = upkeep.key();
        self.send(key, Box::new(Task::new(upkeep, place, reply)));
        answer.await.unwrap_or(Err(gone()))
    }

    fn send(&self, key: Key, job: Box<dyn Job>) {
        let lane = key.lane(self.lanes.len());
        if let Some(lane) = self.lanes.get(lane) {
            // A lane that is gone drops the job, and with it the promise of an answer.
            drop(lane.send(job));
        }
    }

    pub(super) fn ping(&self) -> Result<(), StoreError> {
        if self.lanes.iter().any(mpsc::UnboundedSender::is_closed) {
            return Err(gone());
        }
        Ok(())
    }
}

fn gone() -> StoreError {
    StoreError::Unavailable(EngineError::Gone)
}

/// One writing connection and what it takes to get another.
struct Lane {
    location: Arc<Location>,
    health: Health,
    connection: Option<Connection>,
    /// After a vain search for a connection: until when nobody waits for the next one.
    away_until: Option<Instant>,
    batch: usize,
    _lock: Option<File>,
}

impl Lane {
    async fn run(mut self, mut jobs: mpsc::UnboundedReceiver<Box<dyn Job>>) {
        while let Some(first) = jobs.recv().await {
            let mut batch = vec![first];
            while batch.len() < self.batch {
                let Ok(next) = jobs.try_recv() else { break };
                batch.push(next);
            }
            self.settle(batch).await;
        }
    }

    /// Runs a batch. What was lost with its transaction, or failed in it, is run once more on its own:
    /// a deadlock, a restarted server or another operation's full disk is not its fault.
    async fn settle(&mut self, batch: Vec<Box<dyn Job>>) {
        for job in self.transact(batch).await.jobs {
            let mut lost = self.transact(vec![job]).await;
            if let Some(job) = lost.jobs.pop() {
                match job.failure() {
                    Some(StoreError::Unavailable(error)) => self.health.saw(error),
                    Some(_) => {}
                    None => self.health.saw(&lost.error),
                }
                job.answer(Fate::Failed(lost.error));
            }
        }
    }

    /// Runs operations as one transaction and answers those whose fate is known; gives back the rest,
    /// which left nothing behind.
    async fn transact(&mut self, mut batch: Vec<Box<dyn Job>>) -> Lost {
        let locks: Vec<Lock> = batch.iter().flat_map(|job| job.locks()).collect();
        let mut connection = match self.begin(&locks).await {
            Ok(connection) => connection,
            Err(error) => return Lost::all(batch, error),
        };
        let applied = apply(&mut connection, &mut batch).await;
        let ended = match applied {
            Ok(true) => connection.script("COMMIT").await,
            Ok(false) => connection.script("ROLLBACK").await,
            Err(error) => {
                // Dropping the connection rolls back what may be left of the transaction.
                drop(connection);
                return Lost::all(batch, error);
            }
        };
        match ended {
            Ok(()) => {
                self.connection = Some(connection);
                if matches!(applied, Ok(true)) {
                    self.health.wrote();
                }
                Lost::after(batch)
            }
            Err(error) if matches!(applied, Ok(true)) => {
                drop(connection);
                self.look_up(batch, &locks, error).await
            }
            Err(error) => Lost::all(batch, error),
        }
    }

    /// An unknown outcome is not a failure: the records say whether COMMIT happened. Only another
    /// connection can tell, and only once the old transaction is over: on PostgreSQL it holds the locks
    /// of its keys until then, on SQLite its connection is closed.
    async fn look_up(
        &mut self,
        batch: Vec<Box<dyn Job>>,
        locks: &[Lock],
        error: EngineError,
    ) -> Lost {
        tracing::debug!(
            ?error,
            operations = batch.len(),
            "COMMIT failed; its records are looked up"
        );
        let unknown = |batch: Vec<Box<dyn Job>>| {
            for job in batch {
                job.answer(Fate::Unknown);
            }
            Lost::none()
        };
        let mut connection = match self.begin(locks).await {
            Ok(connection) => connection,
            Err(error) => {
                self.health.saw(&error);
                return unknown(batch);
            }
        };
        let recorded = batch.iter().find_map(|job| job.record());
        let committed = match recorded {
            Some(id) => audit::exists(&mut connection, id).await,
            None => Ok(false),
        };
        let ended = connection.script("ROLLBACK").await;
        if ended.is_ok() {
            self.connection = Some(connection);
        }
        match committed {
            Ok(true) => Lost::after(batch),
            Ok(false) => Lost::all(batch, error),
            Err(_) => unknown(batch),
        }
    }

    /// A transaction on a living connection. One that died while it was idle is replaced.
    async fn begin(&mut self, locks: &[Lock]) -> Result<Connection, EngineError> {
        if let Some(mut connection) = self.connection.take() {
            match connection.begin_with(locks).await {
                Ok(()) => return Ok(connection),
                Err(error) if connection.alive() => {
                    // Kept for the next; a transaction that did not begin needs no end.
                    drop(connection.script("ROLLBACK").await);
                    self.connection = Some(connection);
                    return Err(error);
                }
                Err(error) => tracing::info!(?error, "a database connection was lost"),
            }
        }
        let mut connection = self.connect().await?;
        connection.begin_with(locks).await?;
        Ok(connection)
    }

    async fn connect(&mut self) -> Result<Connection, EngineError> {
        let now = Instant::now();
        if self.away_until.is_some_and(|until| now < until) {
            return Err(EngineError::Gone);
        }
        let (end, mut pause) = (now + PATIENCE, FIRST_PAUSE);
        loop {
            let error = match Connection::writer(&self.location).await {
                Ok(connection) => {
                    self.away_until = None;
                    return Ok(connection);
                }
                Err(error) => error,
            };
            if Instant::now() + pause >= end {
                self.away_until = Some(Instant::now() + AWAY);
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }
}

/// Operations whose transaction left nothing behind, and why.
struct Lost {
    jobs: Vec<Box<dyn Job>>,
    error: EngineError,
}

impl Lost {
    const fn none() -> Self {
        Self::all(Vec::new(), EngineError::Gone)
    }

    const fn all(jobs: Vec<Box<dyn Job>>, error: EngineError) -> Self {
        Self { jobs, error }
    }

    /// Answers what a finished transaction decided; the rest failed in it.
    fn after(batch: Vec<Box<dyn Job>>) -> Self {
        let (failed, decided): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|job| job.failure().is_some());
        for job in decided {
            job.answer(Fate::Settled);
        }
        Self::all(failed, EngineError::Gone)
    }
}

/// Runs operations in a transaction, each with a savepoint to go back to; whether any of them is to be
/// committed.
async fn apply(
    connection: &mut Connection,
    batch: &mut [Box<dyn Job>],
) -> Result<bool, EngineError> {
    let alone = batch.len() == 1;
    let (mut any, mut savepoint) = (false, "SAVEPOINT operation");
    for job in batch {
        if !alone {
            connection.script(savepoint).await?;
        }
        match job.apply(connection).await {
            Applied::Done => {
                any = true;
                savepoint = "RELEASE SAVEPOINT operation; SAVEPOINT operation";
            }
            Applied::Idle => savepoint = "RELEASE SAVEPOINT operation; SAVEPOINT operation",
            Applied::Refused | Applied::Failed => {
                if !connection.in_transaction() {
                    return Err(EngineError::Gone);
                }
                // The savepoint outlives going back to it.
                savepoint = "ROLLBACK TO SAVEPOINT operation";
            }
        }
    }
    if !alone && savepoint.starts_with("ROLLBACK") {
        connection.script(savepoint).await?;
    }
    Ok(any)
}
