//! Connections for reading committed rows.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::engine::{Connection, EngineError, Row, Value, postgres};
use super::health::Health;
use super::{Location, Reads, StoreError, time};
use crate::clock::{self, Timestamp};

/// Longest wait for a connection that others use.
const PATIENCE: Duration = Duration::from_secs(5);

/// A bounded set of connections, opened when they are first needed and again after they broke.
#[derive(Clone)]
pub(super) struct Readers {
    location: Arc<Location>,
    health: Health,
    places: Arc<Semaphore>,
    idle: Idle,
}

type Idle = Arc<Mutex<Vec<Connection>>>;

impl Readers {
    pub(super) fn new(location: Arc<Location>, health: Health, count: usize) -> Self {
        Self {
            location,
            health,
            places: Arc::new(Semaphore::new(count)),
            idle: Idle::default(),
        }
    }

    pub(super) async fn acquire(&self) -> Result<Reader, StoreError> {
        let place = Arc::clone(&self.places).acquire_owned();
        let place = tokio::time::timeout(PATIENCE, place).await;
        let place = place
            .map_err(|_| EngineError::Timeout)?
            .map_err(|_| EngineError::Gone)?;
        Ok(Reader {
            connection: self.take(),
            location: Arc::clone(&self.location),
            health: self.health.clone(),
            idle: Arc::clone(&self.idle),
            _place: place,
        })
    }

    fn take(&self) -> Option<Connection> {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
    }
}

/// A read-only view of committed rows.
pub struct Reader {
    connection: Option<Connection>,
    location: Arc<Location>,
    health: Health,
    idle: Idle,
    _place: OwnedSemaphorePermit,
}

impl Reader {
    /// The time of the database server, which all processes of it share; ours where there is no server.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn server_clock(&mut self) -> Result<Timestamp, StoreError> {
        match *self.location {
            Location::Sqlite(_) => Ok(clock::now()),
            Location::Postgres(_) => {
                let row = self.query_one(postgres::CLOCK, &[]).await?;
                let row = row.ok_or(EngineError::Gone)?;
                row.of("clock").int("now").map(time)
            }
        }
    }

    async fn ask(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, EngineError> {
        if let Some(mut connection) = self.connection.take() {
            let rows = connection.query(sql, values).await;
            if connection.alive() {
                self.connection = Some(connection);
                return rows;
            }
            // It died while it was idle, or now: one more try on a new one. Reading changes nothing.
        }
        let mut connection = Connection::reader(&self.location).await?;
        let rows = connection.query(sql, values).await;
        self.connection = Some(connection);
        rows
    }
}

impl Reads for Reader {
    async fn query(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        let rows = self.ask(sql, values).await;
        if let Err(error) = &rows {
            self.health.saw(error);
        }
        Ok(rows?)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take().filter(Connection::alive) {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push(connection);
        }
    }
}
