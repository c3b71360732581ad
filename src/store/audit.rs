//! Audit records; the chain over them is in `chain`, what its verification reads in `inspect`.

pub mod chain;
pub mod inspect;

use super::engine::{Columns, values};
use super::{Reads, StoreError, Tx};
use crate::domain::{OperationId, ProfileId, SessionId};

/// Everything that is recorded. A closed set: a new kind of state change is a new variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuditEvent {
    /// Key generation was asked for.
    KeygenRequested,
    /// A protocol step was permitted.
    StepPermitted,
    /// A protocol step ended.
    StepConcluded,
    /// The share of a new key was stored.
    ShareStored,
    /// A profile became usable.
    ProfileActivated,
    /// A key generation was given up.
    KeygenAbandoned,
    /// A key generation was refused by policy.
    KeygenDenied,
    /// A transaction was prepared for signing.
    TransactionPrepared,
    /// A transaction was refused by policy.
    TransactionDenied,
    /// A request that counts towards its rate was refused for another reason than policy.
    RequestRefused,
    /// A signing session started its next attempt.
    SessionRestarted,
    /// A transaction was signed.
    TransactionSigned,
    /// A transaction moved on its chain.
    TransactionSettled,
    /// A counterparty was banned.
    CounterpartyBanned,
    /// A check was left behind by a process that died.
    CheckOrphaned,
    /// A session ran out of time.
    SessionExpired,
    /// A session ended because its wallet sent another message for a step that was done.
    SessionContradicted,
    /// A client sent a bare secret instead of a sealed message.
    ClientSentSecret,
    /// A new KEM key was made.
    KemRotated,
    /// A device was enrolled for an owner.
    DeviceEnrolled,
    /// A device of an owner was revoked.
    DeviceRevoked,
    /// An epoch of the KEM keys' key encryption key was begun.
    KemBegun,
    /// KEM keys ended and were deleted.
    KemEnded,
    /// A KEM key's key encryption key was destroyed.
    KemDestroyed,
    /// The transfer state in the share of a banned wallet was destroyed.
    TransferStateEmptied,
    /// A quarantine from before there was a list of bans was put on it.
    BanListed,
    /// A profile, a tenant or everything was frozen.
    Frozen,
    /// A freeze was lifted.
    Unfrozen,
    /// Rules that operators signed took effect at an instance.
    RulesActivated,
    /// The enrolment of a second factor was begun.
    TwoFactorBegun,
    /// The first code of an enrolment came.
    TwoFactorActivated,
    /// An enrolment was given up before its time.
    TwoFactorCancelled,
    /// A second factor was wrong, or was not looked at because of wrong ones before it.
    TwoFactorWrong,
    /// A second factor was wrong once too often: for a while none is taken.
    TwoFactorLocked,
}

impl AuditEvent {
    /// The name in the record.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KeygenRequested => "keygen_requested",
            Self::StepPermitted => "step_permitted",
            Self::StepConcluded => "step_concluded",
            Self::ShareStored => "share_stored",
            Self::ProfileActivated => "profile_activated",
            Self::KeygenAbandoned => "keygen_abandoned",
            Self::KeygenDenied => "keygen_denied",
            Self::TransactionPrepared => "transaction_prepared",
            Self::TransactionDenied => "transaction_denied",
            Self::RequestRefused => "request_refused",
            Self::SessionRestarted => "session_restarted",
            Self::TransactionSigned => "transaction_signed",
            Self::TransactionSettled => "transaction_settled",
            Self::CounterpartyBanned => "counterparty_banned",
            Self::CheckOrphaned => "check_orphaned",
            Self::SessionExpired => "session_expired",
            Self::SessionContradicted => "session_contradicted",
            Self::ClientSentSecret => "client_sent_secret",
            Self::KemRotated => "kem_rotated",
            Self::DeviceEnrolled => "device_enrolled",
            Self::DeviceRevoked => "device_revoked",
            Self::KemBegun => "kem_begun",
            Self::KemEnded => "kem_ended",
            Self::KemDestroyed => "kem_destroyed",
            Self::TransferStateEmptied => "transfer_state_emptied",
            Self::BanListed => "ban_listed",
            Self::Frozen => "frozen",
            Self::Unfrozen => "unfrozen",
            Self::RulesActivated => "rules_activated",
            Self::TwoFactorBegun => "two_factor_begun",
            Self::TwoFactorActivated => "two_factor_activated",
            Self::TwoFactorCancelled => "two_factor_cancelled",
            Self::TwoFactorWrong => "two_factor_wrong",
            Self::TwoFactorLocked => "two_factor_locked",
        }
    }
}

