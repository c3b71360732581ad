//! One connection to either engine, and what passes through it.
//!
//! The SQL text is the same for both: `$n` placeholders, TEXT, 64-bit integers and byte strings.
//! What differs stands in `sqlite.rs` and `postgres.rs`.

use std::borrow::Cow;

use super::{Location, Reads, StoreError};

pub(super) mod postgres;
pub(super) mod sqlite;

/// Why an engine could not answer.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// SQLite refused.
    #[error("SQLite refused")]
    Sqlite(#[from] rusqlite::Error),
    /// PostgreSQL refused, or could not be reached.
    #[error("PostgreSQL refused or could not be reached")]
    Postgres(#[from] sqlx::Error),
    /// The database file could not be made.
    #[error("the database file cannot be made")]
    File(#[source] std::io::Error),
    /// No answer in time.
    #[error("no answer from the database in time")]
    Timeout,
    /// The connection was lost before, or the task that owned it is gone.
    #[error("the connection is gone")]
    Gone,
    /// The server would acknowledge what it may lose.
    #[error("{0}: the server would lose commits that it acknowledged; switch it on")]
    NotDurable(String),
    /// The server is a standby.
    #[error("the server is a read-only standby: name the primary")]
    Standby,
}

impl EngineError {
    /// Whether the database is away or cannot write, rather than refusing this statement.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Sqlite(error) => sqlite::is_outage(error),
            Self::Postgres(error) => postgres::is_outage(error),
            _ => true,
        }
    }

    /// Whether what is stored cannot be right.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::Sqlite(error) => sqlite::is_damage(error),
            Self::Postgres(error) => postgres::is_damage(error),
            _ => false,
        }
    }
}

/// A value bound to a statement. Its type is known even when it is absent, because PostgreSQL asks.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// A 64-bit integer.
    Int(Option<i64>),
    /// UTF-8 text.
    Text(Option<Cow<'a, str>>),
    /// Bytes.
    Bytes(Option<Cow<'a, [u8]>>),
}

impl Value<'_> {
    fn into_owned(self) -> Value<'static> {
        match self {
            Self::Int(value) => Value::Int(value),
            Self::Text(value) => Value::Text(value.map(|text| Cow::Owned(text.into_owned()))),
            Self::Bytes(value) => Value::Bytes(value.map(|bytes| Cow::Owned(bytes.into_owned()))),
        }
    }
}

impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Self::Int(Some(value))
    }
}

impl From<Option<i64>> for Value<'_> {
    fn from(value: Option<i64>) -> Self {
        Self::Int(value)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(value: &'a str) -> Self {
        Self::Text(Some(Cow::Borrowed(value)))
    }
}

impl From<String> for Value<'_> {
    fn from(value: String) -> Self {
        Self::Text(Some(Cow::Owned(value)))
    }
}

impl From<Option<String>> for Value<'_> {
    fn from(value: Option<String>) -> Self {
        Self::Text(value.map(Cow::Owned))
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(value: &'a [u8]) -> Self {
        Self::Bytes(Some(Cow::Borrowed(value)))
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Value<'a> {
    fn from(value: &'a [u8; N]) -> Self {
        Self::Bytes(Some(Cow::Borrowed(value)))
    }
}

impl<'a, const N: usize> From<Option<&'a [u8; N]>> for Value<'a> {
    fn from(value: Option<&'a [u8; N]>) -> Self {
        Self::Bytes(value.map(|bytes| Cow::Borrowed(bytes.as_slice())))
    }
}

/// The values of a statement, in the order of its placeholders.
macro_rules! values {
    ($($value:expr),* $(,)?) => { &[$($crate::store::engine::Value::from($value)),*] };
}
pub(super) use values;

/// The lock of a key. Of two locks on one key, the one that is held alone sorts first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lock {
    key: i64,
    /// Together with other transactions that share it, and with none that holds it alone.
    shared: bool,
}

impl Lock {
    pub(super) const fn alone(key: i64) -> Self {
        Self { key, shared: false }
    }

    pub(super) const fn shared(key: i64) -> Self {
        Self { key, shared: true }
    }
}

