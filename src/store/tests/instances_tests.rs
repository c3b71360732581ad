//! Instances of one database: leases, the checks of the dead, and the lock of a key.

use std::collections::HashSet;

use super::super::instances::{self, Lease, Skew};
use super::super::profiles::NewProfile;
use super::super::sessions::SessionRow;
use super::super::{
    AuditEvent, AuditRecord, CommitError, Key, Operation, Store, Tx, bans, profiles, sessions,
    steps,
};
use super::{Database, session};
use crate::clock::Timestamp;
use crate::domain::{
    Generation, InstanceId, KeyState, OperationId, OtSetup, OwnerId, ProfileId, SessionId,
    Suspicion, TenantId,
};
use crate::sessions::conclude::{Conclude, Effect};
use crate::sessions::lifecycle::{Left, Orphan};
use crate::sessions::{Arrival, Lifetimes, MAX_FAILED_SIGNATURES, MAX_SUSPECT_EVENTS, Session};

on_both_engines![
    an_instance_lives_until_it_is_ended_and_again_when_it_renews,
    a02_of_fifty_checks_of_one_key_at_two_instances_one_begins,
    an_instance_that_was_ended_begins_no_check,
    a03_a_check_is_orphaned_once_its_instance_has_ended_and_counts_once,
    a03_what_an_instance_finds_after_it_was_ended_is_refused_except_a_ban,
    a01_a_wallet_is_listed_whatever_generation_its_row_has_by_then,
    a03_the_third_orphan_asks_for_new_shares,
    a01_the_third_failed_signature_is_listed_as_a_ban,
];

const LIFETIMES: Lifetimes = Lifetimes {
    session: 120,
    kept_state: 60,
};

/// Another process of the same database; of a file, another part of the only one.
async fn another(database: &Database, store: &Store) -> Store {
    if store.is_alone() {
        return store.clone();
    }
    Store::open(database.location()).await.unwrap()
}

async fn renew(store: &Store, instance: InstanceId, seconds: i64) -> Skew {
    let boot_id = "boot".to_owned();
    let lease = Lease {
        instance,
        boot_id,
        seconds,
    };
    store.renew_lease(lease).await.unwrap()
}

async fn lives(store: &Store, instance: InstanceId) -> bool {
    let mut reader = store.reader().await.unwrap();
    let row = instances::find_living(&mut reader, instance).await.unwrap();
    let living = instances::living(&mut reader).await.unwrap();
    let listed = living.iter().any(|row| row.instance_id == instance);
    assert_eq!(row.is_some(), listed);
    assert!(row.is_none_or(|row| row.tag == instance.tag() && row.ended_at.is_none()));
    listed
}

/// An instance whose lease has lapsed, and that the others have ended.
async fn end(store: &Store, instance: InstanceId) {
    renew(store, instance, -1).await;
    assert!(store.end_lapsed(instance).await.unwrap());
}

async fn an_instance_lives_until_it_is_ended_and_again_when_it_renews(database: Database) {
    let store = database.store().await;
    let (one, two) = (InstanceId::generate(), InstanceId::generate());
    assert!(!lives(&store, one).await);
    let skew = renew(&store, one, 10).await;
    assert!(skew.at_least() < 1_000_000, "{skew:?}");
    assert!(lives(&store, one).await);
    assert!(!store.end_lapsed(one).await.unwrap(), "its lease holds");
    end(&store, one).await;
    assert!(!lives(&store, one).await);
    assert!(!store.end_lapsed(one).await.unwrap(), "it has ended");
    renew(&store, one, 10).await;
    assert!(lives(&store, one).await);

    renew(&store, two, 10).await;
    assert!(lives(&store, two).await);
    // The process lock of a file proves that everybody else is dead; on a server they go on.
    assert_eq!(lives(&store, one).await, !store.is_alone());
    assert!(store.end_lease(two).await.unwrap());
    assert!(!lives(&store, two).await);
}