/// Denied is not failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuditOutcome {
    /// It happened.
    Done,
    /// A rule said no.
    Denied,
    /// It could not be done.
    Failed,
}

impl AuditOutcome {
    /// The name in the record.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

/// What an operation leaves behind. Holds ids and reasons, never message content or secrets.
#[derive(Clone, Debug)]
pub struct AuditRecord {
    /// What happened.
    pub event: AuditEvent,
    /// How it ended.
    pub outcome: AuditOutcome,
    /// The profile concerned.
    pub profile_id: Option<ProfileId>,
    /// The session concerned.
    pub session_id: Option<SessionId>,
    /// A reason or a value from a closed set, or a public hash.
    pub detail: String,
}

impl AuditRecord {
    /// A record of something that happened.
    #[must_use]
    pub const fn done(event: AuditEvent) -> Self {
        Self {
            event,
            outcome: AuditOutcome::Done,
            profile_id: None,
            session_id: None,
            detail: String::new(),
        }
    }

    /// With another outcome.
    #[must_use]
    pub const fn outcome(mut self, outcome: AuditOutcome) -> Self {
        self.outcome = outcome;
        self
    }

    /// About a profile.
    #[must_use]
    pub const fn profile(mut self, id: ProfileId) -> Self {
        self.profile_id = Some(id);
        self
    }

    /// About a session.
    #[must_use]
    pub const fn session(mut self, id: SessionId) -> Self {
        self.session_id = Some(id);
        self
    }

    /// With a detail.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }
}

pub(super) async fn insert(tx: &mut Tx<'_>, record: &AuditRecord) -> Result<(), StoreError> {
    let now = tx.now().as_micros();
    let id = tx.operation_id();
    tx.execute("INSERT INTO audit_records (operation_id, at, event, outcome, profile_id, session_id, detail) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)", values![id.to_string(), now, record.event.as_str(), record.outcome.as_str(), record.profile_id.map(|id| id.to_string()), record.session_id.map(|id| id.to_string()), record.detail.as_str()]).await?;
    Ok(())
}

pub(super) async fn exists(reads: &mut impl Reads, id: OperationId) -> Result<bool, StoreError> {
    let found = reads
        .query_one(
            "SELECT at FROM audit_records WHERE operation_id = $1",
            values![id.to_string()],
        )
        .await?;
    Ok(found.is_some())
}

/// A record as it stands in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// The operation.
    pub operation_id: String,
    /// When, microseconds since the Unix epoch.
    pub at: i64,
    /// What.
    pub event: String,
    /// How it ended.
    pub outcome: String,
    /// About which profile.
    pub profile_id: Option<String>,
    /// About which session.
    pub session_id: Option<String>,
    /// Why.
    pub detail: String,
}

impl StoredRecord {
    fn read(row: &mut Columns) -> Result<Self, StoreError> {
        Ok(Self {
            operation_id: row.text("operation_id")?,
            at: row.int("at")?,
            event: row.text("event")?,
            outcome: row.text("outcome")?,
            profile_id: row.text_or_null("profile_id")?,
            session_id: row.text_or_null("session_id")?,
            detail: row.text("detail")?,
        })
    }
}
