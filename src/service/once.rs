//! The `Idempotency-Key` of a request whose repetition is told by something else too: it then names this request of this
//! owner, on this route with this body, and no other.

use super::Error;
use crate::domain::{IdempotencyKey, OwnerId, TenantId};
use crate::identity::owner::Owner;
use crate::store::idempotency::{self, Kept, Scope};
use crate::store::{Store, Tx};

/// A request with a key.
pub struct Once {
    tenant: TenantId,
    owner: OwnerId,
    route: &'static str,
    key: IdempotencyKey,
    body_hash: [u8; 32],
}

impl Once {
    /// The request of an owner, if it has a key.
    #[must_use]
    pub fn of(
        owner: &Owner,
        route: &'static str,
        key: Option<IdempotencyKey>,
        body_hash: [u8; 32],
    ) -> Option<Self> {
        key.map(|key| Self {
            tenant: owner.tenant().clone(),
            owner: owner.owner_id(),
            route,
            key,
            body_hash,
        })
    }

    /// What the same request made before.
    ///
    /// # Errors
    /// [`Error::IdempotencyMismatch`] when the key was used for another one.
    pub async fn earlier(&self, store: &Store) -> Result<Option<String>, Error> {
        let mut reader = store.reader().await?;
        let earlier = idempotency::find(&mut reader, &self.scope()).await?;
        match earlier {
            Some(earlier) if earlier.body_hash != self.body_hash => Err(Error::IdempotencyMismatch),
            earlier => Ok(earlier.map(|earlier| earlier.resource_id)),
        }
    }

    /// Remembers what the request makes, inside the operation that makes it.
    ///
    /// # Errors
    /// [`Error::IdempotencyMismatch`] when another request took the key meanwhile.
    pub async fn remember(&self, tx: &mut Tx<'_>, resource: &str) -> Result<(), Error> {
        let scope = self.scope();
        match idempotency::find(tx, &scope).await? {
            None => {
                let kept = Kept::AsConfigured;
                Ok(idempotency::insert(tx, &scope, &self.body_hash, resource, kept).await?)
            }
            Some(earlier) if earlier.body_hash == self.body_hash => Ok(()),
            Some(_) => Err(Error::IdempotencyMismatch),
        }
    }

    fn scope(&self) -> Scope<'_> {
        Scope {
            tenant: &self.tenant,
            holder: self.owner.to_string(),
            route: self.route,
            key: &self.key,
        }
    }
}
