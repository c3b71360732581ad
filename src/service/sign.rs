//! Signing a prepared transaction: two requests (`protocol.md` 2.4).
//!
//! INVARIANT: the signed bytes are committed before they are broadcast, and broadcasting them again is
//! the only thing that ever happens to them: a retry can never pay twice.

use std::sync::Arc;

use countersign_mpc::envelope::MessageType;

use super::admission::AdmitStep;
use super::once::Once;
use super::replies::Replies;
use super::sealed::{Opener, SealedText, in_session, round_of};
use super::second_factor::{RefusedRequest, SecondFactor, Tally};
use super::settlement::Settlement;
use super::steps::{Admitted, Steps};
use super::{Error, facts};
use crate::chain::{Chains, Unsigned1559};
use crate::clock::{self, Timestamp};
use crate::custody::Product;
use crate::domain::{
    DeviceKeyId, IdempotencyKey, InstanceId, OwnerId, ProfileId, RateClass, RateSubject, SessionId,
    SessionKind, SessionState, Suspicion, TenantId,
};
use crate::gate;
use crate::gate::rates::Metering;
use crate::gate::spends::Spending;
use crate::gate::two_factor::Need;
use crate::identity::owner::Owner;
use crate::identity::replay::RequestProof;
use crate::limits::Meter;
use crate::limits::spend::Payer;
use crate::policy::Asked;
use crate::sessions::conclude::Effect;
use crate::sessions::{self, Arrival, Fresh, Refusal, Session};
use crate::store::profiles::ProfileRow;
use crate::store::sessions::SessionRow;
use crate::store::transactions::{TransactionRow, TransactionState};
use crate::store::{
    AuditEvent, AuditRecord, CommitError, Key, Operation, Tx, decisions, profiles, transactions,
};
use crate::two_factor::Code;

const ROUTE: &str = "POST /api/v1/mpc/sign";

/// What the wallet is told.
#[derive(Clone)]
pub enum Reply {
    /// After the first message.
    Round1 {
        /// The session.
        session_id: SessionId,
        /// Our sealed message.
        message: String,
    },
    /// After the second message.
    Signed {
        /// The session.
        session_id: SessionId,
        /// The transaction's hash.
        tx_hash: [u8; 32],
        /// Where the transaction stands.
        state: TransactionState,
    },
}

/// A message of a session.
pub struct Round {
    /// The session.
    pub session_id: SessionId,
    /// SHA-256 of the body.
    pub body_hash: [u8; 32],
    /// The message.
    pub message: SealedText,
    /// The request's key, if it has one.
    pub idempotency_key: Option<IdempotencyKey>,
}

/// A new attempt.
pub struct Restarted {
    /// The attempt.
    pub attempt: u32,
    /// Our nonce for it.
    pub server_nonce: [u8; 32],
}

/// The use case.
pub struct Sign {
    steps: Arc<Steps>,
    opener: Arc<Opener>,
    settlement: Arc<Settlement>,
    chains: Arc<Chains>,
    replies: Replies<Reply>,
}

impl Sign {
    /// The use case over its parts.
    #[must_use]
    pub fn new(
        steps: Arc<Steps>,
        opener: Arc<Opener>,
        settlement: Arc<Settlement>,
        chains: Arc<Chains>,
    ) -> Self {
        Self {
            steps,
            opener,
            settlement,
            chains,
            replies: Replies::default(),
        }
    }

    /// Forgets answers that are past their time.
    pub fn sweep(&self) {
        self.replies.sweep(clock::now());
    }

    /// Takes the next message of a session.
    ///
    /// # Errors
    /// [`Error`] says what to do.
    pub async fn round(
        self: &Arc<Self>,
        owner: Owner,
        proof: RequestProof,
        round: Round,
        meter: Meter,
    ) -> Result<Reply, Error> {
        let this = Arc::clone(self);
        let request = async move { this.take(owner, proof, round, meter).await };
        self.steps.detached(request).await
    }

