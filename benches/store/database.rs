//! Databases to measure, on either engine.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use countersign::clock;
use countersign::domain::{EnvironmentId, EnvironmentKind, OperationId};
use countersign::store::{EnvironmentRecord, Location, Store, StoreError};

use crate::machine;
use crate::server::Server;

/// Where databases are made.
pub(crate) enum Engine {
    /// As files in this folder.
    Sqlite(PathBuf),
    /// On this server.
    Postgres(Server),
}

impl Engine {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "SQLite",
            Self::Postgres(_) => "PostgreSQL",
        }
    }
}

/// A database with an environment.
pub(crate) struct Database<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) name: String,
}

impl<'a> Database<'a> {
    /// Makes one, with the tables and nothing in them.
    pub(crate) async fn create(engine: &'a Engine) -> Self {
        let name = format!("b{}", OperationId::generate()).replace('-', "");
        if let Engine::Postgres(server) = engine {
            server.run("postgres", &format!("CREATE DATABASE {name}"));
        }
        let database = Self { engine, name };
        let environment = EnvironmentRecord {
            id: EnvironmentId([7; 32]),
            kind: EnvironmentKind::Development,
            created_at: clock::now(),
        };
        drop(
            Store::create(database.location(), &environment)
                .await
                .unwrap(),
        );
        database
    }

    /// Opens it, with at most `group` operations in a transaction, or as many as the store thinks right.
    pub(crate) async fn open(&self, group: Option<usize>) -> Store {
        loop {
            let opened = match group {
                Some(group) => Store::open_grouping(self.location(), group).await,
                None => Store::open(self.location()).await,
            };
            match opened {
                Ok(store) => return store,
                // The store before this one lets go a moment after it is dropped.
                Err(StoreError::InUse(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    /// Runs SQL behind the store's back.
    pub(crate) fn run(&self, sql: &str) {
        match self.engine {
            Engine::Sqlite(_) => {
                let output = Command::new("sqlite3")
                    .args(["-bail", "-cmd", ".timeout 5000"])
                    .arg(self.file())
                    .arg(sql)
                    .output()
                    .unwrap();
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{said}");
            }
            Engine::Postgres(server) => drop(server.run(&self.name, sql)),
        }
    }

    /// Milliseconds of CPU spent on it: by this process, and by the server's for it.
    pub(crate) fn cpu(&self) -> f64 {
        let own = machine::process_cpu(std::process::id());
        match self.engine {
            Engine::Sqlite(_) => own,
            Engine::Postgres(server) => own + server.cpu(&self.name),
        }
    }

    fn location(&self) -> Arc<Location> {
        Arc::new(match self.engine {
            Engine::Sqlite(_) => Location::Sqlite(self.file()),
            Engine::Postgres(server) => Location::Postgres(server.options(&self.name)),
        })
    }

    fn file(&self) -> PathBuf {
        match self.engine {
            Engine::Sqlite(folder) => folder.join(&self.name),
            Engine::Postgres(_) => panic!("on a server"),
        }
    }
}
