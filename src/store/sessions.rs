//! MPC sessions: where each stands, and who runs it.

use sqlx::FromRow;

use super::{Reads, StoreError, Tx, readable, time};
use crate::clock::Timestamp;
use crate::domain::{
    DecisionId, DeviceKeyId, Generation, InstanceId, ProfileId, SessionId, SessionKind,
    SessionState,
};

/// A session.
#[derive(Clone, Debug)]
pub struct SessionRow {
    /// Its id.
    pub session_id: SessionId,
    /// What it makes.
    pub kind: SessionKind,
    /// The profile whose key it makes or uses.
    pub profile_id: ProfileId,
    /// The device that started it and alone may go on with it.
    pub device_key_id: DeviceKeyId,
    /// SHA-256 of the public key of the client certificate that started it.
    pub certificate_spki: [u8; 32],
    /// Where it stands.
    pub state: SessionState,
    /// The attempt, from 1.
    pub attempt: u32,
    /// The generation it makes or uses.
    pub generation: Generation,
    /// Our fresh nonce for this attempt.
    pub server_nonce: [u8; 32],
    /// The decision that allowed it.
    pub decision_id: DecisionId,
    /// The process that holds its kept state.
    pub instance_id: InstanceId,
    /// SHA-256 of the request body of the last step that was admitted.
    pub request_hash: Option<[u8; 32]>,
    /// When it ends by itself.
    pub expires_at: Timestamp,
}

#[derive(FromRow)]
struct Raw {
    session_id: String,
    kind: String,
    profile_id: String,
    device_key_id: String,
    certificate_spki: Vec<u8>,
    state: String,
    attempt: i64,
    generation: i64,
    server_nonce: Vec<u8>,
    decision_id: String,
    instance_id: String,
    request_hash: Option<Vec<u8>>,
    expires_at: i64,
}

const TABLE: &str = "sessions";

impl TryFrom<Raw> for SessionRow {
    type Error = StoreError;

    fn try_from(raw: Raw) -> Result<Self, StoreError> {
        let request_hash = raw
            .request_hash
            .map(|hash| readable(hash.try_into().ok(), TABLE, "request_hash"))
            .transpose()?;
        let device = DeviceKeyId::parse(&raw.device_key_id).ok();
        let instance = InstanceId::parse(&raw.instance_id).ok();
        let decision = DecisionId::parse(&raw.decision_id).ok();
        let spki = raw.certificate_spki.try_into().ok();
        Ok(Self {
            session_id: readable(SessionId::parse(&raw.session_id).ok(), TABLE, "session_id")?,
            kind: readable(SessionKind::parse(&raw.kind), TABLE, "kind")?,
            profile_id: readable(ProfileId::parse(&raw.profile_id).ok(), TABLE, "profile_id")?,
            device_key_id: readable(device, TABLE, "device_key_id")?,
            certificate_spki: readable(spki, TABLE, "certificate_spki")?,
            state: readable(SessionState::parse(&raw.state), TABLE, "state")?,
            attempt: readable(u32::try_from(raw.attempt).ok(), TABLE, "attempt")?,
            generation: readable(Generation::from_i64(raw.generation), TABLE, "generation")?,
            server_nonce: readable(raw.server_nonce.try_into().ok(), TABLE, "server_nonce")?,
            decision_id: readable(decision, TABLE, "decision_id")?,
            instance_id: readable(instance, TABLE, "instance_id")?,
            request_hash,
            expires_at: time(raw.expires_at),
        })
    }
}

macro_rules! select {
    ($condition:literal) => {
        concat!(
            "SELECT session_id, kind, profile_id, device_key_id, certificate_spki, state, attempt, \
             generation, server_nonce, decision_id, instance_id, request_hash, expires_at \
             FROM sessions WHERE ",
            $condition
        )
    };
}

/// The session with this id.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn find(reads: &mut impl Reads, id: SessionId) -> Result<Option<SessionRow>, StoreError> {
    let raw: Option<Raw> = sqlx::query_as(select!("session_id = $1"))
        .bind(id.to_string())
        .fetch_optional(reads.connection())
        .await?;
    raw.map(SessionRow::try_from).transpose()
}

/// Sessions of a profile that have begun and not ended.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn active_of(
    reads: &mut impl Reads,
    profile: ProfileId,
) -> Result<Vec<SessionRow>, StoreError> {
    let raws: Vec<Raw> = sqlx::query_as(select!(
        "profile_id = $1 AND state IN ('r1_checking', 'r1_done', 'r2_checking', 'r2_done', 'r3_checking')"
    ))
    .bind(profile.to_string())
    .fetch_all(reads.connection())
    .await?;
    raws.into_iter().map(SessionRow::try_from).collect()
}

