//! `docs/states.txt`: what becomes of every state at every event, in the machines' own words.

use super::{LAST, NOW, OTHER, arrival, fresh, keys, session, states_of};
use crate::domain::{InstanceId, RotationId, SessionKind, SessionState};
use crate::sessions::key::{Missing, Release, RollBack};
use crate::sessions::session::{Ending, Session};
use crate::sessions::{Key, MAX_ATTEMPTS, MAX_BANS, Refusal};
use crate::store::profiles::KeyRow;
use crate::store::sessions::SessionRow;

const HEAD: &str = "\
What becomes of a session and of a key at every event (protocol.md 2.3, 2.4 and 2.6), in all their states.
Generated from src/sessions/session.rs and src/sessions/key.rs: review the difference and bless it with
COUNTERSIGN_BLESS=1 cargo nextest run -p countersign --lib states_are

\"-\": there is no such transition, the program could not say it.

";

/// What may happen to a session.
#[derive(Clone, Copy, Debug)]
pub(super) enum SessionEvent {
    /// A message for a step that was never sent before.
    Message(u8),
    /// The message that was sent last.
    Again,
    /// The message it waits for, when its time is up.
    Late,
    /// The message it waits for, at another instance.
    Elsewhere,
    End(Ending),
    LeftBehind,
    TimeIsUp,
    GivenUp,
    /// Of this attempt.
    Restart(u32),
    RestartLate,
}

pub(super) const SESSION_EVENTS: [(&str, SessionEvent); 18] = {
    use SessionEvent as E;
    [
        ("message 1", E::Message(1)),
        ("message 2", E::Message(2)),
        ("message 3", E::Message(3)),
        ("the last message again", E::Again),
        ("the message due, too late", E::Late),
        ("the message due, at another instance", E::Elsewhere),
        ("the check passed", E::End(Ending::Advanced(NOW))),
        ("the check passed and made it", E::End(Ending::Finished)),
        ("the check did not run", E::End(Ending::NotRun)),
        ("the check failed", E::End(Ending::Aborted)),
        ("the counterparty was caught", E::End(Ending::Banned)),
        ("the check was left behind", E::LeftBehind),
        ("its time is up", E::TimeIsUp),
        ("it is given up", E::GivenUp),
        ("restart of attempt 1", E::Restart(1)),
        ("restart of attempt 2", E::Restart(2)),
        ("restart of the last attempt", E::Restart(MAX_ATTEMPTS)),
        ("restart of attempt 1, too late", E::RestartLate),
    ]
};

/// The step whose message a session waits for, checks, or saw last.
const fn step(state: SessionState) -> u8 {
    match state {
        SessionState::Round1Done | SessionState::Round2Checking => 2,
        SessionState::Round2Done | SessionState::Round3Checking => 3,
        _ => 1,
    }
}

/// What an event makes of a session; `None` if nothing can: there is no such transition.
pub(super) fn happen(row: SessionRow, event: SessionEvent) -> Option<Result<SessionRow, Refusal>> {
    let instance = row.instance_id;
    let step = step(row.state);
    let waits = matches!(Session::of(row.clone()), Session::Waiting(_));
    let late = row.expires_at.plus_seconds(1);
    let checked = |arrival| {
        Some(
            Session::of(row.clone())
                .check(&arrival)
                .map(|to| SessionRow::clone(to.to())),
        )
    };
    match (event, Session::of(row.clone())) {
        (SessionEvent::Message(step), _) => checked(arrival(step, OTHER, instance)),
        (SessionEvent::Again, _) => {
            let last = if waits { step - 1 } else { step };
            row.request_hash?;
            checked(arrival(last, LAST, instance))
        }
        (SessionEvent::Late, _) => {
            let mut arrival = arrival(step, OTHER, instance);
            arrival.now = late;
            checked(arrival)
        }
        (SessionEvent::Elsewhere, _) => checked(arrival(step, OTHER, InstanceId::generate())),
        (SessionEvent::End(ending), Session::Checking(checking)) => {
            let ended = checking.end(ending).ok()?;
            Some(Ok(SessionRow::clone(ended.to())))
        }
        (SessionEvent::LeftBehind, Session::Checking(checking)) => {
            Some(Ok(SessionRow::clone(checking.leave_behind().to())))
        }
        (SessionEvent::TimeIsUp, Session::Waiting(waiting)) => {
            Some(Ok(SessionRow::clone(waiting.expire().to())))
        }
        (SessionEvent::GivenUp, Session::Waiting(waiting)) => {
            Some(Ok(SessionRow::clone(waiting.give_up().to())))
        }
        (SessionEvent::Restart(attempt), _) => {
            let row = SessionRow { attempt, ..row };
            let next = Session::of(row).restart(&fresh(instance));
            Some(next.map(|to| SessionRow::clone(to.to())))
        }
        (SessionEvent::RestartLate, _) => {
            let mut fresh = fresh(instance);
            fresh.now = late;
            let next = Session::of(row).restart(&fresh);
            Some(next.map(|to| SessionRow::clone(to.to())))
        }
        _ => None,
    }
}

