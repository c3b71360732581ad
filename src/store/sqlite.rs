//! What is particular to SQLite: connections, pragmas, the process lock.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Sqlite, SqliteConnection, SqlitePool};

use super::StoreError;
use crate::clock::Timestamp;
use crate::domain::OperationId;

const READERS: u32 = 4;

/// Something that rows can be read through: the transaction of an operation, or a reader.
pub trait Reads: Send {
    /// The connection under it.
    fn connection(&mut self) -> &mut SqliteConnection;
}

/// The transaction of one durable operation.
pub struct Tx<'a> {
    connection: &'a mut SqliteConnection,
    operation_id: OperationId,
    now: Timestamp,
}

impl<'a> Tx<'a> {
    pub(super) const fn new(
        connection: &'a mut SqliteConnection,
        operation_id: OperationId,
        now: Timestamp,
    ) -> Self {
        Self {
            connection,
            operation_id,
            now,
        }
    }

    /// The id of the operation, which is also the id of its audit record.
    #[must_use]
    pub const fn operation_id(&self) -> OperationId {
        self.operation_id
    }

    /// The time of the operation: every row it writes carries this one.
    #[must_use]
    pub const fn now(&self) -> Timestamp {
        self.now
    }
}

impl Reads for Tx<'_> {
    fn connection(&mut self) -> &mut SqliteConnection {
        self.connection
    }
}

/// A read-only connection.
pub struct Reader(PoolConnection<Sqlite>);

impl Reader {
    pub(super) const fn new(connection: PoolConnection<Sqlite>) -> Self {
        Self(connection)
    }
}

impl Reads for Reader {
    fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.0
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(5))
        .pragma("trusted_schema", "OFF")
        .disable_statement_logging()
}

/// Opens the one writing connection and migrates the schema.
pub(super) async fn connect_writer(
    path: &Path,
    create: bool,
) -> Result<SqliteConnection, StoreError> {
    let mut connection = reconnect_writer(path, create).await?;
    sqlx::migrate!("migrations/sqlite")
        .run(&mut connection)
        .await
        .map_err(StoreError::Migrate)?;
    Ok(connection)
}

/// Opens the one writing connection again after a failure.
pub(super) async fn reconnect_writer(
    path: &Path,
    create: bool,
) -> Result<SqliteConnection, StoreError> {
    if create {
        create_private(path)?;
    }
    // FULL, not NORMAL: in WAL mode NORMAL may lose the last commits with the power, and a lost
    // nonce reservation is a double payment.
    let options = options(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    Ok(SqliteConnection::connect_with(&options).await?)
}

/// The database is readable by its owner only, from its first byte on.
fn create_private(path: &Path) -> Result<(), StoreError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map(|_| ())
        .map_err(|error| StoreError::Unavailable(sqlx::Error::Io(error)))
}

pub(super) async fn connect_readers(path: &Path) -> Result<SqlitePool, StoreError> {
    Ok(SqlitePoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(Duration::from_secs(5))
        .connect_with(options(path).read_only(true))
        .await?)
}

/// Takes the process lock beside the database: orphaned checks are found at start, which is only
/// true when no other process is still running them.
pub(super) fn lock(path: &Path) -> Result<File, StoreError> {
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