    async fn take(
        &self,
        owner: Owner,
        proof: RequestProof,
        round: Round,
        meter: Meter,
    ) -> Result<Reply, Error> {
        let (session, profile) = self.session(&owner, round.session_id).await?;
        let once = Once::of(
            &owner,
            ROUTE,
            round.idempotency_key.clone(),
            round.body_hash,
        );
        if let Some(once) = &once
            && let Err(error) = once.earlier(&self.steps.store).await
        {
            self.steps.usable(&profile).await?;
            return Err(error);
        }
        // Before the state of the key: what was signed is told, whatever became of the key since.
        if let Some(reply) = self.repeated(&session, &round).await? {
            return Ok(reply);
        }
        self.steps.usable(&profile).await?;
        let said = round_of(SessionKind::Sign, &round.message);
        let (message_type, step) = said.unwrap_or((MessageType::Sign1, 1));
        let metering = self.metering(&session, step, meter).await?;
        // Refused early, and again inside the operation. What looks busy may be about to be concluded:
        // the operation stands behind that conclusion and knows. A wallet contradicts itself only by a message that
        // opens.
        match Session::of(session.clone()).check(&self.arrival(step, round.body_hash)) {
            Ok(_) | Err(Refusal::Busy | Refusal::Contradiction) => {}
            Err(refusal) => return Err(refusal.into()),
        }
        let binding = in_session(message_type, &owner, &session);
        let message = self.opener.open(binding, &round.message).await?;
        let admission = AdmitStep::new(
            &self.steps,
            (&owner, proof),
            &session,
            (step, round.body_hash),
            once,
            Some(metering),
        );
        let made = self
            .steps
            .run(
                admission,
                session.session_id,
                SessionKind::Sign,
                message,
                finish,
            )
            .await;
        match made {
            Ok(made) => self.deliver(made, round.body_hash).await,
            Err(error @ Error::StateConflict { .. }) => self.meanwhile(&owner, &round, error).await,
            Err(error) => Err(error),
        }
    }

    /// Where a signature that is begun is counted: refused early if there is no room, and again inside the operation.
    async fn metering(
        &self,
        session: &SessionRow,
        step: u8,
        meter: Meter,
    ) -> Result<Metering, Error> {
        let subject = RateSubject::Profile(session.profile_id);
        let metering = Metering::new(&self.steps.limits, RateClass::Signing, subject, meter);
        // Another message of a session that was begun is a repetition, or contradicts the first: it begins nothing.
        if step == 1 && session.state == SessionState::Created {
            let mut reader = self.steps.store.reader().await?;
            metering.look(&mut reader).await?;
        }
        Ok(metering)
    }

    /// The identical request may have been concluded while this one stood behind it: then its answer is
    /// the one, or will be in a moment.
    async fn meanwhile(&self, owner: &Owner, round: &Round, error: Error) -> Result<Reply, Error> {
        let (session, _) = self.session(owner, round.session_id).await?;
        let goes_on = session.state.is_active() || session.state == SessionState::Signed;
        if session.request_hash != Some(round.body_hash) || !goes_on {
            return Err(error);
        }
        let answer = self.repeated(&session, round).await?;
        answer.ok_or_else(|| Refusal::Busy.into())
    }

    /// Starts the next attempt of a session that was given up.
    ///
    /// # Errors
    /// [`Error`] says what to do.
    pub async fn restart(
        self: &Arc<Self>,
        owner: Owner,
        proof: RequestProof,
        session_id: SessionId,
        request: (Option<IdempotencyKey>, [u8; 32]),
        code: Option<Code>,
    ) -> Result<Restarted, Error> {
        let this = Arc::clone(self);
        let request = async move {
            this.start_again(&owner, proof, session_id, request, code)
                .await
        };
        self.steps.detached(request).await
    }

