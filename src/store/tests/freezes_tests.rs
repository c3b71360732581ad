//! Freezes against what signs, at the database: nothing is signed after the answer to a freeze.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::super::engine::values;
use super::super::transactions::TransactionState;
use super::super::{
    AuditEvent, AuditRecord, CommitError, Operation, Store, Tx, freezes, operator_commands,
    profiles, sessions, steps, transactions,
};
use super::{Database, Reserve, add, commit};
use crate::clock;
use crate::domain::{
    EnvironmentKind, Freeze, FreezeScope, InstanceId, OperationId, OtSetup, PlacedBy, ProfileId,
    Reason, SessionId, SessionState, Target, TenantId,
};
use crate::gate::{NotPermitted, not_frozen};
use crate::service::freeze::Freezing;
use crate::sessions::Lifetimes;
use crate::sessions::conclude::{Conclude, Concluded, Effect};
use crate::store;
use crate::store::instances::Lease;
use crate::store::operator_commands::CarriedOut;
use crate::store::sessions::SessionRow;
use crate::telemetry::metrics::Metrics;

on_both_engines![
    a15_a_signature_that_meets_a_freeze_is_not_stored,
    a15_no_signature_is_stored_after_the_answer_to_a_freeze,
    a26_a_freeze_is_answered_when_what_looked_before_it_is_over,
    a_freeze_is_lifted_by_its_id_and_the_others_stand,
    a_command_is_carried_out_once,
];

/// The tenant of the test profiles.
fn tenant() -> TenantId {
    TenantId::parse("default").unwrap()
}

fn freeze_of(target: Target, placed_by: PlacedBy) -> Freeze {
    Freeze {
        freeze_id: OperationId::generate(),
        target,
        placed_by,
        who: "somebody".to_owned(),
        reason: "a test".to_owned(),
        frozen_at: clock::now(),
    }
}

/// Places a freeze, whether there was none before; or lifts one, whether it stood.
enum Change {
    Place(Freeze),
    Lift(Target, OperationId),
}

impl Operation for Change {
    type Output = bool;
    type Refusal = ();

    fn key(&self) -> store::Key {
        match self {
            Self::Place(Freeze { target, .. }) | Self::Lift(target, _) => match target {
                Target::Profile(id) => store::Key::profile(*id),
                Target::Tenant(_) | Target::Global => store::Key::NONE,
            },
        }
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<(bool, AuditRecord), CommitError<()>> {
        let changed = match self {
            Self::Place(freeze) => freezes::place(tx, freeze).await?.is_none(),
            Self::Lift(target, id) => freezes::lift(tx, target, *id).await?,
        };
        Ok((changed, AuditRecord::done(AuditEvent::Frozen)))
    }
}

async fn change(store: &Store, change: Change) -> bool {
    let done = store.conclude(change).await;
    done.unwrap_or_else(|_| panic!("it is changed"))
        .into_inner()
}

/// Takes the key's lock for the last check of a session.
struct BeginLast(SessionRow);

impl Operation for BeginLast {
    type Output = OperationId;
    type Refusal = ();

