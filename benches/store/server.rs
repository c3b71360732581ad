//! The PostgreSQL server of `scripts/with-postgres.sh`, and its programs.

use std::ffi::OsString;
use std::fs::read_to_string;
use std::path::PathBuf;
use std::process::Command;

use countersign::store::{Password, PostgresOptions};
use url::Url;
use zeroize::Zeroizing;

use crate::machine;

/// How the server is reached.
pub(crate) struct Server {
    url: Url,
    ca: OsString,
    programs: PathBuf,
}

impl Server {
    /// The server of this process's environment.
    pub(crate) fn find() -> Option<Self> {
        let url = std::env::var("COUNTERSIGN_TEST_POSTGRES").ok()?;
        Some(Self {
            url: url.parse().unwrap(),
            ca: std::env::var_os("COUNTERSIGN_TEST_POSTGRES_CA")?,
            programs: std::env::var_os("COUNTERSIGN_TEST_POSTGRES_BIN")?.into(),
        })
    }

    /// A program of the server's package, pointed at a database over TLS as the store is.
    pub(crate) fn program(&self, name: &str, database: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command
            .env("PGHOST", self.url.host_str().unwrap())
            .env("PGPORT", self.url.port().unwrap().to_string())
            .env("PGUSER", self.url.username())
            .env("PGPASSWORD", self.url.password().unwrap())
            .env("PGDATABASE", database)
            .env("PGSSLMODE", "verify-full")
            .env("PGSSLROOTCERT", &self.ca);
        command
    }

    /// Runs SQL; what it prints.
    pub(crate) fn run(&self, database: &str, sql: &str) -> String {
        let mut psql = self.program("psql", database);
        let output = psql
            .args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// How the store reaches a database.
    pub(crate) fn options(&self, database: &str) -> PostgresOptions {
        let password = Zeroizing::new(self.url.password().unwrap().to_owned());
        PostgresOptions {
            host: self.url.host_str().unwrap().to_owned(),
            port: self.url.port().unwrap(),
            database: database.to_owned(),
            user: self.url.username().to_owned(),
            password: Password::new(password),
            ca_file: Some(PathBuf::from(&self.ca)),
            connections: PostgresOptions::DEFAULT_CONNECTIONS,
        }
    }

    /// Milliseconds of CPU of the processes that serve the connections to a database.
    pub(crate) fn cpu(&self, database: &str) -> f64 {
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let name = entry.ok()?.file_name();
            name.to_str()?.parse::<u32>().ok()
        });
        let of_database = format!(": {} {database} ", self.url.username());
        processes
            .filter(|process| {
                let title = read_to_string(format!("/proc/{process}/cmdline"));
                title.is_ok_and(|title| {
                    title.starts_with("postgres:") && title.contains(&of_database)
                })
            })
            .map(machine::process_cpu)
            .sum()
    }
}
