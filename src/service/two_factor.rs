//! The second factor of a wallet: enrolled by a device, proven by a first code, waited for, and replaced only with the one
//! before it (`protocol.md` 3.4 and 5.2).
//!
//! INVARIANT: neither secret nor code is in anything here but the sealed answer that custody made.

use std::sync::Arc;

use countersign_mpc::envelope::MessageType;

use super::Error;
use super::sealed::{Binding, Opener, SealedText};
use super::second_factor::{SecondFactor, Terms};
use super::show::owned_profile;
use super::steps::Steps;
use crate::clock::{self, Timestamp};
use crate::custody::two_factor::NewFactor;
use crate::domain::{
    EnrolmentId, Generation, IdempotencyKey, ProfileId, ProfileState, RateClass, RateSubject,
};
use crate::gate;
use crate::gate::rates::Metering;
use crate::gate::two_factor::Grant;
use crate::identity::owner::Owner;
use crate::identity::replay::RequestProof;
use crate::limits::Meter;
use crate::store::idempotency::{self, Kept, Scope};
use crate::store::profiles::ProfileRow;
use crate::store::two_factor::{self as rows, Confirmed, FactorRow, Standing};
use crate::store::{AuditEvent, AuditOutcome, AuditRecord, CommitError, Key, Operation, Reads, Tx};
use crate::telemetry::metrics::Enrolment;
use crate::two_factor::Code;

const ENROL: &str = "POST /api/v1/profiles/:id/2fa";
/// Seconds in which the first code comes.
const FIRST_CODE: i64 = 3600;

/// A request that asks for a new factor.
pub struct Asked {
    /// For which wallet.
    pub profile_id: ProfileId,
    /// The request's key.
    pub idempotency_key: IdempotencyKey,
    /// SHA-256 of the body without its code.
    pub body_hash: [u8; 32],
    /// The message to which the secret is the answer.
    pub message: SealedText,
    /// A code of the factor that is there.
    pub code: Option<Code>,
    /// What is told how many more there may be.
    pub meter: Meter,
}

/// A new enrolment.
pub struct Begun {
    /// Its id.
    pub enrolment_id: EnrolmentId,
    /// The sealed answer.
    pub sealed: String,
    /// Until when its first code may come.
    pub expires_at: Timestamp,
}

/// How far an enrolment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its first code has not come.
    Pending {
        /// Until when it may.
        until: Timestamp,
    },
    /// It will be the factor.
    CoolingOff {
        /// From when.
        active_at: Timestamp,
    },
    /// It is the factor.
    Active {
        /// Since when.
        active_at: Timestamp,
    },
}

/// An enrolment, as its owner is shown it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its id.
    pub enrolment_id: EnrolmentId,
    /// How far it is.
    pub stage: Stage,
}

impl Shown {
    fn of(row: &FactorRow, now: Timestamp) -> Self {
        let stage = match row.confirmed {
            None => Stage::Pending {
                until: row.expires_at,
            },
            Some(Confirmed { active_at, .. }) if active_at <= now => Stage::Active { active_at },
            Some(Confirmed { active_at, .. }) => Stage::CoolingOff { active_at },
        };
        Self {
            enrolment_id: row.enrolment_id,
            stage,
        }
    }
}

/// The second factor of a wallet.
pub struct View {
    /// The factor that is there.
    pub active: Option<Shown>,
    /// The one that waits.
    pub next: Option<Shown>,
    /// Recovery codes that are left of the one that is there.
    pub recovery_left: Option<u32>,
    /// Until when no code is taken.
    pub locked_until: Option<Timestamp>,
    /// Those that wait on other wallets of the owner: once active, one of them may speak for all.
    pub elsewhere: Vec<(ProfileId, Shown)>,
}

/// The use case.
pub struct TwoFactor {
    steps: Arc<Steps>,
    opener: Arc<Opener>,
    terms: Terms,
}

impl TwoFactor {
    /// The use case over its parts.
    #[must_use]
    pub const fn new(steps: Arc<Steps>, opener: Arc<Opener>, terms: Terms) -> Self {
        Self {
            steps,
            opener,
            terms,
        }
    }

    /// The second factor of a wallet.
    ///
    /// # Errors
    /// [`Error::ProfileNotFound`].
    pub async fn show(&self, owner: &Owner, id: ProfileId) -> Result<View, Error> {
        let mut reader = self.steps.store.reader().await?;
        owned_profile(&mut reader, owner, id).await?;
        let now = reader.server_clock().await?;
        let Standing { active, next, .. } = rows::standing(&mut reader, id, now).await?;
        let recovery_left = match &active {
            Some(row) => Some(rows::recovery_left(&mut reader, row.enrolment_id).await?),
            None => None,
        };
        let lock = rows::lock(&mut reader, id).await?;
        let of_owner = (owner.tenant(), owner.owner_id());
        let waiting = rows::waiting_of_owner(&mut reader, of_owner, now).await?;
        let elsewhere = waiting.iter().filter(|row| row.profile_id != id);
        Ok(View {
            active: active.map(|row| Shown::of(&row, now)),
            next: next.map(|row| Shown::of(&row, now)),
            recovery_left,
            locked_until: lock.until.filter(|until| *until > now),
            elsewhere: elsewhere
                .map(|row| (row.profile_id, Shown::of(row, now)))
                .collect(),
        })
    }

