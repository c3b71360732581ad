//! A database of its own for each test, on either engine.

use std::sync::Arc;

use url::Url;
use zeroize::Zeroizing;

use super::super::engine::Connection;
use super::super::{EnvironmentRecord, Location, Password, PostgresOptions, Store};
use crate::clock;
use crate::domain::{EnvironmentId, EnvironmentKind, OperationId};

/// A database that holds nothing yet.
pub(in crate::store) struct Database {
    location: Arc<Location>,
    _directory: Option<tempfile::TempDir>,
    environment: EnvironmentRecord,
}

impl Database {
    pub(in crate::store) fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let location = Location::Sqlite(directory.path().join("test.db"));
        Self::at(location, Some(directory))
    }

    pub(in crate::store) async fn postgres() -> Self {
        let name = format!("t{}", OperationId::generate()).replace('-', "");
        let administrator = Location::Postgres(server("postgres"));
        let mut connection = Connection::writer(&administrator).await.unwrap();
        let sql = format!("CREATE DATABASE {name}");
        connection.script(&sql).await.unwrap();
        Self::at(Location::Postgres(server(&name)), None)
    }

    /// One more on the same engine.
    pub(in crate::store) async fn another(&self) -> Self {
        match &*self.location {
            Location::Sqlite(_) => Self::sqlite(),
            Location::Postgres(_) => Self::postgres().await,
        }
    }

    fn at(location: Location, directory: Option<tempfile::TempDir>) -> Self {
        Self {
            location: Arc::new(location),
            _directory: directory,
            environment: EnvironmentRecord {
                id: EnvironmentId([7; 32]),
                kind: EnvironmentKind::Development,
                created_at: clock::now(),
            },
        }
    }

    pub(in crate::store) fn location(&self) -> Arc<Location> {
        Arc::clone(&self.location)
    }

    pub(in crate::store) const fn environment(&self) -> &EnvironmentRecord {
        &self.environment
    }

    pub(in crate::store) async fn store(&self) -> Store {
        Store::create(self.location(), &self.environment)
            .await
            .unwrap()
    }

    /// A connection beside the store's.
    pub(in crate::store) async fn connection(&self) -> Connection {
        Connection::writer(&self.location).await.unwrap()
    }

    /// Somebody with the database in their hands.
    pub(in crate::store) async fn tamper(&self, sql: &str) {
        let mut connection = self.connection().await;
        connection.script(sql).await.unwrap();
    }
}

/// A database on the server of `scripts/with-postgres.sh`.
fn server(database: &str) -> PostgresOptions {
    let missing = "these tests need PostgreSQL: run them with scripts/with-postgres.sh";
    let url = std::env::var("COUNTERSIGN_TEST_POSTGRES").expect(missing);
    let ca = std::env::var_os("COUNTERSIGN_TEST_POSTGRES_CA").expect(missing);
    let url = Url::parse(&url).unwrap();
    let password = Zeroizing::new(url.password().unwrap().to_owned());
    PostgresOptions {
        host: url.host_str().unwrap().to_owned(),
        port: url.port().unwrap(),
        database: database.to_owned(),
        user: url.username().to_owned(),
        password: Password::new(password),
        ca_file: Some(ca.into()),
        connections: 4,
    }
}