    async fn start_again(
        &self,
        owner: &Owner,
        proof: RequestProof,
        session_id: SessionId,
        (idempotency_key, body_hash): (Option<IdempotencyKey>, [u8; 32]),
        code: Option<Code>,
    ) -> Result<Restarted, Error> {
        let (session, profile) = self.session(owner, session_id).await?;
        self.steps.usable(&profile).await?;
        let once = Once::of(owner, ROUTE, idempotency_key, body_hash);
        if let Some(once) = &once
            && let Some(made) = once.earlier(&self.steps.store).await?
        {
            return earlier_restart(&session, &made);
        }
        let judging = self.judge(owner, (&profile, &session), proof, code.as_ref());
        let (proof, step_up) = judging.await?;
        let mut server_nonce = [0; 32];
        getrandom::fill(&mut server_nonce).map_err(|_| Error::Internal)?;
        let payer = Payer {
            profile: profile.profile_id,
            tenant: owner.tenant().clone(),
        };
        let operation = Restart {
            spending: Spending::new(&self.steps.limits, payer),
            proof,
            step_up,
            once,
            session_id,
            profile_id: profile.profile_id,
            owner: owner.owner_id(),
            device: owner.device_key_id().clone(),
            tenant: owner.tenant().clone(),
            certificate_spki: *owner.certificate_spki(),
            server_nonce,
            instance: self.steps.instance,
            seconds: self.steps.lifetimes.session,
        };
        let tally = match &operation.step_up {
            StepUp::With(factor) => factor.tally(),
            StepUp::NotNeeded | StepUp::Before => Tally::default(),
        };
        let restarted = self.steps.commit_with(tally, operation).await?;
        self.steps.custody.forget(session_id);
        Ok(restarted)
    }

    /// Whether policy still allows what was decided when the transaction was prepared, and with what; a denial is recorded.
    async fn judge(
        &self,
        owner: &Owner,
        (profile, session): (&ProfileRow, &SessionRow),
        proof: RequestProof,
        code: Option<&Code>,
    ) -> Result<(RequestProof, StepUp), Error> {
        let mut reader = self.steps.store.reader().await?;
        let row = transactions::of_session(&mut reader, session.session_id).await?;
        let decision = decisions::find(&mut reader, session.decision_id).await?;
        drop(reader);
        let row = row.ok_or(Error::Internal)?;
        let unsigned = Unsigned1559::from_payload(&row.payload).map_err(|_| Error::Internal)?;
        let kind = self.steps.store.environment_kind();
        let chain = facts::of_chain(&self.chains, kind, unsigned.chain_id());
        let to = Some(unsigned.to());
        let content = facts::of_transaction(chain, to, unsigned.value(), unsigned.data());
        let asked = Asked::SignTransaction(Box::new(content));
        let mut facts = facts::of_owner(owner, profile, kind, asked);
        let (now, profile_id) = (clock::now(), profile.profile_id);
        let before = decision.is_some_and(|decision| is_fresh(&decision, now));
        facts.second_factor = before;
        let judging = self.steps.judge_stepping_up(&mut facts, profile, now, code);
        match judging.await {
            Ok((_still_allowed, Some(factor))) => Ok((proof, StepUp::With(factor))),
            Ok((_still_allowed, None)) if before => Ok((proof, StepUp::Before)),
            Ok((_still_allowed, None)) => Ok((proof, StepUp::NotNeeded)),
            Err((error, None)) => Err(error),
            Err((error, Some(denied))) => {
                let record = (AuditEvent::TransactionDenied, Key::profile(profile_id));
                let of = (proof, profile_id);
                Err(self
                    .steps
                    .deny_with(denied, of, record, (None, error))
                    .await)
            }
        }
    }

    async fn session(
        &self,
        owner: &Owner,
        id: SessionId,
    ) -> Result<(SessionRow, ProfileRow), Error> {
        let mut reader = self.steps.store.reader().await?;
        let (session, profile) = super::show::owned_session(&mut reader, owner, id).await?;
        if session.kind != SessionKind::Sign {
            return Err(Error::SessionNotFound);
        }
        Ok((session, profile))
    }

    /// The answer to a request that was answered before.
    async fn repeated(&self, session: &SessionRow, round: &Round) -> Result<Option<Reply>, Error> {
        let last = session.request_hash == Some(round.body_hash);
        if session.state != SessionState::Signed && (last || session.state.is_active()) {
            return Ok(self.replies.find(session.session_id, &round.body_hash));
        }
        if !last {
            return Ok(None);
        }
        let mut reader = self.steps.store.reader().await?;
        let row = transactions::of_session(&mut reader, session.session_id).await?;
        let row = row.ok_or(Error::Internal)?;
        Ok(Some(Reply::Signed {
            session_id: session.session_id,
            tx_hash: row.tx_hash.ok_or(Error::Internal)?,
            state: row.state,
        }))
    }

