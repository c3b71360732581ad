//! The environment this database belongs to.

use super::engine::{Connection, values};
use super::{Key, Reads, StoreError, Tx, Upkeep, time};
use crate::clock::Timestamp;
use crate::domain::{EnvironmentId, EnvironmentKind};

/// What `countersignd init` fixed for life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnvironmentRecord {
    /// The environment's id.
    pub id: EnvironmentId,
    /// Production or development.
    pub kind: EnvironmentKind,
    /// When it was created.
    pub created_at: Timestamp,
}

pub(super) async fn load(reads: &mut impl Reads) -> Result<Option<EnvironmentRecord>, StoreError> {
    let row = reads
        .query_one(
            "SELECT environment_id, kind, created_at FROM environment",
            &[],
        )
        .await?;
    row.map(|row| {
        let mut row = row.of("environment");
        Ok(EnvironmentRecord {
            id: EnvironmentId(row.array("environment_id")?),
            kind: row.named("kind", EnvironmentKind::parse)?,
            created_at: time(row.int("created_at")?),
        })
    })
    .transpose()
}

/// Commits something that leaves everything as it was, to see whether that works. Two statements,
/// because SQLite does not write a page that one of them left as it was.
pub(super) struct Probe;

impl Upkeep for Probe {
    type Output = ();

    fn key(&self) -> Key {
        Key::ENVIRONMENT
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        tx.execute(
            "UPDATE environment SET created_at = created_at + 1 WHERE only_row = 1",
            &[],
        )
        .await?;
        tx.execute(
            "UPDATE environment SET created_at = created_at - 1 WHERE only_row = 1",
            &[],
        )
        .await?;
        Ok(())
    }
}

/// Writes the record, or accepts the same one written by an interrupted `init`.
pub(super) async fn create(
    connection: &mut Connection,
    record: &EnvironmentRecord,
) -> Result<(), StoreError> {
    let written = connection
        .execute(
            "INSERT INTO environment (only_row, environment_id, kind, created_at) \
             VALUES (1, $1, $2, $3) ON CONFLICT (only_row) DO NOTHING",
            values![
                &record.id.0,
                record.kind.as_str(),
                record.created_at.as_micros()
            ],
        )
        .await?;
    if written == 1 {
        return Ok(());
    }
    match load(connection).await? {
        Some(existing) if existing.id == record.id && existing.kind == record.kind => Ok(()),
        Some(existing) => Err(StoreError::EnvironmentExists(existing.id)),
        None => Err(StoreError::NoEnvironment),
    }
}
