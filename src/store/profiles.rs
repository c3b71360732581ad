//! Profiles and the lock and state of their keys.

use sqlx::FromRow;

use super::{Reads, StoreError, Tx, readable, time};
use crate::clock::Timestamp;
use crate::domain::{Generation, KeyState, OwnerId, ProfileId, ProfileState, SessionId, TenantId};

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
    /// What its key may be used for.
    pub key_state: KeyState,
    /// The generation in use; the one being made while the profile is in key generation.
    pub generation: Generation,
    /// The wallet's address, 20 bytes, once the key exists.
    pub address: Option<[u8; 20]>,
    /// The session whose message is being checked right now, if any: the key's lock.
    pub checking: Option<SessionId>,
    /// Checks that ended without a verdict.
    pub suspect_events: i64,
    /// Final signatures that did not verify.
    pub failed_signatures: i64,
    /// When it was created.
    pub created_at: Timestamp,
}

#[derive(FromRow)]
struct Raw {
    profile_id: String,
    tenant: String,
    owner_id: String,
    name: String,
    state: String,
    key_state: String,
    generation: i64,
    address: Option<Vec<u8>>,
    checking: Option<String>,
    suspect_events: i64,
    failed_signatures: i64,
    created_at: i64,
}

impl TryFrom<Raw> for ProfileRow {
    type Error = StoreError;

    fn try_from(raw: Raw) -> Result<Self, StoreError> {
        const TABLE: &str = "profiles";
        let address = raw
            .address
            .map(|bytes| readable(bytes.try_into().ok(), TABLE, "address"))
            .transpose()?;
        let checking = raw
            .checking
            .map(|id| readable(SessionId::parse(&id).ok(), TABLE, "checking"))
            .transpose()?;
        Ok(Self {
            profile_id: readable(ProfileId::parse(&raw.profile_id).ok(), TABLE, "profile_id")?,
            tenant: readable(TenantId::parse(&raw.tenant).ok(), TABLE, "tenant")?,
            owner_id: readable(OwnerId::parse(&raw.owner_id).ok(), TABLE, "owner_id")?,
            name: raw.name,
            state: readable(ProfileState::parse(&raw.state), TABLE, "state")?,
            key_state: readable(KeyState::parse(&raw.key_state), TABLE, "key_state")?,
            generation: readable(Generation::from_i64(raw.generation), TABLE, "generation")?,
            address,
            checking,
            suspect_events: raw.suspect_events,
            failed_signatures: raw.failed_signatures,
            created_at: time(raw.created_at),
        })
    }
}

/// The profile with this id.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn find(reads: &mut impl Reads, id: ProfileId) -> Result<Option<ProfileRow>, StoreError> {
    let raw: Option<Raw> = sqlx::query_as(
        "SELECT profile_id, tenant, owner_id, name, state, key_state, generation, address, checking, \
         suspect_events, failed_signatures, created_at FROM profiles WHERE profile_id = $1",
    )
    .bind(id.to_string())
    .fetch_optional(reads.connection())
    .await?;
    raw.map(ProfileRow::try_from).transpose()
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
    sqlx::query(
        "INSERT INTO profiles (profile_id, tenant, owner_id, name, state, key_state, generation, \
         created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)",
    )
    .bind(profile.profile_id.to_string())
    .bind(profile.tenant.as_str())
    .bind(profile.owner_id.to_string())
    .bind(profile.name)
    .bind(ProfileState::Keygen.as_str())
    .bind(KeyState::Stable.as_str())
    .bind(Generation::FIRST.as_i64())
    .bind(now)
    .execute(tx.connection())
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
    let done = sqlx::query(
        "UPDATE profiles SET state = $3, updated_at = $4 WHERE profile_id = $1 AND state = $2",
    )
    .bind(id.to_string())
    .bind(from.as_str())
    .bind(to.as_str())
    .bind(now)
    .execute(tx.connection())
    .await?;
    Ok(done.rows_affected() == 1)
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
    sqlx::query("UPDATE profiles SET address = $2, updated_at = $3 WHERE profile_id = $1")
        .bind(id.to_string())
        .bind(address.map(<[u8; 20]>::as_slice))
        .bind(now)
        .execute(tx.connection())
        .await?;
    Ok(())
}

/// Takes the key's lock for a session; false if another session holds it.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn lock(tx: &mut Tx<'_>, id: ProfileId, session: SessionId) -> Result<bool, StoreError> {
    let done =
        sqlx::query("UPDATE profiles SET checking = $2 WHERE profile_id = $1 AND checking IS NULL")
            .bind(id.to_string())
            .bind(session.to_string())
            .execute(tx.connection())
            .await?;
    Ok(done.rows_affected() == 1)
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
    let done =
        sqlx::query("UPDATE profiles SET checking = NULL WHERE profile_id = $1 AND checking = $2")
            .bind(id.to_string())
            .bind(session.to_string())
            .execute(tx.connection())
            .await?;
    Ok(done.rows_affected() == 1)
}

/// Writes the key's state and its two counters.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn set_key(
    tx: &mut Tx<'_>,
    id: ProfileId,
    state: KeyState,
    suspect_events: i64,
    failed_signatures: i64,
) -> Result<(), StoreError> {
    let now = tx.now().as_micros();
    sqlx::query(
        "UPDATE profiles SET key_state = $2, suspect_events = $3, failed_signatures = $4, \
         updated_at = $5 WHERE profile_id = $1",
    )
    .bind(id.to_string())
    .bind(state.as_str())
    .bind(suspect_events)
    .bind(failed_signatures)
    .bind(now)
    .execute(tx.connection())
    .await?;
    Ok(())
}
