//! The state machine of a session (`protocol.md` 2.3 and 2.4), pure over its row.
//!
//! A session waits for a message, or a message of it is being checked, or it has ended: three types, and
//! what happens to a session consumes it. What comes out is a [`Transition`], which is written by
//! compare-and-swap; a session that has moved on meanwhile is left alone. `docs/states.txt` lists what
//! becomes of every state at every event.

use std::ops::Deref;

use super::{MAX_ATTEMPTS, Refusal};
use crate::clock::Timestamp;
use crate::domain::{InstanceId, SessionKind, SessionState};
use crate::store::sessions::{self, SessionRow};
use crate::store::{StoreError, Tx};

/// A session, by what may happen to it.
#[derive(Clone, Debug)]
pub enum Session {
    /// It waits for a message of the wallet.
    Waiting(Waiting),
    /// A message is being checked: its key is locked.
    Checking(Checking),
    /// It has ended.
    Ended(Ended),
}

/// A session that waits for a message.
#[derive(Clone, Debug)]
pub struct Waiting(SessionRow);

/// A session of which a message is being checked.
#[derive(Clone, Debug)]
pub struct Checking(SessionRow);

/// A session that has ended.
#[derive(Clone, Debug)]
pub struct Ended(SessionRow);

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

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The message passed; the session goes on, until then.
    Advanced(Timestamp),
    /// The message passed and the session has made what it was for.
    Finished,
    /// The message was not checked; everything is as before.
    NotRun,
    /// The message was refused, the step failed, or nobody knows.
    Aborted,
    /// The counterparty was caught.
    Banned,
}

/// A check of this session cannot end like that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfit;

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

impl Session {
    /// A session as it stands in its row.
    #[must_use]
    pub const fn of(row: SessionRow) -> Self {
        use SessionState as State;
        match row.state {
            State::Created | State::Round1Done | State::Round2Done => Self::Waiting(Waiting(row)),
            State::Round1Checking | State::Round2Checking | State::Round3Checking => {
                Self::Checking(Checking(row))
            }
            State::Signed | State::Completed | State::Aborted | State::Expired | State::Banned => {
                Self::Ended(Ended(row))
            }
        }
    }

    /// A message arrives.
    ///
    /// # Errors
    /// [`Refusal`] when the session does not wait for it.
    pub fn check(self, arrival: &Arrival) -> Result<Transition<Checking>, Refusal> {
        match self {
            Self::Waiting(waiting) => waiting.check(arrival),
            Self::Checking(checking) => Err(checking.refusal(arrival)),
            Self::Ended(ended) => Err(ended.refusal()),
        }
    }

    /// Begins the next attempt of a signing session that was given up, or whose wallet gives it up between
    /// its two messages: the kept state of the old attempt is then forgotten, so it can never be finished.
    ///
    /// # Errors
    /// [`Refusal`] when there is nothing to restart, or the session has had its last attempt.
    pub fn restart(self, fresh: &Fresh) -> Result<Transition<Waiting>, Refusal> {
        match self {
            Self::Waiting(waiting) => waiting.restart(fresh),
            Self::Checking(_) => Err(Refusal::Busy),
            Self::Ended(ended) => ended.restart(fresh),
        }
    }
}

impl Waiting {
    /// The step it waits for.
    const fn due(&self) -> Option<(u8, SessionState)> {
        match (self.0.kind, self.0.state) {
            (SessionKind::Sign, SessionState::Created) => Some((1, SessionState::Round1Checking)),
            (_, SessionState::Round1Done) => Some((2, SessionState::Round2Checking)),
            (SessionKind::Keygen, SessionState::Round2Done) => {
                Some((3, SessionState::Round3Checking))
            }
            _ => None,
        }
    }

    /// A message arrives.
    ///
    /// # Errors
    /// [`Refusal`]; after [`Refusal::Contradiction`] the session must be given up.
    pub fn check(self, arrival: &Arrival) -> Result<Transition<Checking>, Refusal> {
        if self.0.state.is_active() && self.0.instance_id != arrival.instance {
            return Err(Refusal::Elsewhere(self.0.instance_id));
        }
        if self.0.expires_at <= arrival.now {
            return Err(Refusal::Expired);
        }
        let (due, checking) = self.due().ok_or(Refusal::WrongStep)?;
        let known = |hash| hash != arrival.request_hash;
        if arrival.step < due && self.0.request_hash.is_some_and(known) {
            return Err(Refusal::Contradiction);
        }
        if arrival.step != due {
            return Err(Refusal::WrongStep);
        }
        Ok(Transition::new(self.0, Checking, |row| {
            row.state = checking;
            row.request_hash = Some(arrival.request_hash);
            row.instance_id = arrival.instance;
        }))
    }

    /// Its time is up. A signing session may be started again; a key in the making may not.
    #[must_use = "a transition counts when it is written"]
    pub fn expire(self) -> Transition<Ended> {
        let state = match self.0.kind {
            SessionKind::Sign => SessionState::Expired,
            SessionKind::Keygen => SessionState::Aborted,
        };
        Transition::new(self.0, Ended, |row| row.state = state)
    }

    /// It is given up: for a newer session, with its device, or because its wallet contradicts itself.
    #[must_use = "a transition counts when it is written"]
    pub fn give_up(self) -> Transition<Ended> {
        Transition::new(self.0, Ended, |row| row.state = SessionState::Aborted)
    }

