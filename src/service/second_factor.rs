//! What a request brings as its second factor, on its way into the operation that needs it (`gate::two_factor`).

use std::sync::{Arc, Mutex, PoisonError};

use super::Error;
use super::show::owned_profile;
use super::steps::Steps;
use crate::clock::Timestamp;
use crate::custody::two_factor::NoKeys;
use crate::domain::ProfileId;
use crate::gate::two_factor::{self, Checked, First, Grant, Need, Presented, Refused};
use crate::identity::owner::Owner;
use crate::store::profiles::ProfileRow;
use crate::store::two_factor::FactorRow;
use crate::store::{
    AuditEvent, AuditOutcome, AuditRecord, Operation, Reader, StoreError, Tx, two_factor as rows,
};
use crate::telemetry::metrics::TwoFactorResult;
use crate::two_factor::{Code, wait};

/// How second factors are dealt with here.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Whether devices are enrolled only for who has one.
    pub required: bool,
    /// Seconds before an enrolment is the factor.
    pub cooling_off: i64,
    /// What authenticators show before the wallet: letters, digits, `.`, `-` and `_`.
    pub issuer: String,
}

/// What came with a request, looked at by custody, and what became of it.
pub struct SecondFactor {
    presented: Presented,
    tally: Tally,
}

/// What became of a second factor, for the metrics, once it is committed. An operation that is run again finds it again.
#[derive(Clone, Default)]
pub struct Tally(Arc<Mutex<Option<TwoFactorResult>>>);

impl Tally {
    fn set(&self, result: Option<TwoFactorResult>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = result;
    }
}

/// An operation ends with this, and is committed.
pub struct RefusedRequest {
    /// What the client is told.
    pub error: Error,
    /// What is recorded.
    pub record: AuditRecord,
}

impl SecondFactor {
    fn new(presented: Presented) -> Self {
        Self {
            presented,
            tally: Tally::default(),
        }
    }

    /// For [`Steps::commit_with`].
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tally.clone()
    }

    /// Checks it inside the operation, before that writes anything but its rate. On a refusal the operation ends with
    /// `Ok((Err(refused.error), refused.record))`.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn check(
        &self,
        tx: &mut Tx<'_>,
        profile: ProfileId,
        need: Need,
    ) -> Result<Result<Option<Grant>, Box<RefusedRequest>>, StoreError> {
        let checked = two_factor::check(tx, profile, &self.presented, need).await?;
        Ok(self.outcome(profile, checked))
    }

    /// As [`SecondFactor::check`], for what concerns all wallets of an owner.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn check_of_owner(
        &self,
        tx: &mut Tx<'_>,
        (owner, profile): (&Owner, ProfileId),
        need: Need,
    ) -> Result<Result<Option<Grant>, Box<RefusedRequest>>, StoreError> {
        let (owner, presented) = ((owner.tenant(), owner.owner_id()), &self.presented);
        let checked = two_factor::check_of_owner(tx, owner, profile, presented, need).await?;
        Ok(self.outcome(profile, checked))
    }

    /// As [`SecondFactor::check`], for a factor that a profile is to have: by the one it has, or else by the one that speaks
    /// for all wallets of the owner.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn check_of_any(
        &self,
        tx: &mut Tx<'_>,
        (owner, profile): (&Owner, ProfileId),
    ) -> Result<Result<Option<Grant>, Box<RefusedRequest>>, StoreError> {
        let (owner, presented) = ((owner.tenant(), owner.owner_id()), &self.presented);
        let checked = two_factor::check_of_any(tx, owner, profile, presented).await?;
        Ok(self.outcome(profile, checked))
    }

    /// Checks the first code of an enrolment.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn check_first(
        &self,
        tx: &mut Tx<'_>,
        pending: &FactorRow,
    ) -> Result<Result<(), Box<RefusedRequest>>, StoreError> {
        let now = tx.server_clock().await?;
        let profile = pending.profile_id;
        let first = two_factor::check_first(tx, now, pending, &self.presented).await?;
        let refused = match first {
            First::Proven => {
                self.tally.set(Some(TwoFactorResult::Ok));
                return Ok(Ok(()));
            }
            First::NotShown => refusal(profile, Refused::Required(None)),
            First::Wrong { ended } => {
                let wrong = Refused::Invalid { locks: false };
                let (result, mut refused) = refusal(profile, wrong);
                if ended {
                    let detail = format!(
                        "second factor: the last first code of enrolment {}, which is over",
                        pending.enrolment_id
                    );
                    refused.record = refused.record.detail(detail);
                }
                (result, refused)
            }
        };
        let (result, refused) = refused;
        self.tally.set(Some(result));
        Ok(Err(Box::new(refused)))
    }

    fn outcome(
        &self,
        profile: ProfileId,
        checked: Checked,
    ) -> Result<Option<Grant>, Box<RefusedRequest>> {
        let (result, done) = match checked {
            Checked::NotNeeded => (None, Ok(None)),
            Checked::Granted(grant) => {
                let result = match grant.recovery_left() {
                    Some(_) => TwoFactorResult::Recovery,
                    None => TwoFactorResult::Ok,
                };
                (Some(result), Ok(Some(grant)))
            }
            Checked::Refused(refused) => {
                let (result, refused) = refusal(profile, refused);
                (Some(result), Err(Box::new(refused)))
            }
        };
        self.tally.set(result);
        done
    }
}

