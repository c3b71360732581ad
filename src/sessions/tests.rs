#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod table;
mod walks;

use super::session::{Arrival, Ending, Fresh, Session, Unfit};
use super::{Key, MAX_ATTEMPTS, Refusal};
use crate::clock::Timestamp;
use crate::domain::{
    DecisionId, DeviceKeyId, Generation, InstanceId, KeyState, Phase, ProfileId, Rotation,
    RotationId, SessionId, SessionKind, SessionState,
};
use crate::store::profiles::KeyRow;
use crate::store::sessions::SessionRow;

const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);

/// The states that sessions of a kind have.
fn states_of(kind: SessionKind) -> &'static [SessionState] {
    use SessionState as S;
    match kind {
        SessionKind::Sign => &[
            S::Created,
            S::Round1Checking,
            S::Round1Done,
            S::Round2Checking,
            S::Signed,
            S::Aborted,
            S::Expired,
            S::Banned,
        ],
        SessionKind::Keygen => &[
            S::Round1Checking,
            S::Round1Done,
            S::Round2Checking,
            S::Round2Done,
            S::Round3Checking,
            S::Completed,
            S::Aborted,
            S::Banned,
        ],
    }
}

/// What the body of the last message hashes to.
const LAST: [u8; 32] = [7; 32];
const OTHER: [u8; 32] = [8; 32];

fn session(kind: SessionKind, state: SessionState, instance: InstanceId) -> SessionRow {
    SessionRow {
        session_id: SessionId::generate(),
        kind,
        profile_id: ProfileId::generate(),
        device_key_id: DeviceKeyId::parse(&"k".repeat(43)).unwrap(),
        certificate_spki: [0; 32],
        state,
        attempt: 1,
        generation: Generation::FIRST,
        server_nonce: [0; 32],
        decision_id: DecisionId::generate(),
        instance_id: instance,
        request_hash: (state != SessionState::Created).then_some(LAST),
        expires_at: NOW.plus_seconds(60),
    }
}

fn arrival(step: u8, request_hash: [u8; 32], instance: InstanceId) -> Arrival {
    Arrival {
        step,
        request_hash,
        instance,
        now: NOW,
    }
}

fn fresh(instance: InstanceId) -> Fresh {
    Fresh {
        server_nonce: [9; 32],
        instance,
        certificate_spki: [1; 32],
        now: NOW,
        expires_at: NOW.plus_seconds(120),
    }
}

fn key(state: KeyState, phase: Option<Phase>) -> Key {
    Key::of(KeyRow {
        state,
        rotation: phase.map(|phase| Rotation {
            id: RotationId::generate(),
            phase,
        }),
        generation: Generation(5),
        suspect_events: 0,
        failed_signatures: 0,
    })
}

/// A key in each state, those whose rotation began when it was worn out among them.
fn keys() -> Vec<Key> {
    use KeyState::{Quarantined, RefreshRequired, Stable};
    let during = [Phase::Rotating, Phase::Pending, Phase::Committed];
    let mut keys = vec![key(Stable, None)];
    for phase in during {
        keys.extend([Stable, RefreshRequired].map(|state| key(state, Some(phase))));
    }
    keys.extend([key(RefreshRequired, None), key(Quarantined, None)]);
    keys.push(key(Quarantined, Some(Phase::Recovering)));
    keys
}

#[test]
fn a07_kept_state_stays_with_the_process_that_made_it() {
    let (owner, other) = (InstanceId::generate(), InstanceId::generate());
    for kind in [SessionKind::Sign, SessionKind::Keygen] {
        for state in states_of(kind).iter().filter(|state| state.is_active()) {
            for (step, hash) in [(1, LAST), (2, OTHER), (3, OTHER)] {
                let arrival = arrival(step, hash, other);
                let refused = Session::of(session(kind, *state, owner)).check(&arrival);
                assert_eq!(refused.err(), Some(Refusal::Elsewhere(owner)), "{state:?}");
            }
        }
    }
    let begun_by_none = Session::of(session(SessionKind::Sign, SessionState::Created, owner));
    let checked = begun_by_none.check(&arrival(1, LAST, other)).unwrap();
    assert_eq!(checked.to().instance_id, other);
}

