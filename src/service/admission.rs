//! The admission of a step: the durable operation before each check.

use super::Error;
use super::once::Once;
use super::steps::Steps;
use crate::domain::{DeviceKeyId, InstanceId, OwnerId, ProfileId, SessionId, TenantId};
use crate::gate::rates::{Metering, NotCounted};
use crate::gate::{self, Permit};
use crate::identity::owner::Owner;
use crate::identity::replay::{NotSpent, RequestProof};
use crate::limits::Exceeded;
use crate::policy::Policy;
use crate::sessions::conclude::change_key;
use crate::sessions::{Arrival, Key, Lifetimes, Refusal, Session, lifecycle};
use crate::store::profiles::ProfileRow;
use crate::store::sessions::SessionRow;
use crate::store::{
    self, AuditEvent, AuditOutcome, AuditRecord, CommitError, Operation, Tx, instances, profiles,
};

/// A session that has been idle this long gives way to a new one of the same key, in seconds.
const SUPERSEDE_AFTER: i64 = 5;

/// What an admission gives: leave to run the step, or the end of a session whose wallet contradicts itself.
pub type Admission = Result<Permit, Contradicted>;

/// The wallet has sent another message for a step that is done. Nobody can say which one it means, so the session was
/// given up (`protocol.md` 2.1).
#[derive(Debug)]
pub struct Contradicted;

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
    /// Too many were begun lately.
    Rate(Exceeded),
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
            NotAdmitted::Rate(exceeded) => Self::RateLimited(exceeded),
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

impl From<NotCounted> for CommitError<NotAdmitted> {
    fn from(reason: NotCounted) -> Self {
        match reason {
            NotCounted::Exceeded(exceeded) => Self::Refused(NotAdmitted::Rate(exceeded)),
            NotCounted::Store(error) => Self::Store(error),
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
    /// Of a signature.
    metering: Option<Metering>,
}

impl AdmitStep {
    /// The admission of `owner`'s message for a step of `session`: the step's number, from 1, and the
    /// SHA-256 of the request body. The first step of what has a `metering` counts towards its rate.
    #[must_use]
    pub fn new(
        steps: &Steps,
        (owner, proof): (&Owner, RequestProof),
        session: &SessionRow,
        (step, request_hash): (u8, [u8; 32]),
        once: Option<Once>,
        metering: Option<Metering>,
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
            policy: steps.policy.clone(),
            lifetimes: steps.lifetimes,
            metering,
        }
    }
}

impl Operation for AdmitStep {
    type Output = Admission;
    type Refusal = NotAdmitted;

    fn key(&self) -> store::Key {
        store::Key::profile(self.profile_id)
    }

    fn looks_at(&self) -> store::Key {
        store::Key::FREEZES
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<(Admission, AuditRecord), CommitError<NotAdmitted>> {
        self.proof.spend(tx).await?;
        let (session, profile) = self.load(tx).await?;
        let (generation, key) = Key::of(profile.key()).sign().map_err(refuse)?;
        if generation != session.generation {
            return Err(refuse(Refusal::OtherGeneration));
        }
        let arrival = Arrival {
            step: self.step,
            request_hash: self.request_hash,
            instance: self.instance,
            now: tx.now(),
        };
        let checking = match Session::of(session.clone()).check(&arrival) {
            Err(Refusal::Contradiction) if lifecycle::give_up(tx, &session).await? => {
                return Ok((Err(Contradicted), self.contradicted(&session)));
            }
            checked => checked.map_err(refuse)?,
        };
        self.count(tx).await?;
        self.make_way(tx, &session).await?;
        let id = profile.profile_id;
        let locked = profiles::lock(tx, id, session.session_id, self.instance).await?;
        if !locked && profile.checking.is_none() {
            return Err(refuse(Refusal::LeaseLapsed));
        }
        let checking = checking.write(tx).await?;
        let Some(checking) = checking.filter(|_| locked) else {
            return Err(refuse(Refusal::Busy));
        };
        // A rotation that has stored nothing gives way to a signature.
        change_key(tx, &profile, |_| key).await?;
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
        let checking = checking.into_row();
        let permit = gate::permit(tx, &self.policy, checking, profile, self.step).await?;
        Ok((Ok(permit), record))
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

    /// One event is the admission of a session's first step, of each attempt: what is not admitted rolls it back.
    async fn count(&self, tx: &mut Tx<'_>) -> Result<(), CommitError<NotAdmitted>> {
        match &self.metering {
            Some(metering) if self.step == 1 => Ok(metering.take(tx).await?),
            Some(metering) => Ok(metering.show(tx).await?),
            None => Ok(()),
        }
    }

    fn contradicted(&self, session: &SessionRow) -> AuditRecord {
        AuditRecord::done(AuditEvent::SessionContradicted)
            .outcome(AuditOutcome::Denied)
            .profile(session.profile_id)
            .session(session.session_id)
            .detail(format!("attempt {} step {}", session.attempt, self.step))
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
            lifecycle::give_up(tx, &other).await?;
        }
        Ok(())
    }
}
