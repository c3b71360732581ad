//! A database of its own for each test, on either engine.

use std::sync::Arc;
use std::time::Duration;

use url::Url;
use zeroize::Zeroizing;

use super::super::engine::{Connection, sqlite};
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

    /// Where the database of this name is.
    pub(in crate::store) fn postgres_named(name: &str) -> Location {
        Location::Postgres(server(name))
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

    /// Opens the store once nobody else has it.
    pub(in crate::store) async fn reopened(&self, group: usize) -> Store {
        self.unlocked().await;
        Store::open_grouping(self.location(), group).await.unwrap()
    }

    /// Waits until a store that was dropped has given the file's lock back.
    pub(in crate::store) async fn unlocked(&self) {
        let Location::Sqlite(path) = &*self.location else {
            return;
        };
        for _ in 0..250 {
            if sqlite::lock(path).is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the lock was never given back");
    }

    /// Waits until the server has seen that everybody else is gone: only then is it over what they did.
    pub(in crate::store) async fn left_alone(&self) {
        let Location::Postgres(_) = &*self.location else {
            return;
        };
        let mut connection = self.connection().await;
        let sql = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() \
             AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
        for _ in 0..500 {
            let rows = connection.query(sql, &[]).await.unwrap();
            let row = rows.into_iter().next().unwrap();
            if row.of("pg_stat_activity").int("count").unwrap() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("somebody else is still there");
    }

    /// Its path, or its name on the server.
    pub(in crate::store) fn name(&self) -> String {
        match &*self.location {
            Location::Sqlite(path) => path.to_str().unwrap().to_owned(),
            Location::Postgres(options) => options.database.clone(),
        }
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
pub(in crate::store) fn server(database: &str) -> PostgresOptions {
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