fn refusal(profile: ProfileId, refused: Refused) -> (TwoFactorResult, RefusedRequest) {
    let (result, event, what, error) = match refused {
        Refused::Required(of) => (
            TwoFactorResult::Required,
            AuditEvent::RequestRefused,
            "there is no code",
            Error::TwoFactorRequired(of),
        ),
        Refused::Invalid { locks: false } => (
            TwoFactorResult::Wrong,
            AuditEvent::TwoFactorWrong,
            "the code does not hold",
            Error::TwoFactorInvalid,
        ),
        Refused::Invalid { locks: true } => (
            TwoFactorResult::Wrong,
            AuditEvent::TwoFactorLocked,
            "the code does not hold, and it was one too many",
            Error::TwoFactorInvalid,
        ),
        Refused::Locked(seconds) => (
            TwoFactorResult::Locked,
            AuditEvent::TwoFactorWrong,
            "it is locked",
            Error::TwoFactorLocked(seconds),
        ),
        Refused::NotEnrolled => (
            TwoFactorResult::NotEnrolled,
            AuditEvent::RequestRefused,
            "there is none",
            Error::TwoFactorNotEnrolled,
        ),
    };
    let record = AuditRecord::done(event)
        .outcome(AuditOutcome::Denied)
        .profile(profile)
        .detail(format!("second factor: {what}"));
    (result, RefusedRequest { error, record })
}

impl Steps {
    /// Looks at the code that came with a request for a profile: asks the HSM, changes nothing.
    ///
    /// # Errors
    /// [`Error::DuoNodeUnavailable`] when the HSM is away.
    pub async fn presented(
        &self,
        profile: &ProfileRow,
        code: Option<&Code>,
    ) -> Result<SecondFactor, Error> {
        let Some(code) = code else {
            return Ok(SecondFactor::new(Presented::Nothing));
        };
        let mut reader = self.store.reader().await?;
        let now = reader.server_clock().await?;
        let standing = rows::standing(&mut reader, profile.profile_id, now).await?;
        unlocked(&mut reader, profile.profile_id, code, now).await?;
        drop(reader);
        self.presented_to(profile, standing.active.as_ref(), code)
            .await
    }

    /// Whether a profile has an active factor.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn has_factor(&self, profile: ProfileId) -> Result<bool, Error> {
        let mut reader = self.store.reader().await?;
        let now = reader.server_clock().await?;
        let standing = rows::standing(&mut reader, profile, now).await?;
        Ok(standing.active.is_some())
    }

    /// As [`Steps::presented`], by the factor of the profile or else by the one that speaks for all wallets of its owner.
    ///
    /// # Errors
    /// As [`Steps::presented`].
    pub async fn presented_of_owner(
        &self,
        owner: &Owner,
        mut profile: ProfileRow,
        code: Option<&Code>,
    ) -> Result<SecondFactor, Error> {
        let mut reader = self.store.reader().await?;
        let now = reader.server_clock().await?;
        let standing = rows::standing(&mut reader, profile.profile_id, now).await?;
        if standing.active.is_none() {
            let of = (owner.tenant(), owner.owner_id());
            if let Some(other) = rows::oldest_of_owner(&mut reader, of, now).await? {
                profile = owned_profile(&mut reader, owner, other).await?;
            }
        }
        drop(reader);
        self.presented(&profile, code).await
    }

    /// As [`Steps::presented`], for one enrolment.
    ///
    /// # Errors
    /// As [`Steps::presented`].
    pub async fn presented_to(
        &self,
        profile: &ProfileRow,
        factor: Option<&FactorRow>,
        code: &Code,
    ) -> Result<SecondFactor, Error> {
        let Some(factor) = factor else {
            return Ok(SecondFactor::new(Presented::Strange));
        };
        let compared = self.custody.compare(profile, factor, code).await;
        compared.map(SecondFactor::new).map_err(Error::from)
    }

    /// Commits an operation with a second factor in it, and counts what became of that.
    ///
    /// # Errors
    /// As the operation.
    pub async fn commit_with<O, T>(&self, tally: Tally, operation: O) -> Result<T, Error>
    where
        O: Operation<Output = Result<T, Error>, Refusal = Error>,
    {
        let done = self.store.commit(operation).await?.into_inner();
        let result = *tally.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(result) = result {
            self.metrics.two_factor(result);
        }
        done
    }
}

/// SECURITY: while no code is looked at, the HSM, which signs too, is not asked about any, and nothing is written.
async fn unlocked(
    reader: &mut Reader,
    profile: ProfileId,
    code: &Code,
    now: Timestamp,
) -> Result<(), Error> {
    let until = rows::lock(reader, profile).await?.until;
    match (code, until.filter(|until| *until > now)) {
        (Code::Shown(_), Some(until)) => Err(Error::TwoFactorLocked(wait(until, now))),
        _ => Ok(()),
    }
}

impl From<NoKeys> for Error {
    fn from(reason: NoKeys) -> Self {
        match reason {
            NoKeys::NotEmpty => Self::InvalidKeyShare("The message of an enrolment is empty"),
            NoKeys::Unavailable => Self::DuoNodeUnavailable,
        }
    }
}
