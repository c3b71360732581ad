//! The appliance's database as another program sees it: read-only, through the shell of its engine.

use std::path::PathBuf;
use std::process::Command;

use super::engine::{OwnDatabase, Server, answer};

/// A database. Queries are portable SQL, and `hex(column)`.
pub(crate) enum Database {
    /// A file, seen by `sqlite3`.
    Sqlite(PathBuf),
    /// A database on a server, seen by `psql`.
    Postgres {
        /// The server.
        server: Server,
        /// The name of the database.
        name: String,
    },
}

impl Database {
    pub(crate) fn of(database: &OwnDatabase) -> Self {
        Self::Postgres {
            server: database.server.clone(),
            name: database.name.clone(),
        }
    }

    /// Rows of a query; columns are separated by `|`.
    pub(crate) fn rows(&self, query: &str) -> Vec<String> {
        let mut shell = match self {
            Self::Sqlite(path) => {
                let mut shell = Command::new("sqlite3");
                shell
                    .args(["-readonly", "-cmd", ".timeout 5000"])
                    .arg(path)
                    .arg(query);
                shell
            }
            Self::Postgres { server, name } => {
                let mut shell = server.psql(name);
                shell
                    .env("PGOPTIONS", "-c default_transaction_read_only=on")
                    .args(["--command", &in_postgres(query)]);
                shell
            }
        };
        let output = shell
            .output()
            .expect("sqlite3 and psql must be installed: run scripts/setup.sh programs postgres");
        let text = answer(query, &output);
        text.lines().map(str::to_owned).collect()
    }

    /// The one value of a query that has one.
    pub(crate) fn value(&self, query: &str) -> String {
        let rows = self.rows(query);
        assert_eq!(rows.len(), 1, "{query}: {rows:?}");
        rows[0].clone()
    }

    /// The one number of a query.
    pub(crate) fn number(&self, query: &str) -> i64 {
        self.value(query).parse().unwrap()
    }
}

/// `hex(column)` is `SQLite`'s.
pub(crate) fn in_postgres(query: &str) -> String {
    let mut parts = query.split("hex(");
    let mut text = parts.next().unwrap().to_owned();
    for part in parts {
        let (column, rest) = part.split_once(')').unwrap();
        text += &format!("upper(encode({column}, 'hex')){rest}");
    }
    text
}

#[test]
fn hex_is_said_in_the_words_of_postgresql() {
    let query = "SELECT hex(a.b), lower(hex(c)) FROM t";
    let expected = "SELECT upper(encode(a.b, 'hex')), lower(upper(encode(c, 'hex'))) FROM t";
    assert_eq!(in_postgres(query), expected);
}
