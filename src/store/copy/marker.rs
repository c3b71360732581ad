//! The table that a database has while it holds a copy that is not proven.
//!
//! It is made before anything else and dropped last, and no program opens a database that has it. It is no part
//! of the schema.

use super::CopyError;
use crate::domain::{EnvironmentId, OperationId};
use crate::store::StoreError;
use crate::store::engine::{Connection, values};

/// Its name.
pub(super) const TABLE: &str = "unfinished_copy";

/// Held while the state of a copy changes, so that two copies into one database do not mix.
pub(super) const LOCK: i64 = 0x0063_6f70_7969_6e67;

/// Made in PostgreSQL only.
pub(in crate::store) const CREATE: &str = "CREATE TABLE unfinished_copy (environment_id BYTEA NOT NULL PRIMARY KEY, \
     copy_id TEXT NOT NULL)";

/// Fails if the database holds a copy that was not finished.
pub(in crate::store) async fn refuse_unfinished(
    connection: &mut Connection,
) -> Result<(), StoreError> {
    if connection.has_table(TABLE).await? {
        return Err(StoreError::CopyUnfinished);
    }
    Ok(())
}

/// The environment that is being copied into this database, if one is.
pub(super) async fn environment(
    connection: &mut Connection,
) -> Result<Option<EnvironmentId>, CopyError> {
    if !connection.has_table(TABLE).await? {
        return Ok(None);
    }
    let sql = "SELECT environment_id FROM unfinished_copy";
    let row = connection.query(sql, &[]).await?.into_iter().next();
    let id = row
        .map(|row| row.of(TABLE).array("environment_id"))
        .transpose()?;
    Ok(id.map(EnvironmentId))
}

/// Makes this copy the one that may go on; an earlier one of the same environment may not any more.
pub(super) async fn claim(
    connection: &mut Connection,
    environment: EnvironmentId,
    copy: OperationId,
) -> Result<(), CopyError> {
    if !connection.has_table(TABLE).await? {
        connection.script(CREATE).await?;
    }
    let sql = "INSERT INTO unfinished_copy (environment_id, copy_id) VALUES ($1, $2) \
         ON CONFLICT (environment_id) DO UPDATE SET copy_id = $2";
    connection
        .execute(sql, values![&environment.0, copy.to_string()])
        .await?;
    Ok(())
}

/// Fails if another copy has taken the database over.
pub(super) async fn check(connection: &mut Connection, copy: OperationId) -> Result<(), CopyError> {
    let sql = "SELECT environment_id FROM unfinished_copy WHERE copy_id = $1";
    let found = connection.has_table(TABLE).await?
        && !connection
            .query(sql, values![copy.to_string()])
            .await?
            .is_empty();
    if found {
        Ok(())
    } else {
        Err(CopyError::Superseded)
    }
}

/// Makes the database usable.
pub(super) async fn remove(connection: &mut Connection) -> Result<(), CopyError> {
    Ok(connection.script("DROP TABLE unfinished_copy").await?)
}
