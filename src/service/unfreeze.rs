//! An owner lifts their own freeze, with a code of their second factor: a device alone, which may be stolen, does not.
//!
//! An operator's freeze of the same profile stays: it takes operators.

use std::sync::Arc;

use super::Error;
use super::freeze::tell_frozen;
use super::second_factor::SecondFactor;
use super::show::owned_profile;
use super::steps::Steps;
use crate::domain::{PlacedBy, ProfileId, RateClass, RateSubject, Target};
use crate::gate::rates::Metering;
use crate::gate::two_factor::{Grant, Need};
use crate::identity::owner::Owner;
use crate::identity::replay::RequestProof;
use crate::limits::Meter;
use crate::store::{AuditEvent, AuditRecord, CommitError, Key, Operation, Tx, freezes};
use crate::two_factor::Code;

/// The use case.
pub struct Unfreezing {
    steps: Arc<Steps>,
}

impl Unfreezing {
    /// The use case over its parts.
    #[must_use]
    pub const fn new(steps: Arc<Steps>) -> Self {
        Self { steps }
    }

    /// Lifts the owner's freeze of a profile. Where none stands nothing is done, and no code is used up. Whether another one
    /// stops it still.
    ///
    /// # Errors
    /// [`Error`] says what to do.
    pub async fn lift(
        &self,
        owner: Owner,
        proof: RequestProof,
        profile_id: ProfileId,
        (code, meter): (Option<Code>, Meter),
    ) -> Result<bool, Error> {
        let mut reader = self.steps.store.reader().await?;
        let profile = owned_profile(&mut reader, &owner, profile_id).await?;
        drop(reader);
        let factor = self.steps.presented(&profile, code.as_ref()).await?;
        let subject = RateSubject::Profile(profile_id);
        let (limits, class) = (&self.steps.limits, RateClass::KeyOperations);
        let lift = Lift {
            owner,
            proof,
            profile_id,
            factor,
            metering: Metering::new(limits, class, subject, meter),
        };
        let frozen = self.steps.commit_with(lift.factor.tally(), lift).await?;
        if let Err(error) = tell_frozen(&self.steps.store, &self.steps.metrics).await {
            error.log("the number of freezes is not known");
        }
        Ok(frozen)
    }
}

/// Lifts an owner's freeze.
struct Lift {
    owner: Owner,
    proof: RequestProof,
    profile_id: ProfileId,
    factor: SecondFactor,
    metering: Metering,
}

impl Operation for Lift {
    /// A request that is refused once it counts is counted, and so is a wrong code.
    type Output = Result<bool, Error>;
    type Refusal = Error;

    fn key(&self) -> Key {
        Key::profile(self.profile_id)
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<(Self::Output, AuditRecord), CommitError<Error>> {
        self.proof.spend(tx).await?;
        let profile = owned_profile(tx, &self.owner, self.profile_id).await;
        let tenant = profile.map_err(CommitError::Refused)?.tenant;
        self.metering.take(tx).await?;
        let target = Target::Profile(self.profile_id);
        let record = |detail: String| {
            let record = AuditRecord::done(AuditEvent::Unfrozen).profile(self.profile_id);
            record.detail(format!(
                "{target} by owner {}: {detail}",
                self.owner.device_key_id()
            ))
        };
        let Some(standing) = freezes::find(tx, &target, PlacedBy::Owner).await? else {
            let frozen = freezes::over(tx, self.profile_id, &tenant).await?.is_some();
            return Ok((Ok(frozen), record("no freeze of theirs stood".to_owned())));
        };
        let checked = self.factor.check(tx, self.profile_id, Need::Always).await?;
        let grant = match checked {
            Ok(grant) => grant,
            Err(refused) => return Ok((Err(refused.error), refused.record)),
        };
        freezes::lift(tx, &target, standing.freeze_id).await?;
        let with = grant.as_ref().map(Grant::detail).unwrap_or_default();
        let frozen = freezes::over(tx, self.profile_id, &tenant).await?.is_some();
        Ok((
            Ok(frozen),
            record(format!("freeze {}{with}", standing.freeze_id)),
        ))
    }
}
