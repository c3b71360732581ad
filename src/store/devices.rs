//! Device keys: who may speak for an owner.

use super::engine::values;
use super::{Reads, StoreError, Tx};
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
    let row = reads
        .query_one(
            "SELECT owner_id, public_key FROM devices WHERE tenant = $1 AND device_key_id = $2",
            values![tenant.as_str(), key.as_str()],
        )
        .await?;
    row.map(|row| {
        let mut row = row.of("devices");
        Ok(DeviceRow {
            owner_id: row.parsed("owner_id", OwnerId::parse)?,
            public_key: row.array("public_key")?,
        })
    })
    .transpose()
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
    tx.execute(
        "INSERT INTO devices (tenant, device_key_id, owner_id, public_key, created_at) \
         VALUES ($1, $2, $3, $4, $5)",
        values![
            tenant.as_str(),
            key.as_str(),
            device.owner_id.to_string(),
            &device.public_key,
            now
        ],
    )
    .await?;
    Ok(())
}
