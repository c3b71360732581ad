#![expect(clippy::unwrap_used, reason = "tests")]

use super::{
    Arrival, Ending, Fresh, KeyStanding, Lifetimes, MAX_ATTEMPTS, Refusal, admit, after, restart,
};
use crate::clock::Timestamp;
use crate::domain::{
    DecisionId, DeviceKeyId, Generation, InstanceId, KeyState, ProfileId, SessionId, SessionKind,
    SessionState,
};
use crate::store::sessions::SessionRow;

const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);
const LIFETIMES: Lifetimes = Lifetimes {
    session: 120,
    kept_state: 60,
};

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
        request_hash: None,
        expires_at: NOW.plus_seconds(60),
    }
}

fn arrival(step: u8, instance: InstanceId) -> Arrival {
    Arrival {
        step,
        request_hash: [7; 32],
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

#[test]
fn only_the_step_a_session_waits_for_is_admitted() {
    use SessionKind::{Keygen, Sign};
    use SessionState as S;
    let instance = InstanceId::generate();
    let admitted = [
        (Sign, S::Created, 1, S::Round1Checking),
        (Sign, S::Round1Done, 2, S::Round2Checking),
        (Keygen, S::Round1Done, 2, S::Round2Checking),
        (Keygen, S::Round2Done, 3, S::Round3Checking),
    ];
    for kind in [Keygen, Sign] {
        for state in S::ALL {
            for step in 1..=3 {
                let result = admit(&session(kind, *state, instance), &arrival(step, instance));
                let expected = admitted
                    .iter()
                    .find(|(k, s, n, _)| (*k, *s, *n) == (kind, *state, step))
                    .map(|(.., next)| *next);
                let next = result.as_ref().ok().map(|row| row.state);
                assert_eq!(next, expected, "{kind:?} {state:?} step {step}");
            }
        }
    }
}

#[test]
fn a07_kept_state_stays_with_the_process_that_made_it() {
    let (owner, other) = (InstanceId::generate(), InstanceId::generate());
    for state in SessionState::ALL.iter().filter(|state| state.is_active()) {
        for kind in [SessionKind::Sign, SessionKind::Keygen] {
            let row = session(kind, *state, owner);
            for step in 1..=3 {
                let refused = admit(&row, &arrival(step, other)).err();
                assert_eq!(refused, Some(Refusal::Elsewhere(owner)), "{state:?}");
            }
        }
    }
    let begun_by_none = session(SessionKind::Sign, SessionState::Created, owner);
    let admitted = admit(&begun_by_none, &arrival(1, other)).unwrap();
    assert_eq!(admitted.instance_id, other);
}

#[test]
fn a_session_past_its_time_admits_nothing() {
    let instance = InstanceId::generate();
    let mut row = session(SessionKind::Sign, SessionState::Created, instance);
    row.expires_at = NOW;
    assert_eq!(
        admit(&row, &arrival(1, instance)).err(),
        Some(Refusal::Expired)
    );
}

#[test]
fn a_check_that_did_not_run_leaves_the_session_where_it_was() {
    use SessionState as S;
    let instance = InstanceId::generate();
    for (kind, before, step) in [
        (SessionKind::Sign, S::Created, 1),
        (SessionKind::Sign, S::Round1Done, 2),
        (SessionKind::Keygen, S::Round2Done, 3),
    ] {
        let row = session(kind, before, instance);
        let Ok(checking) = admit(&row, &arrival(step, instance)) else {
            continue;
        };
        let next = after(&checking, Ending::NotRun, NOW, &LIFETIMES);
        assert_eq!((next.state, next.request_hash), (before, None));
    }
}

#[test]
fn a_restart_is_a_new_attempt_with_a_new_nonce_and_there_are_few() {
    let instance = InstanceId::generate();
    let mut row = session(SessionKind::Sign, SessionState::Aborted, instance);
    let next = restart(&row, &fresh(instance)).ok();
    assert_eq!(
        next.map(|next| (next.state, next.attempt, next.server_nonce)),
        Some((SessionState::Created, 2, [9; 32]))
    );
    row.attempt = MAX_ATTEMPTS;
    assert!(restart(&row, &fresh(instance)).is_err());
    row.attempt = 1;
    row.state = SessionState::Round1Done;
    assert!(restart(&row, &fresh(instance)).is_ok());
    for state in [
        SessionState::Created,
        SessionState::Signed,
        SessionState::Banned,
        SessionState::Round1Checking,
        SessionState::Round2Checking,
    ] {
        row.state = state;
        assert!(restart(&row, &fresh(instance)).is_err(), "{state:?}");
    }
}

#[test]
fn a01_a_ban_and_the_third_failed_signature_quarantine_and_orphans_ask_for_a_refresh() {
    let fresh = KeyStanding {
        state: KeyState::Stable,
        suspect_events: 0,
        failed_signatures: 0,
    };
    assert_eq!(fresh.banned().state, KeyState::Quarantined);
    assert_eq!(fresh.failed().failed().state, KeyState::Stable);
    assert_eq!(
        fresh.failed().failed().failed().state,
        KeyState::Quarantined
    );
    assert_eq!(fresh.orphaned().orphaned().state, KeyState::Stable);
    let worn = fresh.orphaned().orphaned().orphaned();
    assert_eq!(worn.state, KeyState::RefreshRequired);
    assert_eq!(worn.banned().orphaned().state, KeyState::Quarantined);
}

#[test]
fn a_lost_answer_to_a_restart_is_given_again() {
    let instance = InstanceId::generate();
    let mut row = session(SessionKind::Sign, SessionState::Created, instance);
    row.attempt = 2;
    let again = restart(&row, &fresh(instance)).ok();
    assert_eq!(
        again.map(|row| (row.attempt, row.server_nonce)),
        Some((2, [0; 32]))
    );
}
