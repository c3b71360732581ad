//! Destroys the transfer state in the shares of banned wallets, where that could not be done with the ban itself.

use countersign_mpc::share::P2Share;
use zeroize::Zeroizing;

use super::{Custody, public_share};
use crate::domain::{Generation, KeyState, ProfileId};
use crate::store::profiles::ProfileRow;
use crate::store::shares::ShareRow;
use crate::store::{
    AuditEvent, AuditRecord, CommitError, Key, Operation, StoreError, Tx, profiles, shares,
};

impl Custody {
    /// Empties the shares that are due; those that cannot be emptied now stay due.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn empty_shares(&self) -> Result<(), StoreError> {
        let mut after = String::new();
        loop {
            let mut reader = self.store.reader().await?;
            let due = shares::to_empty(&mut reader, &after).await?;
            drop(reader);
            let Some((last, _)) = due.last() else {
                return Ok(());
            };
            after = last.to_string();
            for (profile, generation) in due {
                self.empty_share(profile, generation).await?;
            }
        }
    }

    async fn empty_share(
        &self,
        profile: ProfileId,
        generation: Generation,
    ) -> Result<(), StoreError> {
        let mut reader = self.store.reader().await?;
        let row = shares::find(&mut reader, profile, generation).await?;
        let found = profiles::find(&mut reader, profile).await?;
        drop(reader);
        let (Some(profile), Some(row)) = (found, row) else {
            return Ok(());
        };
        let Some(bytes) = self.emptied(&profile, &row).await else {
            return Ok(());
        };
        let Some(emptied) = self.seal_emptied(&profile, Some(&row), bytes).await else {
            return Ok(());
        };
        let empty = Empty {
            profile: profile.profile_id,
            emptied,
        };
        match self.store.commit(empty).await {
            // Somebody else has done it, or the profile was released meanwhile.
            Ok(_) | Err(CommitError::Refused(NotDue)) => Ok(()),
            Err(CommitError::Store(error)) => Err(error),
        }
    }

    async fn emptied(&self, profile: &ProfileRow, row: &ShareRow) -> Option<Zeroizing<Vec<u8>>> {
        let opened = self
            .token
            .open_sealed(row.sealed.clone(), self.aad(profile, row))
            .await;
        let opened = opened.map_err(|error| {
            tracing::error!(?error, profile = %profile.profile_id, "the share of a banned wallet could not be opened to empty it");
        });
        let share = P2Share::from_bytes(&opened.ok()?, &public_share(row, profile)?).ok()?;
        share.into_emptied().to_bytes().ok()
    }

    /// Seals a share without its transfer state as the next version of `row`.
    pub(super) async fn seal_emptied(
        &self,
        profile: &ProfileRow,
        row: Option<&ShareRow>,
        bytes: Zeroizing<Vec<u8>>,
    ) -> Option<ShareRow> {
        let mut next = row?.clone();
        next.object_version = next.object_version.saturating_add(1);
        self.seal_as(profile, next, bytes).await
    }
}

/// The share is not there any more in the version that was emptied, or its wallet is not banned.
#[derive(Debug)]
struct NotDue;

struct Empty {
    profile: ProfileId,
    emptied: ShareRow,
}

impl Operation for Empty {
    type Output = ();
    type Refusal = NotDue;

    fn key(&self) -> Key {
        Key::profile(self.profile)
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<NotDue>> {
        let profile = profiles::find(tx, self.profile).await?;
        let banned = profile.is_some_and(|profile| profile.key_state == KeyState::Quarantined);
        if !banned || !shares::empty(tx, self.profile, &self.emptied).await? {
            return Err(CommitError::Refused(NotDue));
        }
        let record = AuditRecord::done(AuditEvent::TransferStateEmptied)
            .profile(self.profile)
            .detail(format!("generation {}", self.emptied.generation));
        Ok(((), record))
    }
}
