//! The tables of a database, as its own catalog describes them: a table that a migration adds is copied and
//! compared without anybody having to think of it.

use std::collections::{BTreeMap, BTreeSet};

use super::CopyError;
use crate::store::engine::{Cell, Columns, Connection, Row, Value};
use crate::store::schema;

/// Rows that are read or written at once.
pub(super) const PAGE: usize = 500;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Int,
    Text,
    Bytes,
}

/// A column, by its name.
type Described = BTreeMap<String, (Kind, i64)>;

/// A table, and what is asked of it. The same text asks both engines.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) columns: Vec<String>,
    kinds: Vec<Kind>,
    /// Where the columns of the primary key stand among all.
    key: Vec<usize>,
    first_page: &'static str,
    next_page: &'static str,
    count: &'static str,
    full_insert: &'static str,
}

/// A statement that names a table of the catalog. There are a few for each table, and the program that makes
/// them ends after one copy.
fn statement(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

/// Empties tables that refer to each other.
pub(super) fn emptying(tables: &[Table]) -> String {
    let names = tables.iter().map(|table| quoted(&table.name));
    format!("TRUNCATE {}", list(names))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn list(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

impl Table {
    fn new(name: String, described: &[(String, Kind, i64)]) -> Self {
        let mut key: Vec<(i64, usize)> = described
            .iter()
            .enumerate()
            .filter(|(_, (_, _, position))| *position > 0)
            .map(|(at, (_, _, position))| (*position, at))
            .collect();
        key.sort_unstable();
        let key: Vec<usize> = key.into_iter().map(|(_, at)| at).collect();
        let columns: Vec<String> = described.iter().map(|(name, ..)| name.clone()).collect();
        let kinds: Vec<Kind> = described.iter().map(|(_, kind, _)| *kind).collect();

        let (table, all) = (quoted(&name), list(columns.iter().map(|name| quoted(name))));
        let keys = list(
            key.iter()
                .filter_map(|at| columns.get(*at))
                .map(|name| quoted(name)),
        );
        let last = list((1..=key.len()).map(|number| format!("${number}")));
        let page = format!("ORDER BY {keys} LIMIT {PAGE}");
        Self {
            first_page: statement(format!("SELECT {all} FROM {table} {page}")),
            next_page: statement(format!(
                "SELECT {all} FROM {table} WHERE ({keys}) > ({last}) {page}"
            )),
            count: statement(format!("SELECT COUNT(*) FROM {table}")),
            full_insert: insertion(&table, &all, columns.len(), PAGE),
            name,
            columns,
            kinds,
            key,
        }
    }

    pub(super) async fn count(&self, connection: &mut Connection) -> Result<u64, CopyError> {
        let row = connection.query(self.count, &[]).await?.into_iter().next();
        let count = row.map_or(Ok(0), |row| row.of("catalog").number("count"));
        Ok(count?)
    }

    /// The rows after `last` in the order of the primary key, which is each engine's own: text has many orders.
    pub(super) async fn page(
        &self,
        connection: &mut Connection,
        last: Option<&[Cell]>,
    ) -> Result<Vec<Vec<Cell>>, CopyError> {
        let rows = match last {
            None => connection.query(self.first_page, &[]).await?,
            Some(last) => {
                let cells = self.key.iter().filter_map(|at| last.get(*at));
                let kinds = self.key.iter().filter_map(|at| self.kinds.get(*at));
                let values: Vec<Value<'_>> = bound(cells, kinds).collect();
                connection.query(self.next_page, &values).await?
            }
        };
        Ok(rows.into_iter().map(Row::into_cells).collect())
    }

    pub(super) async fn insert(
        &self,
        connection: &mut Connection,
        rows: &[Vec<Cell>],
    ) -> Result<(), CopyError> {
        let sql = if rows.len() == PAGE {
            self.full_insert
        } else {
            let all = list(self.columns.iter().map(|name| quoted(name)));
            insertion(&quoted(&self.name), &all, self.columns.len(), rows.len())
        };
        let values: Vec<Value<'_>> = rows
            .iter()
            .flat_map(|row| bound(row.iter(), self.kinds.iter()))
            .collect();
        connection.execute(sql, &values).await?;
        Ok(())
    }

    fn described(&self) -> Described {
        let columns = self.columns.iter().zip(&self.kinds).enumerate();
        columns
            .map(|(at, (name, kind))| {
                let position = self.key.iter().position(|key| *key == at);
                let position = position.and_then(|found| i64::try_from(found + 1).ok());
                (name.clone(), (*kind, position.unwrap_or_default()))
            })
            .collect()
    }
}

fn insertion(table: &str, all: &str, width: usize, rows: usize) -> &'static str {
    let row = |row: usize| {
        let numbers = (1..=width).map(|column| format!("${}", row * width + column));
        format!("({})", list(numbers))
    };
    let rows = list((0..rows).map(row));
    statement(format!("INSERT INTO {table} ({all}) VALUES {rows}"))
}

fn bound<'a>(
    cells: impl Iterator<Item = &'a Cell>,
    kinds: impl Iterator<Item = &'a Kind>,
) -> impl Iterator<Item = Value<'a>> {
    cells.zip(kinds).map(|(cell, kind)| match (cell, kind) {
        (Cell::Int(value), _) => Value::from(*value),
        (Cell::Text(text), _) => Value::from(text.as_str()),
        (Cell::Bytes(bytes), _) => Value::from(bytes.as_slice()),
        (Cell::Null, Kind::Int) => Value::Int(None),
        (Cell::Null, Kind::Text) => Value::Text(None),
        (Cell::Null, Kind::Bytes) => Value::Bytes(None),
    })
}

