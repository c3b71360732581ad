//! Copies of an environment from SQLite to PostgreSQL.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_mpc::owner_proof::{Algorithm, PublicKey};

use super::super::copy::{Copied, Copy, CopyError, Proven, Step, TableProof};
use super::super::decisions::DecisionRow;
use super::super::devices::DeviceRow;
use super::super::idempotency::{Kept, Scope};
use super::super::kem_keys::KemKeyRow;
use super::super::profiles::KeyRow;
use super::super::shares::ShareRow;
use super::super::{
    AuditEvent, AuditRecord, CommitError, EnvironmentRecord, Key, Location, Operation, Store,
    StoreError, Tx, decisions, devices, idempotency, kem_keys, profiles, replay, shares, steps,
    transactions,
};
use super::database::Database;
use super::{Reserve, add};
use crate::audit::{Verified, catch_up, verify, verify_through};
use crate::clock::Timestamp;
use crate::domain::{
    DecisionId, DeviceKeyId, EnvironmentId, Generation, IdempotencyKey, KeyState, OwnerId, Phase,
    ProfileId, Rotation, RotationId, SessionId, TenantId,
};

/// More than two pages.
const PROFILES: usize = 1_100;

/// One row of every kind, with texts and bytes that are no plain ASCII and numbers at their ends.
struct OneOfEach {
    profile: ProfileId,
    session: SessionId,
}

impl Operation for OneOfEach {
    type Output = ();
    type Refusal = ();

    fn key(&self) -> Key {
        Key::profile(self.profile)
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<()>> {
        let tenant = TenantId::parse("default").unwrap();
        let device = DeviceKeyId::parse(&"d".repeat(43)).unwrap();
        let row = DeviceRow {
            device_key_id: device.clone(),
            owner_id: OwnerId::generate(),
            public_key: PublicKey::from_stored(Algorithm::Ed25519, &[0xff; 32]).unwrap(),
            name: "phone".to_owned(),
            created_at: tx.now(),
            active_at: tx.now(),
            revoked_at: None,
        };
        devices::insert_owner(tx, &tenant, row.owner_id, None).await?;
        devices::insert(tx, &tenant, &row).await?;
        replay::spend(tx, &device, &[7; 16]).await?;
        let scope = Scope {
            tenant: &tenant,
            holder: device.to_string(),
            route: "route",
            key: &IdempotencyKey::parse("0123456789abcdef-key").unwrap(),
        };
        idempotency::insert(tx, &scope, &[0; 32], "Zürich 🔑 \\ ' \"", Kept::ForEver).await?;
        let decision = DecisionRow {
            decision_id: DecisionId::generate(),
            profile_id: self.profile,
            action: "sign",
            allowed: true,
            rules: "a,b".to_owned(),
            bundle_hash: [1; 32],
            inputs_hash: [2; 32],
            expires_at: Timestamp::from_micros(i64::MAX),
            second_factor: false,
            reason: "",
            bundle_version: "1".to_owned(),
            inputs: "{}".to_owned(),
        };
        decisions::insert(tx, &decision).await?;
        let share = ShareRow {
            generation: Generation::FIRST,
            object_version: 1,
            kek_id: [3; 16],
            sealed: (0..=255).collect(),
            public_key: [4; 33],
            x1: [5; 33],
            x2: [6; 33],
            dkg_session_id: [7; 32],
        };
        shares::insert_pending(tx, self.profile, &share).await?;
        steps::open(tx, self.session, 1, 1).await?;
        transactions::set_signed(tx, self.session, &[], &[8; 32]).await?;
        profiles::set_address(tx, self.profile, Some(&[9; 20])).await?;
        let before = profiles::find(tx, self.profile).await?.unwrap().key();
        let after = KeyRow {
            state: KeyState::Quarantined,
            rotation: Some(Rotation {
                id: RotationId::generate(),
                phase: Phase::Recovering,
            }),
            suspect_events: i64::MAX,
            failed_signatures: i64::MIN,
            ..before
        };
        assert!(profiles::set_key(tx, self.profile, &before, &after).await?);
        let key = KemKeyRow {
            kid: "kid".to_owned(),
            public_key: [10; 32],
            sealed: vec![],
            kek_epoch: kem_keys::claim(tx, 20_000, tx.now()).await?,
            identity_key: [12; 65],
            signature: [11; 64],
            not_before: Timestamp::from_micros(-1),
            not_after: Timestamp::from_micros(i64::MAX),
        };
        kem_keys::insert(tx, &key).await?;
        let record = AuditRecord::done(AuditEvent::ShareStored).profile(self.profile);
        Ok(((), record.session(self.session).detail("Zürich")))
    }
}

/// An environment on SQLite that nobody serves any more, and its file.
async fn environment() -> (Database, PathBuf) {
    let database = Database::sqlite();
    let store = database.store().await;
    let additions: Vec<_> = (0..PROFILES)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { assert!(store.conclude(add(false)).await.is_ok()) })
        })
        .collect();
    for addition in additions {
        addition.await.unwrap();
    }
    let (profile, session) = (add(false), SessionId::generate());
    assert!(store.commit(profile).await.is_ok());
    let reserve = Reserve {
        profile: profile.id,
        session,
        nonce: 0,
    };
    assert!(store.commit(reserve).await.is_ok());
    let profile = profile.id;
    assert!(store.commit(OneOfEach { profile, session }).await.is_ok());
    catch_up(&store).await.unwrap();
    // A record that no link covers yet is copied like the others.
    assert!(store.commit(add(false)).await.is_ok());
    drop(store);
    database.unlocked().await;
    let path = path(&database);
    (database, path)
}