/// Adds a profile with sessions that wait for their first message.
struct Prepare {
    profile: ProfileId,
    sessions: Vec<SessionId>,
}

impl Operation for Prepare {
    type Output = ();
    type Refusal = ();

    fn key(&self) -> Key {
        Key::profile(self.profile)
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<()>> {
        let profile = NewProfile {
            profile_id: self.profile,
            tenant: &TenantId::parse("default").unwrap(),
            owner_id: OwnerId::generate(),
            name: "test",
        };
        profiles::insert(tx, &profile).await?;
        for id in &self.sessions {
            sessions::insert(tx, &session(self.profile, *id)).await?;
        }
        Ok(((), AuditRecord::done(AuditEvent::TransactionPrepared)))
    }
}

async fn prepare<const N: usize>(store: &Store) -> (ProfileId, [SessionId; N]) {
    let profile = ProfileId::generate();
    let ids = std::array::from_fn(|_| SessionId::generate());
    let sessions = ids.to_vec();
    assert!(store.commit(Prepare { profile, sessions }).await.is_ok());
    (profile, ids)
}

/// Begins the check of a session's first message, as an admission does.
struct Begin {
    session: SessionId,
    profile: ProfileId,
    instance: InstanceId,
}

impl Operation for Begin {
    type Output = (SessionRow, OperationId);
    type Refusal = &'static str;

    fn key(&self) -> Key {
        Key::profile(self.profile)
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<(Self::Output, AuditRecord), CommitError<&'static str>> {
        let row = sessions::find(tx, self.session).await?.unwrap();
        let arrival = Arrival {
            step: 1,
            request_hash: [1; 32],
            instance: self.instance,
            now: Timestamp::from_micros(-1),
        };
        let checking = Session::of(row).check(&arrival);
        let checking = checking.map_err(|_| CommitError::Refused("moved on"))?;
        if !profiles::lock(tx, self.profile, self.session, self.instance).await? {
            return Err(CommitError::Refused("no lock"));
        }
        let checking = checking.write(tx).await?.unwrap();
        steps::open(tx, self.session, 1, 1).await?;
        let begun = (checking.into_row(), tx.operation_id());
        Ok((begun, AuditRecord::done(AuditEvent::StepPermitted)))
    }
}

async fn begin(
    store: &Store,
    profile: ProfileId,
    session: SessionId,
    instance: InstanceId,
) -> Result<(SessionRow, OperationId), &'static str> {
    let begin = Begin {
        session,
        profile,
        instance,
    };
    match store.commit(begin).await {
        Ok(begun) => Ok(begun.into_inner()),
        Err(CommitError::Refused(why)) => Err(why),
        Err(CommitError::Store(error)) => panic!("{error}"),
    }
}

async fn conclude(store: &Store, begun: &(SessionRow, OperationId), effect: Effect) -> bool {
    let conclusion = Conclude {
        ot_setup: OtSetup([7; 32]),
        session: begun.0.clone(),
        permit_id: begun.1,
        effect,
        lifetimes: LIFETIMES,
    };
    match store.conclude(conclusion).await {
        Ok(done) => {
            done.into_inner();
            true
        }
        Err(CommitError::Refused(_)) => false,
        Err(CommitError::Store(error)) => panic!("{error}"),
    }
}

async fn orphan(store: &Store, session: &SessionRow) -> bool {
    let session = session.clone();
    let left = Left::Died;
    store.conclude(Orphan { session, left }).await.is_ok()
}

async fn orphaned(store: &Store) -> Vec<SessionId> {
    let mut reader = store.reader().await.unwrap();
    let rows = sessions::orphaned(&mut reader).await.unwrap();
    rows.into_iter().map(|row| row.session_id).collect()
}

async fn key_of(store: &Store, profile: ProfileId) -> profiles::ProfileRow {
    let mut reader = store.reader().await.unwrap();
    profiles::find(&mut reader, profile).await.unwrap().unwrap()
}

