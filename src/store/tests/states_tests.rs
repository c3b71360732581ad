//! The states of keys and sessions, written by compare-and-swap.

use super::super::engine::values;
use super::super::profiles::KeyRow;
use super::super::{
    AuditEvent, AuditRecord, CommitError, Operation, Store, Tx, profiles, sessions, steps,
};
use super::{Database, add, commit, session};
use crate::clock::Timestamp;
use crate::domain::{
    Generation, InstanceId, KeyState, OperationId, OtSetup, Phase, ProfileId, Rotation, RotationId,
    SessionId, SessionState, Suspicion,
};
use crate::sessions::conclude::{Conclude, Effect};
use crate::sessions::session::Fresh;
use crate::sessions::{Arrival, Key, Lifetimes, Session};
use crate::store;
use crate::store::instances::Lease;
use crate::store::sessions::SessionRow;

on_both_engines![
    every_state_of_a_key_is_read_as_it_was_written,
    a_key_is_written_only_from_what_it_was,
    a18_no_rotation_but_a_recovery_stands_beside_a_quarantine,
    of_two_transitions_of_one_session_one_is_written,
    a02_a_key_has_one_active_session_whatever_the_code_does,
    a03_a_check_without_a_verdict_counts_when_it_is_concluded,
];

/// Writes a key, and says whether it was what it should have been.
struct Write {
    profile: ProfileId,
    from: KeyRow,
    to: KeyRow,
}

impl Operation for Write {
    type Output = ();
    type Refusal = ();

    fn key(&self) -> store::Key {
        store::Key::profile(self.profile)
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<()>> {
        let key = Key::of(self.to);
        if !key.write(tx, self.profile, &self.from).await? {
            return Err(CommitError::Refused(()));
        }
        Ok(((), AuditRecord::done(AuditEvent::StepConcluded)))
    }
}

async fn write(store: &Store, profile: ProfileId, from: KeyRow, to: KeyRow) -> bool {
    store.commit(Write { profile, from, to }).await.is_ok()
}

async fn key_of(store: &Store, profile: ProfileId) -> KeyRow {
    let mut reader = store.reader().await.unwrap();
    let row = profiles::find(&mut reader, profile).await.unwrap();
    row.unwrap().key()
}

fn rows() -> Vec<KeyRow> {
    use KeyState::{Quarantined, RefreshRequired, Stable};
    let row = |state, phase: Option<Phase>| KeyRow {
        state,
        rotation: phase.map(|phase| Rotation {
            id: RotationId::generate(),
            phase,
        }),
        generation: Generation(7),
        suspect_events: 1,
        failed_signatures: 2,
    };
    let mut rows: Vec<_> = [Stable, RefreshRequired, Quarantined]
        .map(|state| row(state, None))
        .into();
    for phase in [Phase::Rotating, Phase::Pending, Phase::Committed] {
        rows.extend([Stable, RefreshRequired].map(|state| row(state, Some(phase))));
    }
    rows.push(row(Quarantined, Some(Phase::Recovering)));
    rows
}

async fn every_state_of_a_key_is_read_as_it_was_written(database: Database) {
    let store = database.store().await;
    let profile = add(false);
    commit(&store, profile).await;
    for row in rows() {
        let before = key_of(&store, profile.id).await;
        assert!(write(&store, profile.id, before, row).await, "{row:?}");
        assert_eq!(key_of(&store, profile.id).await, row);
    }
}

async fn a_key_is_written_only_from_what_it_was(database: Database) {
    let store = database.store().await;
    let profile = add(false);
    commit(&store, profile).await;
    let before = key_of(&store, profile.id).await;
    for row in rows() {
        let others = rows().into_iter().filter(|other| *other != before);
        for other in others.chain([KeyRow {
            suspect_events: 9,
            ..before
        }]) {
            assert!(!write(&store, profile.id, other, row).await, "{other:?}");
        }
        assert_eq!(key_of(&store, profile.id).await, before);
    }
    // Two that read the same: one writes.
    let after = KeyRow {
        suspect_events: 1,
        ..before
    };
    let both = tokio::join!(
        write(&store, profile.id, before, after),
        write(&store, profile.id, before, after)
    );
    assert!(both.0 ^ both.1, "{both:?}");
}

async fn a18_no_rotation_but_a_recovery_stands_beside_a_quarantine(database: Database) {
    let store = database.store().await;
    let profile = add(false);
    commit(&store, profile).await;
    let before = key_of(&store, profile.id).await;
    let rotation = |phase| {
        let id = RotationId::generate();
        Some(Rotation { id, phase })
    };
    let mut wrong = vec![KeyRow {
        rotation: rotation(Phase::Recovering),
        ..before
    }];
    for phase in [Phase::Rotating, Phase::Pending, Phase::Committed] {
        let (state, rotation) = (KeyState::Quarantined, rotation(phase));
        wrong.push(KeyRow {
            state,
            rotation,
            ..before
        });
    }
    for row in wrong {
        assert!(!write(&store, profile.id, before, row).await, "{row:?}");
    }
    drop(store);
    let mut connection = database.connection().await;
    let sql = "UPDATE profiles SET rotation = 'pending' WHERE profile_id = $1";
    let half = connection
        .execute(sql, values![profile.id.to_string()])
        .await;
    assert!(half.is_err(), "a rotation without its id");
}

/// Adds a session and begins its check.
struct Begin(SessionRow);

impl Operation for Begin {
    type Output = OperationId;
    type Refusal = ();