fn path(database: &Database) -> PathBuf {
    match &*database.location() {
        Location::Sqlite(path) => path.clone(),
        Location::Postgres(_) => panic!("no file"),
    }
}

async fn begun(source: &Path, target: &Database) -> Copy {
    Copy::new(source, target.location()).await.unwrap()
}

async fn copied(source: &Path, target: &Database) -> Copied {
    let copy = begun(source, target).await;
    copy.transfer(&mut |_| {}).await.unwrap()
}

async fn proven(source: &Path, target: &Database) -> Proven {
    let copied = copied(source, target).await;
    copied.prove(&mut |_| {}).await.unwrap()
}

async fn refusal(source: &Path, target: Arc<Location>) -> CopyError {
    Copy::new(source, target)
        .await
        .err()
        .expect("it is refused")
}

async fn assert_unusable(database: &Database) {
    let other = EnvironmentRecord {
        id: EnvironmentId([9; 32]),
        ..*database.environment()
    };
    for result in [
        Store::open(database.location()).await,
        Store::create(database.location(), database.environment()).await,
        Store::create(database.location(), &other).await,
    ] {
        assert!(matches!(result, Err(StoreError::CopyUnfinished)));
    }
    let migrated = Store::migrate(database.location(), false).await;
    assert!(matches!(migrated, Err(StoreError::CopyUnfinished)));
}

#[tokio::test]
async fn a_copy_holds_what_its_source_does_and_is_usable() {
    let ((directory, source), target) = (environment().await, Database::postgres().await);
    let before = std::fs::read(&source).unwrap();
    let mut proven = proven(&source, &target).await;
    let (from, to) = proven.both();
    // The last record has no link.
    let links = i64::try_from(PROFILES + 3).unwrap();
    assert_eq!(verify_through(from).await.unwrap(), Verified::Intact(links));
    assert_eq!(verify_through(to).await.unwrap(), Verified::Intact(links));

    let tables = proven.tables().to_vec();
    let rows = |name: &str| {
        let mut tables = tables.iter();
        tables
            .find(|table| table.table == name)
            .map(|table| table.rows)
    };
    assert_eq!(rows("profiles"), Some(1_102));
    for table in [
        "environment",
        "owners",
        "devices",
        "request_nonces",
        "key_shares",
        "sessions",
        "transactions",
        "idempotency",
        "decisions",
        "steps",
        "kem_keks",
        "kem_keys",
    ] {
        assert_eq!(rows(table), Some(1), "{table}");
    }
    assert_unusable(&target).await;
    proven.finish().await.unwrap();
    assert_eq!(
        std::fs::read(&source).unwrap(),
        before,
        "the source was changed"
    );

    let store = Store::open(target.location()).await.unwrap();
    assert_eq!(store.environment(), directory.environment());
    assert!(store.commit(add(false)).await.is_ok());
    catch_up(&store).await.unwrap();
    let verified = verify(&store).await.unwrap();
    assert_eq!(verified, Verified::Intact(links + 2));
    assert!(matches!(
        refusal(&source, target.location()).await,
        CopyError::Complete
    ));
}

/// Every table of the schema; the schema's versions are no part of an environment.
#[tokio::test]
async fn every_table_is_copied() {
    let ((_directory, source), target) = (environment().await, Database::postgres().await);
    let proven = proven(&source, &target).await;
    let mut copied: Vec<&str> = proven
        .tables()
        .iter()
        .map(|one| one.table.as_str())
        .collect();
    copied.extend(["schema_versions", "unfinished_copy"]);
    copied.sort_unstable();
    let sql = "SELECT CAST(tablename AS TEXT) FROM pg_tables WHERE schemaname = current_schema()";
    let rows = target.connection().await.query(sql, &[]).await.unwrap();
    let tables = rows
        .into_iter()
        .map(|row| row.of("pg_tables").text("tablename").unwrap());
    let mut tables: Vec<String> = tables.collect();
    tables.sort_unstable();
    assert_eq!(copied, tables);
}

#[tokio::test]
async fn an_interrupted_copy_is_unusable_and_is_made_again() {
    let ((_directory, source), target) = (environment().await, Database::postgres().await);
    let copy = begun(&source, &target).await;
    let interrupted = tokio::spawn(async move {
        let mut pages = 0;
        let mut step = |_: Step<'_>| {
            pages += 1;
            assert!(pages < 5, "interrupted, as this test wants it");
        };
        copy.transfer(&mut step).await.map(|_| ())
    });
    assert!(interrupted.await.unwrap_err().is_panic());
    assert_unusable(&target).await;

    drop(copied(&source, &target).await);
    assert_unusable(&target).await;
    drop(proven(&source, &target).await);
    assert_unusable(&target).await;

    proven(&source, &target).await.finish().await.unwrap();
    assert!(Store::open(target.location()).await.is_ok());
}

