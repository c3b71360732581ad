//! The nonce of a signed request counts once, whatever becomes of the database meanwhile.

use std::time::{Duration, Instant};

use countersign_mpc::owner_proof::{Algorithm, PublicKey};

use super::Store;
use super::database::Database;
use crate::domain::{DeviceKeyId, OwnerId, TenantId};
use crate::store::devices::{self, DeviceRow};
use crate::store::replay::{self, Spending};
use crate::store::{AuditEvent, AuditRecord, CommitError, Key, Operation, Tx};

on_both_engines![
    s4_a_nonce_is_spent_once_and_only_by_what_is_committed,
    s4_of_many_operations_with_one_nonce_one_happens,
    s4_a_revoked_device_spends_nothing,
];

fn device() -> DeviceKeyId {
    DeviceKeyId::parse(&"d".repeat(43)).unwrap()
}

fn tenant() -> TenantId {
    TenantId::parse("default").unwrap()
}

/// Spends a nonce, for an enrolled device or one that is not known, and then agrees or refuses.
#[derive(Clone, Copy)]
pub(super) struct Spend {
    pub(super) nonce: [u8; 16],
    pub(super) enrolled: bool,
    pub(super) refuse: bool,
    pub(super) key: Key,
}

impl Operation for Spend {
    type Output = ();
    type Refusal = Option<Spending>;

    fn key(&self) -> Key {
        self.key
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<((), AuditRecord), CommitError<Self::Refusal>> {
        let spending = if self.enrolled {
            replay::spend_enrolled(tx, &tenant(), &device(), &self.nonce).await?
        } else {
            replay::spend(tx, &device(), &self.nonce).await?
        };
        match spending {
            Spending::Spent if self.refuse => Err(CommitError::Refused(None)),
            Spending::Spent => Ok(((), AuditRecord::done(AuditEvent::StepPermitted))),
            other => Err(CommitError::Refused(Some(other))),
        }
    }
}

/// Acts for the device and takes its time: on PostgreSQL, another transaction may run meanwhile.
struct Slow;

impl Operation for Slow {
    type Output = ();
    type Refusal = ();

    fn key(&self) -> Key {
        Key::CHAIN
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<()>> {
        let spent = replay::spend_enrolled(tx, &tenant(), &device(), &[9; 16]).await?;
        assert_eq!(spent, Spending::Spent);
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(((), AuditRecord::done(AuditEvent::StepPermitted)))
    }
}

/// Enrols or revokes the device.
enum Change {
    Enrol,
    Revoke,
}

impl Operation for Change {
    type Output = ();
    type Refusal = ();

    fn key(&self) -> Key {
        Key::NONE
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<()>> {
        match self {
            Self::Enrol => {
                let row = DeviceRow {
                    device_key_id: device(),
                    owner_id: OwnerId::generate(),
                    public_key: PublicKey::from_stored(Algorithm::P256, &[4; 65]).unwrap(),
                    name: "phone".to_owned(),
                    created_at: tx.now(),
                    active_at: tx.now(),
                    revoked_at: None,
                };
                devices::insert_owner(tx, &tenant(), row.owner_id, None).await?;
                devices::insert(tx, &tenant(), &row).await?;
            }
            Self::Revoke => assert!(devices::revoke(tx, &tenant(), &device()).await?),
        }
        Ok(((), AuditRecord::done(AuditEvent::KeygenRequested)))
    }
}

/// What a device was let in for is committed before its revocation, which therefore sees and ends it. SQLite has one
/// transaction at a time.
#[tokio::test]
async fn a35_a_revocation_waits_for_what_its_device_has_begun() {
    let database = Database::postgres().await;
    let (one, other) = (database.store().await, database.reopened(64).await);
    one.commit(Change::Enrol).await.unwrap().into_inner();
    let begun = tokio::spawn(async move { one.commit(Slow).await.unwrap().into_inner() });
    // Slow enough to be in the middle of it.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!begun.is_finished());
    let revoking = Instant::now();
    other.commit(Change::Revoke).await.unwrap().into_inner();
    assert!(revoking.elapsed() > Duration::from_millis(300));
    begun.await.unwrap();
}

async fn outcome(store: &Store, operation: Spend) -> Result<(), Option<Spending>> {
    match store.commit(operation).await {
        Ok(done) => {
            done.into_inner();
            Ok(())
        }
        Err(CommitError::Refused(refusal)) => Err(refusal),
        Err(CommitError::Store(error)) => panic!("{error:?}"),
    }
}

async fn is_spent(store: &Store, nonce: [u8; 16]) -> bool {
    let mut reader = store.reader().await.unwrap();
    let (tenant, device) = (tenant(), device());
    let signer = devices::signer(&mut reader, &tenant, &device, &nonce).await;
    let by_look_up = signer.unwrap().unwrap().spent;
    let spent = replay::is_spent(&mut reader, &device, &nonce).await;
    assert_eq!(spent.unwrap(), by_look_up);
    by_look_up
}

async fn s4_a_nonce_is_spent_once_and_only_by_what_is_committed(database: Database) {
    let store = database.store().await;
    store.commit(Change::Enrol).await.unwrap().into_inner();
    for (nonce, enrolled) in [([1; 16], false), ([2; 16], true)] {
        let spend = |refuse| Spend {
            nonce,
            enrolled,
            refuse,
            key: Key::NONE,
        };
        // What refuses spends nothing.
        assert_eq!(outcome(&store, spend(true)).await, Err(None));
        assert!(!is_spent(&store, nonce).await);
        assert_eq!(outcome(&store, spend(false)).await, Ok(()));
        assert!(is_spent(&store, nonce).await);
        let again = outcome(&store, spend(false)).await;
        assert_eq!(again, Err(Some(Spending::Replayed)));
    }
}

async fn s4_of_many_operations_with_one_nonce_one_happens(database: Database) {
    let store = database.store().await;
    store.commit(Change::Enrol).await.unwrap().into_inner();
    for enrolled in [false, true] {
        let spend = Spend {
            nonce: [3 + u8::from(enrolled); 16],
            enrolled,
            refuse: false,
            key: Key::NONE,
        };
        let many = (0..20).map(|_| {
            let store = store.clone();
            tokio::spawn(async move { outcome(&store, spend).await })
        });
        let many: Vec<_> = many.collect();
        let mut happened = 0;
        for one in many {
            match one.await.unwrap() {
                Ok(()) => happened += 1,
                Err(refusal) => assert_eq!(refusal, Some(Spending::Replayed)),
            }
        }
        assert_eq!(happened, 1);
    }
}

async fn s4_a_revoked_device_spends_nothing(database: Database) {
    let store = database.store().await;
    store.commit(Change::Enrol).await.unwrap().into_inner();
    store.commit(Change::Revoke).await.unwrap().into_inner();
    let spend = Spend {
        nonce: [5; 16],
        enrolled: true,
        refuse: false,
        key: Key::NONE,
    };
    let refused = outcome(&store, spend).await;
    assert_eq!(refused, Err(Some(Spending::Revoked)));
    assert!(!is_spent(&store, [5; 16]).await);
}
