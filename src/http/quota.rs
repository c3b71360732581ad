//! What one client may take up of a listener, so that it cannot crowd out the others (`protocol.md` 5.1, A37).
//!
//! A client is a name in the configuration, whatever number of certificates or connections it has: so the number of
//! quotas is fixed, and a new certificate or connection gets nobody a fresh one. The limits that count for security are
//! those of the durable operations; these only keep a flood cheap. An owner's freeze has a small share of its own: it is
//! let in when its gateway has used up the other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::Request;
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::config::Limits;
use crate::http::error::ApiError;
use crate::identity::certificate::{AllowList, ClientIdentity, SubjectName};
use crate::telemetry::metrics::{ListenerName, Metrics, Throttle};

/// Connections of all peers together whose certificate is good but who are no clients of this listener.
const STRANGERS: usize = 16;
/// What a client may take up with freezes, beside all else: at once, and each second.
const FREEZES_AT_ONCE: usize = 16;
const FREEZES_PER_SECOND: u32 = 10;
const FREEZES_BURST: u32 = 40;

/// The quotas of a listener.
pub struct Quotas {
    clients: BTreeMap<SubjectName, Arc<Quota>>,
    strangers: Arc<Semaphore>,
}

/// What one client may still take up.
pub struct Quota {
    listener: ListenerName,
    connections: Arc<Semaphore>,
    ordinary: Share,
    freezes: Share,
    metrics: Arc<Metrics>,
}

/// How many requests at once, and how many in time.
struct Share {
    places: Arc<Semaphore>,
    rate: Mutex<Bucket>,
}

impl Share {
    fn new(at_once: usize, (per_second, burst): (u32, u32)) -> Self {
        Self {
            places: Arc::new(Semaphore::new(at_once.min(Semaphore::MAX_PERMITS))),
            rate: Mutex::new(Bucket::new(per_second, burst, Instant::now())),
        }
    }
}

impl Quotas {
    /// A quota for each client.
    #[must_use]
    pub fn new(
        listener: ListenerName,
        clients: &AllowList,
        limits: &Limits,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let semaphore = |size: usize| Arc::new(Semaphore::new(size.min(Semaphore::MAX_PERMITS)));
        let quota = || Quota {
            listener,
            connections: semaphore(limits.max_connections_per_client),
            ordinary: Share::new(
                limits.max_requests_per_client,
                (limits.requests_per_second, limits.request_burst),
            ),
            freezes: Share::new(FREEZES_AT_ONCE, (FREEZES_PER_SECOND, FREEZES_BURST)),
            metrics: Arc::clone(metrics),
        };
        Self {
            clients: clients
                .iter()
                .map(|(name, ..)| (name.clone(), Arc::new(quota())))
                .collect(),
            strangers: semaphore(STRANGERS),
        }
    }

    /// The client's quota.
    #[must_use]
    pub fn of(&self, client: &ClientIdentity) -> Option<Arc<Quota>> {
        self.clients.get(client.san()).cloned()
    }

    /// A place for the connection of a stranger, if there is one left.
    #[must_use]
    pub fn stranger(&self) -> Option<OwnedSemaphorePermit> {
        self.strangers.clone().try_acquire_owned().ok()
    }
}

impl Quota {
    /// A place for one more connection, if there is one left.
    #[must_use]
    pub fn connection(&self) -> Option<OwnedSemaphorePermit> {
        self.connections.clone().try_acquire_owned().ok()
    }

    /// A place for one more request of a share.
    fn request(&self, share: &Share) -> Result<OwnedSemaphorePermit, ApiError> {
        let throttled = |reason, error| {
            self.metrics.throttled(self.listener, reason);
            error
        };
        let place = share
            .places
            .clone()
            .try_acquire_owned()
            .map_err(|_| throttled(Throttle::Concurrency, ApiError::overloaded()))?;
        let mut rate = share.rate.lock().unwrap_or_else(PoisonError::into_inner);
        rate.take(Instant::now())
            .map_err(|wait| throttled(Throttle::Rate, ApiError::too_many_requests(wait)))?;
        Ok(place)
    }
}

/// Middleware: lets a request in when its client's quota allows it. A request without a quota did not come through
/// the accept loop.
pub async fn admit(request: Request, next: Next) -> Response {
    let Some(quota) = request.extensions().get::<Arc<Quota>>().cloned() else {
        return ApiError::no_certificate().into_response();
    };
    let share = match is_freeze(&request) {
        true => &quota.freezes,
        false => &quota.ordinary,
    };
    match quota.request(share) {
        Ok(_place) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

/// Whether it is an owner's freeze: `POST /api/v1/profiles/{id}/freeze`.
fn is_freeze(request: &Request) -> bool {
    let path = request.uri().path();
    let id = path.strip_prefix("/api/v1/profiles/");
    let id = id.and_then(|rest| rest.strip_suffix("/freeze"));
    request.method() == Method::POST && id.is_some_and(|id| !id.contains('/'))
}

/// The generic cell rate algorithm: at most `burst` at once and `1 / interval` for ever.
struct Bucket {
    interval: Duration,
    /// How far ahead of the clock `due` may run.
    tolerance: Duration,
    /// When the bucket will be empty again.
    due: Instant,
}

impl Bucket {
    fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self {
            interval,
            tolerance: interval.saturating_mul(burst.max(1)),
            due: now,
        }
    }

    /// Takes one, or says how long to wait for it.
    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let due = self.due.max(now) + self.interval;
        let ahead = due.saturating_duration_since(now);
        match ahead.checked_sub(self.tolerance) {
            None | Some(Duration::ZERO) => {
                self.due = due;
                Ok(())
            }
            Some(wait) => Err(wait),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::time::Duration;

    use tokio::time::Instant;

    use super::Bucket;

    #[test]
    fn a37_a_burst_is_served_and_then_no_more_than_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, 3, start);
        for _ in 0..3 {
            bucket.take(start).unwrap();
        }
        let wait = bucket.take(start).unwrap_err();
        assert_eq!(wait, Duration::from_millis(100));
        // Being refused costs nothing.
        bucket.take(start + wait).unwrap();
        assert!(bucket.take(start + wait).is_err());
        // Over any ten seconds no more than the burst and ten times the rate.
        let mut served = 0;
        for millisecond in 0..10_000 {
            let now = start + wait + Duration::from_millis(millisecond);
            served += u32::from(bucket.take(now).is_ok());
        }
        assert_eq!(served, 99);
        // A pause gives the burst back and nothing beyond it.
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..9).filter(|_| bucket.take(later).is_ok()).count(), 3);
    }
}
