//! The appliance's database as another program sees it: read-only, through the `sqlite3` shell.

use std::path::PathBuf;
use std::process::Command;

/// A database file.
pub(crate) struct Database {
    path: PathBuf,
}

impl Database {
    pub(crate) const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Rows of a query; columns are separated by `|`.
    pub(crate) fn rows(&self, query: &str) -> Vec<String> {
        let output = Command::new("sqlite3")
            .args(["-readonly", "-cmd", ".timeout 5000"])
            .arg(&self.path)
            .arg(query)
            .output()
            .expect("sqlite3 must be installed: run scripts/setup.sh");
        assert!(
            output.status.success(),
            "{query}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).unwrap();
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

    /// The database file and what belongs to it (write-ahead log, shared memory).
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let name = self.path.file_name().unwrap().to_str().unwrap();
        super::files_below(self.path.parent().unwrap())
            .into_iter()
            .filter(|file| {
                file.file_name()
                    .is_some_and(|other| other.to_str().unwrap().starts_with(name))
            })
            .collect()
    }
}
