//! Random walks through the machines: whatever happens, in whatever order, some things never do.

use std::collections::HashSet;

use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};
use proptest::sample::select;

use super::table::{KEY_EVENTS, KeyEvent, SESSION_EVENTS, SessionEvent, become_of, happen};
use super::{key, session, states_of};
use crate::domain::{InstanceId, KeyState, SessionKind, SessionState};
use crate::sessions::key::Key;
use crate::sessions::session::Ending;
use crate::sessions::{MAX_ATTEMPTS, MAX_FAILED_SIGNATURES, MAX_SUSPECT_EVENTS};

fn key_events() -> impl Strategy<Value = Vec<KeyEvent>> {
    let events: Vec<KeyEvent> = KEY_EVENTS.iter().map(|(_, event)| *event).collect();
    proptest::collection::vec(select(events), 0..60)
}

fn session_events() -> impl Strategy<Value = Vec<SessionEvent>> {
    let events: Vec<usize> = (0..SESSION_EVENTS.len()).collect();
    let picked = proptest::collection::vec(select(events), 0..60);
    picked.prop_map(|picked| {
        let of = |at: usize| SESSION_EVENTS.get(at).map(|(_, event)| *event);
        picked.into_iter().filter_map(of).collect()
    })
}

/// As [`become_of`], with what is counted counted on.
fn step(key: Key, event: KeyEvent) -> Option<Key> {
    match event {
        KeyEvent::Sign => key.sign().ok().map(|(_, key)| key),
        KeyEvent::Canary => Some(key),
        KeyEvent::Fail(_) => Some(key.fail()),
        KeyEvent::Suspect(_) => Some(key.suspect()),
        event => become_of(key, event)?.ok(),
    }
}

proptest! {
    #[test]
    fn a01_a_quarantined_key_signs_again_only_after_release_and_proof(events in key_events()) {
        let mut key = key(KeyState::Stable, None);
        let (mut quarantined, mut released) = (false, false);
        for event in events {
            let Some(next) = step(key, event) else { continue };
            match (event, &next) {
                (KeyEvent::Release(_), Key::Recovering(_)) => released = true,
                (KeyEvent::Prove, Key::Stable(_)) => {
                    prop_assert!(quarantined && released);
                    (quarantined, released) = (false, false);
                }
                (_, Key::Quarantined(_)) => (quarantined, released) = (true, false),
                _ => {}
            }
            key = next;
            prop_assert_eq!(quarantined, key.row().state == KeyState::Quarantined);
            prop_assert!(!quarantined || key.sign().is_err());
        }
    }

    #[test]
    fn what_is_used_up_signs_nothing_until_there_are_new_shares(events in key_events()) {
        let mut key = key(KeyState::Stable, None);
        for event in events {
            let Some(next) = step(key, event) else { continue };
            let worn = key.sign().is_err();
            let renewed = matches!(event, KeyEvent::Prove);
            prop_assert!(!worn || renewed || next.sign().is_err(), "{key:?} {event:?} {next:?}");
            key = next;
            if let Ok((generation, _)) = key.sign() {
                prop_assert_eq!(generation, key.row().generation);
                prop_assert!(key.row().suspect_events < MAX_SUSPECT_EVENTS);
                prop_assert!(key.row().failed_signatures < MAX_FAILED_SIGNATURES);
            }
        }
    }

    #[test]
    fn a18_a_generation_goes_back_only_by_the_guarded_roll_back(events in key_events()) {
        let mut key = key(KeyState::Stable, None);
        for event in events {
            let Some(next) = step(key, event) else { continue };
            let (before, after) = (key.row().generation, next.row().generation);
            match event {
                KeyEvent::Prove => prop_assert_eq!(after, before.next()),
                KeyEvent::RollBack(given) => {
                    prop_assert_eq!(Some(after), before.previous());
                    prop_assert!(given.operator && given.second_factor && !given.used);
                    prop_assert!(matches!(next, Key::RefreshRequired(_)));
                }
                _ => prop_assert_eq!(after, before),
            }
            key = next;
        }
    }

    #[test]
    fn a_key_is_its_row_and_rests_without_a_rotation(events in key_events()) {
        let mut key = key(KeyState::Stable, None);
        for event in events {
            let Some(next) = step(key, event) else { continue };
            key = next;
            prop_assert_eq!(Key::of(*key.row()), key);
            let rests = matches!(key, Key::Stable(_) | Key::RefreshRequired(_) | Key::Quarantined(_));
            prop_assert_eq!(rests, key.row().rotation.is_none());
            let recovers = matches!(key, Key::Recovering(_));
            let quarantined = key.row().state == KeyState::Quarantined;
            prop_assert_eq!(quarantined, recovers || matches!(key, Key::Quarantined(_)));
        }
    }

    #[test]
    fn a07_no_step_of_an_attempt_is_checked_to_an_end_twice(sign in any::<bool>(), events in session_events()) {
        let (kind, state) = match sign {
            true => (SessionKind::Sign, SessionState::Created),
            false => (SessionKind::Keygen, SessionState::Round1Checking),
        };
        let mut row = session(kind, state, InstanceId::generate());
        let mut checked = HashSet::new();
        for event in events {
            // The walk has its own attempt.
            let event = match event {
                SessionEvent::Restart(_) => SessionEvent::Restart(row.attempt),
                event => event,
            };
            let Some(Ok(next)) = happen(row.clone(), event) else { continue };
            prop_assert!(states_of(kind).contains(&next.state), "{:?}", next.state);
            prop_assert!(next.attempt >= row.attempt && next.attempt <= MAX_ATTEMPTS);
            let over = matches!(row.state, SessionState::Signed | SessionState::Completed | SessionState::Banned);
            prop_assert!(!over, "nothing happens to a session that is over");
            // A check that did not run is the only one that may run again.
            let ran = row.state.is_checking() && !matches!(event, SessionEvent::End(Ending::NotRun));
            prop_assert!(!ran || checked.insert((row.attempt, row.state)), "{:?} twice", row.state);
            // A nonce of ours belongs to one attempt.
            prop_assert!(next.attempt > row.attempt || next.server_nonce == row.server_nonce);
            row = next;
        }
    }
}
