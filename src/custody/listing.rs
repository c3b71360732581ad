//! Quarantines from before there was a list of bans: what makes them last is made up for when the first anchor is.

use crate::domain::{Generation, KeyState, OtSetup, ProfileId};
use crate::store::bans::{self, Caught};
use crate::store::{
    AuditEvent, AuditRecord, CommitError, Key, Operation, Store, StoreError, Tx, profiles, shares,
};

/// Puts every quarantine on the list of bans and has its share emptied; how many were not there.
///
/// # Errors
/// [`StoreError`] when the database fails; it may be called again.
pub async fn list_quarantines(store: &Store) -> Result<usize, StoreError> {
    let (mut after, mut listed) = (String::new(), 0);
    loop {
        let mut reader = store.reader().await?;
        let page = bans::profiles_after(&mut reader, &after).await?;
        drop(reader);
        let Some((last, ..)) = page.last() else {
            return Ok(listed);
        };
        after = last.to_string();
        for (profile, generation, quarantined) in page {
            if !quarantined {
                continue;
            }
            match store.commit(List(profile, generation)).await {
                Ok(_) => listed += 1,
                Err(CommitError::Refused(Listed)) => {}
                Err(CommitError::Store(error)) => return Err(error),
            }
        }
    }
}

/// It is on the list, or not in quarantine.
#[derive(Debug)]
struct Listed;

struct List(ProfileId, Generation);

impl Operation for List {
    type Output = ();
    type Refusal = Listed;

    fn key(&self) -> Key {
        Key::profile(self.0)
    }

    fn also(&self) -> Key {
        Key::BANS
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<Listed>> {
        let Self(profile_id, generation) = *self;
        let profile = profiles::find(tx, profile_id).await?;
        let profile = profile.filter(|profile| profile.key_state == KeyState::Quarantined);
        if profile.is_none_or(|profile| profile.generation != generation) {
            return Err(CommitError::Refused(Listed));
        }
        let share = shares::find(tx, profile_id, generation).await?;
        let made_by = share.as_ref().map(|share| share.dkg_session_id.as_slice());
        let caught = Caught {
            profile_id,
            generation,
            ot_setup: OtSetup::of(profile_id, generation, made_by.unwrap_or_default()),
            session_id: None,
            reason: "quarantined before there was a list",
        };
        if !bans::append(tx, &caught).await? {
            return Err(CommitError::Refused(Listed));
        }
        shares::empty_later(tx, profile_id, generation).await?;
        Ok((
            (),
            AuditRecord::done(AuditEvent::BanListed).profile(profile_id),
        ))
    }
}
