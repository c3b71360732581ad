//! Every metric of the appliance, in one struct. The doc comment of a field is its help text.
//!
//! Label values come from closed enums (or from the route table), never from ids or input, so the number
//! of series is bounded.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::clock::Timestamp;
use crate::domain::{EnvironmentKind, FreezeScope, RateClass, SessionKind};

/// Upper bounds of every latency histogram, in seconds: 100 µs to 10 s.
const BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident => $text:literal),+ $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// The label value.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    )+};
}

labels! {
    /// A step of the two-party protocol on our side.
    Step {
        /// First message of a key generation.
        KeygenRound1 => "keygen_1",
        /// Second message of a key generation.
        KeygenRound2 => "keygen_2",
        /// Canary of a key generation.
        KeygenRound3 => "keygen_3",
        /// First message of a signature.
        SignRound1 => "sign_1",
        /// Second message of a signature.
        SignRound2 => "sign_2",
    }
    /// How a step ended.
    StepResult {
        /// The message was good.
        Done => "done",
        /// The message was refused; the session may start again.
        Recoverable => "recoverable",
        /// The message proves an attack on the share: the key is quarantined.
        Ban => "ban",
        /// The check did not run.
        NotRun => "not_run",
    }
    /// A call to the token.
    HsmCall {
        /// Open a sealed object.
        Open => "open",
        /// Seal an object.
        Seal => "seal",
    }
    /// The three outcomes of everything, see "denied is not failed".
    Outcome {
        /// It happened.
        Done => "done",
        /// A rule said no.
        Denied => "denied",
        /// We could not decide; nothing happened.
        Failed => "failed",
    }
    /// A table that retention looks after.
    AgedTable {
        /// Idempotency keys.
        Idempotency => "idempotency",
        /// Signing sessions that were given up.
        Sessions => "sessions",
        /// Steps.
        Steps => "steps",
        /// Decisions.
        Decisions => "decisions",
        /// Transactions that were never signed.
        Transactions => "transactions",
        /// Nonces of signed requests.
        Nonces => "request_nonces",
        /// Requests that count towards a rate.
        RateEvents => "rate_events",
    }
    /// One of the two listeners.
    ListenerName {
        /// Where gateways connect.
        Api => "api",
        /// Where operators and monitoring connect.
        Operator => "operator",
    }
    /// A file of a listener that expires.
    ExpiringFile {
        /// Our own certificate.
        Certificate => "certificate",
        /// The CA of the clients.
        ClientCa => "client_ca",
        /// What that CA has revoked.
        Crl => "crl",
    }
    /// What became of a second factor.
    TwoFactorResult {
        /// The code was right.
        Ok => "ok",
        /// A recovery code was right.
        Recovery => "recovery",
        /// It was wrong, of another time, or used before.
        Wrong => "wrong",
        /// It was not looked at, because of wrong ones before it.
        Locked => "locked",
        /// None came, and one was needed.
        Required => "required",
        /// One was needed, and the wallet has none.
        NotEnrolled => "not_enrolled",
    }
    /// A change of a wallet's second factor.
    Enrolment {
        /// Asked for.
        Begun => "begun",
        /// Its first code came.
        Activated => "activated",
        /// Given up.
        Cancelled => "cancelled",
    }
    /// How a reload of certificates or of rules ended.
    Reload {
        /// The new files are in use.
        Done => "done",
        /// The files are not usable; the old ones stay in use.
        Failed => "failed",
    }
    /// How far a connection has come.
    ConnectionStage {
        /// In its handshake.
        Handshake => "handshake",
        /// Its client is known.
        Established => "established",
    }
    /// Why a connection was not served, or not any longer.
    ConnectionRefusal {
        /// The handshake took too long.
        Timeout => "timeout",
        /// The oldest handshake gave way to a new one.
        CrowdedOut => "crowded_out",
        /// The peer left during the handshake.
        Gone => "gone",
        /// Not TLS 1.3.
        Protocol => "protocol",
        /// The peer did not like our certificate.
        RefusedByPeer => "refused_by_peer",
        /// No client certificate.
        NoCertificate => "no_certificate",
        /// A certificate of another CA.
        UnknownIssuer => "unknown_issuer",
        /// A certificate that is not valid now.
        Expired => "expired",
        /// A revoked certificate.
        Revoked => "revoked",
        /// The revocation list is too old to be believed.
        StaleCrl => "stale_crl",
        /// Another fault of the certificate or of its use.
        BadCertificate => "bad_certificate",
        /// A good certificate that has no business on this listener.
        Forbidden => "forbidden",
        /// This client has all the connections that one client may have.
        ClientLimit => "client_limit",
        /// The listener has all the connections that it may have.
        ListenerLimit => "listener_limit",
        /// A reload withdrew the trust in an established connection.
        Withdrawn => "withdrawn",
    }
    /// Why a request was turned away before anything looked at it.
    Throttle {
        /// Too many requests in a short time.
        Rate => "rate",
        /// Too many requests at once.
        Concurrency => "concurrency",
    }
    /// What became of a signed transaction.
    Broadcast {
        /// A node accepted it.
        Submitted => "submitted",
        /// No node could be reached; it will be tried again.
        Unavailable => "unavailable",
        /// A node refused it.
        Rejected => "rejected",
        /// It is in a block and succeeded.
        Mined => "mined",
        /// It is in a block and failed.
        Reverted => "reverted",
        /// Another transaction with its nonce is in a block.
        Replaced => "replaced",
    }
}