/// What an environment consists of: every table but that of the schema's versions. A table comes after those
/// that its foreign keys point to.
pub(super) async fn tables(connection: &mut Connection) -> Result<Vec<Table>, CopyError> {
    let mut described: BTreeMap<String, Vec<(String, Kind, i64)>> = BTreeMap::new();
    for row in connection.query(connection.columns(), &[]).await? {
        let mut row = row.of("catalog");
        let (table, column) = (row.text("table")?, row.text("column")?);
        let (kind, position) = (kind(&mut row)?, row.int("key")?);
        described
            .entry(table)
            .or_default()
            .push((column, kind, position));
    }
    described.retain(|table, _| table != schema::VERSIONS && table != super::marker::TABLE);
    let mut needs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in connection.query(connection.references(), &[]).await? {
        let mut row = row.of("catalog");
        let (table, needed) = (row.text("table")?, row.text("needed")?);
        needs.entry(table).or_default().insert(needed);
    }
    ordered(described, &needs)
}

fn ordered(
    mut described: BTreeMap<String, Vec<(String, Kind, i64)>>,
    needs: &BTreeMap<String, BTreeSet<String>>,
) -> Result<Vec<Table>, CopyError> {
    let mut tables = Vec::new();
    while !described.is_empty() {
        let ready = described.keys().find(|table| {
            let mut needed = needs.get(*table).into_iter().flatten();
            !needed.any(|other| other != *table && described.contains_key(other))
        });
        let Some((name, columns)) = ready
            .cloned()
            .and_then(|name| described.remove_entry(&name))
        else {
            let stuck = described.into_keys().next().unwrap_or_default();
            return Err(CopyError::Schema(stuck));
        };
        let table = Table::new(name, &columns);
        if table.key.is_empty() {
            return Err(CopyError::Schema(table.name));
        }
        tables.push(table);
    }
    Ok(tables)
}

fn kind(row: &mut Columns) -> Result<Kind, CopyError> {
    Ok(row.named("type", |name| match name {
        "INTEGER" | "bigint" => Some(Kind::Int),
        "TEXT" | "text" => Some(Kind::Text),
        "BLOB" | "bytea" => Some(Kind::Bytes),
        _ => None,
    })?)
}

/// Fails unless the other database has the same tables with the same columns and keys.
pub(super) fn agree(tables: &[Table], others: &[Table]) -> Result<(), CopyError> {
    let described = |tables: &[Table]| -> BTreeMap<String, Described> {
        let tables = tables.iter();
        tables
            .map(|table| (table.name.clone(), table.described()))
            .collect()
    };
    let (one, other) = (described(tables), described(others));
    let mut names = one.keys().chain(other.keys());
    match names.find(|name| one.get(*name) != other.get(*name)) {
        None => Ok(()),
        Some(name) => Err(CopyError::Schema(name.clone())),
    }
}
