//! `[store]`: which database, and how it is reached.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use zeroize::Zeroizing;

use super::secret_file::{self, SecretFileError};
use crate::store::{Location, Password, PostgresOptions};

/// The systemd credential that takes the place of `password_file`.
const CREDENTIAL: &str = "postgres-password";

/// `[store]` as written.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct StoreTable {
    path: Option<PathBuf>,
    postgres: Option<PostgresTable>,
}

/// `[store.postgres]` as written, and what the options of `countersignd init` say instead.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresTable {
    /// Host name, address, or the directory of the server's Unix socket.
    pub host: String,
    /// Port of the server.
    pub port: Option<u16>,
    /// Name of the database.
    pub database: String,
    /// Name of the role that owns the tables.
    pub user: String,
    /// File with its password; accessible to its owner only.
    pub password_file: Option<PathBuf>,
    /// CA of the server's certificate, PEM.
    pub ca_file: Option<PathBuf>,
    /// Connections for writing.
    pub connections: Option<u32>,
}

/// What is wrong in `[store]`.
#[derive(Debug)]
pub enum StoreProblem {
    /// A value is not acceptable.
    Invalid {
        /// Its key within `[store.postgres]`; empty for `[store]` itself.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
        /// What to write or do instead.
        instead: String,
    },
    /// A file cannot be read.
    Unreadable {
        /// The key that names it.
        key: &'static str,
        /// The file.
        file: PathBuf,
        /// The operating system's answer.
        cause: io::Error,
    },
}

impl StoreTable {
    /// Exactly one database; paths are relative to `directory`.
    pub(super) fn location(self, directory: &Path) -> Result<Location, StoreProblem> {
        match (self.path, self.postgres) {
            (Some(path), None) => Ok(Location::Sqlite(directory.join(path))),
            (None, Some(postgres)) => postgres.options(directory).map(Location::Postgres),
            (Some(_), Some(_)) => Err(invalid(
                "",
                "both path and [store.postgres] are given",
                "remove one: an environment has one database",
            )),
            (None, None) => Err(invalid(
                "",
                "no database is given",
                "write path = \"countersign.db\" for SQLite, or a table [store.postgres]",
            )),
        }
    }
}

impl PostgresTable {
    /// Checks the values and reads the password; paths are relative to `directory`.
    ///
    /// # Errors
    /// [`StoreProblem`] names the key, and what to write instead.
    pub fn options(&self, directory: &Path) -> Result<PostgresOptions, StoreProblem> {
        let options = PostgresOptions {
            host: host(&self.host)?,
            port: port(self.port)?,
            database: name("database", &self.database)?,
            user: name("user", &self.user)?,
            password: self.password(directory)?,
            ca_file: self.ca_file.as_ref().map(|file| directory.join(file)),
            connections: connections(self.connections)?,
        };
        check_encryption(&options)?;
        Ok(options)
    }

    fn password(&self, directory: &Path) -> Result<Option<Password>, StoreProblem> {
        const KEY: &str = "password_file";
        let file = self.password_file.as_ref().map(|file| directory.join(file));
        let Some(file) = file.or_else(credential) else {
            return Ok(None);
        };
        let unreadable = |cause| StoreProblem::Unreadable {
            key: KEY,
            file: file.clone(),
            cause,
        };
        secret_file::check(&file).map_err(|error| match error {
            SecretFileError::Unreadable(cause) => unreadable(cause),
            SecretFileError::Open { problem, instead } => invalid(KEY, problem, instead),
        })?;
        let text = Zeroizing::new(fs::read_to_string(&file).map_err(unreadable)?);
        let line = Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned());
        match Password::new(line) {
            Some(password) => Ok(Some(password)),
            None => Err(invalid(
                KEY,
                format!("{} holds no password", file.display()),
                "write the password on its first and only line",
            )),
        }
    }
}

/// The file of the systemd credential, if the unit has it.
fn credential() -> Option<PathBuf> {
    let directory = std::env::var_os("CREDENTIALS_DIRECTORY")?;
    let file = PathBuf::from(directory).join(CREDENTIAL);
    file.exists().then_some(file)
}

fn host(text: &str) -> Result<String, StoreProblem> {
    let is_name = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    let is_directory = text.starts_with('/') && !text.chars().any(char::is_control);
    if is_directory || is_name(text) || text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    Err(invalid(
        "host",
        format!("{text:?} is no host"),
        "write a host name or an address alone, or the directory of the server's socket, such as \"/run/postgresql\"",
    ))
}

fn port(port: Option<u16>) -> Result<u16, StoreProblem> {
    match port.unwrap_or(PostgresOptions::DEFAULT_PORT) {
        0 => Err(invalid("port", "0 is no port", "leave it out for 5432")),
        port => Ok(port),
    }
}

/// PostgreSQL cuts longer names off, and so would use another database than the one that was named.
fn name(key: &'static str, text: &str) -> Result<String, StoreProblem> {
    if (1..=63).contains(&text.len()) && !text.chars().any(char::is_control) {
        return Ok(text.to_owned());
    }
    Err(invalid(
        key,
        format!("{text:?} is no name"),
        "write the name that CREATE DATABASE or CREATE ROLE was given, 1 to 63 bytes",
    ))
}

fn connections(count: Option<u32>) -> Result<u32, StoreProblem> {
    match count.unwrap_or(PostgresOptions::DEFAULT_CONNECTIONS) {
        count @ 1..=64 => Ok(count),
        count => Err(invalid(
            "connections",
            format!("{count} connections"),
            "write 1 to 64; more does not make it faster",
        )),
    }
}

/// SECURITY: who could read or change what goes over the wire could un-ban a counterparty or release a nonce.
fn check_encryption(options: &PostgresOptions) -> Result<(), StoreProblem> {
    const KEY: &str = "ca_file";
    match &options.ca_file {
        None if !options.is_socket() => Err(invalid(
            KEY,
            format!(
                "{} is reached over TCP, which is always encrypted",
                options.host
            ),
            "name the CA of the server's certificate, PEM, or use the directory of the server's socket as host",
        )),
        Some(_) if options.is_socket() => Err(invalid(
            KEY,
            format!("{} is a socket, which is not encrypted", options.host),
            "leave it out, or use a host name",
        )),
        Some(file) => match fs::metadata(file) {
            Ok(_) => Ok(()),
            Err(cause) => Err(StoreProblem::Unreadable {
                key: KEY,
                file: file.clone(),
                cause,
            }),
        },
        None => Ok(()),
    }
}

fn invalid(
    key: &'static str,
    problem: impl Into<String>,
    instead: impl Into<String>,
) -> StoreProblem {
    StoreProblem::Invalid {
        key,
        problem: problem.into(),
        instead: instead.into(),
    }
}