    /// Begins an enrolment, or finds what the same request began.
    ///
    /// # Errors
    /// [`Error`] says what to do.
    pub async fn enrol(
        &self,
        owner: Owner,
        proof: RequestProof,
        asked: Asked,
    ) -> Result<Begun, Error> {
        let mut reader = self.steps.store.reader().await?;
        let profile = owned_profile(&mut reader, &owner, asked.profile_id).await?;
        if let Some(earlier) = earlier(&mut reader, &owner, &asked).await? {
            return Ok(earlier);
        }
        let metering = self.metering(asked.profile_id, asked.meter.clone());
        metering.look(&mut reader).await?;
        drop(reader);
        let key = asked.idempotency_key.as_str().to_owned();
        let binding = Binding {
            message_type: MessageType::TwoFactorEnrol,
            tenant: owner.tenant(),
            device: owner.device_key_id(),
            profile: asked.profile_id.to_string(),
            session: key,
            generation: Generation(0),
            attempt: 1,
        };
        let message = self.opener.open(binding, &asked.message).await?;
        let presented = self
            .steps
            .presented_of_owner(&owner, profile.clone(), asked.code.as_ref());
        let presented = presented.await?;
        let expires_at = clock::now().plus_seconds(FIRST_CODE);
        let issuer = self.terms.issuer.as_str();
        let made = self.steps.custody.new_factor(
            &profile,
            owner.device_key_id().clone(),
            (message, issuer),
            expires_at,
        );
        let operation = Enrol {
            new: made.await?,
            owner,
            proof,
            idempotency_key: asked.idempotency_key,
            body_hash: asked.body_hash,
            factor: presented,
            metering,
        };
        let begun = self
            .steps
            .commit_with(operation.factor.tally(), operation)
            .await?;
        self.steps.metrics.two_factor_enrolment(Enrolment::Begun);
        Ok(begun)
    }

    /// Takes the first code of an enrolment.
    ///
    /// # Errors
    /// [`Error`] says what to do.
    pub async fn activate(
        &self,
        owner: Owner,
        proof: RequestProof,
        (profile_id, enrolment): (ProfileId, EnrolmentId),
        (code, meter): (Code, Meter),
    ) -> Result<Shown, Error> {
        let mut reader = self.steps.store.reader().await?;
        let profile = owned_profile(&mut reader, &owner, profile_id).await?;
        let metering = self.metering(profile_id, meter);
        metering.look(&mut reader).await?;
        let row = rows::find(&mut reader, enrolment).await?;
        drop(reader);
        let row = row.filter(|row| row.profile_id == profile_id);
        let factor = self
            .steps
            .presented_to(&profile, row.as_ref(), &code)
            .await?;
        let operation = Activate {
            owner,
            proof,
            profile_id,
            enrolment,
            factor,
            cooling_off: self.terms.cooling_off,
            metering,
        };
        let shown = self
            .steps
            .commit_with(operation.factor.tally(), operation)
            .await?;
        self.steps
            .metrics
            .two_factor_enrolment(Enrolment::Activated);
        Ok(shown)
    }

    /// Gives up an enrolment that is not the factor yet. Any device of the owner may, without a code, and through any of the
    /// owner's wallets: a thief may have made one more wallet to enrol it on.
    ///
    /// # Errors
    /// [`Error`] says what to do.
    pub async fn cancel(
        &self,
        owner: Owner,
        proof: RequestProof,
        (profile_id, enrolment): (ProfileId, EnrolmentId),
        meter: Meter,
    ) -> Result<(), Error> {
        let mut reader = self.steps.store.reader().await?;
        owned_profile(&mut reader, &owner, profile_id).await?;
        let row = rows::find(&mut reader, enrolment).await?;
        let profile_id = match row {
            Some(row)
                if owned_profile(&mut reader, &owner, row.profile_id)
                    .await
                    .is_ok() =>
            {
                row.profile_id
            }
            _ => profile_id,
        };
        drop(reader);
        let operation = Cancel {
            owner,
            proof,
            profile_id,
            enrolment,
            metering: self.metering(profile_id, meter),
        };
        self.steps.store.commit(operation).await?.into_inner()?;
        self.steps
            .metrics
            .two_factor_enrolment(Enrolment::Cancelled);
        Ok(())
    }

