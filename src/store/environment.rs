//! The environment this database belongs to.

use sqlx::SqliteConnection;

use super::{StoreError, readable, time};
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

pub(super) async fn load(
    connection: &mut SqliteConnection,
) -> Result<Option<EnvironmentRecord>, StoreError> {
    let row: Option<(Vec<u8>, String, i64)> =
        sqlx::query_as("SELECT environment_id, kind, created_at FROM environment")
            .fetch_optional(connection)
            .await?;
    let Some((id, kind, created_at)) = row else {
        return Ok(None);
    };
    let id: Option<[u8; 32]> = id.try_into().ok();
    Ok(Some(EnvironmentRecord {
        id: EnvironmentId(readable(id, "environment", "environment_id")?),
        kind: readable(EnvironmentKind::parse(&kind), "environment", "kind")?,
        created_at: time(created_at),
    }))
}

/// Writes the record, or accepts the same one written by an interrupted `init`.
pub(super) async fn create(
    connection: &mut SqliteConnection,
    record: &EnvironmentRecord,
) -> Result<(), StoreError> {
    if let Some(existing) = load(connection).await? {
        let same = existing.id == record.id && existing.kind == record.kind;
        return if same {
            Ok(())
        } else {
            Err(StoreError::EnvironmentExists(existing.id))
        };
    }
    sqlx::query(
        "INSERT INTO environment (only_row, environment_id, kind, created_at) VALUES (1, $1, $2, $3)",
    )
    .bind(record.id.0.as_slice())
    .bind(record.kind.as_str())
    .bind(record.created_at.as_micros())
    .execute(connection)
    .await?;
    Ok(())
}
