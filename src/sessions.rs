//! The lifecycle of MPC sessions and of the keys they use (`protocol.md` 2.3 and 2.4), pure over rows.
//!
//! INVARIANT: a message is checked only in a `*_CHECKING` state, which is committed together with the
//! key's lock before the check and left only by [`conclude::Conclude`] or, when the process died in
//! it, by [`lifecycle::Orphan`]. Both give the lock back and count what must be counted.

use crate::clock::Timestamp;
use crate::domain::{InstanceId, KeyState, SessionKind, SessionState};
use crate::store::profiles::ProfileRow;
use crate::store::sessions::SessionRow;

pub mod conclude;
pub mod lifecycle;

/// Attempts of one signing session.
pub const MAX_ATTEMPTS: u32 = 5;
/// Checks without a verdict before the key must be refreshed.
pub const MAX_SUSPECT_EVENTS: i64 = 3;
/// Final signatures that did not verify before the key is quarantined.
pub const MAX_FAILED_SIGNATURES: i64 = 3;

/// How long a session lives.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    /// From its creation to its first message, in seconds.
    pub session: i64,
    /// Between two messages, in seconds: kept state is in memory.
    pub kept_state: i64,
}

/// A message that wants to be checked.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The step it is for, from 1.
    pub step: u8,
    /// SHA-256 of the request body.
    pub request_hash: [u8; 32],
    /// This process.
    pub instance: InstanceId,
    /// Now.
    pub now: Timestamp,
}

/// Why a message is not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The session waits for another step.
    WrongStep,
    /// A message of this key is being checked.
    Busy,
    /// The kept state is in the memory of another process, which may be gone.
    Elsewhere(InstanceId),
    /// The kept state is gone with its process.
    Lost,
    /// This process was given up by the others, or may be at any moment.
    LeaseLapsed,
    /// The session ran out of time.
    Expired,
    /// The session was given up; a new attempt may be started.
    Aborted,
    /// The session is over.
    Over,
    /// The key signs nothing any more.
    Quarantined,
    /// The key signs nothing until it is refreshed.
    RefreshRequired,
}

/// The session as it stands while the message is checked.
///
/// # Errors
/// [`Refusal`] when the session does not wait for this message.
pub fn admit(session: &SessionRow, arrival: &Arrival) -> Result<SessionRow, Refusal> {
    let checking = match (session.kind, session.state, arrival.step) {
        (_, SessionState::Aborted, _) => return Err(Refusal::Aborted),
        (_, SessionState::Expired, _) => return Err(Refusal::Expired),
        (_, SessionState::Signed | SessionState::Completed | SessionState::Banned, _) => {
            return Err(Refusal::Over);
        }
        (_, state, _) if state.is_active() && session.instance_id != arrival.instance => {
            return Err(Refusal::Elsewhere(session.instance_id));
        }
        (_, state, _) if state.is_checking() => return Err(Refusal::Busy),
        (_, _, _) if session.expires_at <= arrival.now => return Err(Refusal::Expired),
        (SessionKind::Sign, SessionState::Created, 1) => SessionState::Round1Checking,
        (_, SessionState::Round1Done, 2) => SessionState::Round2Checking,
        (SessionKind::Keygen, SessionState::Round2Done, 3) => SessionState::Round3Checking,
        _ => return Err(Refusal::WrongStep),
    };
    Ok(SessionRow {
        state: checking,
        request_hash: Some(arrival.request_hash),
        instance_id: arrival.instance,
        ..session.clone()
    })
}

/// Whether a key may be used at all.
///
/// # Errors
/// [`Refusal`] when it may not.
pub const fn usable(profile: &ProfileRow) -> Result<(), Refusal> {
    match profile.key_state {
        KeyState::Stable => Ok(()),
        KeyState::RefreshRequired => Err(Refusal::RefreshRequired),
        KeyState::Quarantined => Err(Refusal::Quarantined),
    }
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The message passed; the session goes on.
    Advanced,
    /// The message passed and the session has made what it was for.
    Finished,
    /// The message was not checked; everything is as before.
    NotRun,
    /// The message was refused or the step failed.
    Aborted,
    /// The counterparty was caught.
    Banned,
}

