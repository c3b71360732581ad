//! What the verification of the chain reads: pages in the order of a key, each found by an index.
//!
//! The size of a page is written out in its statement, because a planner that does not know it may prefer
//! to read whole tables for every page.

use super::StoredRecord;
use crate::store::engine::{Row, values};
use crate::store::{Reads, StoreError};

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
    /// Whether its record says that it is chained; `None` without a record.
    pub marked: Option<bool>,
}

/// Links after `position` with their records, in order; empty at the end of the chain.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn links_after(
    reads: &mut impl Reads,
    position: i64,
) -> Result<Vec<(Link, Option<StoredRecord>)>, StoreError> {
    let rows = reads
        .query(
            "SELECT c.position, c.operation_id, c.previous_hash, c.hash, r.chained, \
             r.operation_id, r.at, r.event, r.outcome, r.profile_id, r.session_id, r.detail \
             FROM audit_chain AS c LEFT JOIN audit_records AS r ON r.operation_id = c.operation_id \
             WHERE c.position > $1 ORDER BY c.position LIMIT 500",
            values![position],
        )
        .await?;
    rows.into_iter().map(link).collect()
}

fn link(row: Row) -> Result<(Link, Option<StoredRecord>), StoreError> {
    let mut row = row.of("audit_chain");
    let link = Link {
        position: row.int("position")?,
        operation_id: row.text("operation_id")?,
        previous_hash: row.array("previous_hash")?,
        hash: row.array("hash")?,
        marked: row.int_or_null("chained")?.map(|chained| chained == 1),
    };
    let record = match link.marked {
        Some(_) => Some(StoredRecord::read(&mut row)?),
        None => None,
    };
    Ok((link, record))
}

/// The hash of the link at a position.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn hash_at(
    reads: &mut impl Reads,
    position: i64,
) -> Result<Option<[u8; 32]>, StoreError> {
    let row = reads
        .query_one(
            "SELECT hash FROM audit_chain WHERE position = $1",
            values![position],
        )
        .await?;
    row.map(|row| row.of("audit_chain").array("hash"))
        .transpose()
}

/// A checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The link it was made at.
    pub position: i64,
    /// The hash of that link.
    pub hash: [u8; 32],
    /// Links since the checkpoint before.
    pub links: i64,
}

impl Checkpoint {
    fn read(row: Row) -> Result<Self, StoreError> {
        let mut row = row.of("audit_checkpoints");
        Ok(Self {
            position: row.int("position")?,
            hash: row.array("hash")?,
            links: row.int("links")?,
        })
    }
}

/// Checkpoints after `position`, in order; empty after the last.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn checkpoints_after(
    reads: &mut impl Reads,
    position: i64,
) -> Result<Vec<Checkpoint>, StoreError> {
    let rows = reads
        .query(
            "SELECT position, hash, links FROM audit_checkpoints WHERE position > $1 \
             ORDER BY position LIMIT 100",
            values![position],
        )
        .await?;
    rows.into_iter().map(Checkpoint::read).collect()
}

/// The last checkpoint.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn last_checkpoint(reads: &mut impl Reads) -> Result<Option<Checkpoint>, StoreError> {
    let row = reads
        .query_one(
            "SELECT position, hash, links FROM audit_checkpoints ORDER BY position DESC LIMIT 1",
            &[],
        )
        .await?;
    row.map(Checkpoint::read).transpose()
}

/// The last link's position and the last checkpoint's, at one moment; zero without one.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn ends(reads: &mut impl Reads) -> Result<(i64, i64), StoreError> {
    let row = reads
        .query_one(
            "SELECT COALESCE((SELECT MAX(position) FROM audit_chain), 0), \
             COALESCE((SELECT MAX(position) FROM audit_checkpoints), 0)",
            &[],
        )
        .await?;
    let mut row = row.ok_or(StoreError::NoEnvironment)?.of("audit_chain");
    Ok((row.int("position")?, row.int("checkpoint")?))
}

/// A record as the chain should have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marked {
    /// The record.
    pub operation_id: String,
    /// Whether it says that it is chained.
    pub chained: bool,
    /// The position of a link that covers it.
    pub position: Option<i64>,
}

/// Records after `operation_id` with their links, in order; a record with two links comes twice. Empty
/// after the last.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn records_after(
    reads: &mut impl Reads,
    operation_id: &str,
) -> Result<Vec<Marked>, StoreError> {
    let rows = reads
        .query(
            "SELECT r.operation_id, r.chained, c.position FROM \
             (SELECT operation_id, chained FROM audit_records WHERE operation_id > $1 \
             ORDER BY operation_id LIMIT 1000) AS r \
             LEFT JOIN audit_chain AS c ON c.operation_id = r.operation_id \
             ORDER BY r.operation_id, c.position",
            values![operation_id],
        )
        .await?;
    let read = |row: Row| {
        let mut row = row.of("audit_records");
        Ok(Marked {
            operation_id: row.text("operation_id")?,
            chained: row.int("chained")? == 1,
            position: row.int_or_null("position")?,
        })
    };
    rows.into_iter().map(read).collect()
}