    fn metering(&self, profile: ProfileId, meter: Meter) -> Metering {
        let subject = RateSubject::Profile(profile);
        Metering::new(&self.steps.limits, RateClass::KeyOperations, subject, meter)
    }
}

/// What the same request began before.
async fn earlier(
    reads: &mut impl Reads,
    owner: &Owner,
    asked: &Asked,
) -> Result<Option<Begun>, Error> {
    let scope = scope(owner, &asked.idempotency_key);
    let Some(earlier) = idempotency::find(reads, &scope).await? else {
        return Ok(None);
    };
    if earlier.body_hash != asked.body_hash {
        return Err(Error::IdempotencyMismatch);
    }
    let id = EnrolmentId::parse(&earlier.resource_id).map_err(|_| Error::Internal)?;
    let row = rows::find(reads, id).await?;
    // The route's profile is not part of the body that the key is bound to.
    if row
        .as_ref()
        .is_some_and(|row| row.profile_id != asked.profile_id)
    {
        return Err(Error::IdempotencyMismatch);
    }
    let begun = row.and_then(|row| {
        Some(Begun {
            enrolment_id: row.enrolment_id,
            sealed: row.answer?,
            expires_at: row.expires_at,
        })
    });
    begun.map(Some).ok_or(Error::StateConflict {
        message: "this enrolment was activated, replaced or given up",
        again: false,
    })
}

fn scope<'a>(owner: &'a Owner, key: &'a IdempotencyKey) -> Scope<'a> {
    Scope {
        tenant: owner.tenant(),
        holder: owner.owner_id().to_string(),
        route: ENROL,
        key,
    }
}

/// The end of a request that is refused after it was counted: it has written nothing else, and the count stays.
fn refused<T>(profile: ProfileId, error: Error) -> (Result<T, Error>, AuditRecord) {
    let record = AuditRecord::done(AuditEvent::RequestRefused)
        .outcome(AuditOutcome::Denied)
        .profile(profile)
        .detail(error.to_string());
    (Err(error), record)
}

/// SECURITY: a thief who was stopped by a freeze must not get themselves what lifts it.
async fn may_change(tx: &mut Tx<'_>, profile: &ProfileRow) -> Result<(), Error> {
    gate::not_frozen(tx, profile.profile_id, &profile.tenant).await?;
    if profile.state == ProfileState::Active {
        return Ok(());
    }
    Err(Error::StateConflict {
        message: "the profile is not active",
        again: false,
    })
}

/// Begins an enrolment in place of one that waits for its first code.
struct Enrol {
    owner: Owner,
    proof: RequestProof,
    idempotency_key: IdempotencyKey,
    body_hash: [u8; 32],
    new: NewFactor,
    factor: SecondFactor,
    metering: Metering,
}

impl Operation for Enrol {
    /// A request that is refused once it counts is counted.
    type Output = Result<Begun, Error>;
    type Refusal = Error;

    fn key(&self) -> Key {
        Key::profile(self.new.row.profile_id)
    }

    fn looks_at(&self) -> Key {
        Key::FREEZES
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<(Self::Output, AuditRecord), CommitError<Error>> {
        self.proof.spend(tx).await?;
        let profile_id = self.new.row.profile_id;
        self.check(tx).await.map_err(CommitError::Refused)?;
        self.metering.take(tx).await?;
        let now = tx.server_clock().await?;
        let standing = rows::standing(tx, profile_id, now).await?;
        if standing
            .next
            .as_ref()
            .is_some_and(|next| next.confirmed.is_some())
        {
            let error = Error::StateConflict {
                message: "a second factor waits for its time already: cancel it first",
                again: false,
            };
            return Ok(refused(profile_id, error));
        }
        let of = (&self.owner, profile_id);
        let grant = match self.factor.check_of_any(tx, of).await? {
            Ok(grant) => grant,
            Err(refused) => return Ok((Err(refused.error), refused.record)),
        };
        let waiting = standing.next.map(|next| next.enrolment_id);
        for gone in standing.over.into_iter().chain(waiting) {
            rows::remove(tx, gone).await?;
        }
        rows::insert(tx, &self.new.row, &self.new.recovery).await?;
        let resource = self.new.row.enrolment_id.to_string();
        let scope = scope(&self.owner, &self.idempotency_key);
        idempotency::insert(tx, &scope, &self.body_hash, &resource, Kept::AsConfigured).await?;
        let (by, with) = (self.owner.device_key_id(), with(grant.as_ref()));
        let record = AuditRecord::done(AuditEvent::TwoFactorBegun)
            .profile(profile_id)
            .detail(format!("enrolment {resource} by {by}{with}"));
        let begun = Begun {
            enrolment_id: self.new.row.enrolment_id,
            sealed: self.new.row.answer.clone().unwrap_or_default(),
            expires_at: self.new.row.expires_at,
        };
        Ok((Ok(begun), record))
    }
}

impl Enrol {
    async fn check(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let profile = owned_profile(tx, &self.owner, self.new.row.profile_id).await?;
        may_change(tx, &profile).await?;
        let scope = scope(&self.owner, &self.idempotency_key);
        if idempotency::find(tx, &scope).await?.is_some() {
            // The same request is in flight: its own answer will be the one.
            return Err(crate::sessions::Refusal::Busy.into());
        }
        Ok(())
    }
}

fn with(grant: Option<&Grant>) -> String {
    grant.map(Grant::detail).unwrap_or_default()
}

/// Makes an enrolment the factor, at once or after its cooling-off.
struct Activate {
    owner: Owner,
    proof: RequestProof,
    profile_id: ProfileId,
    enrolment: EnrolmentId,
    factor: SecondFactor,
    cooling_off: i64,
    metering: Metering,
}

impl Operation for Activate {
    /// A request that is refused once it counts is counted.
    type Output = Result<Shown, Error>;
    type Refusal = Error;

