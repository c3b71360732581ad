//! What waits in a lane's queue: operations and upkeep, their types erased.

use std::pin::Pin;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::clock;
use crate::domain::OperationId;
use crate::store::engine::{Connection, EngineError, Lock};
use crate::store::{CommitError, Committed, Key, Operation, StoreError, Tx, Upkeep, audit};

/// How an operation ended, in its own types.
pub(super) type Outcome<O> =
    Result<Committed<<O as Operation>::Output>, CommitError<<O as Operation>::Refusal>>;

type Applying<'a> = Pin<Box<dyn Future<Output = Applied> + Send + 'a>>;

/// What an operation did inside the transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Applied {
    /// Its rows and its record are written.
    Done,
    /// It changed nothing, and that is right.
    Idle,
    /// It refused: nothing of it may stay.
    Refused,
    /// A statement failed: nothing of it may stay.
    Failed,
}

/// What became of the transaction.
pub(super) enum Fate {
    /// It is over as was meant to be: what is done is committed, what refused is rolled back.
    Settled,
    /// It left nothing behind.
    Failed(EngineError),
    /// Nobody can say.
    Unknown,
}

pub(super) trait Job: Send {
    /// What it excludes others from.
    fn locks(&self) -> Vec<Lock>;
    fn apply<'a>(&'a mut self, connection: &'a mut Connection) -> Applying<'a>;
    /// Why the last try failed, if it did.
    fn failure(&self) -> Option<&StoreError>;
    /// The record that the last try wrote.
    fn record(&self) -> Option<OperationId>;
    fn answer(self: Box<Self>, fate: Fate);
}

/// An operation, the place it takes and whom to answer.
pub(super) struct Queued<O: Operation> {
    operation: O,
    operation_id: OperationId,
    result: Option<Result<O::Output, CommitError<O::Refusal>>>,
    reply: oneshot::Sender<Outcome<O>>,
    _place: OwnedSemaphorePermit,
}

impl<O: Operation> Queued<O> {
    pub(super) fn new(
        operation: O,
        place: OwnedSemaphorePermit,
        reply: oneshot::Sender<Outcome<O>>,
    ) -> Self {
        Self {
            operation,
            operation_id: OperationId::generate(),
            result: None,
            reply,
            _place: place,
        }
    }

    async fn run(
        &mut self,
        connection: &mut Connection,
    ) -> Result<O::Output, CommitError<O::Refusal>> {
        // A second try is another operation: the first one's id stays unused.
        self.operation_id = OperationId::generate();
        let mut tx = Tx::new(connection, self.operation_id, clock::now());
        let (value, record) = self.operation.apply(&mut tx).await?;
        audit::insert(&mut tx, &record).await?;
        Ok(value)
    }
}

impl<O: Operation> Job for Queued<O> {
    fn locks(&self) -> Vec<Lock> {
        let own = [self.operation.key(), self.operation.also()];
        let own = own.into_iter().filter_map(Key::number).map(Lock::alone);
        let looked_at = self.operation.looks_at().number().map(Lock::shared);
        own.chain(looked_at).collect()
    }

    fn apply<'a>(&'a mut self, connection: &'a mut Connection) -> Applying<'a> {
        Box::pin(async move {
            let result = self.run(connection).await;
            let applied = match &result {
                Ok(_) => Applied::Done,
                Err(CommitError::Refused(_)) => Applied::Refused,
                Err(CommitError::Store(_)) => Applied::Failed,
            };
            self.result = Some(result);
            applied
        })
    }

    fn failure(&self) -> Option<&StoreError> {
        match &self.result {
            Some(Err(CommitError::Store(error))) => Some(error),
            _ => None,
        }
    }

    fn record(&self) -> Option<OperationId> {
        matches!(self.result, Some(Ok(_))).then_some(self.operation_id)
    }

    fn answer(self: Box<Self>, fate: Fate) {
        let answer = match (fate, self.result) {
            (Fate::Settled, Some(Ok(value))) => Ok(Committed { value }),
            (Fate::Settled, Some(Err(CommitError::Refused(refusal)))) => {
                Err(CommitError::Refused(refusal))
            }
            (Fate::Unknown, Some(Ok(_))) => {
                Err(StoreError::OutcomeUnknown(self.operation_id).into())
            }
            // Its own error says more than the end of the transaction.
            (_, Some(Err(CommitError::Store(error)))) => Err(error.into()),
            (Fate::Failed(error), _) => Err(StoreError::Unavailable(error).into()),
            (_, _) => Err(StoreError::Unavailable(EngineError::Gone).into()),
        };
        // The caller may be gone; the operation has happened all the same.
        drop(self.reply.send(answer));
    }
}

/// Upkeep, the place it takes and whom to answer.
pub(super) struct Task<U: Upkeep> {
    upkeep: U,
    result: Option<Result<U::Output, StoreError>>,
    reply: oneshot::Sender<Result<U::Output, StoreError>>,
    _place: OwnedSemaphorePermit,
}

impl<U: Upkeep> Task<U> {
    pub(super) const fn new(
        upkeep: U,
        place: OwnedSemaphorePermit,
        reply: oneshot::Sender<Result<U::Output, StoreError>>,
    ) -> Self {
        Self {
            upkeep,
            result: None,
            reply,
            _place: place,
        }
    }
}

impl<U: Upkeep> Job for Task<U> {
    fn locks(&self) -> Vec<Lock> {
        let own = self.upkeep.key().number();
        own.map(Lock::alone).into_iter().collect()
    }

    fn apply<'a>(&'a mut self, connection: &'a mut Connection) -> Applying<'a> {
        Box::pin(async move {
            let mut tx = Tx::new(connection, OperationId::generate(), clock::now());
            let result = self.upkeep.apply(&mut tx).await;
            let applied = match &result {
                Ok(_) if tx.changed() => Applied::Done,
                Ok(_) => Applied::Idle,
                Err(_) => Applied::Failed,
            };
            self.result = Some(result);
            applied
        })
    }

    fn failure(&self) -> Option<&StoreError> {
        self.result.as_ref()?.as_ref().err()
    }

    fn record(&self) -> Option<OperationId> {
        None
    }

    fn answer(self: Box<Self>, fate: Fate) {
        let answer = match (fate, self.result) {
            (Fate::Settled, Some(result)) => result,
            (_, Some(Err(error))) => Err(error),
            (Fate::Failed(error), _) => Err(StoreError::Unavailable(error)),
            (_, _) => Err(StoreError::Unavailable(EngineError::Gone)),
        };
        drop(self.reply.send(answer));
    }
}
