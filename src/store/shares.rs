//! Sealed key shares, one row per generation.

use super::engine::{Row, values};
use super::{Reads, StoreError, Tx};
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

impl ShareRow {
    fn read(row: Row) -> Result<Self, StoreError> {
        let mut row = row.of("key_shares");
        Ok(Self {
            generation: row.number("generation")?,
            object_version: row.number("object_version")?,
            kek_id: row.array("kek_id")?,
            sealed: row.bytes("sealed")?,
            public_key: row.array("public_key")?,
            x1: row.array("x1")?,
            x2: row.array("x2")?,
            dkg_session_id: row.array("dkg_session_id")?,
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
    let row = reads
        .query_one(
            "SELECT generation, object_version, kek_id, sealed, public_key, x1, x2, dkg_session_id \
             FROM key_shares WHERE profile_id = $1 AND generation = $2",
            values![profile.to_string(), generation.as_i64()],
        )
        .await?;
    row.map(ShareRow::read).transpose()
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
    tx.execute(
        "INSERT INTO key_shares (profile_id, generation, state, object_version, kek_id, sealed, \
         public_key, x1, x2, dkg_session_id, created_at) \
         VALUES ($1, $2, 'pending', $3, $4, $5, $6, $7, $8, $9, $10)",
        values![
            profile.to_string(),
            share.generation.as_i64(),
            super::to_i64(share.object_version),
            &share.kek_id,
            share.sealed.as_slice(),
            &share.public_key,
            &share.x1,
            &share.x2,
            &share.dkg_session_id,
            now
        ],
    )
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
    tx.execute_one(
        "UPDATE key_shares SET state = 'active' \
         WHERE profile_id = $1 AND generation = $2 AND state = 'pending'",
        values![profile.to_string(), generation.as_i64()],
    )
    .await
}

/// Destroys shares that were never proven. SQLite overwrites what it deletes (`secure_delete`).
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn destroy_pending(tx: &mut Tx<'_>, profile: ProfileId) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM key_shares WHERE profile_id = $1 AND state = 'pending'",
        values![profile.to_string()],
    )
    .await?;
    Ok(())
}

/// Replaces a share by itself without its transfer state, if it is still in the version it was made from.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn empty(
    tx: &mut Tx<'_>,
    profile: ProfileId,
    emptied: &ShareRow,
) -> Result<bool, StoreError> {
    tx.execute_one(
        "UPDATE key_shares SET sealed = $3, kek_id = $4, object_version = $5, transfer_state = 'emptied' \
         WHERE profile_id = $1 AND generation = $2 AND object_version = $6 AND transfer_state <> 'emptied'",
        values![
            profile.to_string(),
            emptied.generation.as_i64(),
            emptied.sealed.as_slice(),
            &emptied.kek_id,
            super::to_i64(emptied.object_version),
            super::to_i64(emptied.object_version.saturating_sub(1))
        ],
    )
    .await
}

/// Says that a share is to lose its transfer state as soon as that can be done.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn empty_later(
    tx: &mut Tx<'_>,
    profile: ProfileId,
    generation: Generation,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE key_shares SET transfer_state = 'due' \
         WHERE profile_id = $1 AND generation = $2 AND transfer_state = 'whole'",
        values![profile.to_string(), generation.as_i64()],
    )
    .await?;
    Ok(())
}

/// Shares that are to lose their transfer state, of profiles after `after`: each with its profile.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn to_empty(
    reads: &mut impl Reads,
    after: &str,
) -> Result<Vec<(ProfileId, Generation)>, StoreError> {
    let rows = reads
        .query(
            "SELECT profile_id, generation FROM key_shares \
             WHERE transfer_state = 'due' AND profile_id > $1 ORDER BY profile_id, generation LIMIT 16",
            values![after],
        )
        .await?;
    rows.into_iter()
        .map(|row| {
            let mut row = row.of("key_shares");
            Ok((
                row.parsed("profile_id", ProfileId::parse)?,
                row.number("generation")?,
            ))
        })
        .collect()
}
