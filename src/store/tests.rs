#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests"
)]

mod contract;
mod copy;
mod crash;
pub(super) mod database;
mod drift;
mod faults;
mod model;
mod statements;

use std::time::Duration;

use database::Database;

use super::transactions::{TransactionRow, TransactionState};
use super::{
    AuditEvent, AuditRecord, CommitError, EnvironmentRecord, Key, Location, Operation, Store,
    StoreError, Tx, profiles, sessions, transactions,
};
use crate::audit::{Verified, catch_up, verify};
use crate::clock::Timestamp;
use crate::domain::{
    DecisionId, DeviceKeyId, EnvironmentId, Generation, InstanceId, OwnerId, ProfileId, SessionId,
    SessionKind, SessionState, TenantId, TransactionId,
};
use crate::store::profiles::NewProfile;
use crate::store::sessions::SessionRow;

/// Each behaviour holds on either engine.
macro_rules! on_both_engines {
    ($($(#[$attribute:meta])* $behaviour:ident,)*) => {
        mod sqlite {
            $($(#[$attribute])* #[tokio::test]
            async fn $behaviour() {
                super::$behaviour(super::Database::sqlite()).await;
            })*
        }
        mod postgres {
            $($(#[$attribute])* #[tokio::test]
            async fn $behaviour() {
                super::$behaviour(super::Database::postgres().await).await;
            })*
        }
    };
}

mod activations_tests;
mod bans_tests;
mod chain_tests;
mod freezes_tests;
mod instances_tests;
mod lost_answer;
mod plans;
mod rates_tests;
mod replay_tests;
mod retention_tests;
mod spends_tests;
mod states_tests;
mod two_factor_tests;
mod two_processes_tests;

on_both_engines![
    an_operation_that_refuses_leaves_nothing_behind,
    an_operation_whose_caller_goes_away_happens_all_the_same,
    a37_admissions_are_shed_under_load_and_conclusions_are_not,
    a28_a_nonce_has_one_living_transaction,
];

/// Adds a profile, and then agrees or refuses.
#[derive(Clone, Copy)]
struct AddProfile {
    id: ProfileId,
    refuse: bool,
}

impl Operation for AddProfile {
    type Output = ();
    type Refusal = &'static str;

    fn key(&self) -> Key {
        Key::profile(self.id)
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<((), AuditRecord), CommitError<&'static str>> {
        let profile = NewProfile {
            profile_id: self.id,
            tenant: &TenantId::parse("default").unwrap(),
            owner_id: OwnerId::generate(),
            name: "test",
        };
        profiles::insert(tx, &profile).await?;
        if self.refuse {
            return Err(CommitError::Refused("no"));
        }
        let record = AuditRecord::done(AuditEvent::KeygenRequested).profile(self.id);
        Ok(((), record))
    }
}

async fn commit<O: Operation>(store: &Store, operation: O) {
    assert!(store.commit(operation).await.is_ok());
}

async fn exists(store: &Store, id: ProfileId) -> bool {
    let mut reader = store.reader().await.unwrap();
    profiles::find(&mut reader, id).await.unwrap().is_some()
}

fn add(refuse: bool) -> AddProfile {
    AddProfile {
        id: ProfileId::generate(),
        refuse,
    }
}

async fn an_operation_that_refuses_leaves_nothing_behind(database: Database) {
    let store = database.store().await;
    let (good, bad) = (add(false), add(true));
    assert!(store.commit(good).await.is_ok());
    assert!(matches!(
        store.commit(bad).await,
        Err(CommitError::Refused("no"))
    ));
    assert!(exists(&store, good.id).await);
    assert!(!exists(&store, bad.id).await);
    catch_up(&store).await.unwrap();
    assert_eq!(verify(&store).await.unwrap(), Verified::Intact(1));
}

async fn an_operation_whose_caller_goes_away_happens_all_the_same(database: Database) {
    let store = database.store().await;
    let operation = add(false);
    {
        let mut handed_over = std::pin::pin!(store.commit(operation));
        // One poll hands it over; then the caller is gone.
        drop(futures_poll_once(&mut handed_over).await);
    }
    for _ in 0..100 {
        if exists(&store, operation.id).await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the operation was cancelled");
}

async fn futures_poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        let polled = std::pin::Pin::new(&mut *future).poll(context);
        std::task::Poll::Ready(match polled {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

async fn a37_admissions_are_shed_under_load_and_conclusions_are_not(database: Database) {
    let store = database.store().await;
    let flood: Vec<_> = (0..3000)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.commit(add(false)).await.map(|_| ()) })
        })
        .collect();
    tokio::task::yield_now().await;
    let verdict = add(false);
    let concluded = store.conclude(verdict).await;
    assert!(concluded.is_ok());
    let mut shed = 0;
    for task in flood {
        match task.await.unwrap() {
            Ok(()) => {}
            Err(CommitError::Store(StoreError::Overloaded)) => shed += 1,
            Err(_) => panic!("neither done nor shed"),
        }
    }
    assert!(shed > 0, "the queue never filled");
    assert!(exists(&store, verdict.id).await);
}

#[tokio::test]
async fn one_process_owns_a_file_and_one_environment_lives_in_it() {
    let database = Database::sqlite();
    let store = database.store().await;
    assert!(matches!(
        Store::open(database.location()).await,
        Err(StoreError::InUse(_))
    ));
    drop(store);
    let other = EnvironmentRecord {
        id: EnvironmentId([8; 32]),
        ..*database.environment()
    };
    // The lock is given back when the writer has seen that nobody is left.
    for _ in 0..100 {
        match Store::create(database.location(), &other).await {
            Err(StoreError::EnvironmentExists(id)) => {
                assert_eq!(id, database.environment().id);
                return;
            }
            Err(StoreError::InUse(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            _ => panic!("a second environment was created"),
        }
    }
    panic!("the lock was never given back");
}

/// Prepares a transaction with a given nonce, in a session of its own.
struct Reserve {
    profile: ProfileId,
    session: SessionId,
    nonce: u64,
}

impl Operation for Reserve {
    type Output = ();
    type Refusal = ();

    fn key(&self) -> Key {
        Key::profile(self.profile)
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<()>> {
        sessions::insert(tx, &session(self.profile, self.session)).await?;
        let row = TransactionRow {
            transaction_id: TransactionId::generate(),
            session_id: self.session,
            profile_id: self.profile,
            chain_id: 31_337,
            sender: [1; 20],
            nonce: self.nonce,
            payload: vec![2],
            digest: [3; 32],
            state: TransactionState::Prepared,
            raw: None,
            tx_hash: None,
            block_number: None,
            broadcast_attempts: 0,
        };
        transactions::insert(tx, &row).await?;
        Ok(((), AuditRecord::done(AuditEvent::TransactionPrepared)))
    }
}

fn session(profile_id: ProfileId, session_id: SessionId) -> SessionRow {
    SessionRow {
        session_id,
        kind: SessionKind::Sign,
        profile_id,
        device_key_id: DeviceKeyId::parse(&"k".repeat(43)).unwrap(),
        certificate_spki: [0; 32],
        state: SessionState::Created,
        attempt: 1,
        generation: Generation::FIRST,
        server_nonce: [0; 32],
        decision_id: DecisionId::generate(),
        instance_id: InstanceId::generate(),
        request_hash: None,
        expires_at: Timestamp::from_micros(0),
    }
}

/// Gives the nonce of a session's transaction back, or takes it again.
enum Nonce {
    Release(SessionId),
    Reclaim(SessionId),
}

impl Operation for Nonce {
    type Output = ();
    type Refusal = &'static str;

    fn key(&self) -> Key {
        Key::NONE
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<((), AuditRecord), CommitError<&'static str>> {
        match self {
            Self::Release(session) => transactions::release(tx, *session).await?,
            Self::Reclaim(session) => {
                if !transactions::reclaim(tx, *session).await? {
                    return Err(CommitError::Refused("taken"));
                }
            }
        }
        Ok(((), AuditRecord::done(AuditEvent::SessionRestarted)))
    }
}

async fn a28_a_nonce_has_one_living_transaction(database: Database) {
    let store = database.store().await;
    let profile = add(false);
    assert!(store.commit(profile).await.is_ok());
    let (first, second) = (SessionId::generate(), SessionId::generate());
    let reserve = |session| Reserve {
        profile: profile.id,
        session,
        nonce: 0,
    };
    assert!(store.commit(reserve(first)).await.is_ok());
    assert!(store.commit(reserve(second)).await.is_err(), "taken twice");
    assert!(store.commit(Nonce::Reclaim(first)).await.is_ok());
    assert!(store.commit(Nonce::Release(first)).await.is_ok());
    assert!(store.commit(reserve(second)).await.is_ok());
    assert!(matches!(
        store.commit(Nonce::Reclaim(first)).await,
        Err(CommitError::Refused("taken"))
    ));
    assert!(store.commit(Nonce::Release(second)).await.is_ok());
    assert!(store.commit(Nonce::Reclaim(first)).await.is_ok());
}
