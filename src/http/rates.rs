//! What the limiter found, in the headers of an answer (draft-ietf-httpapi-ratelimit-headers, since -08).
//!
//! Every answer of a limited route names its rate; where the limiter was asked, also what is left of it.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;

use crate::domain::RateClass;
use crate::limits::{InForce, Meter, Rate, Standing};
use crate::telemetry::metrics::Metrics;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LEFT: HeaderName = HeaderName::from_static("ratelimit");

/// The limited routes, all of them POST.
const LIMITED: [(&str, RateClass); 6] = [
    ("/api/v1/mpc/sign", RateClass::Signing),
    ("/api/v2/profiles", RateClass::KeyOperations),
    (
        "/api/v1/profiles/{id}/transactions",
        RateClass::Transactions,
    ),
    ("/api/v1/profiles/{id}/devices", RateClass::KeyOperations),
    ("/api/v1/profiles/{id}/unfreeze", RateClass::KeyOperations),
    (
        "/api/v1/profiles/{id}/devices/{keyId}/revoke",
        RateClass::KeyOperations,
    ),
];

/// The class of the requests of a route, if their number is limited.
pub(super) fn class(method: &str, path: &str) -> Option<RateClass> {
    let mut limited = LIMITED.iter().filter(|_| method == Method::POST.as_str());
    limited
        .find(|(template, _)| *template == path)
        .map(|(_, class)| *class)
}

/// Middleware for a whole router: gives a request its meter, and its answer the headers.
pub async fn tell(
    State((limits, metrics)): State<(Arc<InForce>, Arc<Metrics>)>,
    path: Option<MatchedPath>,
    mut request: Request,
    next: Next,
) -> Response {
    let path = path.as_ref().map_or("", MatchedPath::as_str);
    let class = class(request.method().as_str(), path);
    let meter = Meter::default();
    request.extensions_mut().insert(meter.clone());
    let mut response = next.run(request).await;
    if let Some(class) = class {
        let found = meter.read();
        if found.is_some_and(|found| found.exceeded) {
            metrics.rate_exceeded(class);
        }
        let standing = found.map(|found| found.standing);
        // The rate that was asked is the one to name: another may be in force by now.
        let rate = standing.map_or_else(|| limits.current().rate(class), |found| found.rate);
        let headers = response.headers_mut();
        headers.extend(header(POLICY, policy(rate)));
        headers.extend(standing.and_then(|standing| header(LEFT, left(standing))));
    }
    response
}

fn policy(rate: Rate) -> String {
    let (class, requests, seconds) = (rate.class.as_str(), rate.requests, rate.seconds);
    format!("\"{class}\";q={requests};w={seconds}")
}

fn left(standing: Standing) -> String {
    let (class, remaining, reset) = (
        standing.rate.class.as_str(),
        standing.remaining,
        standing.reset,
    );
    format!("\"{class}\";r={remaining};t={reset}")
}

fn header(name: HeaderName, value: String) -> Option<(HeaderName, HeaderValue)> {
    // Both are plain text of ours.
    Some((name, HeaderValue::try_from(value).ok()?))
}

#[cfg(test)]
mod tests {
    use super::{LIMITED, class, left, policy};
    use crate::domain::RateClass;
    use crate::http::openapi;
    use crate::limits::{Rate, Standing};

    #[test]
    fn a25_the_headers_have_the_syntax_of_the_draft() {
        let rate = Rate {
            class: RateClass::Signing,
            requests: 10,
            seconds: 60,
        };
        assert_eq!(policy(rate), "\"signing\";q=10;w=60");
        let standing = Standing {
            rate,
            remaining: 7,
            reset: 41,
        };
        assert_eq!(left(standing), "\"signing\";r=7;t=41");
    }

    #[test]
    fn a25_every_limited_route_is_a_route() {
        let document = openapi::document();
        for (path, limited) in LIMITED {
            let pointer = path.replace('~', "~0").replace('/', "~1");
            let route = document.pointer(&format!("/paths/{pointer}/post"));
            assert!(route.is_some(), "{path}");
            assert_eq!(class("POST", path), Some(limited));
            assert_eq!(class("GET", path), None);
        }
        assert_eq!(class("POST", "/api/v1/mpc/identity"), None);
    }
}
