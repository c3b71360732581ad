//! Putting changed policy files into force while requests go on.

use std::sync::Arc;

use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;

use crate::limits::InForce;
use crate::telemetry::metrics::{Metrics, Reload};

/// Reads the limits again on every SIGHUP, until `stop`. A file that is not good changes nothing.
pub async fn limits(
    limits: Arc<InForce>,
    metrics: Arc<Metrics>,
    mut hangup: Signal,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = hangup.recv() => {}
        }
        let reading = Arc::clone(&limits);
        let read = tokio::task::spawn_blocking(move || reading.reload()).await;
        let result = match read {
            Ok(Ok(changed)) => {
                tracing::info!(changed, "the limits were read again");
                Reload::Done
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "the limits are not usable: those of before stay in force");
                Reload::Failed
            }
            Err(error) => {
                tracing::error!(%error, "the limits could not be read");
                Reload::Failed
            }
        };
        metrics.limits_reload(result);
    }
}
