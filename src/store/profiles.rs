//! Profiles and the lock and state of their keys.

use super::engine::{Columns, Row, values};
use super::{Reads, StoreError, Tx, time};
use crate::clock::Timestamp;
use crate::domain::{
    Generation, InstanceId, KeyState, OwnerId, Phase, ProfileId, ProfileState, Rotation,
    RotationId, SessionId, TenantId,
};

/// A profile.
#[derive(Clone, Debug)]
pub struct ProfileRow {
    /// Its id.
    pub profile_id: ProfileId,
    /// The tenant it belongs to.
    pub tenant: TenantId,
    /// The owner it belongs to.
    pub owner_id: OwnerId,
    /// The name the owner gave it.
    pub name: String,
    /// Its lifecycle.
    pub state: ProfileState,
    /// What its key is when no rotation is under way.
    pub key_state: KeyState,
    /// The rotation that is under way.
    pub rotation: Option<Rotation>,
    /// The generation in use; the one being made while the profile is in key generation.
    pub generation: Generation,
    /// The wallet's address, 20 bytes, once the key exists.
    pub address: Option<[u8; 20]>,
    /// The session whose message is being checked right now, if any: the key's lock.
    pub checking: Option<SessionId>,
    /// Checks that ended without a verdict, of this generation.
    pub suspect_events: i64,
    /// Final signatures that did not verify, of this generation.
    pub failed_signatures: i64,
    /// When it was created.
    pub created_at: Timestamp,
}

impl ProfileRow {
    fn read(row: Row) -> Result<Self, StoreError> {
        Self::columns(&mut row.of("profiles"))
    }

    pub(super) fn columns(row: &mut Columns) -> Result<Self, StoreError> {
        Ok(Self {
            profile_id: row.parsed("profile_id", ProfileId::parse)?,
            tenant: row.parsed("tenant", TenantId::parse)?,
            owner_id: row.parsed("owner_id", OwnerId::parse)?,
            name: row.text("name")?,
            state: row.named("state", ProfileState::parse)?,
            key_state: row.named("key_state", KeyState::parse)?,
            rotation: rotation(row)?,
            generation: row.number("generation")?,
            address: row.array_or_null("address")?,
            checking: row.parsed_or_null("checking", SessionId::parse)?,
            suspect_events: row.int("suspect_events")?,
            failed_signatures: row.int("failed_signatures")?,
            created_at: time(row.int("created_at")?),
        })
    }
}

fn rotation(row: &mut Columns) -> Result<Option<Rotation>, StoreError> {
    let phase = row.parsed_or_null("rotation", |name| Phase::parse(name).ok_or(()))?;
    let id = row.parsed_or_null("rotation_id", RotationId::parse)?;
    Ok(phase.zip(id).map(|(phase, id)| Rotation { id, phase }))
}

/// What the state of a key is kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// What it is when no rotation is under way.
    pub state: KeyState,
    /// The rotation that is under way.
    pub rotation: Option<Rotation>,
    /// The generation in use.
    pub generation: Generation,
    /// Checks that ended without a verdict, of this generation.
    pub suspect_events: i64,
    /// Final signatures that did not verify, of this generation.
    pub failed_signatures: i64,
}

impl ProfileRow {
    /// The state of its key.
    #[must_use]
    pub const fn key(&self) -> KeyRow {
        KeyRow {
            state: self.key_state,
            rotation: self.rotation,
            generation: self.generation,
            suspect_events: self.suspect_events,
            failed_signatures: self.failed_signatures,
        }
    }
}

/// The profile with this id.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn find(reads: &mut impl Reads, id: ProfileId) -> Result<Option<ProfileRow>, StoreError> {
    let row = reads
        .query_one(
            "SELECT profile_id, tenant, owner_id, name, state, key_state, rotation, rotation_id, generation, address, checking, \
             suspect_events, failed_signatures, created_at FROM profiles WHERE profile_id = $1",
            values![id.to_string()],
        )
        .await?;
    row.map(ProfileRow::read).transpose()
}

/// A profile that enters key generation.
pub struct NewProfile<'a> {
    /// Its id.
    pub profile_id: ProfileId,
    /// The tenant that creates it.
    pub tenant: &'a TenantId,
    /// Its owner.
    pub owner_id: OwnerId,
    /// Its name.
    pub name: &'a str,
}

