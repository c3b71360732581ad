//! The durable operations of a KEM key's life: begun, made, ended, destroyed.

use crate::clock::Timestamp;
use crate::store::kem_keys::{self, KemKeyRow};
use crate::store::{AuditEvent, AuditRecord, CommitError, Key, Operation, StoreError, Tx};

const DAY: i64 = 24 * 3600;
/// How long whoever has claimed the making of a key may take, in seconds.
pub(super) const CLAIM: i64 = 30;

/// Why this instance makes no key.
#[derive(Debug)]
pub(super) enum Taken {
    /// There is one.
    Fresh,
    /// Another instance makes one.
    Claimed,
}

async fn any_fresh(
    tx: &mut Tx<'_>,
    identity_key: &[u8; 65],
    fresh_until: Timestamp,
) -> Result<bool, StoreError> {
    let valid = kem_keys::valid(tx, tx.now()).await?;
    let fresh = |row: &KemKeyRow| row.identity_key == *identity_key && row.not_after >= fresh_until;
    Ok(valid.iter().any(fresh))
}

/// Announces a key encryption key before the HSM makes it: whatever happens then, it is known and will be destroyed.
pub(super) struct Claim {
    pub(super) identity_key: [u8; 65],
    pub(super) fresh_until: Timestamp,
    pub(super) destroy_at: Timestamp,
}

impl Operation for Claim {
    type Output = u32;
    type Refusal = Taken;

    fn key(&self) -> Key {
        Key::ENVIRONMENT
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<(u32, AuditRecord), CommitError<Self::Refusal>> {
        if any_fresh(tx, &self.identity_key, self.fresh_until).await? {
            return Err(CommitError::Refused(Taken::Fresh));
        }
        let now = tx.now();
        if kem_keys::any_claimed(tx, now.plus_seconds(-CLAIM)).await? {
            return Err(CommitError::Refused(Taken::Claimed));
        }
        // The number of the day, unless more than one is made in it: an old database claims no name that was in use.
        let day = u32::try_from(now.as_seconds().div_euclid(DAY)).unwrap_or(u32::MAX);
        let epoch = kem_keys::claim(tx, day, self.destroy_at).await?;
        let record = AuditRecord::done(AuditEvent::KemBegun).detail(epoch.to_string());
        Ok((epoch, record))
    }
}

/// Records a new KEM key, unless there is one by now.
pub(super) struct Rotate {
    pub(super) row: KemKeyRow,
    pub(super) fresh_until: Timestamp,
}

impl Operation for Rotate {
    type Output = ();
    type Refusal = Taken;

    fn key(&self) -> Key {
        Key::ENVIRONMENT
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<((), AuditRecord), CommitError<Self::Refusal>> {
        if any_fresh(tx, &self.row.identity_key, self.fresh_until).await? {
            return Err(CommitError::Refused(Taken::Fresh));
        }
        kem_keys::insert(tx, &self.row).await?;
        let record = AuditRecord::done(AuditEvent::KemRotated).detail(self.row.kid.as_str());
        Ok(((), record))
    }
}

/// Deletes the keys that nobody may use any more.
pub(super) struct End;

impl Operation for End {
    type Output = ();
    type Refusal = std::convert::Infallible;

    fn key(&self) -> Key {
        Key::ENVIRONMENT
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<((), AuditRecord), CommitError<Self::Refusal>> {
        kem_keys::delete_ended(tx).await?;
        Ok(((), AuditRecord::done(AuditEvent::KemEnded)))
    }
}

/// Forgets a key encryption key that the HSM no longer has.
pub(super) struct Destroyed {
    pub(super) epoch: u32,
}

impl Operation for Destroyed {
    type Output = ();
    type Refusal = std::convert::Infallible;

    fn key(&self) -> Key {
        Key::ENVIRONMENT
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<((), AuditRecord), CommitError<Self::Refusal>> {
        kem_keys::delete_destroyed(tx, self.epoch).await?;
        let record = AuditRecord::done(AuditEvent::KemDestroyed).detail(self.epoch.to_string());
        Ok(((), record))
    }
}
