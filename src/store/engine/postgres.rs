//! What is particular to PostgreSQL: how it is reached, deadlines, locks by key.

use std::path::Path;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgRow, PgSslMode};
use sqlx::query::Query;
use sqlx::{
    AssertSqlSafe, Column as _, ConnectOptions as _, PgConnection, Postgres, Row as _,
    TypeInfo as _,
};

use super::{Cell, EngineError, Lock, Row, Value};
use crate::store::location::PostgresOptions;

/// Longest wait for an answer of the server, beyond its own limits for a statement and for a lock.
const ANSWER: Duration = Duration::from_secs(8);

/// A device that is not revoked, and stays so until the transaction ends.
pub(super) const STANDING_DEVICE: &str = "SELECT device_key_id FROM devices \
     WHERE tenant = $1 AND device_key_id = $2 AND revoked_at IS NULL FOR SHARE";

/// The server's time, in microseconds: now, not the beginning of the transaction.
pub(in crate::store) const CLOCK: &str =
    "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)";

/// A table by its name.
pub(super) const TABLE: &str = "SELECT CAST(tablename AS TEXT) FROM pg_tables WHERE schemaname = current_schema() AND CAST(tablename AS TEXT) = $1";

/// Every column of every table.
pub(super) const COLUMNS: &str = "SELECT CAST(t.relname AS TEXT), CAST(c.attname AS TEXT), \
     format_type(c.atttypid, NULL), \
     CAST(COALESCE(array_position(CAST(k.indkey AS SMALLINT[]), c.attnum) + 1, 0) AS BIGINT) \
     FROM pg_class AS t JOIN pg_namespace AS n ON n.oid = t.relnamespace \
     JOIN pg_attribute AS c ON c.attrelid = t.oid AND c.attnum > 0 AND NOT c.attisdropped \
     LEFT JOIN pg_index AS k ON k.indrelid = t.oid AND k.indisprimary \
     WHERE n.nspname = current_schema() AND t.relkind = 'r' ORDER BY t.relname, c.attnum";

/// Every table with a foreign key, and the table that it refers to.
pub(super) const REFERENCES: &str = "SELECT CAST(t.relname AS TEXT), CAST(needed.relname AS TEXT) FROM pg_constraint AS c \
     JOIN pg_namespace AS n ON n.oid = c.connamespace JOIN pg_class AS t ON t.oid = c.conrelid \
     JOIN pg_class AS needed ON needed.oid = c.confrelid WHERE n.nspname = current_schema()";

/// Something that makes a database not empty.
pub(in crate::store) const ANYTHING: &str = "SELECT CAST(t.relname AS TEXT) FROM pg_class AS t \
     JOIN pg_namespace AS n ON n.oid = t.relnamespace \
     WHERE n.nspname = current_schema() ORDER BY t.relname LIMIT 1";

/// A connection to a server.
pub(in crate::store) struct Connection {
    inner: PgConnection,
    alive: bool,
}

impl Connection {
    pub(super) async fn open(
        options: &PostgresOptions,
        read_only: bool,
    ) -> Result<Self, EngineError> {
        let mut connect = PgConnectOptions::new_without_pgpass()
            .port(options.port)
            .database(&options.database)
            .username(&options.user)
            .application_name("countersignd")
            .options([
                ("statement_timeout", "5s"),
                ("lock_timeout", "4s"),
                ("idle_in_transaction_session_timeout", "20s"),
                ("default_transaction_isolation", "read committed"),
                (
                    "default_transaction_read_only",
                    if read_only { "on" } else { "off" },
                ),
            ])
            .disable_statement_logging();
        connect = if Path::new(&options.host).is_absolute() {
            connect.socket(&options.host)
        } else {
            connect.host(&options.host)
        };
        // Not "prefer": a connection that was meant to be encrypted is encrypted or it is none.
        connect = match &options.ca_file {
            Some(ca) => connect.ssl_mode(PgSslMode::VerifyFull).ssl_root_cert(ca),
            None => connect.ssl_mode(PgSslMode::Disable),
        };
        if let Some(password) = &options.password {
            connect = connect.password(password.expose());
        }
        let inner = tokio::time::timeout(ANSWER, connect.connect())
            .await
            .map_err(|_| EngineError::Timeout)??;
        let mut connection = Self { inner, alive: true };
        if !read_only {
            connection.check_durable().await?;
        }
        Ok(connection)
    }

    /// A server that forgets what it acknowledged, or that cannot write, is none.
    async fn check_durable(&mut self) -> Result<(), EngineError> {
        let rows = self
            .query(
                "SELECT current_setting('fsync'), current_setting('full_page_writes'), \
                 current_setting('synchronous_commit'), CAST(pg_is_in_recovery() AS TEXT)",
                &[],
            )
            .await?;
        let row = rows.into_iter().next().ok_or(EngineError::Gone)?;
        let mut columns = row.of("settings");
        for setting in ["fsync", "full_page_writes", "synchronous_commit"] {
            let value = columns.text(setting).map_err(|_| EngineError::Gone)?;
            if value == "off" {
                return Err(EngineError::NotDurable(setting.to_owned()));
            }
        }
        match columns.text("in_recovery") {
            Ok(answer) if answer == "false" => Ok(()),
            _ => Err(EngineError::Standby),
        }
    }