const fn word(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::WrongStep => "refused: it waits for another step",
        Refusal::Contradiction => "refused: it contradicts the one before; the session is given up",
        Refusal::Busy => "refused: a message is being checked",
        Refusal::Elsewhere(_) => "refused: another instance holds it",
        Refusal::Lost => "refused: its state is lost",
        Refusal::LeaseLapsed => "refused: our lease has lapsed",
        Refusal::Expired => "refused: its time is up",
        Refusal::Aborted => "refused: it was given up",
        Refusal::Over => "refused: it is over",
        Refusal::NoMoreAttempts => "refused: it had its last attempt",
        Refusal::OtherGeneration => "refused: another generation signs now",
        Refusal::Quarantined => "refused: the key is quarantined",
        Refusal::RefreshRequired => "refused: the key must be rotated",
    }
}

fn sessions() -> String {
    let mut text = String::new();
    for kind in [SessionKind::Sign, SessionKind::Keygen] {
        for state in states_of(kind) {
            let name = |state: SessionState| state.as_str().to_uppercase();
            text += &format!("session to {}, {}\n", kind.as_str(), name(*state));
            for (event, happens) in SESSION_EVENTS {
                let row = session(kind, *state, InstanceId::generate());
                let becomes = match happen(row, happens) {
                    None => "-".to_owned(),
                    Some(Err(refusal)) => word(refusal).to_owned(),
                    Some(Ok(next)) if next.attempt > 1 => {
                        format!("{}, attempt {}", name(next.state), next.attempt)
                    }
                    Some(Ok(next)) => name(next.state),
                };
                text += &format!("    {event:<38}{becomes}\n");
            }
            text.push('\n');
        }
    }
    text
}

/// What may happen to a key.
#[derive(Clone, Copy, Debug)]
pub(super) enum KeyEvent {
    Sign,
    Canary,
    Rotate,
    Store,
    Prove,
    GiveUp,
    Acknowledge,
    RollBack(RollBack),
    Release(Release),
    Ban,
    /// Of a signature, so many having failed before.
    Fail(i64),
    /// A check without a verdict, so many having had none before.
    Suspect(i64),
}

const ROLL_BACK: RollBack = RollBack {
    operator: true,
    second_factor: true,
    used: false,
};
const RELEASE: Release = Release {
    operators: 2,
    second_factor: true,
    bans: 1,
};

pub(super) const KEY_EVENTS: [(&str, KeyEvent); 21] = {
    use KeyEvent as E;
    [
        ("a signature is wanted", E::Sign),
        ("a canary is wanted", E::Canary),
        ("rotation begins", E::Rotate),
        ("the next share is stored", E::Store),
        ("a canary proves the next share", E::Prove),
        ("the rotation is given up", E::GiveUp),
        ("the wallet holds the new share", E::Acknowledge),
        ("roll back", E::RollBack(ROLL_BACK)),
        (
            "roll back, new share was used",
            E::RollBack(RollBack {
                used: true,
                ..ROLL_BACK
            }),
        ),
        (
            "roll back, no second factor",
            E::RollBack(RollBack {
                second_factor: false,
                ..ROLL_BACK
            }),
        ),
        (
            "roll back, no operator",
            E::RollBack(RollBack {
                operator: false,
                ..ROLL_BACK
            }),
        ),
        ("release", E::Release(RELEASE)),
        (
            "release, one operator",
            E::Release(Release {
                operators: 1,
                ..RELEASE
            }),
        ),
        (
            "release, no second factor",
            E::Release(Release {
                second_factor: false,
                ..RELEASE
            }),
        ),
        (
            "release, third ban",
            E::Release(Release {
                bans: MAX_BANS,
                ..RELEASE
            }),
        ),
        ("the counterparty was caught", E::Ban),
        ("a signature failed, the first", E::Fail(0)),
        ("a signature failed, the third", E::Fail(2)),
        ("a check had no verdict, the first", E::Suspect(0)),
        ("a check had no verdict, the third", E::Suspect(2)),
        ("a check had no verdict, the fourth", E::Suspect(3)),
    ]
};