    fn arrival(&self, step: u8, request_hash: [u8; 32]) -> Arrival {
        Arrival {
            step,
            request_hash,
            instance: self.steps.instance,
            now: clock::now(),
        }
    }

    /// Remembers a first answer; broadcasts what a second one signed.
    async fn deliver(&self, made: Made, body_hash: [u8; 32]) -> Result<Reply, Error> {
        match made {
            Made::Message(session_id, message) => {
                let reply = Reply::Round1 {
                    session_id,
                    message,
                };
                self.replies
                    .put(session_id, body_hash, reply.clone(), clock::now());
                Ok(reply)
            }
            Made::Transaction(row) => {
                let (session_id, signed) = (row.session_id, row.state);
                let tx_hash = row.tx_hash.ok_or(Error::Internal)?;
                self.replies.forget(session_id);
                let state = self.settlement.look_at(*row).await.unwrap_or(signed);
                Ok(Reply::Signed {
                    session_id,
                    tx_hash,
                    state,
                })
            }
        }
    }
}

/// What a restart is remembered by.
fn attempt_of(session: &SessionRow) -> String {
    format!("{} attempt {}", session.session_id, session.attempt)
}

/// The answer to a restart that was carried out before, while its attempt goes on.
fn earlier_restart(session: &SessionRow, made: &str) -> Result<Restarted, Error> {
    if attempt_of(session) == made {
        return Ok(Restarted {
            attempt: session.attempt,
            server_nonce: session.server_nonce,
        });
    }
    Err(Refusal::Aborted.into())
}

/// What a step made.
enum Made {
    /// Our message after the wallet's first.
    Message(SessionId, String),
    /// The signed transaction, as it was committed.
    Transaction(Box<TransactionRow>),
}

fn finish(admitted: &Admitted, product: Product) -> (Effect, Result<Made, Error>) {
    let failed = |reason: &str| {
        let effect = Effect::Abort {
            reason: reason.to_owned(),
            suspicion: Suspicion::None,
        };
        (effect, Err(Error::Internal))
    };
    match (product, &admitted.transaction) {
        (Product::Message(message), _) => {
            let made = Made::Message(admitted.session.session_id, message);
            (Effect::Advance, Ok(made))
        }
        (Product::Signature(signature), Some(row)) => {
            let signed = Unsigned1559::from_payload(&row.payload).and_then(|unsigned| {
                unsigned.sign(signature.r(), signature.s(), signature.y_parity())
            });
            let Ok(signed) = signed else {
                return failed("the signed transaction does not encode");
            };
            let row = TransactionRow {
                state: TransactionState::Broadcasting,
                raw: Some(signed.raw.clone()),
                tx_hash: Some(signed.hash),
                ..row.clone()
            };
            let effect = Effect::Sign {
                raw: signed.raw,
                tx_hash: signed.hash,
            };
            (effect, Ok(Made::Transaction(Box::new(row))))
        }
        _ => failed("the step made something else"),
    }
}

/// Seconds for which a code that was used up is good for the attempts of the session that it was used for.
const GRANT: i64 = 600;

/// Whether the code that a decision was made with is good still.
fn is_fresh(decision: &decisions::Standing, now: Timestamp) -> bool {
    decision
        .second_factor_at
        .is_some_and(|at| now < at.plus_seconds(GRANT))
}

/// What the next attempt has for a second factor.
enum StepUp {
    /// It takes none.
    NotNeeded,
    /// The code of before, if that is good still.
    Before,
    /// Another code.
    With(SecondFactor),
}

/// Starts the next attempt: the same transaction, the same chain nonce, fresh protocol nonces.
struct Restart {
    proof: RequestProof,
    step_up: StepUp,
    spending: Spending,
    once: Option<Once>,
    session_id: SessionId,
    profile_id: ProfileId,
    owner: OwnerId,
    device: DeviceKeyId,
    tenant: TenantId,
    certificate_spki: [u8; 32],
    server_nonce: [u8; 32],
    instance: InstanceId,
    seconds: i64,
}