    fn key(&self) -> Key {
        Key::profile(self.profile_id)
    }

    fn looks_at(&self) -> Key {
        Key::FREEZES
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<(Self::Output, AuditRecord), CommitError<Error>> {
        self.proof.spend(tx).await?;
        self.check(tx).await.map_err(CommitError::Refused)?;
        self.metering.take(tx).await?;
        let now = tx.server_clock().await?;
        let standing = rows::standing(tx, self.profile_id, now).await?;
        let since = standing.active.as_ref().and_then(|row| row.confirmed);
        let mut rows = standing.active.into_iter().chain(standing.next);
        let Some(row) = rows.find(|row| row.enrolment_id == self.enrolment) else {
            return Ok(refused(self.profile_id, Error::EnrolmentNotFound));
        };
        let mut detail = format!("enrolment {}", self.enrolment);
        if row.confirmed.is_some() {
            // The answer was lost: nothing is left to be done, and no code is looked at.
            let record = AuditRecord::done(AuditEvent::TwoFactorActivated);
            let record = record.profile(self.profile_id).detail(detail + " again");
            return Ok((Ok(Shown::of(&row, now)), record));
        }
        if let Err(refused) = self.factor.check_first(tx, &row).await? {
            return Ok((Err(refused.error), refused.record));
        }
        let active_at = now.plus_seconds(self.cooling_off);
        let since = since.map_or(active_at, |active| active.since);
        let confirmed = Confirmed { active_at, since };
        if !rows::confirm(tx, self.enrolment, confirmed).await? {
            return Err(CommitError::Refused(Error::Internal));
        }
        detail += &format!(
            " by {} active from {}",
            self.owner.device_key_id(),
            active_at.as_seconds()
        );
        let record = AuditRecord::done(AuditEvent::TwoFactorActivated)
            .profile(self.profile_id)
            .detail(detail);
        let row = FactorRow {
            confirmed: Some(confirmed),
            ..row
        };
        Ok((Ok(Shown::of(&row, now)), record))
    }
}

impl Activate {
    async fn check(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let profile = owned_profile(tx, &self.owner, self.profile_id).await?;
        may_change(tx, &profile).await
    }
}

/// Gives up an enrolment that is not the factor yet.
struct Cancel {
    owner: Owner,
    proof: RequestProof,
    profile_id: ProfileId,
    enrolment: EnrolmentId,
    metering: Metering,
}

impl Operation for Cancel {
    /// A request that is refused once it counts is counted.
    type Output = Result<(), Error>;
    type Refusal = Error;

    fn key(&self) -> Key {
        Key::profile(self.profile_id)
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<(Self::Output, AuditRecord), CommitError<Error>> {
        self.proof.spend(tx).await?;
        let owned = owned_profile(tx, &self.owner, self.profile_id).await;
        owned.map_err(CommitError::Refused)?;
        let now = tx.server_clock().await?;
        let next = rows::standing(tx, self.profile_id, now).await?.next;
        if next.is_none_or(|next| next.enrolment_id != self.enrolment) {
            self.metering.take(tx).await?;
            return Ok(refused(self.profile_id, Error::EnrolmentNotFound));
        }
        // SECURITY: whoever uses up the rate with a stolen device keeps no owner from cancelling what it enrolled.
        self.metering.note(tx).await?;
        rows::remove(tx, self.enrolment).await?;
        let by = self.owner.device_key_id();
        let record = AuditRecord::done(AuditEvent::TwoFactorCancelled)
            .profile(self.profile_id)
            .detail(format!("enrolment {} by {by}", self.enrolment));
        Ok((Ok(()), record))
    }
}