/// What an event makes of a key; `None` if there is no such transition.
pub(super) fn become_of(key: Key, event: KeyEvent) -> Option<Result<Key, Missing>> {
    let id = RotationId::generate();
    let row = *key.row();
    let next = match (event, key) {
        (KeyEvent::Rotate, Key::Stable(key)) => Key::Rotating(key.rotate(id)),
        (KeyEvent::Rotate, Key::RefreshRequired(key)) => Key::Rotating(key.rotate(id)),
        (KeyEvent::Store, Key::Rotating(key)) => Key::Pending(key.store()),
        (KeyEvent::Prove, Key::Pending(key)) => Key::Committed(key.commit()),
        (KeyEvent::Prove, Key::Recovering(key)) => Key::Stable(key.prove()),
        (KeyEvent::GiveUp, Key::Rotating(key)) => key.give_up(),
        (KeyEvent::GiveUp, Key::Pending(key)) => key.give_up(),
        (KeyEvent::GiveUp, Key::Recovering(key)) => Key::Quarantined(key.give_up()),
        (KeyEvent::Acknowledge, Key::Committed(key)) => key.acknowledge(),
        (KeyEvent::RollBack(given), Key::Committed(key)) => {
            return Some(key.roll_back(&given).map(Key::RefreshRequired));
        }
        (KeyEvent::Release(given), Key::Quarantined(key)) => {
            return Some(key.release(id, &given).map(Key::Recovering));
        }
        (KeyEvent::Ban, key) => Key::Quarantined(key.ban()),
        (KeyEvent::Fail(failed_signatures), _) => Key::of(KeyRow {
            failed_signatures,
            ..row
        })
        .fail(),
        (KeyEvent::Suspect(suspect_events), _) => Key::of(KeyRow {
            suspect_events,
            ..row
        })
        .suspect(),
        _ => return None,
    };
    Some(Ok(next))
}

fn described(key: &Key) -> String {
    let row = key.row();
    let generation = row.generation;
    let generations = match key {
        Key::Pending(_) | Key::Recovering(_) => format!("{generation} to {}", generation.next()),
        Key::Committed(_) => format!("{generation}, {} kept", generation.0 - 1),
        _ => generation.to_string(),
    };
    let resting = match key {
        Key::Rotating(_) | Key::Pending(_) | Key::Committed(_) => {
            format!(", at rest {}", row.state.as_str().to_uppercase())
        }
        _ => String::new(),
    };
    format!("{} ({generations}{resting})", key.name())
}

fn of_keys() -> String {
    let mut text = String::new();
    for key in keys() {
        text += &format!("key {}\n", described(&key));
        for (event, happens) in KEY_EVENTS {
            let becomes = match happens {
                KeyEvent::Sign => match key.sign() {
                    Ok((generation, next)) => {
                        format!("signs with {generation}: {}", described(&next))
                    }
                    Err(refusal) => word(refusal).to_owned(),
                },
                KeyEvent::Canary => key.canary().map_or("-".to_owned(), |generation| {
                    format!("signs with {generation}, a canary only")
                }),
                happens => match become_of(key, happens) {
                    None => "-".to_owned(),
                    Some(Err(Missing::Operators)) => "refused: operators must agree".to_owned(),
                    Some(Err(Missing::SecondFactor)) => "refused: no second factor".to_owned(),
                    Some(Err(Missing::TooLate)) => "refused: only the backup is left".to_owned(),
                    Some(Ok(next)) => described(&next),
                },
            };
            text += &format!("    {event:<38}{becomes}\n");
        }
        text.push('\n');
    }
    text
}

#[test]
fn the_states_are_the_ones_that_were_reviewed() {
    let actual = format!("{HEAD}{}{}", sessions(), of_keys());
    let actual = format!("{}\n", actual.trim_end());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/states.txt");
    if std::env::var_os("COUNTERSIGN_BLESS").is_some() {
        std::fs::write(path, &actual).unwrap();
    }
    let reviewed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        actual == reviewed,
        "docs/states.txt is not what the machines do: bless it with COUNTERSIGN_BLESS=1 and review the difference"
    );
}
