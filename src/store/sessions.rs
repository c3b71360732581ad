//! MPC sessions: where each stands, and who runs it.

use super::engine::{Columns, Row, values};
use super::profiles::ProfileRow;
use super::{Reads, StoreError, Tx, time};
use crate::clock::Timestamp;
use crate::domain::{
    DecisionId, DeviceKeyId, Generation, InstanceId, ProfileId, SessionId, SessionKind,
    SessionState, TenantId,
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

impl SessionRow {
    fn read(row: Row) -> Result<Self, StoreError> {
        Self::columns(&mut row.of("sessions"))
    }

    fn columns(row: &mut Columns) -> Result<Self, StoreError> {
        Ok(Self {
            session_id: row.parsed("session_id", SessionId::parse)?,
            kind: row.named("kind", SessionKind::parse)?,
            profile_id: row.parsed("profile_id", ProfileId::parse)?,
            device_key_id: row.parsed("device_key_id", DeviceKeyId::parse)?,
            certificate_spki: row.array("certificate_spki")?,
            state: row.named("state", SessionState::parse)?,
            attempt: row.number("attempt")?,
            generation: row.number("generation")?,
            server_nonce: row.array("server_nonce")?,
            decision_id: row.parsed("decision_id", DecisionId::parse)?,
            instance_id: row.parsed("instance_id", InstanceId::parse)?,
            request_hash: row.array_or_null("request_hash")?,
            expires_at: time(row.int("expires_at")?),
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
    let row = reads
        .query_one(select!("session_id = $1"), values![id.to_string()])
        .await?;
    row.map(SessionRow::read).transpose()
}

/// The session with this id, and its profile.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn find_with_profile(
    reads: &mut impl Reads,
    id: SessionId,
) -> Result<Option<(SessionRow, ProfileRow)>, StoreError> {
    let row = reads
        .query_one(
            "SELECT s.session_id, s.kind, s.profile_id, s.device_key_id, s.certificate_spki, s.state, s.attempt, \
             s.generation, s.server_nonce, s.decision_id, s.instance_id, s.request_hash, s.expires_at, \
             p.profile_id, p.tenant, p.owner_id, p.name, p.state, p.key_state, p.rotation, p.rotation_id, p.generation, p.address, p.checking, \
             p.suspect_events, p.failed_signatures, p.created_at \
             FROM sessions AS s JOIN profiles AS p ON p.profile_id = s.profile_id WHERE s.session_id = $1",
            values![id.to_string()],
        )
        .await?;
    row.map(|row| {
        let mut row = row.of("sessions");
        let session = SessionRow::columns(&mut row)?;
        row.and_of("profiles");
        Ok((session, ProfileRow::columns(&mut row)?))
    })
    .transpose()
}

/// Sessions of a profile that have begun and not ended.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn active_of(
    reads: &mut impl Reads,
    profile: ProfileId,
) -> Result<Vec<SessionRow>, StoreError> {
    let rows = reads.query(select!(
        "profile_id = $1 AND state IN ('r1_checking', 'r1_done', 'r2_checking', 'r2_done', 'r3_checking')"
    ), values![profile.to_string()]).await?;
    rows.into_iter().map(SessionRow::read).collect()
}

/// The latest thousand sessions that a device has open and that are not being checked.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn open_of_device(
    reads: &mut impl Reads,
    tenant: &TenantId,
    device: &DeviceKeyId,
) -> Result<Vec<SessionRow>, StoreError> {
    let rows = reads
        .query(
            select!(
                "device_key_id = $2 AND state IN ('created', 'r1_done', 'r2_done') AND EXISTS \
                 (SELECT 1 FROM profiles WHERE profiles.profile_id = sessions.profile_id \
                 AND profiles.tenant = $1) ORDER BY expires_at DESC LIMIT 1000"
            ),
            values![tenant.as_str(), device.as_str()],
        )
        .await?;
    rows.into_iter().map(SessionRow::read).collect()
}

/// The latest thousand signing sessions of a profile that are open and not being checked.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn open_of_profile(
    reads: &mut impl Reads,
    profile: ProfileId,
) -> Result<Vec<SessionRow>, StoreError> {
    let rows = reads
        .query(
            select!(
                "profile_id = $1 AND state IN ('created', 'r1_done', 'r2_done') AND kind = 'sign' \
                 ORDER BY expires_at DESC LIMIT 1000"
            ),
            values![profile.to_string()],
        )
        .await?;
    rows.into_iter().map(SessionRow::read).collect()
}