/// Adds a profile in key generation.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn insert(tx: &mut Tx<'_>, profile: &NewProfile<'_>) -> Result<(), StoreError> {
    let now = tx.now().as_micros();
    tx.execute(
        "INSERT INTO profiles (profile_id, tenant, owner_id, name, state, key_state, generation, \
         created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)",
        values![
            profile.profile_id.to_string(),
            profile.tenant.as_str(),
            profile.owner_id.to_string(),
            profile.name,
            ProfileState::Keygen.as_str(),
            KeyState::Stable.as_str(),
            Generation::FIRST.as_i64(),
            now
        ],
    )
    .await?;
    Ok(())
}

/// Moves a profile from one state to another; false if it was in neither.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn change_state(
    tx: &mut Tx<'_>,
    id: ProfileId,
    from: ProfileState,
    to: ProfileState,
) -> Result<bool, StoreError> {
    let now = tx.now().as_micros();
    tx.execute_one(
        "UPDATE profiles SET state = $3, updated_at = $4 WHERE profile_id = $1 AND state = $2",
        values![id.to_string(), from.as_str(), to.as_str(), now],
    )
    .await
}

/// Sets the address that key generation made.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn set_address(
    tx: &mut Tx<'_>,
    id: ProfileId,
    address: Option<&[u8; 20]>,
) -> Result<(), StoreError> {
    let now = tx.now().as_micros();
    tx.execute(
        "UPDATE profiles SET address = $2, updated_at = $3 WHERE profile_id = $1",
        values![id.to_string(), address, now],
    )
    .await?;
    Ok(())
}

/// Takes the key's lock for a session that `instance` is to check; false if another session holds it, or
/// if the instance was ended: others then end its checks.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn lock(
    tx: &mut Tx<'_>,
    id: ProfileId,
    session: SessionId,
    instance: InstanceId,
) -> Result<bool, StoreError> {
    tx.execute_one(
        "UPDATE profiles SET checking = $2 WHERE profile_id = $1 AND checking IS NULL AND EXISTS \
         (SELECT 1 FROM instances WHERE instance_id = $3 AND ended_at IS NULL)",
        values![id.to_string(), session.to_string(), instance.to_string()],
    )
    .await
}

/// Gives the key's lock back; false if this session did not hold it.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn unlock(
    tx: &mut Tx<'_>,
    id: ProfileId,
    session: SessionId,
) -> Result<bool, StoreError> {
    tx.execute_one(
        "UPDATE profiles SET checking = NULL WHERE profile_id = $1 AND checking = $2",
        values![id.to_string(), session.to_string()],
    )
    .await
}

/// Writes the state of a key, if it is still what it was; false if it is not.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn set_key(
    tx: &mut Tx<'_>,
    id: ProfileId,
    from: &KeyRow,
    to: &KeyRow,
) -> Result<bool, StoreError> {
    let now = tx.now().as_micros();
    let rotation = |row: &KeyRow| {
        let rotation = row.rotation;
        rotation.map(|Rotation { id, phase }| (phase.as_str().to_owned(), id.to_string()))
    };
    let (phase, rotation_id) = rotation(to).unzip();
    let (old_phase, old_id) = rotation(from).unwrap_or_default();
    tx.execute_one(
        "UPDATE profiles SET key_state = $2, rotation = $3, rotation_id = $4, generation = $5, suspect_events = $6, \
         failed_signatures = $7, updated_at = $8 WHERE profile_id = $1 AND key_state = $9 \
         AND COALESCE(rotation, '') = $10 AND COALESCE(rotation_id, '') = $11 AND generation = $12 \
         AND suspect_events = $13 AND failed_signatures = $14",
        values![
            id.to_string(),
            to.state.as_str(),
            phase,
            rotation_id,
            to.generation.as_i64(),
            to.suspect_events,
            to.failed_signatures,
            now,
            from.state.as_str(),
            old_phase,
            old_id,
            from.generation.as_i64(),
            from.suspect_events,
            from.failed_signatures
        ],
    )
    .await
}