#[tokio::test]
async fn a_row_that_differs_is_found() {
    let ((_directory, source), target) = (environment().await, Database::postgres().await);
    for (sql, expected) in [
        (
            "UPDATE profiles SET name = 'x' WHERE profile_id = (SELECT MAX(profile_id) FROM profiles)",
            "profiles",
        ),
        ("UPDATE steps SET ended_at = 0", "steps"),
        (
            "UPDATE idempotency SET resource_id = resource_id || ' '",
            "idempotency",
        ),
        (
            "DELETE FROM audit_records WHERE chained = 0",
            "audit_records",
        ),
        (
            "INSERT INTO devices SELECT tenant, 'x', owner_id, algorithm, public_key, name, created_at, active_at, revoked_at FROM devices",
            "devices",
        ),
    ] {
        let copied = copied(&source, &target).await;
        target.tamper(sql).await;
        match copied.prove(&mut |_| {}).await {
            Err(CopyError::Differs { table, .. }) => assert_eq!(table, expected, "{sql}"),
            _ => panic!("not found: {sql}"),
        }
        assert_unusable(&target).await;
    }
}

#[tokio::test]
async fn what_is_not_an_empty_database_is_never_copied_into() {
    let (_directory, source) = environment().await;
    let empty = Database::postgres().await;
    let other = EnvironmentRecord {
        id: EnvironmentId([8; 32]),
        ..*empty.environment()
    };

    let foreign = empty.another().await;
    drop(Store::create(foreign.location(), &other).await.unwrap());
    let refused = refusal(&source, foreign.location()).await;
    assert!(matches!(refused, CopyError::Foreign { found, .. } if found == other.id));

    let own = empty.another().await;
    drop(own.store().await);
    let refused = refusal(&source, own.location()).await;
    assert!(matches!(refused, CopyError::Complete));

    let strange = empty.another().await;
    strange.tamper("CREATE SEQUENCE strange").await;
    let refused = refusal(&source, strange.location()).await;
    assert!(matches!(refused, CopyError::NotEmpty(name) if name == "strange"));

    // An unfinished copy of another environment.
    let half = empty.another().await;
    let elsewhere = Database::sqlite();
    drop(Store::create(elsewhere.location(), &other).await.unwrap());
    elsewhere.unlocked().await;
    drop(copied(&path(&elsewhere), &half).await);
    let refused = refusal(&source, half.location()).await;
    assert!(matches!(refused, CopyError::Foreign { found, .. } if found == other.id));
    assert_unusable(&half).await;
}

#[tokio::test]
async fn a_source_that_is_served_damaged_or_no_environment_is_not_copied() {
    let (directory, source) = environment().await;
    let target = Database::postgres().await;
    let store = directory.store().await;
    let refused = refusal(&source, target.location()).await;
    assert!(matches!(refused, CopyError::Store(StoreError::InUse(_))));
    drop(store);
    directory.unlocked().await;

    let absent = source.with_file_name("absent.db");
    let refused = refusal(&absent, target.location()).await;
    assert!(matches!(refused, CopyError::Source { .. }));
    let refused = refusal(&source, directory.location()).await;
    assert!(matches!(refused, CopyError::NotPostgres));

    let empty = Database::sqlite();
    std::fs::write(path(&empty), "").unwrap();
    let refused = refusal(&path(&empty), target.location()).await;
    assert!(matches!(
        refused,
        CopyError::Store(StoreError::SchemaOld { found: 0, .. })
    ));

    // An index without its rows: reading by it would not show them.
    let tampering = "PRAGMA writable_schema = ON; \
         UPDATE sqlite_schema SET sql = 'CREATE INDEX steps_by_session ON steps (attempt)' WHERE name = 'steps_by_session'";
    directory.tamper(tampering).await;
    let refused = refusal(&source, target.location()).await;
    assert!(matches!(refused, CopyError::Damaged(_)), "{refused:?}");
    // Nothing of all this touched the target.
    assert!(target.store().await.commit(add(false)).await.is_ok());
}

#[tokio::test]
async fn of_two_copies_into_one_database_the_later_one_counts() {
    let ((_directory, source), target) = (environment().await, Database::postgres().await);
    let second = source.with_file_name("backup.db");
    std::fs::copy(&source, &second).unwrap();
    let (first, again) = (
        proven(&source, &target).await,
        begun(&second, &target).await,
    );
    let again = again.transfer(&mut |_| {}).await.unwrap();
    assert!(matches!(first.finish().await, Err(CopyError::Superseded)));
    assert_unusable(&target).await;
    let proven = again.prove(&mut |_| {}).await.unwrap();
    let tables: &[TableProof] = proven.tables();
    assert!(tables.len() > 10);
    proven.finish().await.unwrap();
    assert!(Store::open(target.location()).await.is_ok());
}