/// Sessions whose check was left behind by a process that no longer lives.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn orphaned(reads: &mut impl Reads) -> Result<Vec<SessionRow>, StoreError> {
    let rows = reads
        .query(
            select!(
                "state IN ('r1_checking', 'r2_checking', 'r3_checking') AND NOT EXISTS \
                 (SELECT 1 FROM instances WHERE instances.instance_id = sessions.instance_id \
                 AND instances.ended_at IS NULL) ORDER BY instance_id LIMIT 1000"
            ),
            &[],
        )
        .await?;
    rows.into_iter().map(SessionRow::read).collect()
}

/// Sessions whose check this process has begun and not concluded.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn checking(
    reads: &mut impl Reads,
    living: InstanceId,
) -> Result<Vec<SessionRow>, StoreError> {
    let rows = reads
        .query(
            select!("state IN ('r1_checking', 'r2_checking', 'r3_checking') AND instance_id = $1"),
            values![living.to_string()],
        )
        .await?;
    rows.into_iter().map(SessionRow::read).collect()
}

/// Open sessions that are past their time.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn overdue(
    reads: &mut impl Reads,
    now: Timestamp,
) -> Result<Vec<SessionRow>, StoreError> {
    let rows = reads
        .query(
            select!(
                "state IN ('created', 'r1_done', 'r2_done') AND expires_at <= $1 \
         ORDER BY expires_at LIMIT 200"
            ),
            values![now.as_micros()],
        )
        .await?;
    rows.into_iter().map(SessionRow::read).collect()
}

/// How many prepared sessions of a profile wait for their first message.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn count_created(reads: &mut impl Reads, profile: ProfileId) -> Result<i64, StoreError> {
    let row = reads
        .query_one(
            "SELECT COUNT(*) FROM sessions WHERE profile_id = $1 AND state = 'created'",
            values![profile.to_string()],
        )
        .await?;
    row.map_or(Ok(0), |row| row.of("sessions").int("count"))
}

/// Adds a session.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn insert(tx: &mut Tx<'_>, session: &SessionRow) -> Result<(), StoreError> {
    let now = tx.now().as_micros();
    tx.execute(
        "INSERT INTO sessions (session_id, kind, profile_id, device_key_id, certificate_spki, \
         state, attempt, generation, server_nonce, decision_id, instance_id, request_hash, \
         created_at, updated_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $13, $14)",
        values![
            session.session_id.to_string(),
            session.kind.as_str(),
            session.profile_id.to_string(),
            session.device_key_id.as_str(),
            &session.certificate_spki,
            session.state.as_str(),
            i64::from(session.attempt),
            session.generation.as_i64(),
            &session.server_nonce,
            session.decision_id.to_string(),
            session.instance_id.to_string(),
            session.request_hash.as_ref(),
            now,
            session.expires_at.as_micros()
        ],
    )
    .await?;
    Ok(())
}

/// Writes what may change in a session, if it still stands in `from`, at the same attempt and with the
/// same instance; false if it does not.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn update(
    tx: &mut Tx<'_>,
    from: &SessionRow,
    to: &SessionRow,
) -> Result<bool, StoreError> {
    let now = tx.now().as_micros();
    tx.execute_one(
        "UPDATE sessions SET state = $4, attempt = $5, server_nonce = $6, instance_id = $7, \
         request_hash = $8, expires_at = $9, updated_at = $10, certificate_spki = $11 \
         WHERE session_id = $1 AND state = $2 AND attempt = $3 AND instance_id = $12",
        values![
            from.session_id.to_string(),
            from.state.as_str(),
            i64::from(from.attempt),
            to.state.as_str(),
            i64::from(to.attempt),
            &to.server_nonce,
            to.instance_id.to_string(),
            to.request_hash.as_ref(),
            to.expires_at.as_micros(),
            now,
            &to.certificate_spki,
            from.instance_id.to_string()
        ],
    )
    .await
}