/// Sessions whose check another process left behind.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn orphaned(
    reads: &mut impl Reads,
    living: InstanceId,
) -> Result<Vec<SessionRow>, StoreError> {
    let raws: Vec<Raw> = sqlx::query_as(select!(
        "state IN ('r1_checking', 'r2_checking', 'r3_checking') AND instance_id <> $1 \
         ORDER BY session_id LIMIT 1000"
    ))
    .bind(living.to_string())
    .fetch_all(reads.connection())
    .await?;
    raws.into_iter().map(SessionRow::try_from).collect()
}

/// Sessions whose check this process has begun and not concluded.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn checking(
    reads: &mut impl Reads,
    living: InstanceId,
) -> Result<Vec<SessionRow>, StoreError> {
    let raws: Vec<Raw> = sqlx::query_as(select!(
        "state IN ('r1_checking', 'r2_checking', 'r3_checking') AND instance_id = $1"
    ))
    .bind(living.to_string())
    .fetch_all(reads.connection())
    .await?;
    raws.into_iter().map(SessionRow::try_from).collect()
}

/// Open sessions that are past their time.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn overdue(
    reads: &mut impl Reads,
    now: Timestamp,
) -> Result<Vec<SessionRow>, StoreError> {
    let raws: Vec<Raw> = sqlx::query_as(select!(
        "state IN ('created', 'r1_done', 'r2_done') AND expires_at <= $1 \
         ORDER BY expires_at LIMIT 200"
    ))
    .bind(now.as_micros())
    .fetch_all(reads.connection())
    .await?;
    raws.into_iter().map(SessionRow::try_from).collect()
}

/// How many prepared sessions of a profile wait for their first message.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn count_created(reads: &mut impl Reads, profile: ProfileId) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar(
        "SELECT COUNT(*) FROM sessions WHERE profile_id = $1 AND state = 'created'",
    )
    .bind(profile.to_string())
    .fetch_one(reads.connection())
    .await?)
}

/// Adds a session.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn insert(tx: &mut Tx<'_>, session: &SessionRow) -> Result<(), StoreError> {
    let now = tx.now().as_micros();
    sqlx::query(
        "INSERT INTO sessions (session_id, kind, profile_id, device_key_id, certificate_spki, \
         state, attempt, generation, server_nonce, decision_id, instance_id, request_hash, \
         created_at, updated_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $13, $14)",
    )
    .bind(session.session_id.to_string())
    .bind(session.kind.as_str())
    .bind(session.profile_id.to_string())
    .bind(session.device_key_id.as_str())
    .bind(session.certificate_spki.as_slice())
    .bind(session.state.as_str())
    .bind(i64::from(session.attempt))
    .bind(session.generation.as_i64())
    .bind(session.server_nonce.as_slice())
    .bind(session.decision_id.to_string())
    .bind(session.instance_id.to_string())
    .bind(session.request_hash.as_ref().map(<[u8; 32]>::as_slice))
    .bind(now)
    .bind(session.expires_at.as_micros())
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// Writes what may change in a session, if it still stands in `from` at the same attempt; false if
/// it does not.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn update(
    tx: &mut Tx<'_>,
    from: &SessionRow,
    to: &SessionRow,
) -> Result<bool, StoreError> {
    let now = tx.now().as_micros();
    let done = sqlx::query(
        "UPDATE sessions SET state = $4, attempt = $5, server_nonce = $6, instance_id = $7, \
         request_hash = $8, expires_at = $9, updated_at = $10, certificate_spki = $11 \
         WHERE session_id = $1 AND state = $2 AND attempt = $3",
    )
    .bind(from.session_id.to_string())
    .bind(from.state.as_str())
    .bind(i64::from(from.attempt))
    .bind(to.state.as_str())
    .bind(i64::from(to.attempt))
    .bind(to.server_nonce.as_slice())
    .bind(to.instance_id.to_string())
    .bind(to.request_hash.as_ref().map(<[u8; 32]>::as_slice))
    .bind(to.expires_at.as_micros())
    .bind(now)
    .bind(to.certificate_spki.as_slice())
    .execute(tx.connection())
    .await?;
    Ok(done.rows_affected() == 1)
}
