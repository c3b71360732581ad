//! One protocol step, from admission to conclusion.
//!
//! SECURITY: the whole of it runs in a tracked task. A client that closes its connection cancels
//! nothing: a check that started always ends in a durable verdict (A03).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use countersign_mpc::error::MpcError;
use tokio_util::task::TaskTracker;

use super::Error;
use super::instances::Membership;
use super::once::Once;
use crate::custody::{Custody, Failure, Message, Product, Verdict};
use crate::domain::{
    DeviceKeyId, InstanceId, OperationId, OwnerId, ProfileId, SessionId, SessionKind, SessionState,
    TenantId,
};
use crate::gate::{self, Permit};
use crate::identity::owner::Owner;
use crate::identity::replay::{NotSpent, RequestProof};
use crate::policy::Policy;
use crate::sessions::conclude::{Conclude, Effect, Gone};
use crate::sessions::lifecycle::{self, Left, Orphan};
use crate::sessions::{self, Arrival, Lifetimes, Refusal};
use crate::store::profiles::ProfileRow;
use crate::store::sessions::SessionRow;
use crate::store::transactions::TransactionRow;
use crate::store::{
    AuditEvent, AuditRecord, CommitError, Key, Operation, Reservation, Store, StoreError, Tx,
    instances, profiles,
};
use crate::telemetry::metrics::Metrics;

