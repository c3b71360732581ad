//! Every statement of the store, prepared on both engines against the schema that the migrations make.

use super::super::copy::marker;
use super::super::engine::Connection;
use super::database::Database;
use super::statements::{Statement, of_source, of_the_store};

/// The types that a value can be bound as and a column be read as.
const TYPES: [&str; 3] = ["INT8", "TEXT", "BYTEA"];

/// Fewer would mean that the search has lost its way.
const AT_LEAST: usize = 45;

/// What is wrong with a statement on an engine.
async fn refused(engine: &mut Connection, sql: &str) -> Option<String> {
    match engine.prepare(sql).await {
        Ok(types) => types
            .into_iter()
            .find(|found| !TYPES.contains(&found.as_str())),
        Err(error) => Some(format!("{error:?}")),
    }
}

async fn engines() -> [(&'static str, Connection, Database); 2] {
    let (sqlite, postgres) = (Database::sqlite(), Database::postgres().await);
    drop((sqlite.store().await, postgres.store().await));
    let mut engines = [
        ("sqlite", sqlite.connection().await, sqlite),
        ("postgres", postgres.connection().await, postgres),
    ];
    for (_, connection, _) in &mut engines {
        // No part of the schema.
        connection.script(marker::CREATE).await.unwrap();
    }
    engines
}

/// A statement belongs to both engines, unless it stands in the file of one of them.
fn belongs_to(statement: &Statement, engine: &str) -> bool {
    let own = statement.file.strip_prefix("store/engine/");
    own.is_none_or(|file| file == format!("{engine}.rs"))
}

#[tokio::test]
async fn every_statement_is_understood_by_both_engines() {
    let statements = of_the_store();
    let shared = statements.iter().filter(|one| belongs_to(one, "sqlite"));
    assert!(shared.count() >= AT_LEAST, "{} in all", statements.len());
    let mut wrong = Vec::new();
    for (name, mut engine, _database) in engines().await {
        for Statement { file, sql } in statements.iter().filter(|one| belongs_to(one, name)) {
            if let Some(problem) = refused(&mut engine, sql).await {
                wrong.push(format!("{name}: {file}: {problem}\n  {sql}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_statement_of_one_dialect_or_about_an_unknown_column_is_noticed() {
    let [(_, mut sqlite, _file), (_, mut postgres, _database)] = engines().await;
    for (sql, on_sqlite, on_postgres) in [
        ("SELECT kid FROM kem_keys WHERE not_after > $1", true, true),
        (
            "SELECT kid FROM kem_keys WHERE valid_until > $1",
            false,
            false,
        ),
        ("SELECT kid FROM keys_of_kem", false, false),
        (
            "SELECT kid FROM kem_keys WHERE not_after > now()",
            false,
            false,
        ),
        (
            "SELECT kid FROM kem_keys WHERE not_after > unixepoch()",
            true,
            false,
        ),
        ("SELECT kid FROM kem_keys FOR UPDATE", false, true),
        (
            "INSERT OR IGNORE INTO steps (permit_id) VALUES ($1)",
            true,
            false,
        ),
        ("UPDATE profiles SET checking = $1 LIMIT 1", false, false),
        // Columns that could not be read: a 32-bit number, and a sum of unlimited size.
        ("SELECT 1 FROM kem_keys", true, false),
        ("SELECT SUM(not_after) FROM kem_keys", true, false),
    ] {
        assert_eq!(
            refused(&mut sqlite, sql).await.is_none(),
            on_sqlite,
            "{sql}"
        );
        assert_eq!(
            refused(&mut postgres, sql).await.is_none(),
            on_postgres,
            "{sql}"
        );
    }
}

#[test]
fn statements_are_found_wherever_they_stand_in_a_file() {
    let text = r#"
        //! SELECT of a comment
        /// SELECT of a doc comment
        macro_rules! select {
            ($what:literal, $condition:literal) => {
                concat!("SELECT ", $what, " FROM t WHERE ", $condition)
            };
        }
        macro_rules! other { ($x:expr) => { query("DELETE FROM t", $x) }; }
        const FIRST: &str = "INSERT INTO t \
            (a) VALUES ($1)";
        fn f(engine: Engine) {
            reads.query(select!("a", "b = $1"), values!["SELECTED"]);
            let sql = match engine { A => concat!("UPDATE t ", "SET a = $1"), B => r"WITH x AS y" };
            tx.execute(sql, &[format!("SELECT {a}")]);
        }
        #[cfg(test)]
        mod tests { const T: &str = "SELECT in a test"; }
        #[cfg(test)]
        fn g() { "SELECT in a test" }
        fn h() { "SELECT last" }
    "#;
    let found: Vec<String> = of_source("x", text)
        .into_iter()
        .map(|one| one.sql)
        .collect();
    assert_eq!(
        found,
        [
            "DELETE FROM t",
            "INSERT INTO t (a) VALUES ($1)",
            "SELECT a FROM t WHERE b = $1",
            "UPDATE t SET a = $1",
            "WITH x AS y",
            "SELECT last",
        ]
    );
}
