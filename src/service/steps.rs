//! One protocol step, from admission to conclusion.
//!
//! SECURITY: the whole of it runs in a tracked task. A client that closes its connection cancels
//! nothing: a check that started always ends in a durable verdict (A03).

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use super::Error;
use super::admission::Admission;
use super::instances::Membership;
use super::running::{Entered, Running};
use super::turns::{Turn, Turns};
use crate::custody::{Custody, Failure, Message, Product, Verdict};
use crate::domain::{InstanceId, OperationId, SessionId, SessionKind, SessionState, Suspicion};
use crate::gate;
use crate::limits::InForce;
use crate::policy::Policy;
use crate::sessions::conclude::{Conclude, Concluded, Effect, Gone};
use crate::sessions::lifecycle::{Left, Orphan};
use crate::sessions::{Lifetimes, Refusal};
use crate::store::profiles::ProfileRow;
use crate::store::sessions::SessionRow;
use crate::store::transactions::TransactionRow;
use crate::store::{CommitError, Operation, Reservation, Store, StoreError, instances, steps};
use crate::telemetry::metrics::Metrics;

/// Pause before a conclusion is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What a step runs for.
pub struct Admitted {
    /// The session, as it stands while the step runs.
    pub session: SessionRow,
    /// The permit it runs under.
    pub permit_id: OperationId,
    /// The transaction that is signed, in a signing session.
    pub transaction: Option<TransactionRow>,
}

/// Runs steps.
pub struct Steps {
    /// The database.
    pub store: Store,
    /// The shares.
    pub custody: Arc<Custody>,
    /// The rules.
    pub policy: Policy,
    /// How much there may be of what they allow.
    pub limits: Arc<InForce>,
    /// This process.
    pub instance: InstanceId,
    /// Its place among the processes of this database.
    pub membership: Arc<Membership>,
    /// How long sessions live.
    pub lifetimes: Lifetimes,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Running requests, for an orderly stop.
    pub tasks: TaskTracker,
    /// Sessions whose step is between its admission and its conclusion.
    pub running: Running,
    /// One check at a time for each key.
    pub turns: Turns,
}