async fn a02_of_fifty_checks_of_one_key_at_two_instances_one_begins(database: Database) {
    let store = database.store().await;
    let stores = [store.clone(), another(&database, &store).await];
    let (one, two) = (InstanceId::generate(), InstanceId::generate());
    let instances = if store.is_alone() {
        [one, one]
    } else {
        [one, two]
    };
    for (store, instance) in stores.iter().zip(instances) {
        renew(store, instance, 10).await;
    }
    let (profile, sessions) = prepare::<50>(&store).await;
    let mut waiting: HashSet<SessionId> = sessions.into();
    // One after another, each check begins alone and its conclusion lets the next one in.
    for round in 0..3 {
        let tasks: Vec<_> = waiting
            .iter()
            .zip((0..2).cycle())
            .map(|(session, at)| {
                let (store, session, instance) = (stores[at].clone(), *session, instances[at]);
                tokio::spawn(async move { begin(&store, profile, session, instance).await })
            })
            .collect();
        let mut begun = Vec::new();
        for task in tasks {
            match task.await.unwrap() {
                Ok(row) => begun.push(row),
                Err(why) => assert_eq!(why, "no lock"),
            }
        }
        assert_eq!(begun.len(), 1, "in round {round}");
        let session = begun[0].0.session_id;
        assert_eq!(key_of(&store, profile).await.checking, Some(session));
        let over = Effect::Abort {
            reason: "the next one's turn".to_owned(),
            suspicion: Suspicion::None,
        };
        assert!(conclude(&stores[1], &begun[0], over).await);
        waiting.remove(&session);
    }
}

async fn an_instance_that_was_ended_begins_no_check(database: Database) {
    let store = database.store().await;
    let instance = InstanceId::generate();
    let (profile, [session]) = prepare(&store).await;
    let never_joined = begin(&store, profile, session, instance).await;
    assert_eq!(never_joined.err(), Some("no lock"));
    end(&store, instance).await;
    let ended = begin(&store, profile, session, instance).await;
    assert_eq!(ended.err(), Some("no lock"));
    renew(&store, instance, 10).await;
    assert!(begin(&store, profile, session, instance).await.is_ok());
}

async fn a03_a_check_is_orphaned_once_its_instance_has_ended_and_counts_once(database: Database) {
    let store = database.store().await;
    let other = another(&database, &store).await;
    let instance = InstanceId::generate();
    renew(&store, instance, 10).await;
    let (profile, [first, second]) = prepare(&store).await;
    let begun = begin(&store, profile, first, instance).await.unwrap();

    assert_eq!(orphaned(&other).await, []);
    assert!(!orphan(&other, &begun.0).await, "its instance lives");
    assert_eq!(key_of(&store, profile).await.suspect_events, 0);

    end(&other, instance).await;
    assert_eq!(orphaned(&other).await, [first]);
    let both = tokio::join!(orphan(&store, &begun.0), orphan(&other, &begun.0));
    assert!(both.0 ^ both.1, "one of two reapers ends it: {both:?}");
    let key = key_of(&store, profile).await;
    assert_eq!((key.suspect_events, key.checking), (1, None));
    assert_eq!(orphaned(&other).await, []);

    // The key is free for another instance.
    let living = InstanceId::generate();
    renew(&other, living, 10).await;
    assert!(begin(&other, profile, second, living).await.is_ok());
}

