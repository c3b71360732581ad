//! Sealed key shares, one row per generation.

use sqlx::FromRow;

use super::{Reads, StoreError, Tx, readable};
use crate::domain::{Generation, ProfileId};

/// A sealed share with the public facts that its AAD and its checks need.
#[derive(Clone)]
pub struct ShareRow {
    /// The generation.
    pub generation: Generation,
    /// Counts re-encryptions of this generation; part of the AAD.
    pub object_version: u64,
    /// The KEK that wraps the DEK, 16 bytes.
    pub kek_id: [u8; 16],
    /// Header, wrapped DEK and ciphertext as written by the HSM crate.
    pub sealed: Vec<u8>,
    /// The joint public key, compressed SEC1.
    pub public_key: [u8; 33],
    /// The wallet's public share, compressed SEC1.
    pub x1: [u8; 33],
    /// Our public share, compressed SEC1.
    pub x2: [u8; 33],
    /// The session id that key generation agreed on.
    pub dkg_session_id: [u8; 32],
}

#[derive(FromRow)]
struct Raw {
    generation: i64,
    object_version: i64,
    kek_id: Vec<u8>,
    sealed: Vec<u8>,
    public_key: Vec<u8>,
    x1: Vec<u8>,
    x2: Vec<u8>,
    dkg_session_id: Vec<u8>,
}

impl TryFrom<Raw> for ShareRow {
    type Error = StoreError;

    fn try_from(raw: Raw) -> Result<Self, StoreError> {
        const TABLE: &str = "key_shares";
        Ok(Self {
            generation: readable(Generation::from_i64(raw.generation), TABLE, "generation")?,
            object_version: readable(
                u64::try_from(raw.object_version).ok(),
                TABLE,
                "object_version",
            )?,
            kek_id: readable(raw.kek_id.try_into().ok(), TABLE, "kek_id")?,
            sealed: raw.sealed,
            public_key: readable(raw.public_key.try_into().ok(), TABLE, "public_key")?,
            x1: readable(raw.x1.try_into().ok(), TABLE, "x1")?,
            x2: readable(raw.x2.try_into().ok(), TABLE, "x2")?,
            dkg_session_id: readable(raw.dkg_session_id.try_into().ok(), TABLE, "dkg_session_id")?,
        })
    }
}

/// The share of one generation.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn find(
    reads: &mut impl Reads,
    profile: ProfileId,
    generation: Generation,
) -> Result<Option<ShareRow>, StoreError> {
    let raw: Option<Raw> = sqlx::query_as(
        "SELECT generation, object_version, kek_id, sealed, public_key, x1, x2, dkg_session_id \
         FROM key_shares WHERE profile_id = $1 AND generation = $2",
    )
    .bind(profile.to_string())
    .bind(generation.as_i64())
    .fetch_optional(reads.connection())
    .await?;
    raw.map(ShareRow::try_from).transpose()
}

/// Adds a share that no signature has proven yet.
///
/// # Errors
/// [`StoreError`] when the database fails or the generation exists.
pub async fn insert_pending(
    tx: &mut Tx<'_>,
    profile: ProfileId,
    share: &ShareRow,
) -> Result<(), StoreError> {
    let now = tx.now().as_micros();
    sqlx::query(
        "INSERT INTO key_shares (profile_id, generation, state, object_version, kek_id, sealed, \
         public_key, x1, x2, dkg_session_id, created_at) \
         VALUES ($1, $2, 'pending', $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(profile.to_string())
    .bind(share.generation.as_i64())
    .bind(super::to_i64(share.object_version))
    .bind(share.kek_id.as_slice())
    .bind(share.sealed.as_slice())
    .bind(share.public_key.as_slice())
    .bind(share.x1.as_slice())
    .bind(share.x2.as_slice())
    .bind(share.dkg_session_id.as_slice())
    .bind(now)
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// Marks a pending share as proven; false if there is none.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn activate(
    tx: &mut Tx<'_>,
    profile: ProfileId,
    generation: Generation,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE key_shares SET state = 'active' \
         WHERE profile_id = $1 AND generation = $2 AND state = 'pending'",
    )
    .bind(profile.to_string())
    .bind(generation.as_i64())
    .execute(tx.connection())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Destroys shares that were never proven: overwritten, then deleted.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn destroy_pending(tx: &mut Tx<'_>, profile: ProfileId) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE key_shares SET sealed = zeroblob(length(sealed)) \
         WHERE profile_id = $1 AND state = 'pending'",
    )
    .bind(profile.to_string())
    .execute(tx.connection())
    .await?;
    sqlx::query("DELETE FROM key_shares WHERE profile_id = $1 AND state = 'pending'")
        .bind(profile.to_string())
        .execute(tx.connection())
        .await?;
    Ok(())
}