    fn key(&self) -> store::Key {
        store::Key::profile(self.0.profile_id)
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<(OperationId, AuditRecord), CommitError<()>> {
        let before = sessions::find(tx, self.0.session_id).await?.unwrap();
        assert!(sessions::update(tx, &before, &self.0).await?);
        let SessionRow {
            profile_id,
            session_id,
            instance_id,
            ..
        } = self.0;
        assert!(profiles::lock(tx, profile_id, session_id, instance_id).await?);
        steps::open(tx, session_id, 1, 2).await?;
        let record = AuditRecord::done(AuditEvent::StepPermitted);
        Ok((tx.operation_id(), record))
    }
}

/// A profile whose last check has passed, and what stores its signature.
async fn about_to_sign(store: &Store, instance: InstanceId) -> (ProfileId, Conclude) {
    // One address pays for all.
    static NONCE: AtomicU64 = AtomicU64::new(0);
    let added = add(false);
    commit(store, added).await;
    let (profile, session_id) = (added.id, SessionId::generate());
    let reserve = Reserve {
        profile,
        session: session_id,
        nonce: NONCE.fetch_add(1, Ordering::Relaxed),
    };
    commit(store, reserve).await;
    let mut reader = store.reader().await.unwrap();
    let row = sessions::find(&mut reader, session_id).await.unwrap();
    drop(reader);
    let session = SessionRow {
        state: SessionState::Round2Checking,
        instance_id: instance,
        ..row.unwrap()
    };
    let permit = store.commit(BeginLast(session.clone())).await;
    let conclusion = Conclude {
        session,
        permit_id: permit.unwrap_or_else(|_| panic!("it begins")).into_inner(),
        ot_setup: OtSetup([7; 32]),
        effect: Effect::Sign {
            raw: vec![1, 2, 3],
            tx_hash: [9; 32],
        },
        lifetimes: Lifetimes {
            session: 120,
            kept_state: 60,
        },
    };
    (profile, conclusion)
}

async fn living(store: &Store) -> InstanceId {
    let instance = InstanceId::generate();
    let lease = Lease {
        instance,
        boot_id: "boot".to_owned(),
        seconds: 60,
    };
    store.renew_lease(lease).await.unwrap();
    instance
}

async fn conclude(store: &Store, conclusion: Conclude) -> Concluded {
    let done = store.conclude(conclusion).await;
    done.unwrap_or_else(|_| panic!("it is concluded"))
        .into_inner()
}

async fn a15_a_signature_that_meets_a_freeze_is_not_stored(database: Database) {
    let store = database.store().await;
    let instance = living(&store).await;
    for scope in FreezeScope::ALL {
        let (profile, conclusion) = about_to_sign(&store, instance).await;
        let session = conclusion.session.session_id;
        let target = match scope {
            FreezeScope::Profile => Target::Profile(profile),
            FreezeScope::Tenant => Target::Tenant(tenant()),
            FreezeScope::Global => Target::Global,
        };
        let freeze = freeze_of(target.clone(), PlacedBy::Operator);
        let id = freeze.freeze_id;
        assert!(change(&store, Change::Place(freeze)).await);

        let concluded = conclude(&store, conclusion.clone()).await;
        assert_eq!(concluded, Concluded::Frozen(scope));
        let mut reader = store.reader().await.unwrap();
        let row = sessions::find(&mut reader, session).await.unwrap().unwrap();
        assert_eq!(row.state, SessionState::Aborted);
        let row = transactions::of_session(&mut reader, session)
            .await
            .unwrap();
        let row = row.unwrap();
        assert_eq!(row.state, TransactionState::Released);
        assert_eq!((row.raw, row.tx_hash), (None, None));
        let row = profiles::find(&mut reader, profile).await.unwrap().unwrap();
        assert_eq!(
            (row.checking, row.suspect_events, row.failed_signatures),
            (None, 0, 0)
        );
        assert!(
            !steps::passed(&mut reader, conclusion.permit_id)
                .await
                .unwrap()
        );
        drop(reader);

        // It is gone for good, also once the freeze is lifted.
        assert!(change(&store, Change::Lift(target, id)).await);
        assert!(store.conclude(conclusion).await.is_err());
    }
    let (_, conclusion) = about_to_sign(&store, instance).await;
    assert_eq!(
        conclude(&store, conclusion.clone()).await,
        Concluded::AsItEnded
    );
    let mut reader = store.reader().await.unwrap();
    assert!(
        steps::passed(&mut reader, conclusion.permit_id)
            .await
            .unwrap()
    );
}

async fn signed(store: &Store, sessions: &[SessionId]) -> usize {
    let mut reader = store.reader().await.unwrap();
    let mut signed = 0;
    for session in sessions {
        let row = transactions::of_session(&mut reader, *session)
            .await
            .unwrap();
        signed += usize::from(row.unwrap().raw.is_some());
    }
    signed
}

async fn a15_no_signature_is_stored_after_the_answer_to_a_freeze(database: Database) {
    let store = database.store().await;
    let instance = living(&store).await;
    for round in 0..6 {
        let mut conclusions = Vec::new();
        for _ in 0..24 {
            conclusions.push(about_to_sign(&store, instance).await.1);
        }
        let sessions: Vec<_> = conclusions
            .iter()
            .map(|one| one.session.session_id)
            .collect();
        let mut running = JoinSet::new();
        for (number, conclusion) in (0..).zip(conclusions) {
            let store = store.clone();
            running.spawn(async move {
                // Spread over the time that the freeze takes.
                sleep(Duration::from_micros(150) * number).await;
                conclude(&store, conclusion).await
            });
        }
        sleep(Duration::from_micros(1200)).await;
        let target = match round % 2 {
            0 => Target::Tenant(tenant()),
            _ => Target::Global,
        };
        let freeze = freeze_of(target.clone(), PlacedBy::Operator);
        let id = freeze.freeze_id;
        assert!(change(&store, Change::Place(freeze)).await);
        store.pass_freezes().await.unwrap();
        let at_its_answer = signed(&store, &sessions).await;
        let answers = running.join_all().await;
        assert_eq!(signed(&store, &sessions).await, at_its_answer);
        let told = answers.iter().filter(|one| **one == Concluded::AsItEnded);
        assert_eq!(told.count(), at_its_answer);
        assert!(change(&store, Change::Lift(target, id)).await);
    }
}

/// Looks whether a profile is frozen, as an admission does.
struct Look(ProfileId);

impl Operation for Look {
    type Output = ();
    type Refusal = Option<FreezeScope>;