/// The session after its step ended.
#[must_use]
pub fn after(
    session: &SessionRow,
    ending: Ending,
    now: Timestamp,
    lifetimes: &Lifetimes,
) -> SessionRow {
    use SessionState as State;
    let state = match (ending, session.state) {
        (Ending::Advanced, State::Round1Checking) | (Ending::NotRun, State::Round2Checking) => {
            State::Round1Done
        }
        (Ending::NotRun, State::Round1Checking) => State::Created,
        (Ending::Advanced | Ending::NotRun, _) => State::Round2Done,
        (Ending::Finished, _) if session.kind == SessionKind::Sign => State::Signed,
        (Ending::Finished, _) => State::Completed,
        (Ending::Aborted, _) => State::Aborted,
        (Ending::Banned, _) => State::Banned,
    };
    let expires_at = if ending == Ending::Advanced {
        now.plus_seconds(lifetimes.kept_state)
    } else {
        session.expires_at
    };
    let mut next = SessionRow {
        state,
        expires_at,
        ..session.clone()
    };
    if ending == Ending::NotRun {
        next.request_hash = None;
    }
    next
}

/// The next attempt of a signing session that was given up, or whose wallet gives it up between its
/// two messages: the kept state of the old attempt is then forgotten, so it can never be finished.
///
/// A restarted session that has not begun is returned as it is: the answer to the restart was lost.
///
/// # Errors
/// [`Refusal`] when there is nothing to restart, or the session has had its last attempt.
pub fn restart(session: &SessionRow, fresh: &Fresh) -> Result<SessionRow, Refusal> {
    use SessionState as State;
    if session.kind != SessionKind::Sign {
        return Err(Refusal::WrongStep);
    }
    let stale = session.expires_at <= fresh.now;
    match session.state {
        State::Banned => return Err(Refusal::Quarantined),
        State::Signed | State::Completed => return Err(Refusal::Over),
        state if state.is_checking() => return Err(Refusal::Busy),
        State::Created if session.attempt > 1 && !stale => return Ok(session.clone()),
        State::Created if !stale => return Err(Refusal::WrongStep),
        _ if session.attempt >= MAX_ATTEMPTS => return Err(Refusal::WrongStep),
        _ => {}
    }
    Ok(SessionRow {
        state: State::Created,
        attempt: session.attempt.saturating_add(1),
        certificate_spki: fresh.certificate_spki,
        server_nonce: fresh.server_nonce,
        instance_id: fresh.instance,
        request_hash: None,
        expires_at: fresh.expires_at,
        ..session.clone()
    })
}

/// What a new attempt begins with.
#[derive(Clone, Copy, Debug)]
pub struct Fresh {
    /// Our nonce for it.
    pub server_nonce: [u8; 32],
    /// This process.
    pub instance: InstanceId,
    /// SHA-256 of the public key of the client certificate the request came through.
    pub certificate_spki: [u8; 32],
    /// Now.
    pub now: Timestamp,
    /// When it ends by itself.
    pub expires_at: Timestamp,
}

/// The state of a key and its two counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyStanding {
    /// The state.
    pub state: KeyState,
    /// Checks that ended without a verdict.
    pub suspect_events: i64,
    /// Final signatures that did not verify.
    pub failed_signatures: i64,
}

impl KeyStanding {
    /// As the profile has it.
    #[must_use]
    pub const fn of(profile: &ProfileRow) -> Self {
        Self {
            state: profile.key_state,
            suspect_events: profile.suspect_events,
            failed_signatures: profile.failed_signatures,
        }
    }

    /// After the counterparty was caught.
    #[must_use]
    pub const fn banned(self) -> Self {
        Self {
            state: KeyState::Quarantined,
            ..self
        }
    }

    /// After a final check failed that an honest wallet passes.
    #[must_use]
    pub const fn failed(self) -> Self {
        let failed_signatures = self.failed_signatures.saturating_add(1);
        let state = if failed_signatures >= MAX_FAILED_SIGNATURES {
            KeyState::Quarantined
        } else {
            self.state
        };
        Self {
            state,
            failed_signatures,
            ..self
        }
    }

    /// After a check ended without a verdict.
    #[must_use]
    pub fn orphaned(self) -> Self {
        let suspect_events = self.suspect_events.saturating_add(1);
        let state = if self.state == KeyState::Stable && suspect_events >= MAX_SUSPECT_EVENTS {
            KeyState::RefreshRequired
        } else {
            self.state
        };
        Self {
            state,
            suspect_events,
            ..self
        }
    }
}

#[cfg(test)]
mod tests;