#[test]
fn a_check_that_did_not_run_leaves_the_session_where_it_was() {
    use SessionState as S;
    let instance = InstanceId::generate();
    for (kind, before, step) in [
        (SessionKind::Sign, S::Created, 1),
        (SessionKind::Sign, S::Round1Done, 2),
        (SessionKind::Keygen, S::Round1Done, 2),
        (SessionKind::Keygen, S::Round2Done, 3),
    ] {
        let checked =
            Session::of(session(kind, before, instance)).check(&arrival(step, OTHER, instance));
        let Session::Checking(checking) = Session::of(SessionRow::clone(checked.unwrap().to()))
        else {
            panic!("it is being checked");
        };
        let ended = checking.end(Ending::NotRun).unwrap();
        assert_eq!((ended.to().state, ended.to().request_hash), (before, None));
        // What it was sent before is no longer known, so nothing contradicts it.
        let again =
            Session::of(SessionRow::clone(ended.to())).check(&arrival(step - 1, OTHER, instance));
        assert!(matches!(again, Err(Refusal::WrongStep)), "{again:?}");
    }
}

#[test]
fn a_check_ends_only_as_a_check_of_its_session_can() {
    let instance = InstanceId::generate();
    let end = |kind, state, ending| match Session::of(session(kind, state, instance)) {
        Session::Checking(checking) => checking.end(ending).map(|ended| ended.to().state),
        _ => panic!("{state:?} is no check"),
    };
    use SessionState as S;
    let advanced = Ending::Advanced(NOW);
    assert_eq!(
        end(SessionKind::Sign, S::Round2Checking, advanced),
        Err(Unfit)
    );
    assert_eq!(
        end(SessionKind::Sign, S::Round1Checking, Ending::Finished),
        Err(Unfit)
    );
    assert_eq!(
        end(SessionKind::Keygen, S::Round2Checking, Ending::Finished),
        Err(Unfit)
    );
    assert_eq!(
        end(SessionKind::Keygen, S::Round1Checking, Ending::NotRun),
        Err(Unfit)
    );
}

#[test]
fn a_restart_is_a_new_attempt_with_a_new_nonce_and_there_are_few() {
    let instance = InstanceId::generate();
    let mut row = session(SessionKind::Sign, SessionState::Aborted, instance);
    let next = Session::of(row.clone()).restart(&fresh(instance)).unwrap();
    let next = next.to();
    assert_eq!(
        (
            next.state,
            next.attempt,
            next.server_nonce,
            next.request_hash
        ),
        (SessionState::Created, 2, [9; 32], None)
    );
    row.attempt = MAX_ATTEMPTS;
    let refused = Session::of(row).restart(&fresh(instance)).err();
    assert_eq!(refused, Some(Refusal::NoMoreAttempts));
}

#[test]
fn a_lost_answer_to_a_restart_is_given_again() {
    let instance = InstanceId::generate();
    let mut row = session(SessionKind::Sign, SessionState::Created, instance);
    row.attempt = 2;
    let again = Session::of(row).restart(&fresh(instance)).unwrap();
    assert_eq!((again.to().attempt, again.to().server_nonce), (2, [0; 32]));
}

#[test]
fn a01_a_ban_and_the_third_failed_signature_quarantine_and_orphans_ask_for_a_refresh() {
    let fresh = key(KeyState::Stable, None);
    assert_eq!(Key::Quarantined(fresh.ban()).name(), "QUARANTINED");
    assert_eq!(fresh.fail().fail().name(), "STABLE");
    assert_eq!(fresh.fail().fail().fail().name(), "QUARANTINED");
    assert_eq!(fresh.suspect().suspect().name(), "STABLE");
    let worn = fresh.suspect().suspect().suspect();
    assert_eq!(worn.name(), "REFRESH_REQUIRED");
    assert_eq!(Key::Quarantined(worn.ban()).suspect().name(), "QUARANTINED");
}

#[test]
fn a01_a_ban_quarantines_a_key_in_every_state_and_it_signs_nothing_then() {
    for key in keys() {
        let banned = Key::Quarantined(key.ban());
        assert_eq!(banned.sign().err(), Some(Refusal::Quarantined), "{key:?}");
        assert_eq!(banned.canary(), None);
        assert_eq!(banned.row().rotation, None);
    }
}

#[test]
fn a_row_and_its_key_are_the_same_thing() {
    for key in keys() {
        assert_eq!(Key::of(*key.row()), key);
        assert!(Key::NAMES.contains(&key.name()));
    }
    // What the database does not let in: whatever of it is quarantined signs nothing.
    for phase in [Phase::Rotating, Phase::Pending, Phase::Committed] {
        let broken = key(KeyState::Quarantined, Some(phase));
        assert_eq!(broken.sign().err(), Some(Refusal::Quarantined));
    }
    let broken = key(KeyState::Stable, Some(Phase::Recovering));
    assert_eq!(broken.sign().err(), Some(Refusal::Quarantined));
    assert_eq!(
        Key::Recovering(match broken {
            Key::Recovering(key) => key,
            _ => panic!(),
        }),
        broken
    );
}
