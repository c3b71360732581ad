//! What must happen by itself: sessions end in time, keys are replaced, memory is given back.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::create_profile::CreateProfile;
use super::retention::Pruner;
use super::sign::Sign;
use super::steps::Steps;
use crate::clock;
use crate::custody::{KemRing, ResponseKeys};
use crate::sessions::lifecycle::Expire;
use crate::store::{CommitError, StoreError};

/// How often sessions are looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// How many of those looks pass between two looks at the keys of the day.
const KEM_EVERY: u32 = 300;
/// How many pass between two looks at the shares of banned wallets.
const EMPTY_EVERY: u32 = 4;
/// How many pass between two rounds of deleting what is old.
const PRUNE_EVERY: u32 = 30;

/// The housekeeper.
pub struct Housekeeping {
    /// Sessions and kept state.
    pub steps: Arc<Steps>,
    /// The KEM keys.
    pub kem: Arc<KemRing>,
    /// What signs answers.
    pub response_keys: Arc<ResponseKeys>,
    /// Answers of key generations.
    pub create_profile: Arc<CreateProfile>,
    /// Answers of signatures.
    pub sign: Arc<Sign>,
    /// What is deleted by its age.
    pub pruner: Pruner,
}

impl Housekeeping {
    /// Works until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut round: u32 = 0;
        let mut forgotten = HashSet::new();
        while !stop.is_cancelled() {
            drop(tokio::time::timeout(INTERVAL, stop.cancelled()).await);
            if let Err(error) = self.expire().await {
                error.log("overdue sessions could not be ended");
            }
            if let Err(error) = self.steps.membership.reap().await {
                error.log("checks of dead instances could not be ended");
            }
            if let Err(error) = self.steps.custody.prove_unwraps().await {
                error.log("the records of unwrapped shares could not be looked up");
            }
            match self.steps.end_forgotten(&forgotten).await {
                Ok(found) => forgotten = found,
                Err(error) => error.log("forgotten checks could not be ended"),
            }
            self.steps.custody.sweep(clock::now());
            self.create_profile.sweep();
            self.sign.sweep();
            if let Err(error) = self.kem.sweep().await {
                error.log("KEM keys that have ended could not all be destroyed");
            }
            if let Err(error) =
                super::freeze::tell_frozen(&self.steps.store, &self.steps.metrics).await
            {
                error.log("the number of freezes is not known");
            }
            round = round.wrapping_add(1);
            if round.is_multiple_of(EMPTY_EVERY)
                && let Err(error) = self.steps.custody.empty_shares().await
            {
                error.log("shares of banned wallets could not be emptied");
            }
            if round.is_multiple_of(KEM_EVERY) {
                self.renew().await;
            }
            if round.is_multiple_of(PRUNE_EVERY)
                && let Err(error) = self.pruner.round(&stop).await
            {
                error.log("old rows could not be deleted");
            }
        }
    }

    /// The keys of the day.
    async fn renew(&self) {
        if let Err(error) = self.kem.refresh().await {
            error.log("the KEM keys could not be refreshed");
        }
        if let Err(error) = self.response_keys.refresh().await {
            tracing::error!(?error, "the response key could not be replaced");
        }
    }

    async fn expire(&self) -> Result<(), StoreError> {
        let mut reader = self.steps.store.reader().await?;
        let overdue = crate::store::sessions::overdue(&mut reader, clock::now()).await?;
        drop(reader);
        for session in overdue {
            let id = session.session_id;
            match self.steps.store.commit(Expire { session }).await {
                Ok(_) => self.steps.custody.forget(id),
                Err(CommitError::Refused(_)) => {}
                Err(CommitError::Store(error)) => return Err(error),
            }
        }
        Ok(())
    }
}
