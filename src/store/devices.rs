//! Device keys: who may speak for an owner.

use super::{Reads, StoreError, Tx, readable};
use crate::domain::{DeviceKeyId, OwnerId, TenantId};

/// An enrolled device key.
#[derive(Clone, Debug)]
pub struct DeviceRow {
    /// The owner it speaks for.
    pub owner_id: OwnerId,
    /// Uncompressed SEC1 point on P-256, 65 bytes.
    pub public_key: [u8; 65],
}

/// The device with this key id, if it is enrolled in this tenant.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn find(
    reads: &mut impl Reads,
    tenant: &TenantId,
    key: &DeviceKeyId,
) -> Result<Option<DeviceRow>, StoreError> {
    let row: Option<(String, Vec<u8>)> = sqlx::query_as(
        "SELECT owner_id, public_key FROM devices WHERE tenant = $1 AND device_key_id = $2",
    )
    .bind(tenant.as_str())
    .bind(key.as_str())
    .fetch_optional(reads.connection())
    .await?;
    let Some((owner_id, public_key)) = row else {
        return Ok(None);
    };
    Ok(Some(DeviceRow {
        owner_id: readable(OwnerId::parse(&owner_id).ok(), "devices", "owner_id")?,
        public_key: readable(public_key.try_into().ok(), "devices", "public_key")?,
    }))
}

/// Enrols a device key.
///
/// # Errors
/// [`StoreError`] when the database fails or the key is enrolled already.
pub async fn insert(
    tx: &mut Tx<'_>,
    tenant: &TenantId,
    key: &DeviceKeyId,
    device: &DeviceRow,
) -> Result<(), StoreError> {
    let now = tx.now().as_micros();
    sqlx::query(
        "INSERT INTO devices (tenant, device_key_id, owner_id, public_key, created_at) \
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(tenant.as_str())
    .bind(key.as_str())
    .bind(device.owner_id.to_string())
    .bind(device.public_key.as_slice())
    .bind(now)
    .execute(tx.connection())
    .await?;
    Ok(())
}