    pub(super) async fn execute(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<u64, EngineError> {
        let Self { inner, alive } = self;
        let done = within(alive, bind(sql, values).execute(inner)).await?;
        Ok(done.rows_affected())
    }

    pub(super) async fn query(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, EngineError> {
        let Self { inner, alive } = self;
        let rows = within(alive, bind(sql, values).fetch_all(inner)).await?;
        rows.iter().map(row).collect()
    }

    pub(super) async fn script(&mut self, sql: &str) -> Result<(), EngineError> {
        let Self { inner, alive } = self;
        // The text is ours: a migration, a savepoint, or BEGIN with locks.
        let script = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        within(alive, script.execute(inner)).await.map(|_| ())
    }

    /// Now, not the beginning of the transaction.
    pub(super) async fn server_clock(&mut self) -> Result<i64, EngineError> {
        let row = self.query(CLOCK, &[]).await?.into_iter().next();
        let now = row.ok_or(EngineError::Gone)?.of("clock").int("now");
        now.map_err(|_| EngineError::Gone)
    }

    /// Locks are taken in the order of their keys, each once, so that two transactions never wait for each
    /// other's. The server queues them: who wants a key alone waits for those who share it already, and for no later ones.
    pub(super) async fn begin(&mut self, locks: &[Lock]) -> Result<(), EngineError> {
        let mut locks = locks.to_vec();
        locks.sort_unstable();
        // Held alone is more than shared.
        locks.dedup_by_key(|lock| lock.key);
        let locks = locks.iter().map(|Lock { key, shared }| {
            let how = if *shared { "_shared" } else { "" };
            format!("; SELECT pg_advisory_xact_lock{how}({key})")
        });
        let sql: String = std::iter::once("BEGIN".to_owned()).chain(locks).collect();
        self.script(&sql).await
    }

    pub(super) const fn alive(&self) -> bool {
        self.alive
    }
}

/// The answer, or a broken connection: whatever the server did with a question it did not answer in
/// time, nothing more is asked on this connection.
async fn within<T>(
    alive: &mut bool,
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, EngineError> {
    if !*alive {
        return Err(EngineError::Gone);
    }
    // Also when the caller goes away in the middle of it.
    *alive = false;
    let answer = tokio::time::timeout(ANSWER, answer)
        .await
        .map_err(|_| EngineError::Timeout)?;
    *alive = match &answer {
        Ok(_) => true,
        Err(sqlx::Error::Database(error)) => !ends_connection(error.code().as_deref()),
        Err(_) => false,
    };
    Ok(answer?)
}

/// Classes 57 (shutdown, crash, administrator's command) and 08 (connection), except a cancelled
/// statement; and 25P03, 25006: idle for too long, or the server has become a standby.
fn ends_connection(code: Option<&str>) -> bool {
    code.is_none_or(|code| {
        (code.starts_with("57") && code != "57014")
            || code.starts_with("08")
            || code == "25P03"
            || code == "25006"
    })
}

/// Whatever is not about this statement: no connection, or classes 53 (out of disk, memory, connections),
/// 55 and 58 (files); a database that takes no connections is 55000.
pub(super) fn is_outage(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code();
            let code = code.as_deref();
            ends_connection(code)
                || ["53", "55", "58"]
                    .iter()
                    .any(|class| code.is_some_and(|code| code.starts_with(class)))
        }
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => true,
        _ => false,
    }
}

/// XX001 and XX002: a page or an index is not what it was when it was written.
pub(super) fn is_damage(error: &sqlx::Error) -> bool {
    let error = error.as_database_error();
    let code = error.and_then(sqlx::error::DatabaseError::code);
    matches!(code.as_deref(), Some("XX001" | "XX002"))
}

fn bind<'q>(sql: &'static str, values: &[Value<'q>]) -> Query<'q, Postgres, PgArguments> {
    let mut query = sqlx::query(sql);
    for value in values {
        query = match value.clone() {
            Value::Int(value) => query.bind(value),
            Value::Text(text) => query.bind(text),
            Value::Bytes(bytes) => query.bind(bytes.map(std::borrow::Cow::into_owned)),
        };
    }
    query
}

fn row(row: &PgRow) -> Result<Row, EngineError> {
    let columns = row.columns().iter();
    let cells: Result<Vec<Cell>, EngineError> = columns
        .map(|column| {
            let at = column.ordinal();
            let cell = match column.type_info().name() {
                "INT8" => row.try_get::<Option<i64>, _>(at)?.map(Cell::Int),
                "BYTEA" => row.try_get::<Option<Vec<u8>>, _>(at)?.map(Cell::Bytes),
                _ => row.try_get::<Option<String>, _>(at)?.map(Cell::Text),
            };
            Ok(cell.unwrap_or(Cell::Null))
        })
        .collect();
    cells.map(Row::new)
}

#[cfg(test)]
impl Connection {
    /// The types of a statement's parameters and columns.
    pub(super) async fn prepare(&mut self, sql: &str) -> Result<Vec<String>, EngineError> {
        use sqlx::{Executor as _, SqlSafeStr as _, Statement as _};
        let sql = AssertSqlSafe(sql.to_owned()).into_sql_str();
        let statement = within(&mut self.alive, (&mut self.inner).prepare(sql)).await?;
        let parameters = statement.parameters().and_then(sqlx::Either::left);
        let parameters = parameters.unwrap_or_default().iter();
        let columns = statement.columns().iter().map(sqlx::Column::type_info);
        Ok(parameters
            .chain(columns)
            .map(|kind| kind.name().to_owned())
            .collect())
    }
}
