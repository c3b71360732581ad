//! Idempotency keys: the same request twice is one state change.

use super::engine::values;
use super::{Reads, StoreError, Tx};
use crate::domain::{IdempotencyKey, TenantId};

/// Whose key it is and for which route.
pub struct Scope<'a> {
    /// The tenant.
    pub tenant: &'a TenantId,
    /// The owner, or the device of somebody who is none yet.
    pub holder: String,
    /// The route, a constant of the code.
    pub route: &'static str,
    /// The key.
    pub key: &'a IdempotencyKey,
}

/// What the first request with this key made.
pub struct Earlier {
    /// SHA-256 of its body.
    pub body_hash: [u8; 32],
    /// The id of what it made.
    pub resource_id: String,
}

/// The earlier request with this key, if any.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn find(
    reads: &mut impl Reads,
    scope: &Scope<'_>,
) -> Result<Option<Earlier>, StoreError> {
    let row = reads
        .query_one(
            "SELECT body_hash, resource_id FROM idempotency \
             WHERE tenant = $1 AND scope = $2 AND route = $3 AND key = $4",
            values![
                scope.tenant.as_str(),
                scope.holder.as_str(),
                scope.route,
                scope.key.as_str()
            ],
        )
        .await?;
    row.map(|row| {
        let mut row = row.of("idempotency");
        Ok(Earlier {
            body_hash: row.array("body_hash")?,
            resource_id: row.text("resource_id")?,
        })
    })
    .transpose()
}

/// For how long a key counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// As long as retention says.
    AsConfigured,
    /// For ever: its request spends, and must never do so twice.
    ForEver,
}

/// Remembers what a request made.
///
/// # Errors
/// [`StoreError`] when the database fails or the key is taken.
pub async fn insert(
    tx: &mut Tx<'_>,
    scope: &Scope<'_>,
    body_hash: &[u8; 32],
    resource_id: &str,
    kept: Kept,
) -> Result<(), StoreError> {
    let now = tx.now().as_micros();
    tx.execute(
        "INSERT INTO idempotency (tenant, scope, route, key, body_hash, resource_id, spend, \
         created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        values![
            scope.tenant.as_str(),
            scope.holder.as_str(),
            scope.route,
            scope.key.as_str(),
            body_hash,
            resource_id,
            i64::from(kept == Kept::ForEver),
            now
        ],
    )
    .await?;
    Ok(())
}
