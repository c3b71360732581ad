//! Reading: a profile, a session. Foreign and unknown are the same answer.

use super::Error;
use crate::domain::{ProfileId, SessionId, SessionKind};
use crate::identity::owner::Owner;
use crate::store::profiles::ProfileRow;
use crate::store::sessions::SessionRow;
use crate::store::transactions::{TransactionRow, TransactionState};
use crate::store::{Reads, Store, profiles, sessions, transactions};

/// The profile, if it is this owner's.
///
/// # Errors
/// [`Error::ProfileNotFound`] when it is not, or does not exist.
pub(super) async fn owned_profile(
    reads: &mut impl Reads,
    owner: &Owner,
    id: ProfileId,
) -> Result<ProfileRow, Error> {
    profiles::find(reads, id)
        .await?
        .filter(|profile| is_owned(profile, owner))
        .ok_or(Error::ProfileNotFound)
}

fn is_owned(profile: &ProfileRow, owner: &Owner) -> bool {
    profile.owner_id == owner.owner_id() && profile.tenant == *owner.tenant()
}

/// The session, if this owner started it with this device.
///
/// # Errors
/// [`Error::SessionNotFound`] when it is not, or does not exist.
pub(super) async fn owned_session(
    reads: &mut impl Reads,
    owner: &Owner,
    id: SessionId,
) -> Result<(SessionRow, ProfileRow), Error> {
    sessions::find_with_profile(reads, id)
        .await?
        .filter(|(session, profile)| {
            session.device_key_id == *owner.device_key_id() && is_owned(profile, owner)
        })
        .ok_or(Error::SessionNotFound)
}

/// A session and, in a signing session, its transaction.
pub struct SessionView {
    /// The session.
    pub session: SessionRow,
    /// The transaction, once it is signed.
    pub transaction: Option<TransactionRow>,
}

/// The use case.
pub struct Show {
    store: Store,
}

impl Show {
    /// The use case over the database.
    #[must_use]
    pub const fn new(store: Store) -> Self {
        Self { store }
    }

    /// A profile.
    ///
    /// # Errors
    /// [`Error::ProfileNotFound`].
    pub async fn profile(&self, owner: &Owner, id: ProfileId) -> Result<ProfileRow, Error> {
        let mut reader = self.store.reader().await?;
        owned_profile(&mut reader, owner, id).await
    }

    /// A session.
    ///
    /// # Errors
    /// [`Error::SessionNotFound`].
    pub async fn session(&self, owner: &Owner, id: SessionId) -> Result<SessionView, Error> {
        let mut reader = self.store.reader().await?;
        let (session, _) = owned_session(&mut reader, owner, id).await?;
        let transaction = match session.kind {
            SessionKind::Keygen => None,
            SessionKind::Sign => transactions::of_session(&mut reader, id).await?,
        };
        let signed = |row: &TransactionRow| {
            !matches!(
                row.state,
                TransactionState::Prepared | TransactionState::Released
            )
        };
        Ok(SessionView {
            session,
            transaction: transaction.filter(signed),
        })
    }
}