/// Builds a collector from its name, help text and label names.
trait Build: Collector + Clone + Sized + 'static {
    fn build(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<Self>;
}

macro_rules! build {
    ($($collector:ty: |$name:ident, $help:ident, $labels:ident| $make:expr;)+) => {$(
        impl Build for $collector {
            fn build($name: &str, $help: &str, $labels: &[&str]) -> prometheus::Result<Self> { $make }
        }
    )+};
}

build! {
    IntCounterVec: |name, help, labels| Self::new(Opts::new(name, help), labels);
    IntGaugeVec: |name, help, labels| Self::new(Opts::new(name, help), labels);
    HistogramVec: |name, help, labels| Self::new(HistogramOpts::new(name, help).buckets(BUCKETS.to_vec()), labels);
    Histogram: |name, help, _labels| Self::with_opts(HistogramOpts::new(name, help).buckets(BUCKETS.to_vec()));
    IntCounter: |name, help, _labels| Self::new(name, help);
    IntGauge: |name, help, _labels| Self::new(name, help);
    Gauge: |name, help, _labels| Self::new(name, help);
}

macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $field:ident: $collector:ty = $name:literal [$($label:literal),*];)+) => {
        /// The metrics of one appliance.
        pub struct Metrics {
            registry: Registry,
            $($(#[doc = $help])+ $field: $collector,)+
        }

        impl Metrics {
            /// All metrics at zero, in a registry of their own.
            ///
            /// # Errors
            /// When two metrics share a name, which a test rules out.
            pub fn new(kind: EnvironmentKind) -> prometheus::Result<Self> {
                let registry = Registry::new();
                $(
                    let help = concat!($($help),+).trim_start();
                    let $field = <$collector as Build>::build($name, help, &[$($label),*])?;
                    registry.register(Box::new($field.clone()))?;
                )+
                let metrics = Self { registry, $($field),+ };
                metrics
                    .build_info
                    .with_label_values(&[env!("CARGO_PKG_VERSION"), kind.as_str()])
                    .set(1);
                Ok(metrics)
            }
        }
    };
}

metrics! {
    /// Version and environment of this program; always 1.
    build_info: IntGaugeVec = "countersign_build_info" ["version", "environment"];
    /// Requests answered, by route template and class of the status.
    http_requests: IntCounterVec = "countersign_http_requests_total" ["route", "class"];
    /// Time from a request's head to its answer, by route template.
    http_duration: HistogramVec = "countersign_http_request_duration_seconds" ["route"];
    /// Protocol steps by result: a ban means that somebody attacks a share.
    mpc_steps: IntCounterVec = "countersign_mpc_steps_total" ["step", "result"];
    /// Time a protocol step takes, unwrapping included.
    mpc_duration: HistogramVec = "countersign_mpc_step_duration_seconds" ["step"];
    /// Key shares unwrapped by the token. Never more than records.
    unwraps: IntCounter = "countersign_share_unwraps_total" [];
    /// Permits given for one protocol step.
    permits: IntCounter = "countersign_permits_total" [];
    /// Audit records of protocol steps. Never more than permits.
    records: IntCounter = "countersign_step_records_total" [];
    /// Unwrapped shares whose record was found in the database afterwards: within seconds as many as were unwrapped.
    unwraps_proven: IntCounter = "countersign_share_unwraps_proven_total" [];
    /// Calls to the token, by class of the error or "ok".
    hsm_calls: IntCounterVec = "countersign_hsm_calls_total" ["call", "result"];
    /// Time of a call to the token, queueing included.
    hsm_duration: HistogramVec = "countersign_hsm_call_duration_seconds" ["call"];
    /// Protocol sessions with state in memory.
    sessions_open: IntGaugeVec = "countersign_sessions_open" ["kind"];
    /// Durable operations by outcome.
    operations: IntCounterVec = "countersign_durable_operations_total" ["outcome"];
    /// Time of a durable operation from queueing to commit.
    operation_duration: Histogram = "countersign_durable_operation_duration_seconds" [];
    /// Signed transactions by what became of them.
    broadcasts: IntCounterVec = "countersign_broadcasts_total" ["outcome"];
    /// Audit records that are committed but not yet in the hash chain.
    audit_unchained: IntGauge = "countersign_audit_unchained_records" [];
    /// Instances that serve this database, this one among them.
    instances_alive: IntGauge = "countersign_instances_alive" [];
    /// Time since this instance renewed its lease; it begins no check once it lapses, at 10 seconds.
    lease_age: Gauge = "countersign_lease_age_seconds" [];
    /// How far the clock of this machine is ahead of the database server's.
    clock_skew: Gauge = "countersign_database_clock_skew_seconds" [];
    /// Checks of instances that died, ended by this one: each counts as a suspect event.
    orphans_reaped: IntCounter = "countersign_orphans_reaped_total" [];
    /// Rows deleted because they were older than they are kept, by table.
    deleted_rows: IntCounterVec = "countersign_deleted_rows_total" ["table"];
    /// When the oldest row was made that retention looks after, as a Unix time, by table; 0 without one.
    oldest_row: IntGaugeVec = "countersign_oldest_row_timestamp_seconds" ["table"];
    /// Whether the database contains what its anchor says; at 0 nothing is signed.
    anchor_met: IntGauge = "countersign_anchor_met" [];
    /// Bans that the anchor outside the database has.
    anchored_bans: IntGauge = "countersign_anchor_bans" [];
    /// Links of the audit chain that the anchor has: it stands still when the chain is broken.
    anchored_links: IntGauge = "countersign_anchor_audit_links" [];
    /// Freezes that stand, by how much they stop.
    frozen: IntGaugeVec = "countersign_frozen" ["scope"];
    /// Requests refused, and signatures withheld, because of a freeze, by the widest that stood.
    frozen_denials: IntCounterVec = "countersign_frozen_denials_total" ["scope"];
    /// When a file of a listener expires, as a Unix time: warn long before, because then all clients are refused.
    tls_expiry: IntGaugeVec = "countersign_tls_expiry_timestamp_seconds" ["listener", "file"];
    /// Reloads of changed certificates, keys and revocation lists.
    tls_reloads: IntCounterVec = "countersign_tls_reloads_total" ["listener", "result"];
    /// Policy decisions by action, and "allowed" or the reason for the denial.
    policy_decisions: IntCounterVec = "countersign_policy_decisions_total" ["action", "outcome"];
    /// Loads of the policy rules after the first; failed ones leave the rules as they were.
    policy_loads: IntCounterVec = "countersign_policy_loads_total" ["result"];
    /// Open connections.
    connections: IntGaugeVec = "countersign_connections" ["listener", "stage"];
    /// Connections that were not served, or not any longer.
    connections_refused: IntCounterVec = "countersign_connections_refused_total" ["listener", "reason"];
    /// Requests turned away because their client sends too many.
    throttled: IntCounterVec = "countersign_requests_throttled_total" ["listener", "reason"];
    /// Requests refused because a profile or an owner made too many of their kind.
    rate_exceeded: IntCounterVec = "countersign_rate_limit_exceeded_total" ["class"];
    /// Second factors, by what became of them: many wrong ones mean that somebody guesses.
    two_factor: IntCounterVec = "countersign_two_factor_total" ["result"];
    /// Changes of wallets' second factors.
    two_factor_enrolments: IntCounterVec = "countersign_two_factor_enrolments_total" ["change"];
    /// Reloads of the limits' file.
    limits_reloads: IntCounterVec = "countersign_limits_reloads_total" ["result"];
}

impl Metrics {
    /// A request was answered. `route` is a template of the route table, `status` the HTTP status.
    pub fn http_request(&self, route: &str, status: u16, duration: Duration) {
        let class = match status {
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            500..=599 => "5xx",
            _ => "other",
        };
        self.http_requests.with_label_values(&[route, class]).inc();
        self.http_duration
            .with_label_values(&[route])
            .observe(duration.as_secs_f64());
    }

    /// A protocol step ended.
    pub fn mpc_step(&self, step: Step, result: StepResult, duration: Duration) {
        self.mpc_steps
            .with_label_values(&[step.as_str(), result.as_str()])
            .inc();
        self.mpc_duration
            .with_label_values(&[step.as_str()])
            .observe(duration.as_secs_f64());
    }

    /// The token unwraps a share.
    pub fn share_unwrapped(&self) {
        self.unwraps.inc();
    }

    /// The record of an unwrapped share was found in the database.
    pub fn unwrap_proven(&self) {
        self.unwraps_proven.inc();
    }

    /// A protocol step was permitted.
    pub fn permit_given(&self) {
        self.permits.inc();
    }

    /// The audit record of a protocol step is durable.
    pub fn step_recorded(&self) {
        self.records.inc();
    }

    /// Policy decided. Both names come from closed enums.
    pub fn policy_decided(&self, action: &'static str, outcome: &'static str) {
        self.policy_decisions
            .with_label_values(&[action, outcome])
            .inc();
    }

    /// The rules were loaded again.
    pub fn policy_loaded(&self, result: Reload) {
        self.policy_loads
            .with_label_values(&[result.as_str()])
            .inc();
    }

    /// A call to the token ended; `result` is `"ok"` or the name of an error class.
    pub fn hsm_call(&self, call: HsmCall, result: &'static str, duration: Duration) {
        self.hsm_calls
            .with_label_values(&[call.as_str(), result])
            .inc();
        self.hsm_duration
            .with_label_values(&[call.as_str()])
            .observe(duration.as_secs_f64());
    }

    /// The number of sessions of a kind with state in memory.
    pub fn sessions_open(&self, kind: SessionKind, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.sessions_open
            .with_label_values(&[kind.as_str()])
            .set(count);
    }

    /// A durable operation ended.
    pub fn durable_operation(&self, outcome: Outcome, duration: Duration) {
        self.operations.with_label_values(&[outcome.as_str()]).inc();
        self.operation_duration.observe(duration.as_secs_f64());
    }

    /// Something became of a signed transaction.
    pub fn broadcast(&self, outcome: Broadcast) {
        self.broadcasts.with_label_values(&[outcome.as_str()]).inc();
    }

    /// The number of audit records that wait for the hash chain.
    pub fn audit_unchained(&self, count: i64) {
        self.audit_unchained.set(count);
    }

    /// How many instances serve this database.
    pub fn instances_alive(&self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.instances_alive.set(count);
    }

    /// The time since the lease was renewed.
    pub fn lease_age(&self, age: Duration) {
        self.lease_age.set(age.as_secs_f64());
    }

    /// How far our clock is ahead of the database server's, in seconds.
    pub fn clock_skew(&self, seconds: f64) {
        self.clock_skew.set(seconds);
    }

    /// A check that its process left behind was ended.
    pub fn orphan_reaped(&self) {
        self.orphans_reaped.inc();
    }

    /// Rows of a table were deleted because of their age.
    pub fn deleted_rows(&self, table: AgedTable, rows: u64) {
        self.deleted_rows
            .with_label_values(&[table.as_str()])
            .inc_by(rows);
    }

    /// When the oldest row of a table was made.
    pub fn oldest_row(&self, table: AgedTable, at: Option<Timestamp>) {
        self.oldest_row
            .with_label_values(&[table.as_str()])
            .set(at.map_or(0, Timestamp::as_seconds));
    }

    /// Whether the database contains what its anchor says, as it was last looked at.
    pub fn anchor_met(&self, met: bool) {
        self.anchor_met.set(i64::from(met));
    }

    /// The anchor stands at so many bans and links of the audit chain.
    pub fn anchored(&self, bans: i64, links: i64) {
        self.anchored_bans.set(bans);
        self.anchored_links.set(links);
    }

    /// How many freezes of a scope stand.
    pub fn frozen(&self, scope: FreezeScope, count: i64) {
        self.frozen.with_label_values(&[scope.as_str()]).set(count);
    }

    /// A freeze refused a request, or withheld a signature.
    pub fn frozen_denied(&self, scope: FreezeScope) {
        self.frozen_denials
            .with_label_values(&[scope.as_str()])
            .inc();
    }

    /// When a file of a listener expires.
    pub fn tls_expiry(&self, listener: ListenerName, file: ExpiringFile, at: Timestamp) {
        self.tls_expiry
            .with_label_values(&[listener.as_str(), file.as_str()])
            .set(at.as_seconds());
    }

    /// A reload of changed files ended.
    pub fn tls_reload(&self, listener: ListenerName, result: Reload) {
        self.tls_reloads
            .with_label_values(&[listener.as_str(), result.as_str()])
            .inc();
    }

    /// The gauge of connections that have come this far.
    #[must_use]
    pub fn connections(&self, listener: ListenerName, stage: ConnectionStage) -> IntGauge {
        self.connections
            .with_label_values(&[listener.as_str(), stage.as_str()])
    }

    /// A connection was not served, or not any longer.
    pub fn connection_refused(&self, listener: ListenerName, reason: ConnectionRefusal) {
        self.connections_refused
            .with_label_values(&[listener.as_str(), reason.as_str()])
            .inc();
    }

    /// A request exceeded the rate of its class.
    pub fn rate_exceeded(&self, class: RateClass) {
        self.rate_exceeded
            .with_label_values(&[class.as_str()])
            .inc();
    }

    /// Something became of a second factor.
    pub fn two_factor(&self, result: TwoFactorResult) {
        self.two_factor.with_label_values(&[result.as_str()]).inc();
    }

    /// The second factor of a wallet changed.
    pub fn two_factor_enrolment(&self, change: Enrolment) {
        self.two_factor_enrolments
            .with_label_values(&[change.as_str()])
            .inc();
    }

    /// A reload of the limits ended.
    pub fn limits_reload(&self, result: Reload) {
        self.limits_reloads
            .with_label_values(&[result.as_str()])
            .inc();
    }

    /// A request was turned away.
    pub fn throttled(&self, listener: ListenerName, reason: Throttle) {
        self.throttled
            .with_label_values(&[listener.as_str(), reason.as_str()])
            .inc();
    }

    /// All metrics in the Prometheus text format.
    ///
    /// # Errors
    /// When a metric cannot be encoded.
    pub fn encode(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::time::Duration;

    use super::{Metrics, Step, StepResult};
    use crate::domain::EnvironmentKind;

    #[test]
    fn the_doc_comment_is_the_help_text() {
        let metrics = Metrics::new(EnvironmentKind::Development).unwrap();
        metrics.mpc_step(Step::SignRound1, StepResult::Done, Duration::from_millis(8));
        let text = metrics.encode().unwrap();
        assert!(text.contains("# HELP countersign_share_unwraps_total Key shares unwrapped by the token. Never more than records.\n"));
        assert!(text.contains("countersign_mpc_steps_total{result=\"done\",step=\"sign_1\"} 1"));
        assert!(text.contains("countersign_build_info{environment=\"development\""));
        assert!(text.contains(
            "countersign_mpc_step_duration_seconds_bucket{step=\"sign_1\",le=\"0.0001\"} 0"
        ));
    }
}