impl Operation for Restart {
    /// A code that does not hold is counted.
    type Output = Result<Restarted, Error>;
    type Refusal = Error;

    fn key(&self) -> Key {
        Key::profile(self.profile_id)
    }

    fn also(&self) -> Key {
        self.spending.key()
    }

    fn looks_at(&self) -> Key {
        Key::FREEZES
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<(Self::Output, AuditRecord), CommitError<Error>> {
        self.proof.spend(tx).await?;
        let refuse = CommitError::Refused;
        let session = crate::store::sessions::find(tx, self.session_id)
            .await?
            .ok_or(refuse(Error::SessionNotFound))?;
        let profile = profiles::find(tx, session.profile_id)
            .await?
            .filter(|profile| {
                profile.owner_id == self.owner
                    && profile.tenant == self.tenant
                    && session.device_key_id == self.device
            })
            .ok_or(refuse(Error::SessionNotFound))?;
        gate::not_frozen(tx, profile.profile_id, &profile.tenant)
            .await
            .map_err(|reason| refuse(reason.into()))?;
        let generation = sessions::usable(&profile).map_err(|refusal| refuse(refusal.into()))?;
        if generation != session.generation {
            return Err(refuse(Refusal::OtherGeneration.into()));
        }
        if let Err(refused) = self.step_up(tx, &session).await? {
            return Ok((Err(refused.error), refused.record));
        }
        let expires_at: Timestamp = tx.now().plus_seconds(self.seconds);
        let fresh = Fresh {
            server_nonce: self.server_nonce,
            instance: self.instance,
            certificate_spki: self.certificate_spki,
            now: tx.now(),
            expires_at,
        };
        let next = Session::of(session.clone()).restart(&fresh);
        let next = next.map_err(|refusal| refuse(refusal.into()))?;
        if !transactions::reclaim(tx, self.session_id).await? {
            return Err(refuse(Error::StateConflict {
                message: "the nonce of this transaction is taken: prepare it again",
                again: false,
            }));
        }
        self.reserve(tx).await.map_err(refuse)?;
        decisions::extend(tx, session.decision_id, expires_at).await?;
        let next = next.write(tx).await?;
        let next = next.ok_or(refuse(Refusal::Busy.into()))?;
        if let Some(once) = &self.once {
            once.remember(tx, &attempt_of(&next))
                .await
                .map_err(refuse)?;
        }
        let record = AuditRecord::done(AuditEvent::SessionRestarted)
            .profile(session.profile_id)
            .session(session.session_id)
            .detail(format!("attempt {}", next.attempt));
        let restarted = Restarted {
            attempt: next.attempt,
            server_nonce: next.server_nonce,
        };
        Ok((Ok(restarted), record))
    }
}

impl Restart {
    /// The second factor of this attempt, before anything is written.
    async fn step_up(
        &self,
        tx: &mut Tx<'_>,
        session: &SessionRow,
    ) -> Result<Result<(), Box<RefusedRequest>>, CommitError<Error>> {
        match &self.step_up {
            StepUp::NotNeeded => {}
            StepUp::Before => {
                let decision = decisions::find(tx, session.decision_id).await?;
                let now = tx.now();
                if !decision.is_some_and(|decision| is_fresh(&decision, now)) {
                    return Err(CommitError::Refused(Error::TwoFactorRequired(None)));
                }
            }
            StepUp::With(factor) => {
                let checked = factor.check(tx, self.profile_id, Need::Always).await?;
                if let Err(refused) = checked {
                    return Ok(Err(refused));
                }
                decisions::stepped_up(tx, session.decision_id).await?;
            }
        }
        Ok(Ok(()))
    }

    /// What the transaction may spend was given back with the attempt before.
    async fn reserve(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let row = transactions::of_session(tx, self.session_id).await?;
        let payload = row.ok_or(Error::Internal)?.payload;
        let unsigned = Unsigned1559::from_payload(&payload).map_err(|_| Error::Internal)?;
        let spends = super::spends::of(self.spending.limits(), &unsigned)?;
        Ok(self.spending.reserve(tx, self.session_id, &spends).await?)
    }
}
