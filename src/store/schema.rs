//! The schema and its versions.
//!
//! A migration is one file per engine, `migrations/<engine>/NNNN_name.sql`, and one line here. It runs
//! in a transaction together with the row that says so, so a schema is never between two versions.

use sha2::{Digest, Sha256};

use super::engine::{Connection, EngineError, values};
use super::{Location, StoreError};
use crate::clock;

/// The table of the steps that were made.
pub(super) const VERSIONS: &str = "schema_versions";

/// One step of the schema.
struct Migration {
    version: i64,
    name: &'static str,
    sqlite: &'static str,
    postgres: &'static str,
}

impl Migration {
    const fn step(&self) -> Step {
        Step {
            version: self.version,
            name: self.name,
        }
    }
}

macro_rules! migrations {
    ($($version:literal $name:literal $file:literal,)*) => {
        &[$(Migration {
            version: $version,
            name: $name,
            sqlite: include_str!(concat!("../../migrations/sqlite/", $file)),
            postgres: include_str!(concat!("../../migrations/postgres/", $file)),
        }),*]
    };
}

/// In order, from 1, without a gap.
const MIGRATIONS: &[Migration] = migrations![
    1 "first_light" "0001_first_light.sql",
    2 "instances" "0002_instances.sql",
    3 "audit_growth" "0003_audit_growth.sql",
    4 "devices" "0004_devices.sql",
    5 "identity" "0005_identity.sql",
    6 "bans" "0006_bans.sql",
    7 "key_states" "0007_key_states.sql",
    8 "limits" "0008_limits.sql",
    9 "decisions" "0009_decisions.sql",
    10 "spends" "0010_spends.sql",
    11 "freezes" "0011_freezes.sql",
    12 "rules_activations" "0012_rules_activations.sql",
    13 "two_factor" "0013_two_factor.sql",
    14 "step_up" "0014_step_up.sql",
];

/// Held while the schema changes, so that two processes do not change it at once.
const LOCK: i64 = 0x0063_6f75_6e74_6572;

/// A step of the schema that was made, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its version, from 1.
    pub version: i64,
    /// Its name.
    pub name: &'static str,
}

/// The version that this program works with.
#[must_use]
pub fn latest() -> i64 {
    MIGRATIONS.last().map_or(0, |migration| migration.version)
}

/// Fails unless the schema is exactly the one that this program works with.
pub(super) async fn check(connection: &mut Connection) -> Result<(), StoreError> {
    let found = applied(connection).await?;
    match found.cmp(&latest()) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Less => Err(StoreError::SchemaOld {
            found,
            needed: latest(),
        }),
        std::cmp::Ordering::Greater => Err(StoreError::SchemaNew {
            found,
            known: latest(),
        }),
    }
}

/// The steps that are missing.
pub(super) async fn missing(connection: &mut Connection) -> Result<Vec<Step>, StoreError> {
    let found = applied(connection).await?;
    if found > latest() {
        let known = latest();
        return Err(StoreError::SchemaNew { found, known });
    }
    let steps = MIGRATIONS.iter().filter(|step| step.version > found);
    Ok(steps.map(Migration::step).collect())
}

/// Makes the steps that are missing, each in a transaction of its own; those that were made.
pub(super) async fn migrate(
    connection: &mut Connection,
    location: &Location,
) -> Result<Vec<Step>, StoreError> {
    missing(connection).await?;
    migrate_by(connection, location, MIGRATIONS).await
}

async fn migrate_by(
    connection: &mut Connection,
    location: &Location,
    migrations: &[Migration],
) -> Result<Vec<Step>, StoreError> {
    let found = applied(connection).await?;
    let mut made = Vec::new();
    for migration in migrations.iter().filter(|step| step.version > found) {
        connection.begin(&[LOCK]).await?;
        let done = apply(connection, migration, location).await;
        let ended = match &done {
            Ok(_) => connection.script("COMMIT").await,
            Err(_) => connection.script("ROLLBACK").await,
        };
        if done.map_err(|error| failed(migration, error))? {
            made.push(migration.step());
        }
        ended?;
    }
    Ok(made)
}

fn failed(migration: &Migration, error: StoreError) -> StoreError {
    match error {
        StoreError::Unavailable(error) => StoreError::Migrate {
            version: migration.version,
            name: migration.name,
            source: error,
        },
        other => other,
    }
}

/// False if another process made the step meanwhile.
async fn apply(
    connection: &mut Connection,
    migration: &Migration,
    location: &Location,
) -> Result<bool, StoreError> {
    if applied(connection).await? >= migration.version {
        return Ok(false);
    }
    let sql = match location {
        Location::Sqlite(_) => migration.sqlite,
        Location::Postgres(_) => migration.postgres,
    };
    if migration.version == 1 {
        connection.script(table(location)).await?;
    }
    connection.script(sql).await?;
    let checksum: [u8; 32] = Sha256::digest(sql).into();
    connection
        .execute(
            "INSERT INTO schema_versions (version, name, checksum, applied_at) \
             VALUES ($1, $2, $3, $4)",
            values![
                migration.version,
                migration.name,
                &checksum,
                clock::now().as_micros()
            ],
        )
        .await?;
    Ok(true)
}

/// The version of the schema; 0 for a database without one.
async fn applied(connection: &mut Connection) -> Result<i64, StoreError> {
    if !connection.has_table(VERSIONS).await? {
        return Ok(0);
    }
    let sql = "SELECT COALESCE(MAX(version), 0) FROM schema_versions";
    let row = connection.query(sql, &[]).await?.into_iter().next();
    row.ok_or(EngineError::Gone)?.of(VERSIONS).int("version")
}

