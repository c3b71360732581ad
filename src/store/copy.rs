//! Copies an environment from a SQLite file to a PostgreSQL database, and proves that both hold the same.
//!
//! INVARIANT: the source is only read. The target is unusable from the first change to it until every row of
//! it has been read back and compared: [`Copy::transfer`], then [`Copied::prove`], then [`Proven::finish`].

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::engine::{Connection, EngineError, postgres, sqlite};
use super::{EnvironmentRecord, Location, Reads, StoreError, environment, schema};
use crate::domain::{EnvironmentId, OperationId};

mod catalog;
pub(super) mod marker;
mod proof;

use catalog::Table;

pub use proof::TableProof;

/// Why an environment was not copied. The source is as it was; the target, if it was changed at all, is unusable
/// until a copy into it is finished.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A database failed, or may not be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no such file.
    #[error("cannot read the source {path}")]
    Source {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The source's file is damaged.
    #[error("the source is damaged ({0}): restore it from a backup")]
    Damaged(String),
    /// The target is a file.
    #[error("the target is no PostgreSQL database")]
    NotPostgres,
    /// The target belongs to another environment.
    #[error(
        "the target holds environment {found}, the source {source_environment}: name an empty database"
    )]
    Foreign {
        /// The target's.
        found: EnvironmentId,
        /// The source's.
        source_environment: EnvironmentId,
    },
    /// The target holds this environment, in use or ready for it.
    #[error(
        "the target holds this environment already: it is never overwritten; name an empty database"
    )]
    Complete,
    /// The target holds something else.
    #[error("the target is not empty, it holds {0}: name an empty database")]
    NotEmpty(String),
    /// The two schemas disagree, or a table cannot be copied.
    #[error("table {0} cannot be copied: the two schemas disagree about it")]
    Schema(String),
    /// A table of the target does not hold what the source's does.
    #[error(
        "table {table} differs: {from} rows in the source, {to} in the target, and other content: the copy cannot be used; copy again"
    )]
    Differs {
        /// The table.
        table: String,
        /// Rows of the source.
        from: u64,
        /// Rows of the target.
        to: u64,
    },
    /// Somebody else copies into this database.
    #[error("another copy into this database has begun: this one ends")]
    Superseded,
}

impl From<EngineError> for CopyError {
    fn from(error: EngineError) -> Self {
        Self::Store(error.into())
    }
}

/// What a copy is doing.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// Rows of a table are on their way.
    Sent {
        /// The table.
        table: &'a str,
        /// How many so far.
        rows: usize,
        /// How many it has.
        of: u64,
    },
    /// Rows of a table have been read, on one of both sides.
    Compared {
        /// The table.
        table: &'a str,
        /// How many so far.
        rows: usize,
    },
}

/// A source and a target that fit together. Nothing is changed yet.
pub struct Copy {
    source: Connection,
    target: Connection,
    location: Arc<Location>,
    environment: EnvironmentRecord,
    tables: Vec<Table>,
    id: OperationId,
    /// Keeps a countersignd from serving the source.
    _lock: File,
}

impl Copy {
    /// Takes the source's process lock and looks at both databases.
    ///
    /// # Errors
    /// [`CopyError`] says which of the two cannot be used, and why.
    pub async fn new(source: &Path, target: Arc<Location>) -> Result<Self, CopyError> {
        std::fs::metadata(source).map_err(|cause| CopyError::Source {
            path: source.to_owned(),
            cause,
        })?;
        let lock = sqlite::lock(source)?;
        let mut from = Connection::reader(&Location::Sqlite(source.to_owned())).await?;
        // One view of the file from here to the end, whoever else may have it open.
        from.script("BEGIN").await?;
        schema::check(&mut from).await?;
        let environment = environment::load(&mut from).await?;
        let environment = environment.ok_or(StoreError::NoEnvironment)?;
        check_intact(&mut from).await?;
        let tables = catalog::tables(&mut from).await?;

        if matches!(*target, Location::Sqlite(_)) {
            return Err(CopyError::NotPostgres);
        }
        let mut to = Connection::writer(&target).await?;
        check_free(&mut to, environment.id).await?;
        Ok(Self {
            source: from,
            target: to,
            location: target,
            environment,
            tables,
            id: OperationId::generate(),
            _lock: lock,
        })
    }

    /// The environment that the source holds.
    #[must_use]
    pub const fn environment(&self) -> &EnvironmentRecord {
        &self.environment
    }

    /// The tables of the source and their rows.
    ///
    /// # Errors
    /// [`CopyError::Store`] when the source cannot be read.
    pub async fn counts(&mut self) -> Result<Vec<(String, u64)>, CopyError> {
        let mut counts = Vec::new();
        for table in &self.tables {
            counts.push((table.name.clone(), table.count(&mut self.source).await?));
        }
        Ok(counts)
    }

