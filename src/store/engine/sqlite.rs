//! What is particular to SQLite: how it is opened, on which thread it runs, the process lock.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{OpenFlags, ToSql};

use super::{Cell, EngineError, Row, Value};
use crate::store::StoreError;

/// Longest wait for another process that has the file open, such as a backup.
const BUSY: Duration = Duration::from_secs(5);
/// Statements kept ready: all of ours.
const STATEMENTS: usize = 128;

/// A table by its name.
pub(super) const TABLE: &str = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name = $1";

/// A device that is not revoked. Nobody else writes meanwhile.
pub(super) const STANDING_DEVICE: &str = "SELECT device_key_id FROM devices \
     WHERE tenant = $1 AND device_key_id = $2 AND revoked_at IS NULL";

/// Every column of every table.
pub(super) const COLUMNS: &str = "SELECT t.name, c.name, c.type, c.pk \
     FROM sqlite_schema AS t, pragma_table_info(t.name) AS c \
     WHERE t.type = 'table' AND substr(t.name, 1, 7) <> 'sqlite_' ORDER BY t.name, c.cid";

/// Every table with a foreign key, and the table that it refers to.
pub(super) const REFERENCES: &str = "SELECT t.name, f.\"table\" \
     FROM sqlite_schema AS t, pragma_foreign_key_list(t.name) AS f WHERE t.type = 'table'";

/// Whether the file holds together: "ok", or what is wrong first.
pub(in crate::store) const INTEGRITY: &str =
    "SELECT integrity_check FROM pragma_integrity_check LIMIT 1";

/// A connection to a database file.
pub(in crate::store) struct Connection {
    /// Absent while a blocking thread has it, and for good if that query's caller went away.
    inner: Option<rusqlite::Connection>,
    /// Whether it must not wait on the thread that asks.
    asked_from_async: bool,
}

impl Connection {
    pub(super) fn writer(path: &Path) -> Result<Self, EngineError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let inner = open(path, flags)?;
        inner.busy_timeout(BUSY)?;
        // FULL, not NORMAL: in WAL mode NORMAL may lose the last commits with the power, and a lost
        // nonce reservation is a double payment.
        inner.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA secure_delete = ON",
        )?;
        Ok(Self {
            inner: Some(inner),
            asked_from_async: false,
        })
    }

    pub(super) fn reader(path: &Path) -> Result<Self, EngineError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Ok(Self {
            inner: Some(open(path, flags)?),
            asked_from_async: true,
        })
    }

    pub(super) fn execute(
        &self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<u64, EngineError> {
        let inner = self.inner.as_ref().ok_or(EngineError::Gone)?;
        let mut statement = inner.prepare_cached(sql)?;
        bind(&mut statement, values)?;
        let changed = statement.raw_execute()?;
        Ok(u64::try_from(changed).unwrap_or(u64::MAX))
    }

    /// A read runs where it is asked for: it looks at a few pages in memory (no statement reads a whole table), and
    /// handing it to another thread and back costs several times as much. Only what must wait for another process goes
    /// elsewhere.
    pub(super) async fn query(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, EngineError> {
        let inner = self.inner.as_ref().ok_or(EngineError::Gone)?;
        let rows = query(inner, sql, values);
        if !self.asked_from_async {
            return rows;
        }
        match rows {
            Err(EngineError::Sqlite(error)) if is_busy(&error) => self.wait(sql, values).await,
            rows => {
                // Many reads in a row let others have their turn.
                tokio::task::consume_budget().await;
                rows
            }
        }
    }

    /// Reads on a thread that may wait, for as long as it takes others to give the file free.
    async fn wait(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, EngineError> {
        let inner = self.inner.take().ok_or(EngineError::Gone)?;
        let values: Vec<Value<'static>> = values.iter().cloned().map(Value::into_owned).collect();
        let done = tokio::task::spawn_blocking(move || {
            let rows = inner
                .busy_timeout(BUSY)
                .map_err(EngineError::from)
                .and_then(|()| query(&inner, sql, &values));
            let reset = inner.busy_timeout(Duration::ZERO);
            (inner, rows.and_then(|rows| Ok(reset.map(|()| rows)?)))
        });
        let (inner, rows) = done.await.map_err(|_| EngineError::Gone)?;
        self.inner = Some(inner);
        rows
    }

    pub(super) fn script(&self, sql: &str) -> Result<(), EngineError> {
        let inner = self.inner.as_ref().ok_or(EngineError::Gone)?;
        Ok(inner.execute_batch(sql)?)
    }

    /// SQLite ends a transaction by itself when the disk is full or fails.
    pub(super) fn in_transaction(&self) -> bool {
        self.inner
            .as_ref()
            .is_some_and(|inner| !inner.is_autocommit())
    }

    pub(super) const fn alive(&self) -> bool {
        self.inner.is_some()
    }
}

/// The disk is full, fails or takes no writes, or another program holds the file.
pub(super) fn is_outage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode as E;
    matches!(
        error.sqlite_error_code(),
        Some(
            E::DiskFull
                | E::SystemIoFailure
                | E::ReadOnly
                | E::CannotOpen
                | E::DatabaseBusy
                | E::DatabaseLocked
                | E::FileLockingProtocolFailed
                | E::PermissionDenied
                | E::OutOfMemory
        )
    )
}

/// Another process has the file for itself at the moment.
fn is_busy(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode as E;
    matches!(
        error.sqlite_error_code(),
        Some(E::DatabaseBusy | E::DatabaseLocked)
    )
}

pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode as E;
    matches!(
        error.sqlite_error_code(),
        Some(E::DatabaseCorrupt | E::NotADatabase)
    )
}

