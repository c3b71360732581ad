//! Asking policy; and a request that it denied, which is recorded before anybody is told.

use super::Error;
use super::steps::Steps;
use crate::clock::Timestamp;
use crate::domain::ProfileId;
use crate::gate::rates::Metering;
use crate::gate::{self, Allowed, Denied};
use crate::identity::replay::RequestProof;
use crate::policy::{Facts, Reason};
use crate::store::{AuditEvent, AuditOutcome, AuditRecord, CommitError, Key, Operation, Tx};

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
