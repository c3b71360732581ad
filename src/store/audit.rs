//! Audit records and the chain over them.

use sqlx::SqliteConnection;

use super::{Reads, StoreError, Tx, readable};
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
    /// A transaction was prepared for signing.
    TransactionPrepared,
    /// A transaction was refused by policy.
    TransactionDenied,
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
    /// A client sent a bare secret instead of a sealed message.
    ClientSentSecret,
    /// A new KEM key was made.
    KemRotated,
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
            Self::TransactionPrepared => "transaction_prepared",
            Self::TransactionDenied => "transaction_denied",
            Self::SessionRestarted => "session_restarted",
            Self::TransactionSigned => "transaction_signed",
            Self::TransactionSettled => "transaction_settled",
            Self::CounterpartyBanned => "counterparty_banned",
            Self::CheckOrphaned => "check_orphaned",
            Self::SessionExpired => "session_expired",
            Self::ClientSentSecret => "client_sent_secret",
            Self::KemRotated => "kem_rotated",
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
    sqlx::query(
        "INSERT INTO audit_records (operation_id, at, event, outcome, profile_id, session_id, detail) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(id.to_string())
    .bind(now)
    .bind(record.event.as_str())
    .bind(record.outcome.as_str())
    .bind(record.profile_id.map(|id| id.to_string()))
    .bind(record.session_id.map(|id| id.to_string()))
    .bind(record.detail.as_str())
    .execute(tx.connection())
    .await?;
    Ok(())
}

pub(super) async fn exists(
    connection: &mut SqliteConnection,
    id: OperationId,
) -> Result<bool, StoreError> {
    let found: Option<i64> =
        sqlx::query_scalar("SELECT 1 FROM audit_records WHERE operation_id = $1")
            .bind(id.to_string())
            .fetch_optional(connection)
            .await?;
    Ok(found.is_some())
}

/// A record as it stands in the database.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
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

/// A link of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its position, from 1.
    pub position: i64,
    /// The record it covers.
    pub operation_id: String,
    /// The hash of the link before it; zero for the first.
    pub previous_hash: [u8; 32],
    /// Its own hash.
    pub hash: [u8; 32],
}

/// Records that no link covers yet. It never relies on ids being in commit order: a record that
/// commits late is simply still unchained.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn unchained(
    reads: &mut impl Reads,
    limit: i64,
) -> Result<Vec<StoredRecord>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT operation_id, at, event, outcome, profile_id, session_id, detail \
         FROM audit_records WHERE chained = 0 ORDER BY operation_id LIMIT $1",
    )
    .bind(limit)
    .fetch_all(reads.connection())
    .await?)
}

/// The last link: position and hash.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn head(reads: &mut impl Reads) -> Result<Option<(i64, [u8; 32])>, StoreError> {
    let row: Option<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT position, hash FROM audit_chain ORDER BY position DESC LIMIT 1")
            .fetch_optional(reads.connection())
            .await?;
    row.map(|(position, hash)| {
        Ok((
            position,
            readable(hash.try_into().ok(), "audit_chain", "hash")?,
        ))
    })
    .transpose()
}

/// Appends a link and marks its record as covered; false if the record was covered already.
///
/// # Errors
/// [`StoreError`] when the database fails or the position is taken.
pub async fn append(tx: &mut Tx<'_>, link: &Link) -> Result<bool, StoreError> {
    let marked =
        sqlx::query("UPDATE audit_records SET chained = 1 WHERE operation_id = $1 AND chained = 0")
            .bind(link.operation_id.as_str())
            .execute(tx.connection())
            .await?;
    if marked.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query(
        "INSERT INTO audit_chain (position, operation_id, previous_hash, hash) \
         VALUES ($1, $2, $3, $4)",
    )
    .bind(link.position)
    .bind(link.operation_id.as_str())
    .bind(link.previous_hash.as_slice())
    .bind(link.hash.as_slice())
    .execute(tx.connection())
    .await?;
    Ok(true)
}

/// Links after `position` with their records, in order.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn chained_after(
    reads: &mut impl Reads,
    position: i64,
    limit: i64,
) -> Result<Vec<(Link, Option<StoredRecord>)>, StoreError> {
    let links: Vec<(i64, String, Vec<u8>, Vec<u8>)> = sqlx::query_as(
        "SELECT position, operation_id, previous_hash, hash FROM audit_chain \
         WHERE position > $1 ORDER BY position LIMIT $2",
    )
    .bind(position)
    .bind(limit)
    .fetch_all(reads.connection())
    .await?;
    let mut chained = Vec::with_capacity(links.len());
    for (position, operation_id, previous_hash, hash) in links {
        let record: Option<StoredRecord> = sqlx::query_as(
            "SELECT operation_id, at, event, outcome, profile_id, session_id, detail \
             FROM audit_records WHERE operation_id = $1",
        )
        .bind(operation_id.as_str())
        .fetch_optional(reads.connection())
        .await?;
        let link = Link {
            position,
            operation_id,
            previous_hash: readable(
                previous_hash.try_into().ok(),
                "audit_chain",
                "previous_hash",
            )?,
            hash: readable(hash.try_into().ok(), "audit_chain", "hash")?,
        };
        chained.push((link, record));
    }
    Ok(chained)
}
