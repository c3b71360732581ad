//! Reading: a profile, a session. Foreign and unknown are the same answer.

use super::Error;
use crate::domain::{ProfileId, SessionId, SessionKind};
use crate::identity::owner::Owner;
use crate::store::profiles::ProfileRow;
use crate::store::sessions::SessionRow;
use crate::store::transactions::{TransactionRow, TransactionState};
use crate::store::{Reads, Store, freezes, profiles, sessions, transactions};

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

/// Some transactions of a profile on one chain, the highest nonce first.
pub struct Page {
    /// The transactions.
    pub transactions: Vec<TransactionRow>,
    /// Where the next page begins: below this nonce. `None` at the end.
    pub next: Option<u64>,
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

    /// A profile, and whether a freeze stops it.
    ///
    /// # Errors
    /// [`Error::ProfileNotFound`].
    pub async fn profile(&self, owner: &Owner, id: ProfileId) -> Result<(ProfileRow, bool), Error> {
        let mut reader = self.store.reader().await?;
        let profile = owned_profile(&mut reader, owner, id).await?;
        let freeze = freezes::over(&mut reader, id, &profile.tenant).await?;
        Ok((profile, freeze.is_some()))
    }

    /// The transactions of a profile on a chain, with nonces below `before`; `limit` at most.
    ///
    /// # Errors
    /// [`Error::ProfileNotFound`].
    pub async fn transactions(
        &self,
        owner: &Owner,
        id: ProfileId,
        chain_id: u64,
        before: Option<u64>,
        limit: u32,
    ) -> Result<Page, Error> {
        let mut reader = self.store.reader().await?;
        let profile = owned_profile(&mut reader, owner, id).await?;
        let Some(address) = profile.address else {
            return Ok(Page {
                transactions: Vec::new(),
                next: None,
            });
        };
        let size = usize::try_from(limit).unwrap_or(usize::MAX);
        let before = before.unwrap_or(u64::MAX);
        // One more than asked for tells whether there are more.
        let more = limit.saturating_add(1);
        let mut found = transactions::below(&mut reader, chain_id, &address, before, more).await?;
        let next = match found.len() > size {
            true => found.get(size.saturating_sub(1)).map(|last| last.nonce),
            false => None,
        };
        found.truncate(size);
        Ok(Page {
            transactions: found,
            next,
        })
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
