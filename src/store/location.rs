//! Where a database is and how it is reached.

use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

/// The database of an environment.
pub enum Location {
    /// A SQLite file, used by one process on one machine.
    Sqlite(PathBuf),
    /// A database on a PostgreSQL server, which several processes may share.
    Postgres(PostgresOptions),
}

/// How to reach a database on a PostgreSQL server.
///
/// INVARIANT: everything the driver needs is here. Nothing comes from `PG…` variables or `~/.pgpass`, and a
/// connection over TCP is encrypted and to a server whose certificate [`PostgresOptions::ca_file`] vouches for.
pub struct PostgresOptions {
    /// Host name or address, or the directory of the server's Unix socket, which starts with `/`.
    pub host: String,
    /// TCP port; also part of the socket's name.
    pub port: u16,
    /// Name of the database.
    pub database: String,
    /// Name of the role that owns the tables.
    pub user: String,
    /// Its password; without one the server must know the user otherwise (`peer`).
    pub password: Option<Password>,
    /// CA of the server's certificate, PEM; present unless `host` is a socket directory.
    pub ca_file: Option<PathBuf>,
    /// Connections for writing, 1 to 64; reading gets half as many again.
    pub connections: u32,
}

impl PostgresOptions {
    /// The port of a server that was not told otherwise.
    pub const DEFAULT_PORT: u16 = 5432;
    /// Connections for writing, when nothing else is configured.
    pub const DEFAULT_CONNECTIONS: u32 = 8;

    /// Whether the server is reached through a socket of this machine instead of TCP.
    #[must_use]
    pub fn is_socket(&self) -> bool {
        self.host.starts_with('/')
    }
}

/// Names the database for people; never the password.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            Self::Postgres(options) => options.fmt(f),
        }
    }
}

impl fmt::Display for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            host,
            port,
            database,
            user,
            ..
        } = self;
        write!(
            f,
            "PostgreSQL database {database} at {host}:{port} as {user}"
        )
    }
}

/// The password of a database user.
///
/// SECURITY: wiped when dropped; neither `Debug`, `Clone` nor `Serialize`.
pub struct Password(Zeroizing<String>);

impl Password {
    /// Takes a password; `None` when it is empty or holds a control character, which no server can be sent.
    #[must_use]
    pub fn new(text: Zeroizing<String>) -> Option<Self> {
        let fits = !text.is_empty() && !text.chars().any(char::is_control);
        fits.then_some(Self(text))
    }

    /// The password, for the driver.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::{Location, Password, PostgresOptions, Zeroizing};

    static_assertions::assert_not_impl_any!(Password: std::fmt::Debug, Clone, std::fmt::Display);

    fn password(text: &str) -> Option<Password> {
        Password::new(Zeroizing::new(text.to_owned()))
    }

    #[test]
    fn a_password_is_one_line_of_text() {
        assert!(password("correct horse").is_some());
        for text in ["", "a\n", "a\0b"] {
            assert!(password(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn a_location_is_named_without_its_password() {
        let location = Location::Postgres(PostgresOptions {
            host: "db.example".to_owned(),
            port: PostgresOptions::DEFAULT_PORT,
            database: "countersign".to_owned(),
            user: "signer".to_owned(),
            password: password("correct horse"),
            ca_file: None,
            connections: PostgresOptions::DEFAULT_CONNECTIONS,
        });
        let expected = "PostgreSQL database countersign at db.example:5432 as signer";
        assert_eq!(location.to_string(), expected);
    }
}