    fn key(&self) -> store::Key {
        store::Key::profile(self.0.profile_id)
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<(OperationId, AuditRecord), CommitError<()>> {
        let SessionRow {
            profile_id,
            session_id,
            instance_id,
            ..
        } = self.0;
        sessions::insert(tx, &self.0).await?;
        if self.0.state.is_checking() {
            assert!(profiles::lock(tx, profile_id, session_id, instance_id).await?);
        }
        steps::open(tx, session_id, 1, 1).await?;
        Ok((
            tx.operation_id(),
            AuditRecord::done(AuditEvent::StepPermitted),
        ))
    }
}

/// Writes one of two transitions of a session that was read before.
struct Go {
    session: SessionRow,
    restart: bool,
}

impl Operation for Go {
    type Output = ();
    type Refusal = ();

    fn key(&self) -> store::Key {
        store::Key::profile(self.session.profile_id)
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<()>> {
        let session = Session::of(self.session.clone());
        let (instance, now) = (self.session.instance_id, Timestamp::from_micros(-1));
        let written = if self.restart {
            let fresh = Fresh {
                server_nonce: [1; 32],
                instance,
                certificate_spki: [1; 32],
                now,
                expires_at: now,
            };
            session.restart(&fresh).unwrap().write(tx).await?.is_some()
        } else {
            let arrival = Arrival {
                step: 2,
                request_hash: [2; 32],
                instance,
                now,
            };
            session.check(&arrival).unwrap().write(tx).await?.is_some()
        };
        match written {
            true => Ok(((), AuditRecord::done(AuditEvent::StepPermitted))),
            false => Err(CommitError::Refused(())),
        }
    }
}

/// Ends a session, whatever it is doing.
struct End(SessionRow);

impl Operation for End {
    type Output = ();
    type Refusal = ();

    fn key(&self) -> store::Key {
        store::Key::profile(self.0.profile_id)
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<()>> {
        let before = sessions::find(tx, self.0.session_id).await?.unwrap();
        assert!(sessions::update(tx, &before, &self.0).await?);
        Ok(((), AuditRecord::done(AuditEvent::StepConcluded)))
    }
}

async fn of_two_transitions_of_one_session_one_is_written(database: Database) {
    let store = database.store().await;
    let profile = add(false);
    commit(&store, profile).await;
    for _ in 0..10 {
        let waits = SessionRow {
            state: SessionState::Round1Done,
            ..session(profile.id, SessionId::generate())
        };
        let id = waits.session_id;
        commit(&store, Begin(waits.clone())).await;
        let [check, restart] = [false, true].map(|restart| {
            let session = waits.clone();
            store.commit(Go { session, restart })
        });
        let (checked, restarted) = tokio::join!(check, restart);
        assert!(checked.is_ok() ^ restarted.is_ok());
        let mut reader = store.reader().await.unwrap();
        let row = sessions::find(&mut reader, id).await.unwrap().unwrap();
        let expected = match checked.is_ok() {
            true => (SessionState::Round2Checking, 1),
            false => (SessionState::Created, 2),
        };
        assert_eq!((row.state, row.attempt), expected);
        drop(reader);
        let mut row = row;
        row.state = SessionState::Aborted;
        commit(&store, End(row)).await;
    }
}

async fn a02_a_key_has_one_active_session_whatever_the_code_does(database: Database) {
    let store = database.store().await;
    let (one, other) = (add(false), add(false));
    for profile in [one, other] {
        commit(&store, profile).await;
    }
    let waits = |profile: ProfileId, state| SessionRow {
        state,
        ..session(profile, SessionId::generate())
    };
    commit(&store, Begin(waits(one.id, SessionState::Round1Done))).await;
    for state in [SessionState::Round1Done, SessionState::Round2Done] {
        let second = store.commit(Begin(waits(one.id, state))).await;
        assert!(second.is_err(), "{state:?}");
        commit(&store, Begin(waits(one.id, SessionState::Created))).await;
        commit(&store, Begin(waits(one.id, SessionState::Aborted))).await;
    }
    commit(&store, Begin(waits(other.id, SessionState::Round1Done))).await;
}

async fn a03_a_check_without_a_verdict_counts_when_it_is_concluded(database: Database) {
    let store = database.store().await;
    let profile = add(false);
    commit(&store, profile).await;
    let instance = InstanceId::generate();
    let lease = Lease {
        instance,
        boot_id: "boot".to_owned(),
        seconds: 60,
    };
    store.renew_lease(lease).await.unwrap();
    for expected in [
        (KeyState::Stable, 1),
        (KeyState::Stable, 2),
        (KeyState::RefreshRequired, 3),
    ] {
        let checking = SessionRow {
            state: SessionState::Round1Checking,
            instance_id: instance,
            ..session(profile.id, SessionId::generate())
        };
        let id = checking.session_id;
        let permit = store.commit(Begin(checking.clone())).await;
        let conclusion = Conclude {
            ot_setup: OtSetup([7; 32]),
            session: checking,
            permit_id: permit.unwrap_or_else(|_| panic!("it begins")).into_inner(),
            effect: Effect::Abort {
                reason: "a panic".to_owned(),
                suspicion: Suspicion::NoVerdict,
            },
            lifetimes: Lifetimes {
                session: 120,
                kept_state: 60,
            },
        };
        assert!(store.conclude(conclusion).await.is_ok());
        let key = key_of(&store, profile.id).await;
        assert_eq!((key.state, key.suspect_events), expected);
        let mut reader = store.reader().await.unwrap();
        let row = sessions::find(&mut reader, id).await.unwrap().unwrap();
        assert_eq!(row.state, SessionState::Aborted);
        let row = profiles::find(&mut reader, profile.id).await.unwrap();
        assert_eq!(row.unwrap().checking, None);
    }
}