    fn key(&self) -> store::Key {
        store::Key::profile(self.0)
    }

    fn looks_at(&self) -> store::Key {
        store::Key::FREEZES
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<((), AuditRecord), CommitError<Option<FreezeScope>>> {
        match not_frozen(tx, self.0, &tenant()).await {
            Ok(()) => Ok(((), AuditRecord::done(AuditEvent::StepPermitted))),
            Err(NotPermitted::Frozen(scope)) => Err(CommitError::Refused(Some(scope))),
            Err(_) => Err(CommitError::Refused(None)),
        }
    }
}

/// Looks whether a profile is frozen, and takes its time before it commits.
struct LookSlowly(ProfileId);

impl Operation for LookSlowly {
    type Output = ();
    type Refusal = ();

    fn key(&self) -> store::Key {
        store::Key::profile(self.0)
    }

    fn looks_at(&self) -> store::Key {
        store::Key::FREEZES
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<()>> {
        assert!(not_frozen(tx, self.0, &tenant()).await.is_ok());
        sleep(Duration::from_millis(400)).await;
        let record = AuditRecord::done(AuditEvent::StepPermitted).profile(self.0);
        Ok(((), record))
    }
}

async fn a26_a_freeze_is_answered_when_what_looked_before_it_is_over(database: Database) {
    let store = database.store().await;
    let all: Vec<_> = (0..8).map(|_| add(false)).collect();
    for profile in &all {
        commit(&store, *profile).await;
        assert!(store.commit(Look(profile.id)).await.is_ok());
    }
    let slow = add(false);
    commit(&store, slow).await;
    let looking = {
        let store = store.clone();
        tokio::spawn(async move { store.commit(LookSlowly(slow.id)).await.is_ok() })
    };
    sleep(Duration::from_millis(100)).await;
    let freeze = freeze_of(Target::Global, PlacedBy::Operator);
    assert!(change(&store, Change::Place(freeze)).await);
    // Several, so that some of them are in other lanes than what is slow.
    for profile in &all {
        let looked = store.commit(Look(profile.id)).await;
        let frozen = matches!(looked, Err(CommitError::Refused(Some(FreezeScope::Global))));
        assert!(frozen, "it was admitted after the freeze");
    }
    store.pass_freezes().await.unwrap();
    let committed =
        "SELECT COUNT(*) FROM audit_records WHERE event = 'step_permitted' AND profile_id = $1";
    let mut connection = database.connection().await;
    let rows = connection
        .query(committed, values![slow.id.to_string()])
        .await;
    let row = rows.unwrap().into_iter().next().unwrap();
    assert_eq!(
        row.of("audit_records").int("count").unwrap(),
        1,
        "it was still to come"
    );
    assert!(looking.await.unwrap());
}

/// Concerns a profile, and looks at no freezes.
struct Touch(ProfileId);

impl Operation for Touch {
    type Output = ();
    type Refusal = ();

