//! Moves the anchor forward as the audit chain grows: what is anchored can be cut off unnoticed no more.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::steps::Steps;
use crate::audit::verify::onward;
use crate::custody::guard::GuardError;

/// Moves the anchor forward.
#[derive(Clone)]
pub struct Anchoring {
    /// The database and custody.
    pub steps: Arc<Steps>,
    /// How often.
    pub interval: Duration,
}

impl Anchoring {
    /// Works until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            drop(tokio::time::timeout(self.interval, stop.cancelled()).await);
            if !stop.is_cancelled() {
                self.turn().await;
            }
        }
    }

    /// Follows the audit chain from the anchor to its end and anchors that.
    pub async fn turn(&self) {
        match self.advance().await {
            Ok(()) => {}
            Err(GuardError::Store(error)) => error.log("the audit chain was not anchored"),
            // Told once, when it was found.
            Err(error @ GuardError::PutBack(_)) => tracing::debug!(%error, "not anchored"),
            Err(error) => tracing::error!(?error, "the audit chain was not anchored"),
        }
    }

    async fn advance(&self) -> Result<(), GuardError> {
        let guard = self.steps.custody.guard();
        let anchor = guard.look().await?;
        let mut reader = self.steps.store.reader().await?;
        let end = onward(&mut reader, anchor.audit).await?;
        drop(reader);
        match end {
            Ok(end) => guard.advance(Some(end)).await.map(drop),
            Err(found) => {
                tracing::error!(%found, "the audit chain is anchored no further: run countersignd audit verify");
                guard.advance(None).await.map(drop)
            }
        }
    }
}
