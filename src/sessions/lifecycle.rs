//! Ends that come from outside a step: time, a newer session, a process that died.

use super::KeyStanding;
use crate::domain::{ProfileId, ProfileState, SessionKind, SessionState};
use crate::store::sessions::SessionRow;
use crate::store::{
    AuditEvent, AuditOutcome, AuditRecord, CommitError, Key, Operation, StoreError, Tx, instances,
    profiles, sessions, shares, steps, transactions,
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

/// Gives a session up that is not being checked: what it reserved is free again, and a key that it
/// was making is destroyed.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn give_up(
    tx: &mut Tx<'_>,
    session: &SessionRow,
    state: SessionState,
) -> Result<bool, StoreError> {
    let ended = SessionRow {
        state,
        ..session.clone()
    };
    if !sessions::update(tx, session, &ended).await? {
        return Ok(false);
    }
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

    fn key(&self) -> Key {
        Key::profile(self.session.profile_id)
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<MovedOn>> {
        let (state, event) = match self.session.kind {
            SessionKind::Keygen => (SessionState::Aborted, AuditEvent::KeygenAbandoned),
            SessionKind::Sign => (SessionState::Expired, AuditEvent::SessionExpired),
        };
        if !give_up(tx, &self.session, state).await? {
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

    fn key(&self) -> Key {
        Key::profile(self.session.profile_id)
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<MovedOn>> {
        let session = &self.session;
        // It may have renewed its lease since it was found dead.
        let lives = instances::find_living(tx, session.instance_id).await?;
        if self.left == Left::Died && lives.is_some() {
            return Err(CommitError::Refused(MovedOn));
        }
        if !give_up(tx, session, SessionState::Aborted).await? {
            return Err(CommitError::Refused(MovedOn));
        }
        profiles::unlock(tx, session.profile_id, session.session_id).await?;
        steps::orphan(tx, session.session_id).await?;
        if let Some(profile) = profiles::find(tx, session.profile_id).await? {
            let standing = KeyStanding::of(&profile).orphaned();
            profiles::set_key(
                tx,
                session.profile_id,
                standing.state,
                standing.suspect_events,
                standing.failed_signatures,
            )
            .await?;
        }
        let record = AuditRecord::done(AuditEvent::CheckOrphaned)
            .outcome(AuditOutcome::Failed)
            .profile(session.profile_id)
            .session(session.session_id);
        Ok(((), record))
    }
}