fn open(path: &Path, flags: OpenFlags) -> Result<rusqlite::Connection, EngineError> {
    let connection = rusqlite::Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::ZERO)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.execute_batch("PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF")?;
    Ok(connection)
}

fn query(
    connection: &rusqlite::Connection,
    sql: &'static str,
    values: &[Value<'_>],
) -> Result<Vec<Row>, EngineError> {
    let mut statement = connection.prepare_cached(sql)?;
    bind(&mut statement, values)?;
    let columns = statement.column_count();
    let mut found = statement.raw_query();
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        let cells: Result<Vec<Cell>, EngineError> = (0..columns)
            .map(|column| cell(row.get_ref(column)?))
            .collect();
        rows.push(Row::new(cells?));
    }
    Ok(rows)
}

/// To SQLite `$2` is a name, and its index is the order in which names appear: the number is ours to read.
fn bind(statement: &mut rusqlite::Statement<'_>, values: &[Value<'_>]) -> Result<(), EngineError> {
    for index in 1..=statement.parameter_count() {
        let name = statement.parameter_name(index).unwrap_or_default();
        let number = name
            .strip_prefix('$')
            .and_then(|digits| digits.parse::<usize>().ok());
        let value = number.and_then(|number| values.get(number.checked_sub(1)?));
        let value = value.ok_or(rusqlite::Error::InvalidParameterCount(
            values.len(),
            statement.parameter_count(),
        ))?;
        statement.raw_bind_parameter(index, value)?;
    }
    Ok(())
}

fn cell(value: ValueRef<'_>) -> Result<Cell, EngineError> {
    Ok(match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(value) => Cell::Int(value),
        ValueRef::Text(text) => Cell::Text(
            String::from_utf8(text.to_vec())
                .map_err(|error| rusqlite::Error::Utf8Error(0, error.utf8_error()))?,
        ),
        ValueRef::Blob(bytes) => Cell::Bytes(bytes.to_vec()),
        ValueRef::Real(_) => return Err(rusqlite::Error::InvalidQuery.into()),
    })
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let value = match self {
            Self::Int(Some(value)) => ValueRef::Integer(*value),
            Self::Text(Some(text)) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(Some(bytes)) => ValueRef::Blob(bytes),
            Self::Int(None) | Self::Text(None) | Self::Bytes(None) => ValueRef::Null,
        };
        Ok(ToSqlOutput::Borrowed(value))
    }
}

/// Makes the file: readable by its owner only, from its first byte on.
pub(in crate::store) fn create_private(path: &Path) -> Result<(), EngineError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map(|_| ())
        .map_err(EngineError::File)
}

/// Takes the process lock beside the database: orphaned checks are found at start, which is only
/// true when no other process is still running them.
pub(in crate::store) fn lock(path: &Path) -> Result<File, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let path = PathBuf::from(name);
    let failed = |source| StoreError::LockFile {
        path: path.clone(),
        source,
    };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(path)),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

#[cfg(test)]
impl Connection {
    pub(super) fn prepare(&self, sql: &str) -> Result<(), EngineError> {
        let inner = self.inner.as_ref().ok_or(EngineError::Gone)?;
        inner.prepare(sql)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[tokio::test]
    async fn a_read_that_must_wait_for_another_process_keeps_nobody_else_waiting() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.db");
        let other = rusqlite::Connection::open(&path).unwrap();
        other.execute_batch("CREATE TABLE t (n)").unwrap();
        other.execute_batch("BEGIN EXCLUSIVE").unwrap();
        let mut reader = Connection::reader(&path).unwrap();

        let read = async {
            let rows = reader.query("SELECT n FROM t", &[]).await;
            (rows.unwrap().len(), std::time::Instant::now())
        };
        // On the same thread: it is only reached if the read does not hold the thread.
        let others = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = std::time::Instant::now();
            other
                .execute_batch("INSERT INTO t VALUES (1); COMMIT")
                .unwrap();
            now
        };
        let ((rows, read), freed) = tokio::join!(read, others);
        assert_eq!(rows, 1);
        assert!(read >= freed);
    }
}