async fn a03_what_an_instance_finds_after_it_was_ended_is_refused_except_a_ban(database: Database) {
    let store = database.store().await;
    let instance = InstanceId::generate();
    renew(&store, instance, 10).await;
    let (profile, [first, second]) = prepare(&store).await;
    let begun = begin(&store, profile, first, instance).await.unwrap();
    end(&store, instance).await;
    assert!(orphan(&store, &begun.0).await);

    let living = InstanceId::generate();
    renew(&store, living, 10).await;
    let next = begin(&store, profile, second, living).await.unwrap();
    let abort = Effect::Abort {
        reason: "late".to_owned(),
        suspicion: Suspicion::FailedSignature,
    };
    for effect in [Effect::Advance, Effect::NotRun, abort] {
        assert!(!conclude(&store, &begun, effect).await);
    }
    let key = key_of(&store, profile).await;
    assert_eq!((key.suspect_events, key.failed_signatures), (1, 0));
    assert_eq!(key.checking, Some(second), "the lock is another check's");

    let caught = Effect::Ban {
        reason: "late".to_owned(),
        emptied: None,
    };
    assert!(conclude(&store, &begun, caught).await);
    let key = key_of(&store, profile).await;
    assert_eq!(key.key_state, KeyState::Quarantined);
    let bans = bans::from(&mut store.reader().await.unwrap(), 1).await;
    let bans = bans.unwrap();
    assert_eq!(bans.len(), 1, "also what was found too late is listed");
    assert_eq!(bans[0].ban.profile_id, profile);
    assert_eq!(key.checking, Some(second), "the lock is another check's");
    assert!(conclude(&store, &next, Effect::Advance).await);
}

async fn a01_a_wallet_is_listed_whatever_generation_its_row_has_by_then(database: Database) {
    let store = database.store().await;
    let instance = InstanceId::generate();
    renew(&store, instance, 10).await;
    let (profile, [first]) = prepare(&store).await;
    let mut begun = begin(&store, profile, first, instance).await.unwrap();
    end(&store, instance).await;
    assert!(orphan(&store, &begun.0).await);

    // As if the row had been given another key while this one was checked.
    begun.0.generation = Generation(7);
    let caught = Effect::Ban {
        reason: "late".to_owned(),
        emptied: None,
    };
    assert!(conclude(&store, &begun, caught).await);
    let bans = bans::from(&mut store.reader().await.unwrap(), 1).await;
    assert_eq!(bans.unwrap()[0].ban.generation, Generation(7));
    let key = key_of(&store, profile).await;
    assert_eq!(key.key_state, KeyState::Stable, "another key is not banned");
}

async fn a03_the_third_orphan_asks_for_new_shares(database: Database) {
    let store = database.store().await;
    let (profile, sessions) = prepare::<3>(&store).await;
    for (session, events) in sessions.into_iter().zip(1..) {
        let instance = InstanceId::generate();
        renew(&store, instance, 10).await;
        let begun = begin(&store, profile, session, instance).await.unwrap();
        end(&store, instance).await;
        assert!(orphan(&store, &begun.0).await);
        let key = key_of(&store, profile).await;
        assert_eq!(key.suspect_events, events);
        let expected = if events < MAX_SUSPECT_EVENTS {
            KeyState::Stable
        } else {
            KeyState::RefreshRequired
        };
        assert_eq!(key.key_state, expected);
    }
}

async fn a01_the_third_failed_signature_is_listed_as_a_ban(database: Database) {
    let store = database.store().await;
    let (profile, sessions) = prepare::<3>(&store).await;
    let instance = InstanceId::generate();
    renew(&store, instance, 10).await;
    for (session, count) in sessions.into_iter().zip(1..) {
        let begun = begin(&store, profile, session, instance).await.unwrap();
        let failed = Effect::Abort {
            reason: "signature_verification".to_owned(),
            suspicion: Suspicion::FailedSignature,
        };
        assert!(conclude(&store, &begun, failed).await);
        let key = key_of(&store, profile).await;
        let listed = bans::from(&mut store.reader().await.unwrap(), 1).await;
        let listed = listed.unwrap();
        let caught = count == MAX_FAILED_SIGNATURES;
        assert_eq!(key.failed_signatures, count);
        assert_eq!(key.key_state == KeyState::Quarantined, caught);
        assert_eq!(listed.len(), usize::from(caught));
    }
}