    /// Makes the target's schema, and then writes every row in one transaction.
    ///
    /// # Errors
    /// [`CopyError`]; the target is unusable then, and may be copied into again.
    pub async fn transfer(mut self, step: &mut impl FnMut(Step<'_>)) -> Result<Copied, CopyError> {
        self.claim().await?;
        schema::migrate(&mut self.target, &self.location).await?;
        catalog::agree(&self.tables, &catalog::tables(&mut self.target).await?)?;
        self.target.begin(&[marker::LOCK]).await?;
        marker::check(&mut self.target, self.id).await?;
        // What an interrupted copy has left.
        self.target.script(&catalog::emptying(&self.tables)).await?;
        for table in &self.tables {
            send(table, &mut self.source, &mut self.target, step).await?;
        }
        self.target.script("COMMIT").await?;
        Ok(Copied(self))
    }

    async fn claim(&mut self) -> Result<(), CopyError> {
        self.target.begin(&[marker::LOCK]).await?;
        // Again, under the lock.
        check_free(&mut self.target, self.environment.id).await?;
        marker::claim(&mut self.target, self.environment.id, self.id).await?;
        Ok(self.target.script("COMMIT").await?)
    }
}

async fn send(
    table: &Table,
    source: &mut Connection,
    target: &mut Connection,
    step: &mut impl FnMut(Step<'_>),
) -> Result<(), CopyError> {
    let of = table.count(source).await?;
    let mut rows = 0;
    let mut page = table.page(source, None).await?;
    while let Some(last) = page.last() {
        table.insert(target, &page).await?;
        rows += page.len();
        step(Step::Sent {
            table: &table.name,
            rows,
            of,
        });
        page = table.page(source, Some(last)).await?;
    }
    Ok(())
}

/// A target that holds what was sent.
pub struct Copied(Copy);

impl Copied {
    /// Reads every row of both databases back and compares them.
    ///
    /// # Errors
    /// [`CopyError::Differs`] if any row does.
    pub async fn prove(self, step: &mut impl FnMut(Step<'_>)) -> Result<Proven, CopyError> {
        let Self(mut copy) = self;
        let mut written = Connection::reader(&copy.location).await?;
        let mut tables = Vec::new();
        for table in &copy.tables {
            let from = proof::of(table, &mut copy.source, step).await?;
            let to = proof::of(table, &mut written, step).await?;
            if from != to {
                return Err(CopyError::Differs {
                    table: from.table,
                    from: from.rows,
                    to: to.rows,
                });
            }
            tables.push(from);
        }
        Ok(Proven {
            copy,
            written,
            tables,
        })
    }
}

/// A target that holds the same rows as the source.
pub struct Proven {
    copy: Copy,
    written: Connection,
    tables: Vec<TableProof>,
}

impl Proven {
    /// What both databases hold.
    #[must_use]
    pub fn tables(&self) -> &[TableProof] {
        &self.tables
    }

    /// Source and target, for further questions.
    pub fn both(&mut self) -> (&mut impl Reads, &mut impl Reads) {
        (&mut self.copy.source, &mut self.written)
    }

    /// Makes the target usable.
    ///
    /// # Errors
    /// [`CopyError`]; the target is unusable then.
    pub async fn finish(mut self) -> Result<(), CopyError> {
        let target = &mut self.copy.target;
        target.begin(&[marker::LOCK]).await?;
        marker::check(target, self.copy.id).await?;
        marker::remove(target).await?;
        Ok(target.script("COMMIT").await?)
    }
}

/// An index that disagrees with its table would hide rows from us.
async fn check_intact(source: &mut Connection) -> Result<(), CopyError> {
    let row = source
        .query(sqlite::INTEGRITY, &[])
        .await?
        .into_iter()
        .next();
    let found = row.map_or(Ok(String::new()), |row| row.of("file").text("integrity"))?;
    if found == "ok" {
        Ok(())
    } else {
        Err(CopyError::Damaged(found))
    }
}

/// Fails unless the target is empty, or holds an interrupted copy of this environment.
async fn check_free(target: &mut Connection, id: EnvironmentId) -> Result<(), CopyError> {
    let foreign = |found| CopyError::Foreign {
        found,
        source_environment: id,
    };
    match marker::environment(target).await? {
        Some(found) if found == id => return Ok(()),
        Some(found) => return Err(foreign(found)),
        None => {}
    }
    if target.has_table("environment").await? && target.has_table(schema::VERSIONS).await? {
        match environment::load(target).await? {
            Some(found) if found.id == id => return Err(CopyError::Complete),
            Some(found) => return Err(foreign(found.id)),
            None => {}
        }
    }
    match target
        .query(postgres::ANYTHING, &[])
        .await?
        .into_iter()
        .next()
    {
        Some(row) => Err(CopyError::NotEmpty(row.of("catalog").text("name")?)),
        None => Ok(()),
    }
}
