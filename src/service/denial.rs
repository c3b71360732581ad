//! Asking policy; and a request that it denied, which is recorded before anybody is told.

use super::Error;
use super::second_factor::SecondFactor;
use super::steps::Steps;
use crate::clock::Timestamp;
use crate::domain::ProfileId;
use crate::gate::rates::Metering;
use crate::gate::{self, Allowed, Denied};
use crate::identity::replay::RequestProof;
use crate::policy::{Facts, Reason};
use crate::store::profiles::ProfileRow;
use crate::store::{AuditEvent, AuditOutcome, AuditRecord, CommitError, Key, Operation, Tx};
use crate::telemetry::metrics::TwoFactorResult;
use crate::two_factor::Code;

impl Steps {
    /// Judges a request by the rules in force.
    ///
    /// # Errors
    /// [`Denied`] when a rule forbids it or none permits it.
    pub fn judge(
        &self,
        facts: &Facts,
        profile: ProfileId,
        expires_at: Timestamp,
    ) -> Result<Allowed, Box<Denied>> {
        let judged = gate::judge(&self.policy, facts, profile, expires_at);
        let outcome = match &judged {
            Ok(_) => "allowed",
            Err(denied) => denied.reason.as_str(),
        };
        self.metrics.policy_decided(facts.asked.action(), outcome);
        judged
    }

    /// Judges a request, and once more with a second factor if only that is missing and a code came: what is allowed then
    /// is done only if the operation finds the code right.
    ///
    /// # Errors
    /// The denial, and what the client is told.
    pub async fn judge_stepping_up(
        &self,
        facts: &mut Facts,
        profile: &ProfileRow,
        expires_at: Timestamp,
        code: Option<&Code>,
    ) -> Result<(Allowed, Option<SecondFactor>), (Error, Option<Box<Denied>>)> {
        let id = profile.profile_id;
        let denied = match self.judge(facts, id, expires_at) {
            Ok(allowed) => return Ok((allowed, None)),
            Err(denied) if denied.reason == Reason::SecondFactor => denied,
            Err(denied) => return Err((told(&denied), Some(denied))),
        };
        let Some(code) = code else {
            let (error, result) = match self.has_factor(id).await {
                Ok(true) => (Error::TwoFactorRequired(None), TwoFactorResult::Required),
                Ok(false) => (Error::TwoFactorNotEnrolled, TwoFactorResult::NotEnrolled),
                Err(error) => return Err((error, None)),
            };
            self.metrics.two_factor(result);
            return Err((error, Some(denied)));
        };
        let factor = self.presented(profile, Some(code)).await;
        let factor = factor.map_err(|error| (error, None))?;
        facts.second_factor = true;
        match self.judge(facts, id, expires_at) {
            Ok(allowed) => Ok((allowed, Some(factor))),
            Err(denied) => Err((told(&denied), Some(denied))),
        }
    }

    /// Records a denial with its reason and rules, and counts the request where it falls under a rate; what the client is
    /// told.
    pub async fn deny(
        &self,
        denied: Box<Denied>,
        (proof, profile_id): (RequestProof, ProfileId),
        (event, key): (AuditEvent, Key),
        metering: Option<Metering>,
    ) -> Error {
        let told = told(&denied);
        let of = (proof, profile_id);
        self.deny_with(denied, of, (event, key), (metering, told))
            .await
    }

    /// As [`Steps::deny`], with what the client is told.
    pub async fn deny_with(
        &self,
        denied: Box<Denied>,
        (proof, profile_id): (RequestProof, ProfileId),
        (event, key): (AuditEvent, Key),
        (metering, told): (Option<Metering>, Error),
    ) -> Error {
        let record = RecordDenial {
            proof,
            denied,
            profile_id,
            event,
            key,
            metering,
        };
        match self.store.commit(record).await {
            Ok(recorded) => {
                recorded.into_inner();
                told
            }
            Err(error) => error.into(),
        }
    }
}

/// The client learns which chain is not served, and else only that policy said no: which rule it was is for operators.
pub(super) const fn told(denied: &Denied) -> Error {
    match (denied.reason, denied.chain) {
        (Reason::Chain, Some(chain_id)) => Error::ChainNotAllowed(chain_id),
        _ => Error::PolicyDenied,
    }
}

struct RecordDenial {
    proof: RequestProof,
    denied: Box<Denied>,
    profile_id: ProfileId,
    event: AuditEvent,
    key: Key,
    metering: Option<Metering>,
}

impl Operation for RecordDenial {
    type Output = ();
    type Refusal = Error;

    fn key(&self) -> Key {
        self.key
    }

    fn also(&self) -> Key {
        self.metering.as_ref().map_or(Key::NONE, Metering::key)
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<((), AuditRecord), CommitError<Self::Refusal>> {
        self.proof.spend(tx).await?;
        if let Some(metering) = &self.metering {
            metering.take(tx).await?;
        }
        self.denied.record(tx).await?;
        let record = AuditRecord::done(self.event)
            .outcome(AuditOutcome::Denied)
            .profile(self.profile_id)
            .detail(self.denied.detail());
        Ok(((), record))
    }
}