/// One column of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    Null,
    Int(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// A row, read column by column in the order of its SELECT.
pub struct Row {
    cells: std::vec::IntoIter<Cell>,
}

impl Row {
    pub(super) fn new(cells: Vec<Cell>) -> Self {
        Self {
            cells: cells.into_iter(),
        }
    }

    /// All of it.
    pub(super) fn into_cells(self) -> Vec<Cell> {
        self.cells.collect()
    }

    /// The columns of a row of `table`.
    pub(super) fn of(self, table: &'static str) -> Columns {
        Columns {
            cells: self.cells,
            table,
        }
    }
}

/// The columns of a row that are still to be read. Each read names its column, for the error.
pub(super) struct Columns {
    cells: std::vec::IntoIter<Cell>,
    table: &'static str,
}

impl Columns {
    /// What follows are columns of another table.
    pub(super) const fn and_of(&mut self, table: &'static str) {
        self.table = table;
    }

    const fn corrupt(&self, column: &'static str) -> StoreError {
        StoreError::Corrupt {
            table: self.table,
            column,
        }
    }

    pub(super) fn int(&mut self, column: &'static str) -> Result<i64, StoreError> {
        self.int_or_null(column)?.ok_or(self.corrupt(column))
    }

    pub(super) fn int_or_null(&mut self, column: &'static str) -> Result<Option<i64>, StoreError> {
        match self.cells.next() {
            Some(Cell::Int(value)) => Ok(Some(value)),
            Some(Cell::Null) => Ok(None),
            _ => Err(self.corrupt(column)),
        }
    }

    pub(super) fn text(&mut self, column: &'static str) -> Result<String, StoreError> {
        self.text_or_null(column)?.ok_or(self.corrupt(column))
    }

    pub(super) fn text_or_null(
        &mut self,
        column: &'static str,
    ) -> Result<Option<String>, StoreError> {
        match self.cells.next() {
            Some(Cell::Text(value)) => Ok(Some(value)),
            Some(Cell::Null) => Ok(None),
            _ => Err(self.corrupt(column)),
        }
    }

    pub(super) fn bytes(&mut self, column: &'static str) -> Result<Vec<u8>, StoreError> {
        self.bytes_or_null(column)?.ok_or(self.corrupt(column))
    }

    pub(super) fn bytes_or_null(
        &mut self,
        column: &'static str,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        match self.cells.next() {
            Some(Cell::Bytes(value)) => Ok(Some(value)),
            Some(Cell::Null) => Ok(None),
            _ => Err(self.corrupt(column)),
        }
    }

    /// Bytes of a fixed length.
    pub(super) fn array<const N: usize>(
        &mut self,
        column: &'static str,
    ) -> Result<[u8; N], StoreError> {
        let bytes = self.bytes(column)?;
        bytes.try_into().map_err(|_| self.corrupt(column))
    }

    pub(super) fn array_or_null<const N: usize>(
        &mut self,
        column: &'static str,
    ) -> Result<Option<[u8; N]>, StoreError> {
        let bytes = self.bytes_or_null(column)?;
        bytes
            .map(|bytes| bytes.try_into().map_err(|_| self.corrupt(column)))
            .transpose()
    }

    /// A text that `parse` understands.
    pub(super) fn parsed<T, E>(
        &mut self,
        column: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, StoreError> {
        let text = self.text(column)?;
        parse(&text).map_err(|_| self.corrupt(column))
    }

    pub(super) fn parsed_or_null<T, E>(
        &mut self,
        column: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, StoreError> {
        let text = self.text_or_null(column)?;
        text.map(|text| parse(&text).map_err(|_| self.corrupt(column)))
            .transpose()
    }

    /// A text from a closed set.
    pub(super) fn named<T>(
        &mut self,
        column: &'static str,
        find: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, StoreError> {
        let text = self.text(column)?;
        find(&text).ok_or(self.corrupt(column))
    }

    /// An integer that fits `T`.
    pub(super) fn number<T: TryFrom<i64>>(
        &mut self,
        column: &'static str,
    ) -> Result<T, StoreError> {
        self.number_or_null(column)?.ok_or(self.corrupt(column))
    }

    pub(super) fn number_or_null<T: TryFrom<i64>>(
        &mut self,
        column: &'static str,
    ) -> Result<Option<T>, StoreError> {
        let value = self.int_or_null(column)?;
        value
            .map(|value| T::try_from(value).map_err(|_| self.corrupt(column)))
            .transpose()
    }
}

/// A connection to either engine. One owner at a time; it is never used again after it broke.
pub(super) enum Connection {
    Sqlite(sqlite::Connection),
    Postgres(postgres::Connection),
}

impl Connection {
    /// A connection that writes. SQLite's runs its statements on the caller's thread.
    pub(super) async fn writer(location: &Location) -> Result<Self, EngineError> {
        match location {
            Location::Sqlite(path) => sqlite::Connection::writer(path).map(Self::Sqlite),
            Location::Postgres(options) => {
                let connection = postgres::Connection::open(options, false).await?;
                Ok(Self::Postgres(connection))
            }
        }
    }

    /// A connection that only reads. SQLite's runs its statements on a thread for blocking work.
    pub(super) async fn reader(location: &Location) -> Result<Self, EngineError> {
        match location {
            Location::Sqlite(path) => sqlite::Connection::reader(path).map(Self::Sqlite),
            Location::Postgres(options) => {
                let connection = postgres::Connection::open(options, true).await?;
                Ok(Self::Postgres(connection))
            }
        }
    }

    /// Runs a statement; the number of rows it changed.
    pub(super) async fn execute(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<u64, EngineError> {
        match self {
            Self::Sqlite(connection) => connection.execute(sql, values),
            Self::Postgres(connection) => connection.execute(sql, values).await,
        }
    }

    /// Runs a query; its rows.
    pub(super) async fn query(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, EngineError> {
        match self {
            Self::Sqlite(connection) => connection.query(sql, values).await,
            Self::Postgres(connection) => connection.query(sql, values).await,
        }
    }

    /// Runs statements without values, as one.
    pub(super) async fn script(&mut self, sql: &str) -> Result<(), EngineError> {
        match self {
            Self::Sqlite(connection) => connection.script(sql),
            Self::Postgres(connection) => connection.script(sql).await,
        }
    }

    /// Whether the schema has this table.
    pub(super) async fn has_table(&mut self, name: &str) -> Result<bool, EngineError> {
        let sql = match self {
            Self::Sqlite(_) => sqlite::TABLE,
            Self::Postgres(_) => postgres::TABLE,
        };
        Ok(!self.query(sql, values![name]).await?.is_empty())
    }

    /// The query for a device that is not revoked, with the lock that keeps it so until the transaction ends.
    pub(super) const fn standing_device(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => sqlite::STANDING_DEVICE,
            Self::Postgres(_) => postgres::STANDING_DEVICE,
        }
    }

    /// The query for every column of every table: table, column, type, place in the primary key from 1, or 0.
    pub(super) const fn columns(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => sqlite::COLUMNS,
            Self::Postgres(_) => postgres::COLUMNS,
        }
    }

    /// The query for every table with a foreign key and the table that it refers to.
    pub(super) const fn references(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => sqlite::REFERENCES,
            Self::Postgres(_) => postgres::REFERENCES,
        }
    }

    /// The time of the server; absent where there is none.
    pub(super) async fn server_clock(&mut self) -> Result<Option<i64>, EngineError> {
        match self {
            Self::Sqlite(_) => Ok(None),
            Self::Postgres(connection) => connection.server_clock().await.map(Some),
        }
    }

    /// As [`Connection::begin_with`], with the locks of these keys for this transaction alone.
    pub(super) async fn begin(&mut self, keys: &[i64]) -> Result<(), EngineError> {
        let locks: Vec<Lock> = keys.iter().copied().map(Lock::alone).collect();
        self.begin_with(&locks).await
    }

    /// Begins a transaction that writes, and takes these locks: operations on one key exclude each other,
    /// whichever process runs them. SQLite has one writer and needs no locks.
    pub(super) async fn begin_with(&mut self, locks: &[Lock]) -> Result<(), EngineError> {
        match self {
            Self::Sqlite(connection) => connection.execute("BEGIN IMMEDIATE", &[]).map(|_| ()),
            Self::Postgres(connection) => connection.begin(locks).await,
        }
    }

    /// Whether the transaction still stands after a statement failed in it, so that a savepoint can
    /// be gone back to.
    pub(super) fn in_transaction(&self) -> bool {
        match self {
            Self::Sqlite(connection) => connection.in_transaction(),
            Self::Postgres(connection) => connection.alive(),
        }
    }

    /// Whether the connection may be used again.
    pub(super) fn alive(&self) -> bool {
        match self {
            Self::Sqlite(connection) => connection.alive(),
            Self::Postgres(connection) => connection.alive(),
        }
    }
}

/// A connection reads for itself where no operation and no reader is at hand: while it is opened, and
/// when a record is looked up.
impl Reads for Connection {
    async fn query(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        Ok(Self::query(self, sql, values).await?)
    }
}

#[cfg(test)]
impl Connection {
    /// The engine's own view of a statement; an error if it cannot run. Only PostgreSQL knows the types of
    /// its parameters and columns.
    pub(super) async fn prepare(&mut self, sql: &str) -> Result<Vec<String>, EngineError> {
        match self {
            Self::Sqlite(connection) => connection.prepare(sql).map(|()| Vec::new()),
            Self::Postgres(connection) => connection.prepare(sql).await,
        }
    }
}