const fn table(location: &Location) -> &'static str {
    match location {
        Location::Sqlite(_) => {
            "CREATE TABLE schema_versions (version INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL, \
             checksum BLOB NOT NULL, applied_at INTEGER NOT NULL) STRICT"
        }
        Location::Postgres(_) => {
            "CREATE TABLE schema_versions (version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL, \
             checksum BYTEA NOT NULL, applied_at BIGINT NOT NULL)"
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use super::super::tests::database::Database;
    use super::{
        Connection, Location, MIGRATIONS, Migration, StoreError, applied, latest, migrate_by,
    };

    async fn a_migration_that_fails_leaves_the_version_before(database: Database) {
        drop(database.store().await);
        let broken = Migration {
            version: latest() + 1,
            name: "broken",
            sqlite: "CREATE TABLE half (made INTEGER) STRICT; INSERT INTO half VALUES (1); INSERT INTO missing VALUES (1);",
            postgres: "CREATE TABLE half (made BIGINT); INSERT INTO half VALUES (1); INSERT INTO missing VALUES (1);",
        };
        let location = database.location();
        let mut connection = Connection::writer(&location).await.unwrap();
        let result = migrate_by(&mut connection, &location, &[broken]).await;
        let Err(StoreError::Migrate { version, name, .. }) = result else {
            panic!("{result:?}");
        };
        assert_eq!((version, name), (latest() + 1, "broken"));
        assert_eq!(applied(&mut connection).await.unwrap(), latest());
        let half = connection.query("SELECT made FROM half", &[]).await;
        assert!(half.is_err(), "a table of the step that failed");
        // The same connection, and then the store, go on as if nothing had been tried.
        let whole = Migration {
            version: latest() + 1,
            name: "whole",
            sqlite: "CREATE TABLE half (made INTEGER) STRICT",
            postgres: "CREATE TABLE half (made BIGINT)",
        };
        let made = migrate_by(&mut connection, &location, &[whole]).await;
        assert_eq!(made.unwrap().len(), 1);
        assert_eq!(MIGRATIONS.len(), usize::try_from(latest()).unwrap());
    }

    /// A database of the version before devices were several, with a row in each table that was made anew.
    async fn devices_and_keys_of_an_older_database_are_kept(database: Database) {
        let location = database.location();
        if let Location::Sqlite(path) = &*location {
            crate::store::engine::sqlite::create_private(path).unwrap();
        }
        let mut connection = database.connection().await;
        let older = MIGRATIONS.get(..3).unwrap();
        migrate_by(&mut connection, &location, older).await.unwrap();
        let bytes = |length: usize| match *location {
            Location::Sqlite(_) => format!("zeroblob({length})"),
            Location::Postgres(_) => format!("decode(repeat('00', {length}), 'hex')"),
        };
        let device = format!("('t', 'key', 'owner', {}, 5)", bytes(65));
        let key = |route: &str, key: &str| {
            format!("('t', 'key', '{route}', '{key}', {}, 's', 6)", bytes(32))
        };
        let create = key("POST /api/v2/profiles", "k1");
        let spend = key("POST /api/v1/profiles/:id/transactions", "k2");
        let rows = format!(
            "INSERT INTO devices VALUES {device}; INSERT INTO idempotency VALUES {create}, {spend};"
        );
        connection.script(&rows).await.unwrap();

        let made = migrate_by(&mut connection, &location, MIGRATIONS).await;
        assert_eq!(made.unwrap().len(), MIGRATIONS.len() - 3);
        let mut texts = async |sql: &'static str| {
            let rows = connection.query(sql, &[]).await.unwrap();
            let rows = rows
                .into_iter()
                .map(|row| row.of("test").text("text").unwrap());
            rows.collect::<Vec<_>>()
        };
        let devices = "SELECT owner_id || ' ' || algorithm || ' ' || CAST(active_at AS TEXT) FROM devices \
                       WHERE device_key_id = 'key' AND revoked_at IS NULL";
        assert_eq!(texts(devices).await, ["owner ecdsa-p256-sha256 5"]);
        let owners = "SELECT owner_id || ' ' || tenant FROM owners WHERE issuer IS NULL";
        assert_eq!(texts(owners).await, ["owner t"]);
        let keys = "SELECT scope || ' ' || key || ' ' || CAST(spend AS TEXT) || ' ' || resource_id \
                    FROM idempotency ORDER BY key";
        assert_eq!(texts(keys).await, ["key k1 0 s", "owner k2 1 s"]);
    }

    #[tokio::test]
    async fn devices_and_keys_of_an_older_database_are_kept_on_sqlite() {
        devices_and_keys_of_an_older_database_are_kept(Database::sqlite()).await;
    }

    #[tokio::test]
    async fn devices_and_keys_of_an_older_database_are_kept_on_postgres() {
        devices_and_keys_of_an_older_database_are_kept(Database::postgres().await).await;
    }

    #[tokio::test]
    async fn a_migration_that_fails_leaves_the_version_before_on_sqlite() {
        a_migration_that_fails_leaves_the_version_before(Database::sqlite()).await;
    }

    #[tokio::test]
    async fn a_migration_that_fails_leaves_the_version_before_on_postgres() {
        a_migration_that_fails_leaves_the_version_before(Database::postgres().await).await;
    }
}