    fn restart(self, fresh: &Fresh) -> Result<Transition<Self>, Refusal> {
        let stale = self.0.expires_at <= fresh.now;
        match (self.0.kind, self.0.state, self.0.attempt) {
            // The answer to the restart was lost.
            (SessionKind::Sign, SessionState::Created, 2..) if !stale => {
                Ok(Transition::new(self.0, Self, |_| ()))
            }
            (SessionKind::Sign, SessionState::Created, _) if !stale => Err(Refusal::WrongStep),
            (SessionKind::Sign, ..) => next_attempt(self.0, fresh),
            (SessionKind::Keygen, ..) => Err(Refusal::WrongStep),
        }
    }
}

impl Checking {
    /// Why another message is not checked now.
    fn refusal(&self, arrival: &Arrival) -> Refusal {
        let running = match self.0.state {
            SessionState::Round1Checking => 1,
            SessionState::Round2Checking => 2,
            _ => 3,
        };
        if self.0.instance_id != arrival.instance {
            return Refusal::Elsewhere(self.0.instance_id);
        }
        // Only of the running step it is known what it was sent.
        let same = self.0.request_hash == Some(arrival.request_hash);
        match arrival.step == running && !same {
            true => Refusal::Contradiction,
            false => Refusal::Busy,
        }
    }

    /// The check ends.
    ///
    /// # Errors
    /// [`Unfit`] when a check of this session cannot end like that.
    pub fn end(self, ending: Ending) -> Result<Transition<Session>, Unfit> {
        use SessionKind::{Keygen, Sign};
        use SessionState as State;
        let state = match (ending, self.0.kind, self.0.state) {
            (Ending::Advanced(_), _, State::Round1Checking)
            | (Ending::NotRun, _, State::Round2Checking) => State::Round1Done,
            (Ending::Advanced(_), Keygen, State::Round2Checking)
            | (Ending::NotRun, Keygen, State::Round3Checking) => State::Round2Done,
            (Ending::Finished, Sign, State::Round2Checking) => State::Signed,
            (Ending::Finished, Keygen, State::Round3Checking) => State::Completed,
            (Ending::NotRun, Sign, State::Round1Checking) => State::Created,
            (Ending::Aborted, ..) => State::Aborted,
            (Ending::Banned, ..) => State::Banned,
            _ => return Err(Unfit),
        };
        Ok(Transition::new(self.0, Session::of, |row| {
            row.state = state;
            match ending {
                Ending::Advanced(until) => row.expires_at = until,
                Ending::NotRun => row.request_hash = None,
                _ => {}
            }
        }))
    }

    /// Its process left it behind.
    #[must_use = "a transition counts when it is written"]
    pub fn leave_behind(self) -> Transition<Ended> {
        Transition::new(self.0, Ended, |row| row.state = SessionState::Aborted)
    }
}

impl Ended {
    const fn refusal(&self) -> Refusal {
        match self.0.state {
            SessionState::Aborted => Refusal::Aborted,
            SessionState::Expired => Refusal::Expired,
            _ => Refusal::Over,
        }
    }

    fn restart(self, fresh: &Fresh) -> Result<Transition<Waiting>, Refusal> {
        match (self.0.kind, self.0.state) {
            (SessionKind::Keygen, _) => Err(Refusal::WrongStep),
            (SessionKind::Sign, SessionState::Banned) => Err(Refusal::Quarantined),
            (SessionKind::Sign, SessionState::Aborted | SessionState::Expired) => {
                next_attempt(self.0, fresh)
            }
            (SessionKind::Sign, _) => Err(Refusal::Over),
        }
    }
}

/// INVARIANT: the attempt is part of what a signature is bound to, so no two have the same binding.
fn next_attempt(session: SessionRow, fresh: &Fresh) -> Result<Transition<Waiting>, Refusal> {
    if session.attempt >= MAX_ATTEMPTS {
        return Err(Refusal::NoMoreAttempts);
    }
    Ok(Transition::new(session, Waiting, |row| {
        row.state = SessionState::Created;
        row.attempt = row.attempt.saturating_add(1);
        row.certificate_spki = fresh.certificate_spki;
        row.server_nonce = fresh.server_nonce;
        row.instance_id = fresh.instance;
        row.request_hash = None;
        row.expires_at = fresh.expires_at;
    }))
}

/// What a session becomes, once that is written.
#[must_use = "a transition counts when it is written"]
#[derive(Debug)]
pub struct Transition<To> {
    from: SessionRow,
    to: To,
}

impl<To: Deref<Target = SessionRow>> Transition<To> {
    fn new(
        from: SessionRow,
        to: impl FnOnce(SessionRow) -> To,
        change: impl FnOnce(&mut SessionRow),
    ) -> Self {
        let mut row = from.clone();
        change(&mut row);
        let to = to(row);
        Self { from, to }
    }

    /// What it becomes.
    pub const fn to(&self) -> &To {
        &self.to
    }

    /// Writes it; `None` if the session has moved on meanwhile.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn write(self, tx: &mut Tx<'_>) -> Result<Option<To>, StoreError> {
        let written = sessions::update(tx, &self.from, &self.to).await?;
        Ok(written.then_some(self.to))
    }
}

macro_rules! rows {
    ($($name:ident),+) => {
        $(impl $name {
            /// Its row.
            #[must_use]
            pub fn into_row(self) -> SessionRow {
                self.0
            }
        }

        impl Deref for $name {
            type Target = SessionRow;

            fn deref(&self) -> &SessionRow {
                &self.0
            }
        })+
    };
}

rows!(Waiting, Checking, Ended);

impl Deref for Session {
    type Target = SessionRow;

    fn deref(&self) -> &SessionRow {
        match self {
            Self::Waiting(session) => session,
            Self::Checking(session) => session,
            Self::Ended(session) => session,
        }
    }
}
