//! No statement reads a whole table, however many rows it has: asked of the planners themselves.

use super::database::Database;
use super::statements::{Statement, of_the_store};
use crate::store::Reads;
use crate::store::engine::{Connection, Value};

/// Statements that may read a table as a whole, and why.
const ALLOWED: [(&str, &str); 9] = [
    ("FROM environment", "one row"),
    (
        "kem_keys",
        "eight rows at most: a new key replaces old ones",
    ),
    ("kem_keks", "a row for each KEM key and each that was begun"),
    ("ORDER BY position DESC LIMIT 1", "the end of a key"),
    ("MAX(position) FROM audit_c", "the end of a key"),
    ("ORDER BY permit_id LIMIT 1", "the beginning of a key"),
    (
        "NOT EXISTS (SELECT 1 FROM instances",
        "an index of what is being checked just now",
    ),
    (
        "FROM instances WHERE ended_at",
        "a row for each process that lives or ended lately",
    ),
    (
        "UPDATE instances SET ended_at",
        "a row for each process that lives or ended lately",
    ),
];

/// Every statement that both engines run; the marker of an unfinished copy is a table for a while only.
fn statements() -> Vec<(String, String)> {
    let all = of_the_store().into_iter();
    all.map(|Statement { file, sql }| (file, sql))
        .filter(|(file, _)| {
            let engines = file.starts_with("store/engine/") || file.starts_with("store/copy");
            !engines && file != "store/schema.rs"
        })
        .collect()
}

/// The number of its placeholders.
fn placeholders(sql: &str) -> usize {
    let numbers = sql.split('$').skip(1).filter_map(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    });
    numbers.max().unwrap_or(0)
}

async fn lines(connection: &mut Connection, sql: String) -> Vec<String> {
    let sql: &'static str = Box::leak(sql.into_boxed_str());
    // SQLite wants a value for each placeholder; an EXECUTE has its own.
    let values = vec![Value::Int(None); placeholders(sql)];
    let rows = Reads::query(connection, sql, &values).await;
    let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let sqlite = matches!(connection, Connection::Sqlite(_));
    rows.into_iter()
        .map(|row| {
            let mut row = row.of("plan");
            if sqlite {
                for column in ["id", "parent", "unused"] {
                    row.int(column).unwrap();
                }
            }
            row.text("detail").unwrap()
        })
        .collect()
}

fn complain(wrong: &[String]) {
    assert!(
        wrong.is_empty(),
        "whole tables are read:\n{}",
        wrong.join("\n")
    );
}

/// Whether a line of SQLite's plan goes through all of a table or of its index. What a query makes itself,
/// and names behind a bracket, is no table.
fn reads_all(sql: &str, line: &str) -> bool {
    let mut words = line.split(' ');
    let (verb, name) = (words.next().unwrap(), words.next().unwrap_or_default());
    let made = name.starts_with('(') || sql.contains(&format!(") AS {name}"));
    match verb {
        "SCAN" => !made && !line.contains("CONSTANT ROW") && !line.contains("VALUES CLAUSE"),
        // The largest value of a column without an index is a search by no index.
        "SEARCH" => !made && !line.contains(" USING "),
        _ => false,
    }
}

fn allowed(sql: &str) -> bool {
    ALLOWED.iter().any(|(part, _)| sql.contains(part))
}

#[tokio::test]
async fn no_statement_reads_a_whole_table_on_sqlite() {
    let database = Database::sqlite();
    let _store = database.store().await;
    let mut connection = Connection::writer(&database.location()).await.unwrap();
    let mut wrong = Vec::new();
    for (file, sql) in statements() {
        let plan = lines(&mut connection, format!("EXPLAIN QUERY PLAN {sql}")).await;
        let scans: Vec<&String> = plan.iter().filter(|line| reads_all(&sql, line)).collect();
        if !scans.is_empty() && !allowed(&sql) {
            wrong.push(format!("{file}: {sql}\n    {scans:?}"));
        }
    }
    complain(&wrong);
}

#[tokio::test]
async fn no_statement_reads_a_whole_table_on_postgres() {
    let database = Database::postgres().await;
    let _store = database.store().await;
    let mut connection = Connection::writer(&database.location()).await.unwrap();
    // A table without an index for a statement is read as a whole all the same.
    let settings = "SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan";
    connection.script(settings).await.unwrap();
    let mut wrong = Vec::new();
    for (index, (file, sql)) in statements().into_iter().enumerate() {
        let prepare = format!("PREPARE s{index} AS {sql}");
        let prepared = connection.script(&prepare).await;
        prepared.unwrap_or_else(|error| panic!("{file}: {sql}: {error:?}"));
        let nulls = vec!["NULL"; placeholders(&sql)].join(", ");
        let values = if nulls.is_empty() {
            nulls
        } else {
            format!("({nulls})")
        };
        let plan = lines(&mut connection, format!("EXPLAIN EXECUTE s{index}{values}")).await;
        let scans: Vec<&String> = plan
            .iter()
            .filter(|line| line.contains("Seq Scan"))
            .collect();
        if !scans.is_empty() && !allowed(&sql) {
            wrong.push(format!("{file}: {sql}\n    {scans:?}"));
        }
    }
    complain(&wrong);
}
