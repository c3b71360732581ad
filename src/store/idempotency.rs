//! Idempotency keys: the same request twice is one state change.

use super::engine::values;
use super::{Reads, StoreError, Tx};
use crate::domain::{DeviceKeyId, IdempotencyKey, TenantId};

/// Whose key it is and for which route.
pub struct Scope<'a> {
    /// The tenant.
    pub tenant: &'a TenantId,
    /// The device that signed the request.
    pub device_key_id: &'a DeviceKeyId,
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
             WHERE tenant = $1 AND device_key_id = $2 AND route = $3 AND key = $4",
            values![
                scope.tenant.as_str(),
                scope.device_key_id.as_str(),
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

/// Remembers what a request made.
///
/// # Errors
/// [`StoreError`] when the database fails or the key is taken.
pub async fn insert(
    tx: &mut Tx<'_>,
    scope: &Scope<'_>,
    body_hash: &[u8; 32],
    resource_id: &str,
) -> Result<(), StoreError> {
    let now = tx.now().as_micros();
    tx.execute(
        "INSERT INTO idempotency (tenant, device_key_id, route, key, body_hash, resource_id, \
         created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        values![
            scope.tenant.as_str(),
            scope.device_key_id.as_str(),
            scope.route,
            scope.key.as_str(),
            body_hash,
            resource_id,
            now
        ],
    )
    .await?;
    Ok(())
}