impl Steps {
    /// Runs a whole request in a tracked task, so that a client that goes away cancels nothing and
    /// the answer it missed is remembered.
    ///
    /// # Errors
    /// As the request; [`Error::Internal`] when its task died.
    pub async fn detached<R: Send + 'static>(
        &self,
        request: impl Future<Output = Result<R, Error>> + Send + 'static,
    ) -> Result<R, Error> {
        let done = self.tasks.spawn(request).await;
        match done.unwrap_or(Err(Error::Internal)) {
            Err(Error::Elsewhere(owner)) => Err(self.elsewhere(owner).await),
            done => self.count_frozen(done),
        }
    }

    /// A session whose state is in the memory of another instance goes on there, while that one lives.
    async fn elsewhere(&self, owner: InstanceId) -> Error {
        let found = async {
            let mut reader = self.store.reader().await?;
            instances::find_living(&mut reader, owner).await
        };
        match found.await {
            Ok(Some(_)) => Error::Elsewhere(owner),
            Ok(None) => Error::SessionLost,
            Err(error) => error.into(),
        }
    }

    /// Admits a step, runs it and concludes it. `finish` says what the product is worth and what
    /// the wallet is told. To be called inside [`Steps::detached`].
    ///
    /// The place of the conclusion is reserved before anything begins: whatever waits in the queue,
    /// a verdict finds its place.
    ///
    /// # Errors
    /// As the admission, the step or the conclusion says.
    pub async fn run<A, R>(
        &self,
        admission: A,
        id: SessionId,
        kind: SessionKind,
        message: Message,
        finish: impl FnOnce(&Admitted, Product) -> (Effect, Result<R, Error>) + Send,
    ) -> Result<R, Error>
    where
        A: Operation<Output = Admission>,
        A::Refusal: Into<Error>,
        R: Send + 'static,
    {
        let place = self.custody.queue(kind).ok_or(Error::Overloaded)?;
        let slot = self.custody.slot(place).await;
        // What is not admitted when this process stops is never begun: it could be cut off.
        if self.tasks.is_closed() {
            return Err(Error::Overloaded);
        }
        let place = self.store.reserve()?;
        let running = self.running.enter(id);
        if !self.membership.holds() {
            return Err(Error::LeaseLapsed);
        }
        if self.custody.guard().is_stopped() {
            return Err(Error::DuoNodeUnavailable);
        }
        let permit = match self.store.commit(admission).await {
            Ok(admitted) => admitted.transpose(),
            Err(error) => return Err(self.refused(id, error.into())),
        };
        let Ok(permit) = permit else {
            self.custody.forget(id);
            return Err(Error::Contradiction);
        };
        running.begin();
        self.metrics.permit_given();
        self.metrics.step_recorded();
        let admitted = Admitted {
            session: permit.get().session().clone(),
            permit_id: permit.get().id(),
            transaction: permit.get().transaction().cloned(),
        };
        let ot_setup = permit.get().ot_setup();
        let turn = self.turns.take(admitted.session.profile_id).await;
        let verdict = if turn.is_some() {
            let custody = Arc::clone(&self.custody);
            let step = tokio::spawn(async move { custody.step(permit, slot, message).await });
            let verdict = step.await;
            let profile = admitted.session.profile_id;
            verdict.unwrap_or_else(|_| self.custody.after_panic(profile, ot_setup))
        } else {
            Verdict::NotRun
        };
        let (effect, reply) = judge(&admitted, verdict, running.judge(), finish);
        if matches!(effect, Effect::Abort { .. } | Effect::Ban { .. }) {
            self.custody.forget(id);
        }
        let conclusion = Conclude {
            session: admitted.session,
            permit_id: admitted.permit_id,
            ot_setup,
            effect,
            lifetimes: self.lifetimes,
        };
        self.settle(conclusion, (place, running, turn)).await?;
        reply
    }

    /// Makes a conclusion durable, and a ban certain, before anybody is answered.
    async fn settle(
        &self,
        conclusion: Conclude,
        (place, running, turn): (Reservation, Entered, Option<Turn>),
    ) -> Result<(), Error> {
        let (may_ban, caught) = (conclusion.effect.may_ban(), conclusion.caught());
        let ordinary = conclusion.session.kind == SessionKind::Sign
            && matches!(conclusion.effect, Effect::Advance);
        let insist = self.insist(conclusion, place, running);
        let durable = async move {
            let _turn = turn;
            insist.await
        };
        // The one answer that does not wait for its record: the next message of the session is admitted
        // behind it in any case, and losing it counts as a suspect event.
        if ordinary {
            self.tasks.spawn(durable);
            return Ok(());
        }
        let concluded = durable.await;
        if may_ban {
            self.custody.guard().secure(caught).await;
        }
        match concluded {
            Ok(Concluded::AsItEnded) => Ok(()),
            Ok(Concluded::Frozen(scope)) => Err(Error::ProfileFrozen(scope)),
            Err(Gone) => Err(Refusal::Lost.into()),
        }
    }

    /// Whether a profile's key may be used, as far as anybody can see now: first whether it is frozen, then its key.
    /// Looked at again inside each operation.
    ///
    /// # Errors
    /// [`Error`] says why not.
    pub async fn usable(&self, profile: &ProfileRow) -> Result<(), Error> {
        let mut reader = self.store.reader().await?;
        gate::not_frozen(&mut reader, profile.profile_id, &profile.tenant).await?;
        crate::sessions::usable(profile)?;
        Ok(())
    }

    /// Counts a request that a freeze refused.
    ///
    /// # Errors
    /// Those of the request.
    pub fn count_frozen<R>(&self, answer: Result<R, Error>) -> Result<R, Error> {
        if let Err(Error::ProfileFrozen(scope)) = &answer {
            self.metrics.frozen_denied(*scope);
            tracing::info!(scope = scope.as_str(), "a freeze refused a request");
        }
        answer
    }

    /// A message that contradicts the one that is being checked ends the session together with that check.
    fn refused(&self, id: SessionId, error: Error) -> Error {
        match error {
            Error::Contradiction if !self.running.contradict(id) => Refusal::Busy.into(),
            error => error,
        }
    }

    /// Commits a conclusion, however long the store is away. A verdict is never dropped, and the key
    /// stays locked until it is durable. It is handed over at once; the future waits for its answer.
    fn insist(
        &self,
        conclusion: Conclude,
        place: Reservation,
        running: Entered,
    ) -> impl Future<Output = Result<Concluded, Gone>> + Send + use<> {
        let store = self.store.clone();
        let first = store.conclude_reserved(conclusion.clone(), place);
        async move {
            let _running = running;
            let mut answer = first.await;
            let mut maybe_done = false;
            loop {
                match answer {
                    Ok(done) => return Ok(done.into_inner()),
                    // An earlier try, whose outcome was unknown, was committed after all.
                    Err(CommitError::Refused(Gone)) if maybe_done => {
                        return earlier(&store, &conclusion).await;
                    }
                    Err(CommitError::Refused(Gone)) => return Err(Gone),
                    Err(CommitError::Store(error)) => {
                        maybe_done |= matches!(error, StoreError::OutcomeUnknown(_));
                        error.log("a step ended and is not concluded yet");
                        tokio::time::sleep(RETRY).await;
                    }
                }
                answer = store.conclude(conclusion.clone()).await;
            }
        }
    }

    /// Ends checks of this process that nobody runs: an admission whose COMMIT was answered with a
    /// failure and happened all the same. `before` holds those that were found the last time;
    /// only what is found twice is ended, because a step may just have begun or ended.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn end_forgotten(
        &self,
        before: &HashSet<SessionId>,
    ) -> Result<HashSet<SessionId>, StoreError> {
        let mut reader = self.store.reader().await?;
        let checking = crate::store::sessions::checking(&mut reader, self.instance).await?;
        drop(reader);
        let mut found = HashSet::new();
        for session in checking {
            let id = session.session_id;
            if self.running.contains(id) {
                continue;
            }
            if !before.contains(&id) {
                found.insert(id);
                continue;
            }
            tracing::error!(session = %id, "a check that nobody runs is ended");
            let left = Left::Forgotten;
            let orphan = Orphan { session, left };
            if let Err(CommitError::Store(error)) = self.store.conclude(orphan).await {
                return Err(error);
            }
        }
        Ok(found)
    }
}

