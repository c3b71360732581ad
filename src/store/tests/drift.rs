//! The two migration folders make one schema.
//!
//! The schema that SQLite ends with is written down again for PostgreSQL, with nothing but the names of three
//! types changed, and made there; PostgreSQL's own catalog then says whether it is the one that its own
//! migrations made: tables, columns, types, nullability, defaults, keys, checks, indexes and their conditions.
#![expect(clippy::string_slice, reason = "tests")]

use super::super::engine::Connection;
use super::database::Database;

/// One fact of a schema in a line, without the names that an engine makes up.
const FACTS: &str = "
    SELECT 'column ' || table_name || '.' || column_name || ' ' || data_type || ' nullable ' || is_nullable \
        || ' default ' || COALESCE(column_default, 'none') \
        FROM information_schema.columns WHERE table_schema = current_schema()
    UNION ALL SELECT 'constraint of ' || CAST(conrelid AS regclass) || ': ' || pg_get_constraintdef(oid) \
        FROM pg_constraint WHERE connamespace = CAST(current_schema() AS regnamespace)
    UNION ALL SELECT 'index: ' || indexdef FROM pg_indexes WHERE schemaname = current_schema() \
        AND NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conname = indexname)
    ORDER BY 1";

/// Every CREATE statement that SQLite's schema consists of, tables before their indexes.
const CREATED: &str = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid";

async fn lines(connection: &mut Connection, sql: &'static str) -> Vec<String> {
    let rows = connection.query(sql, &[]).await.unwrap();
    rows.into_iter()
        .map(|row| row.of("catalog").text("line").unwrap())
        .collect()
}

async fn sqlite_schema(change: &str) -> Vec<String> {
    let sqlite = Database::sqlite();
    drop(sqlite.store().await);
    let mut connection = sqlite.connection().await;
    connection.script(change).await.unwrap();
    lines(&mut connection, CREATED).await
}

/// What PostgreSQL makes of SQLite's schema.
async fn translated(change: &str) -> Vec<String> {
    let database = Database::postgres().await;
    let mut connection = database.connection().await;
    for statement in sqlite_schema(change).await {
        connection.script(&for_postgres(&statement)).await.unwrap();
    }
    lines(&mut connection, FACTS).await
}

/// Words are replaced only where they stand alone.
fn for_postgres(statement: &str) -> String {
    let word = |word: &str| match word {
        "INTEGER" => "BIGINT".to_owned(),
        "BLOB" => "BYTEA".to_owned(),
        "STRICT" => String::new(),
        other => other.to_owned(),
    };
    let boundary = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let mut text = String::new();
    for part in statement.split_inclusive(boundary) {
        let end = part.find(boundary).unwrap_or(part.len());
        text.push_str(&word(&part[..end]));
        text.push_str(&part[end..]);
    }
    text
}

async fn postgres_schema() -> Vec<String> {
    let database = Database::postgres().await;
    drop(database.store().await);
    lines(&mut database.connection().await, FACTS).await
}

fn differences(one: &[String], other: &[String]) -> Vec<String> {
    let missing = |from: &[String], what: &[String], name: &str| -> Vec<String> {
        let lines = what.iter().filter(|line| !from.contains(line));
        lines
            .map(|line| format!("only on {name}: {line}"))
            .collect()
    };
    let mut found = missing(other, one, "sqlite");
    found.extend(missing(one, other, "postgres"));
    found
}

#[tokio::test]
async fn both_engines_have_one_schema() {
    let (sqlite, postgres) = (translated("").await, postgres_schema().await);
    assert!(postgres.len() > 100, "{postgres:#?}");
    let differences = differences(&sqlite, &postgres);
    assert!(differences.is_empty(), "{differences:#?}");
}

#[tokio::test]
async fn a_drift_between_the_schemas_is_noticed() {
    let postgres = postgres_schema().await;
    for (change, expected) in [
        (
            "CREATE TABLE extra (id TEXT NOT NULL PRIMARY KEY) STRICT",
            "extra.id",
        ),
        (
            "ALTER TABLE steps ADD COLUMN extra TEXT",
            "steps.extra text nullable YES",
        ),
        (
            "DROP INDEX transactions_nonce",
            "UNIQUE INDEX transactions_nonce",
        ),
        (
            "DROP INDEX steps_by_session; CREATE INDEX steps_by_session ON steps (session_id) WHERE outcome = 'done'",
            "index: CREATE INDEX steps_by_session",
        ),
        (
            "CREATE TABLE moved (id INTEGER NOT NULL CHECK (id > 1)) STRICT",
            "CHECK ((id > 1))",
        ),
        (
            "ALTER TABLE steps ADD COLUMN more INTEGER NOT NULL DEFAULT 7",
            "steps.more bigint nullable NO default",
        ),
    ] {
        let found = differences(&translated(change).await, &postgres);
        assert!(
            found.iter().any(|line| line.contains(expected)),
            "{change}: {found:#?}"
        );
    }
}