/// A session that has been idle this long gives way to a new one of the same key, in seconds.
const SUPERSEDE_AFTER: i64 = 5;
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
            done => done,
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
        A: Operation<Output = Permit>,
        A::Refusal: Into<Error>,
        R: Send + 'static,
    {
        let place = self.custody.queue(kind).ok_or(Error::Overloaded)?;
        let slot = self.custody.slot(place).await;
        let place = self.store.reserve()?;
        let running = self.running.enter(id);
        if !self.membership.holds() {
            return Err(Error::LeaseLapsed);
        }
        if self.custody.guard().is_stopped() {
            return Err(Error::DuoNodeUnavailable);
        }
        let permit = self.store.commit(admission).await?;
        self.metrics.permit_given();
        self.metrics.step_recorded();
        let admitted = Admitted {
            session: permit.get().session().clone(),
            permit_id: permit.get().id(),
            transaction: permit.get().transaction().cloned(),
        };
        let custody = Arc::clone(&self.custody);
        let verdict = tokio::spawn(async move { custody.step(permit, slot, message).await });
        let verdict = verdict.await.unwrap_or_else(|_| MpcError::Panicked.into());
        let (conclusion, reply) = self.judge(admitted, verdict, finish);
        let may_ban = conclusion.effect.may_ban();
        let ordinary = kind == SessionKind::Sign && matches!(conclusion.effect, Effect::Advance);
        let durable = self.insist(conclusion, place, running);
        // The one answer that does not wait for its record: the next message of the session is admitted
        // behind it in any case, and losing it counts as a suspect event.
        if ordinary {
            self.tasks.spawn(durable);
        } else {
            durable.await.map_err(|Gone| Refusal::Lost)?;
        }
        if may_ban {
            self.custody.guard().secure().await;
        }
        reply
    }

    /// What a verdict means for the session and for the wallet.
    fn judge<R>(
        &self,
        admitted: Admitted,
        verdict: Verdict,
        finish: impl FnOnce(&Admitted, Product) -> (Effect, Result<R, Error>),
    ) -> (Conclude, Result<R, Error>) {
        let session = &admitted.session;
        let round = round(session);
        let (effect, reply) = match verdict {
            Verdict::Done(product) => finish(&admitted, product),
            Verdict::NotRun => (Effect::NotRun, Err(Error::DuoNodeUnavailable)),
            Verdict::Ban { reason, emptied } => {
                tracing::error!(profile = %session.profile_id, session = %session.session_id, reason, "the counterparty is banned");
                (
                    Effect::Ban { reason, emptied },
                    Err(Error::MpcFailed(round)),
                )
            }
            Verdict::Banned => {
                let reason = "on the list of bans".to_owned();
                let emptied = None;
                let effect = Effect::Ban { reason, emptied };
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
        if matches!(effect, Effect::Abort { .. } | Effect::Ban { .. }) {
            self.custody.forget(session.session_id);
        }
        let conclusion = Conclude {
            session: admitted.session,
            permit_id: admitted.permit_id,
            effect,
            lifetimes: self.lifetimes,
        };
        (conclusion, reply)
    }

    /// Commits a conclusion, however long the store is away. A verdict is never dropped, and the key
    /// stays locked until it is durable. It is handed over at once; the future waits for its answer.
    fn insist(
        &self,
        conclusion: Conclude,
        place: Reservation,
        running: Entered,
    ) -> impl Future<Output = Result<(), Gone>> + Send + use<> {
        let store = self.store.clone();
        let first = store.conclude_reserved(conclusion.clone(), place);
        async move {
            let _running = running;
            let mut answer = first.await;
            let mut maybe_done = false;
            loop {
                match answer {
                    Ok(done) => {
                        done.into_inner();
                        return Ok(());
                    }
                    // An earlier try, whose outcome was unknown, was committed after all.
                    Err(CommitError::Refused(Gone)) if maybe_done => return Ok(()),
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

/// The sessions whose step is running in this process.
#[derive(Clone, Default)]
pub struct Running(Arc<Mutex<HashSet<SessionId>>>);

/// Membership in [`Running`], until dropped.
struct Entered {
    running: Running,
    id: SessionId,
}

impl Running {
    fn enter(&self, id: SessionId) -> Entered {
        self.ids().insert(id);
        Entered {
            running: self.clone(),
            id,
        }
    }

    fn contains(&self, id: SessionId) -> bool {
        self.ids().contains(&id)
    }

    fn ids(&self) -> MutexGuard<'_, HashSet<SessionId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.running.ids().remove(&self.id);
    }
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

/// Why a step was not admitted.
#[derive(Debug)]
pub enum NotAdmitted {
    /// The session does not exist, or belongs to somebody else.
    NotFound,
    /// The session or its key refuses.
    Session(Refusal),
    /// The decision no longer stands.
    Permit(gate::NotPermitted),
    /// The request does not count.
    NotSpent(NotSpent),
    /// Its idempotency key was used for another request.
    Mismatch,
}

impl From<NotSpent> for NotAdmitted {
    fn from(reason: NotSpent) -> Self {
        Self::NotSpent(reason)
    }
}

impl From<NotAdmitted> for Error {
    fn from(reason: NotAdmitted) -> Self {
        match reason {
            NotAdmitted::NotFound => Self::SessionNotFound,
            NotAdmitted::Session(refusal) => refusal.into(),
            NotAdmitted::Permit(reason) => reason.into(),
            NotAdmitted::NotSpent(reason) => reason.into(),
            NotAdmitted::Mismatch => Self::IdempotencyMismatch,
        }
    }
}

impl From<gate::NotPermitted> for CommitError<NotAdmitted> {
    fn from(reason: gate::NotPermitted) -> Self {
        match reason {
            gate::NotPermitted::Store(error) => Self::Store(error),
            other => Self::Refused(NotAdmitted::Permit(other)),
        }
    }
}

fn refuse(refusal: Refusal) -> CommitError<NotAdmitted> {
    CommitError::Refused(NotAdmitted::Session(refusal))
}

/// Admits a message of a session: takes the key's lock, marks the check, gives the permit.
pub struct AdmitStep {
    proof: RequestProof,
    once: Option<Once>,
    session_id: SessionId,
    profile_id: ProfileId,
    owner: OwnerId,
    device: DeviceKeyId,
    tenant: TenantId,
    certificate_spki: [u8; 32],
    /// The attempt its message is sealed for.
    attempt: u32,
    step: u8,
    request_hash: [u8; 32],
    instance: InstanceId,
    policy: Policy,
    lifetimes: Lifetimes,
}

impl AdmitStep {
    /// The admission of `owner`'s message for a step of `session`: the step's number, from 1, and the
    /// SHA-256 of the request body.
    #[must_use]
    pub fn new(
        steps: &Steps,
        (owner, proof): (&Owner, RequestProof),
        session: &SessionRow,
        (step, request_hash): (u8, [u8; 32]),
        once: Option<Once>,
    ) -> Self {
        Self {
            proof,
            once,
            session_id: session.session_id,
            profile_id: session.profile_id,
            owner: owner.owner_id(),
            device: owner.device_key_id().clone(),
            tenant: owner.tenant().clone(),
            certificate_spki: *owner.certificate_spki(),
            attempt: session.attempt,
            step,
            request_hash,
            instance: steps.instance,
            policy: steps.policy,
            lifetimes: steps.lifetimes,
        }
    }
}

impl Operation for AdmitStep {
    type Output = Permit;
    type Refusal = NotAdmitted;

    fn key(&self) -> Key {
        Key::profile(self.profile_id)
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<(Permit, AuditRecord), CommitError<NotAdmitted>> {
        self.proof.spend(tx).await?;
        let (session, profile) = self.load(tx).await?;
        sessions::usable(&profile).map_err(refuse)?;
        let arrival = Arrival {
            step: self.step,
            request_hash: self.request_hash,
            instance: self.instance,
            now: tx.now(),
        };
        let checking = sessions::admit(&session, &arrival).map_err(refuse)?;
        self.make_way(tx, &session).await?;
        let id = profile.profile_id;
        let locked = profiles::lock(tx, id, session.session_id, self.instance).await?;
        if !locked && profile.checking.is_none() {
            return Err(refuse(Refusal::LeaseLapsed));
        }
        let moved = crate::store::sessions::update(tx, &session, &checking).await?;
        if !(locked && moved) {
            return Err(refuse(Refusal::Busy));
        }
        if let Some(once) = &self.once {
            let resource = session.session_id.to_string();
            match once.remember(tx, &resource).await {
                Ok(()) => {}
                Err(Error::StoreUnavailable(error)) => return Err(error.into()),
                Err(_) => return Err(CommitError::Refused(NotAdmitted::Mismatch)),
            }
        }
        let record = AuditRecord::done(AuditEvent::StepPermitted)
            .profile(profile.profile_id)
            .session(session.session_id)
            .detail(format!("attempt {} step {}", session.attempt, self.step));
        let permit = gate::permit(tx, &self.policy, checking, profile, self.step).await?;
        Ok((permit, record))
    }
}

impl AdmitStep {
    async fn load(
        &self,
        tx: &mut Tx<'_>,
    ) -> Result<(SessionRow, ProfileRow), CommitError<NotAdmitted>> {
        match crate::store::sessions::find_with_profile(tx, self.session_id).await? {
            Some((session, profile))
                if profile.owner_id == self.owner
                    && profile.tenant == self.tenant
                    && session.device_key_id == self.device
                    && session.certificate_spki == self.certificate_spki =>
            {
                if session.attempt != self.attempt {
                    return Err(refuse(Refusal::WrongStep));
                }
                Ok((session, profile))
            }
            _ => Err(CommitError::Refused(NotAdmitted::NotFound)),
        }
    }

    /// One active session per key: an idle one gives way, a busy one does not.
    async fn make_way(
        &self,
        tx: &mut Tx<'_>,
        session: &SessionRow,
    ) -> Result<(), CommitError<NotAdmitted>> {
        for other in crate::store::sessions::active_of(tx, session.profile_id).await? {
            if other.session_id == session.session_id {
                continue;
            }
            let idle_since = other.expires_at.plus_seconds(-self.lifetimes.kept_state);
            let idle = idle_since.plus_seconds(SUPERSEDE_AFTER) <= tx.now()
                || instances::find_living(tx, other.instance_id)
                    .await?
                    .is_none();
            if other.state.is_checking() || !idle {
                return Err(refuse(Refusal::Busy));
            }
            lifecycle::give_up(tx, &other, SessionState::Aborted).await?;
        }
        Ok(())
    }
}
