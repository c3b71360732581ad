//! The list of bans: only ever appended to, each entry chained to the one before it by its hash.
//!
//! INVARIANT: one append at a time, because every operation that may append holds [`Key::BANS`]; it is taken when the
//! transaction begins, so that no two transactions wait for each other.
//!
//! [`Key::BANS`]: super::Key::BANS

use super::engine::{Row, values};
use super::{Reads, StoreError, Tx, time};
use crate::domain::{Ban, ChainHead, Generation, KeyState, OtSetup, ProfileId, SessionId};

/// Entries that [`from`] gives at once. Also written out in its statement.
pub const PAGE: usize = 500;

/// Somebody who was caught.
pub struct Caught<'a> {
    /// The profile.
    pub profile_id: ProfileId,
    /// The generation of its key.
    pub generation: Generation,
    /// The setup of that generation, as it was when it was checked with.
    pub ot_setup: OtSetup,
    /// The session in which, if that is known.
    pub session_id: Option<SessionId>,
    /// By which check.
    pub reason: &'a str,
}

/// An entry as it stands in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it says.
    pub ban: Ban,
    /// The hash of the entry before it; zero for the first.
    pub previous_hash: [u8; 32],
    /// Its own.
    pub hash: [u8; 32],
}

/// Appends a ban; false if this setup is banned already.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn append(tx: &mut Tx<'_>, caught: &Caught<'_>) -> Result<bool, StoreError> {
    let profile = caught.profile_id.to_string();
    let banned = tx
        .query(
            "SELECT position FROM bans WHERE profile_id = $1 AND ot_setup = $2",
            values![profile.as_str(), &caught.ot_setup.0],
        )
        .await?;
    if !banned.is_empty() {
        return Ok(false);
    }
    let last = head(tx).await?;
    let ban = Ban {
        position: last.count.saturating_add(1),
        profile_id: caught.profile_id,
        generation: caught.generation,
        ot_setup: caught.ot_setup,
        session_id: caught
            .session_id
            .map(|id| id.to_string())
            .unwrap_or_default(),
        reason: caught.reason.to_owned(),
        at: tx.now(),
    };
    let hash = ban.hash(&last.hash);
    tx.execute(
        "INSERT INTO bans (position, profile_id, generation, ot_setup, session_id, reason, at, \
         previous_hash, hash) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        values![
            ban.position,
            profile,
            ban.generation.as_i64(),
            &ban.ot_setup.0,
            ban.session_id.as_str(),
            ban.reason.as_str(),
            ban.at.as_micros(),
            &last.hash,
            &hash
        ],
    )
    .await?;
    Ok(true)
}

/// Profiles after `after` in the order of their ids, a page of them, each with its generation and whether it is in
/// quarantine.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn profiles_after(
    reads: &mut impl Reads,
    after: &str,
) -> Result<Vec<(ProfileId, Generation, bool)>, StoreError> {
    let rows = reads
        .query(
            "SELECT profile_id, generation, key_state FROM profiles WHERE profile_id > $1 \
             ORDER BY profile_id LIMIT 500",
            values![after],
        )
        .await?;
    rows.into_iter()
        .map(|row| {
            let mut row = row.of("profiles");
            let id = row.parsed("profile_id", ProfileId::parse)?;
            let generation = row.number("generation")?;
            let state = row.named("key_state", KeyState::parse)?;
            Ok((id, generation, state == KeyState::Quarantined))
        })
        .collect()
}

/// The end of the list.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn head(reads: &mut impl Reads) -> Result<ChainHead, StoreError> {
    let row = reads
        .query_one(
            "SELECT position, hash FROM bans ORDER BY position DESC LIMIT 1",
            &[],
        )
        .await?;
    let Some(row) = row else {
        return Ok(ChainHead::default());
    };
    let mut row = row.of("bans");
    Ok(ChainHead {
        count: row.int("position")?,
        hash: row.array("hash")?,
    })
}

/// Entries from `position` on, in order; fewer than [`PAGE`] at the end of the list.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn from(reads: &mut impl Reads, position: i64) -> Result<Vec<Entry>, StoreError> {
    let rows = reads
        .query(
            "SELECT position, profile_id, generation, ot_setup, session_id, reason, at, previous_hash, hash \
             FROM bans WHERE position >= $1 ORDER BY position LIMIT 500",
            values![position],
        )
        .await?;
    rows.into_iter().map(entry).collect()
}

fn entry(row: Row) -> Result<Entry, StoreError> {
    let mut row = row.of("bans");
    Ok(Entry {
        ban: Ban {
            position: row.int("position")?,
            profile_id: row.parsed("profile_id", ProfileId::parse)?,
            generation: row.number("generation")?,
            ot_setup: OtSetup(row.array("ot_setup")?),
            session_id: row.text("session_id")?,
            reason: row.text("reason")?,
            at: time(row.int("at")?),
        },
        previous_hash: row.array("previous_hash")?,
        hash: row.array("hash")?,
    })
}