    fn key(&self) -> store::Key {
        store::Key::profile(self.0)
    }

    async fn apply(&mut self, _tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<()>> {
        Ok(((), AuditRecord::done(AuditEvent::StepPermitted)))
    }
}

/// Holds the keys of these profiles, as an instance that hangs in the middle of a transaction does.
async fn hang(database: &Database, profiles: &[ProfileId]) -> super::super::engine::Connection {
    let keys = profiles
        .iter()
        .filter_map(|id| store::Key::profile(*id).number());
    let keys: Vec<i64> = keys.collect();
    let mut connection = database.connection().await;
    connection.begin(&keys).await.unwrap();
    connection
}

#[tokio::test]
async fn a15_a_wide_freeze_waits_for_nothing_that_hangs() {
    let database = Database::postgres().await;
    let store = database.store().await;
    // Enough for every lane to have one.
    let profiles: Vec<_> = (0..64).map(|_| ProfileId::generate()).collect();
    let hanging = hang(&database, &profiles).await;
    let mut stuck = JoinSet::new();
    for profile in profiles {
        let store = store.clone();
        stuck.spawn(async move { store.conclude(Touch(profile)).await.is_ok() });
    }
    sleep(Duration::from_millis(100)).await;
    let freezing = Freezing::new(
        store.clone(),
        Arc::new(Metrics::new(EnvironmentKind::Development).unwrap()),
        |_| {},
        (vec![tenant()], None),
    );
    let begun = Instant::now();
    let reason = Reason::parse("a test").unwrap();
    let first = freezing.by_operator("somebody".to_owned(), Target::Global, &reason);
    let first = first.await.unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    // And once more, in the place of the first: whoever waits for something tries again.
    let again = freezing.by_operator("somebody".to_owned(), Target::Global, &reason);
    assert_ne!(again.await.unwrap().freeze_id, first.freeze_id);
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    let details = "SELECT detail FROM audit_records WHERE event = 'frozen' ORDER BY operation_id";
    let mut connection = database.connection().await;
    let rows = connection.query(details, &[]).await.unwrap();
    let last = rows.into_iter().next_back().unwrap();
    let detail = last.of("audit_records").text("detail").unwrap();
    assert!(
        detail.contains(&format!("(instead of {})", first.freeze_id)),
        "{detail}"
    );
    drop(hanging);
    stuck.join_all().await;
}

#[tokio::test]
async fn a15_a_freeze_of_a_profile_outlasts_an_instance_that_hangs_in_it() {
    let database = Database::postgres().await;
    let store = database.store().await;
    let profile = add(false);
    commit(&store, profile).await;
    let hanging = hang(&database, &[profile.id]).await;
    let released = async {
        // Longer than a lock is waited for twice.
        sleep(Duration::from_secs(9)).await;
        drop(hanging);
    };
    let freezing = Freezing::new(
        store.clone(),
        Arc::new(Metrics::new(EnvironmentKind::Development).unwrap()),
        |_| {},
        (vec![tenant()], None),
    );
    let reason = Reason::parse("a test").unwrap();
    let target = Target::Profile(profile.id);
    let placed = freezing.by_operator("somebody".to_owned(), target, &reason);
    let (placed, ()) = tokio::join!(placed, released);
    assert!(placed.is_ok(), "{placed:?}");
}

async fn a_freeze_is_lifted_by_its_id_and_the_others_stand(database: Database) {
    let store = database.store().await;
    let profile = add(false);
    commit(&store, profile).await;
    let over = async || {
        let mut reader = store.reader().await.unwrap();
        freezes::over(&mut reader, profile.id, &tenant())
            .await
            .unwrap()
    };
    let other = Target::Tenant(TenantId::parse("other").unwrap());
    let of_other = freeze_of(other.clone(), PlacedBy::Operator);
    assert!(change(&store, Change::Place(of_other)).await);
    assert_eq!(over().await, None);

    let target = Target::Profile(profile.id);
    let by_owner = freeze_of(target.clone(), PlacedBy::Owner);
    let by_operator = freeze_of(target.clone(), PlacedBy::Operator);
    assert!(change(&store, Change::Place(by_owner.clone())).await);
    assert!(change(&store, Change::Place(by_operator.clone())).await);
    // The same again is another one, in the place of the first.
    let again = freeze_of(target.clone(), PlacedBy::Owner);
    assert!(!change(&store, Change::Place(again.clone())).await);
    let mut reader = store.reader().await.unwrap();
    let found = freezes::find(&mut reader, &target, PlacedBy::Owner).await;
    assert_eq!(found.unwrap(), Some(again.clone()));
    let all = freezes::of(&mut reader, &target).await.unwrap();
    assert_eq!(all, [by_operator.clone(), again.clone()]);
    let count = freezes::count(&mut reader).await.unwrap();
    let expected = [
        (FreezeScope::Profile, 2),
        (FreezeScope::Tenant, 1),
        (FreezeScope::Global, 0),
    ];
    assert_eq!(count, expected);
    drop(reader);

    let global = freeze_of(Target::Global, PlacedBy::Operator);
    assert!(change(&store, Change::Place(global.clone())).await);
    assert_eq!(over().await, Some(FreezeScope::Global));
    let lift = async |target: &Target, id| change(&store, Change::Lift(target.clone(), id)).await;
    assert!(!lift(&Target::Global, again.freeze_id).await);
    assert!(!lift(&target, by_owner.freeze_id).await, "it was replaced");
    assert!(lift(&Target::Global, global.freeze_id).await);
    assert_eq!(over().await, Some(FreezeScope::Profile));
    assert!(lift(&target, again.freeze_id).await);
    assert_eq!(over().await, Some(FreezeScope::Profile));
    assert!(lift(&target, by_operator.freeze_id).await);
    assert_eq!(over().await, None);
    assert!(!lift(&target, by_operator.freeze_id).await);
}

/// Carries a command out.
struct Carry([u8; 16]);

impl Operation for Carry {
    type Output = ();
    type Refusal = ();

    fn key(&self) -> store::Key {
        store::Key::NONE
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<()>> {
        let command = CarriedOut {
            nonce: &self.0,
            command: "a command",
            approved_by: "alice,bob",
            brought_by: "somebody",
        };
        match operator_commands::spend(tx, &command).await? {
            true => Ok(((), AuditRecord::done(AuditEvent::Unfrozen))),
            false => Err(CommitError::Refused(())),
        }
    }
}

async fn a_command_is_carried_out_once(database: Database) {
    let store = database.store().await;
    let mut running = JoinSet::new();
    for _ in 0..20 {
        let store = store.clone();
        running.spawn(async move { store.commit(Carry([5; 16])).await.is_ok() });
    }
    let done = running.join_all().await;
    assert_eq!(done.iter().filter(|done| **done).count(), 1);
    assert!(store.commit(Carry([6; 16])).await.is_ok());
    assert!(store.commit(Carry([5; 16])).await.is_err());
}
