//! Ends that come from outside a step: time, a newer session, a process that died.

use super::conclude::change_key;
use super::session::{Ended, Transition};
use super::{Key, Session};
use crate::domain::{ProfileId, ProfileState, SessionKind};
use crate::store::sessions::SessionRow;
use crate::store::{
    self, AuditEvent, AuditOutcome, AuditRecord, CommitError, Operation, StoreError, Tx, instances,
    profiles, shares, steps, transactions,
};

/// The session moved on meanwhile.
#[derive(Debug)]
pub struct MovedOn;

/// Destroys a profile whose key was never proven; false if it was proven or is gone.
pub(super) async fn destroy_profile(
    tx: &mut Tx<'_>,
    profile: ProfileId,
) -> Result<bool, StoreError> {
    for state in [ProfileState::Keygen, ProfileState::Pending] {
        if profiles::change_state(tx, profile, state, ProfileState::Destroyed).await? {
            shares::destroy_pending(tx, profile).await?;
            profiles::set_address(tx, profile, None).await?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// Gives a session up that waits: for a newer one, with its device, or because its wallet contradicts itself. False if
/// it does not wait any more.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn give_up(tx: &mut Tx<'_>, session: &SessionRow) -> Result<bool, StoreError> {
    match Session::of(session.clone()) {
        Session::Waiting(waiting) => end(tx, waiting.give_up()).await,
        Session::Checking(_) | Session::Ended(_) => Ok(false),
    }
}

/// Ends a session without a result: what it reserved is free again, and a key that it was making is destroyed.
async fn end(tx: &mut Tx<'_>, ended: Transition<Ended>) -> Result<bool, StoreError> {
    let Some(session) = ended.write(tx).await? else {
        return Ok(false);
    };
    match session.kind {
        SessionKind::Keygen => {
            destroy_profile(tx, session.profile_id).await?;
        }
        SessionKind::Sign => transactions::release(tx, session.session_id).await?,
    }
    Ok(true)
}

/// Ends an open session that is past its time.
pub struct Expire {
    /// The session as it was read.
    pub session: SessionRow,
}

impl Operation for Expire {
    type Output = ();
    type Refusal = MovedOn;

    fn key(&self) -> store::Key {
        store::Key::profile(self.session.profile_id)
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<MovedOn>> {
        let event = match self.session.kind {
            SessionKind::Keygen => AuditEvent::KeygenAbandoned,
            SessionKind::Sign => AuditEvent::SessionExpired,
        };
        let Session::Waiting(waiting) = Session::of(self.session.clone()) else {
            return Err(CommitError::Refused(MovedOn));
        };
        if !end(tx, waiting.expire()).await? {
            return Err(CommitError::Refused(MovedOn));
        }
        let record = AuditRecord::done(event)
            .profile(self.session.profile_id)
            .session(self.session.session_id);
        Ok(((), record))
    }
}

/// Why nobody will conclude a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// The process that began it no longer lives.
    Died,
    /// This process began it and does not run it.
    Forgotten,
}

/// Ends a check that a process left behind. Nobody knows what the counterparty learned from it, so
/// it counts against the key.
pub struct Orphan {
    /// The session as it was read, in a checking state.
    pub session: SessionRow,
    /// Why.
    pub left: Left,
}

impl Operation for Orphan {
    type Output = ();
    type Refusal = MovedOn;

    fn key(&self) -> store::Key {
        store::Key::profile(self.session.profile_id)
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<MovedOn>> {
        let session = &self.session;
        let Session::Checking(checking) = Session::of(session.clone()) else {
            return Err(CommitError::Refused(MovedOn));
        };
        // It may have renewed its lease since it was found dead.
        let lives = instances::find_living(tx, session.instance_id).await?;
        if self.left == Left::Died && lives.is_some() {
            return Err(CommitError::Refused(MovedOn));
        }
        if !end(tx, checking.leave_behind()).await? {
            return Err(CommitError::Refused(MovedOn));
        }
        profiles::unlock(tx, session.profile_id, session.session_id).await?;
        steps::orphan(tx, session.session_id).await?;
        if let Some(profile) = profiles::find(tx, session.profile_id).await? {
            change_key(tx, &profile, Key::suspect).await?;
        }
        let record = AuditRecord::done(AuditEvent::CheckOrphaned)
            .outcome(AuditOutcome::Failed)
            .profile(session.profile_id)
            .session(session.session_id);
        Ok(((), record))
    }
}
