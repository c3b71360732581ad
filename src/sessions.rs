//! The lifecycle of MPC sessions and of the keys they use (`protocol.md` 2.3, 2.4 and 2.6).
//!
//! [`session`] and [`key`] are the two state machines, pure over rows; [`conclude`] and [`lifecycle`] are the durable
//! operations that end a step or a session. `docs/states.txt` is generated from the machines: every state with every
//! event.
//!
//! INVARIANT: a message is checked only in a `*_CHECKING` state, which is committed together with the
//! key's lock before the check and left only by [`conclude::Conclude`] or, when the process died in
//! it, by [`lifecycle::Orphan`]. Both give the lock back and count what must be counted.

use crate::domain::{Generation, InstanceId};
use crate::store::profiles::ProfileRow;

pub mod conclude;
pub mod key;
pub mod lifecycle;
pub mod session;

pub use key::Key;
pub use session::{Arrival, Ending, Fresh, Session};

/// Attempts of one signing session.
pub const MAX_ATTEMPTS: u32 = 5;
/// Checks without a verdict before the key must be refreshed.
pub const MAX_SUSPECT_EVENTS: i64 = 3;
/// Final signatures that did not verify before the key is quarantined.
pub const MAX_FAILED_SIGNATURES: i64 = 3;
/// Bans of one wallet after which its key is never released again.
pub const MAX_BANS: u64 = 3;

/// How long a session lives.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    /// From its creation to its first message, in seconds.
    pub session: i64,
    /// Between two messages, in seconds: kept state is in memory.
    pub kept_state: i64,
}

/// Why a message is not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The session waits for another step.
    WrongStep,
    /// Another message was sent for the step before: the session must be given up.
    Contradiction,
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
    /// The session has had its last attempt.
    NoMoreAttempts,
    /// The session is of another generation of the key than signs now.
    OtherGeneration,
    /// The key signs nothing any more.
    Quarantined,
    /// The key signs nothing until it is refreshed.
    RefreshRequired,
}

/// Whether a key signs, and with which generation.
///
/// # Errors
/// [`Refusal`] when it signs nothing.
pub fn usable(profile: &ProfileRow) -> Result<Generation, Refusal> {
    let (generation, _) = Key::of(profile.key()).sign()?;
    Ok(generation)
}

#[cfg(test)]
mod tests;