/// How an earlier try of a conclusion ended that nobody could say the outcome of. What it was to end may have been ended by
/// others meanwhile. SECURITY: a signature that was not stored is not told.
async fn earlier(store: &Store, conclusion: &Conclude) -> Result<Concluded, Gone> {
    if !matches!(conclusion.effect, Effect::Sign { .. }) {
        return Ok(Concluded::AsItEnded);
    }
    loop {
        let stored = async {
            let mut reader = store.reader().await?;
            steps::passed(&mut reader, conclusion.permit_id).await
        };
        match stored.await {
            Ok(true) => return Ok(Concluded::AsItEnded),
            // The next attempt, if there may be one, learns why.
            Ok(false) => return Err(Gone),
            Err(error) => {
                error.log("the outcome of a conclusion is not known yet");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// What a verdict means for the session and for the wallet. Nothing but a verdict ends a check: when ours is lost in
/// a panic, or is one that the session cannot take, nobody knows what the wallet was about to learn.
fn judge<R>(
    admitted: &Admitted,
    verdict: Verdict,
    contradicted: bool,
    finish: impl FnOnce(&Admitted, Product) -> (Effect, Result<R, Error>),
) -> (Effect, Result<R, Error>) {
    let session = &admitted.session;
    let round = round(session);
    let finish = |product| {
        let finished = catch_unwind(AssertUnwindSafe(|| finish(admitted, product)));
        finished.unwrap_or_else(|_| no_verdict("the step ended in a panic"))
    };
    let (effect, reply) = match verdict {
        Verdict::Done(product) => finish(product),
        Verdict::NotRun => (Effect::NotRun, Err(Error::DuoNodeUnavailable)),
        Verdict::Ban { reason, emptied } => {
            tracing::error!(profile = %session.profile_id, session = %session.session_id, reason, "the counterparty is banned");
            let effect = Effect::Ban { reason, emptied };
            (effect, Err(Error::MpcFailed(round)))
        }
        Verdict::Banned => {
            let effect = Effect::Ban {
                reason: "on the list of bans".to_owned(),
                emptied: None,
            };
            (effect, Err(Refusal::Quarantined.into()))
        }
        Verdict::Recoverable {
            failure,
            reason,
            suspicion,
        } => (
            Effect::Abort { reason, suspicion },
            Err(answer(failure, session.kind, round)),
        ),
    };
    if !effect.fits(session) {
        return no_verdict("the step made something else");
    }
    if contradicted && !matches!(effect, Effect::Abort { .. } | Effect::Ban { .. }) {
        let effect = Effect::Abort {
            reason: "another message came for the same step".to_owned(),
            suspicion: Suspicion::None,
        };
        return (effect, Err(Error::Contradiction));
    }
    (effect, reply)
}

fn no_verdict<R>(reason: &str) -> (Effect, Result<R, Error>) {
    tracing::error!(reason, "a check has no verdict");
    let effect = Effect::Abort {
        reason: reason.to_owned(),
        suspicion: Suspicion::NoVerdict,
    };
    (effect, Err(Error::Internal))
}

const fn round(session: &SessionRow) -> u8 {
    match session.state {
        SessionState::Round1Checking => 1,
        SessionState::Round2Checking => 2,
        _ => 3,
    }
}

const fn answer(failure: Failure, kind: SessionKind, round: u8) -> Error {
    match failure {
        Failure::UnsupportedVersion => Error::UnsupportedVersion,
        Failure::BadMessage => Error::InvalidKeyShare("The message is not one of this round"),
        Failure::BadShare => Error::InvalidKeyShare("Key share not found or corrupted"),
        Failure::Lost => Error::SessionLost,
        Failure::Unavailable => Error::ShareNotSealed,
        Failure::Failed => match kind {
            SessionKind::Keygen => Error::InvalidKeyShare("The wallet's share was refused"),
            SessionKind::Sign => Error::MpcFailed(round),
        },
    }
}

#[cfg(test)]
mod tests;
