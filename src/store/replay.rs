//! Nonces of signed requests that were acted on: each counts once.

use super::engine::values;
use super::{Reads, StoreError, Tx, devices};
use crate::domain::{DeviceKeyId, TenantId};

/// Seconds for which a nonce is remembered. A request is believed for a minute after it was signed; the rest is for
/// clocks that differ.
const KEPT: i64 = 300;

/// What becomes of a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spending {
    /// It is spent now, and was not before.
    Spent,
    /// It was spent before.
    Replayed,
    /// Its device may not act any more.
    Revoked,
}

/// Spends the nonce of a request by a device that may not be known yet.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn spend(
    tx: &mut Tx<'_>,
    device: &DeviceKeyId,
    nonce: &[u8; 16],
) -> Result<Spending, StoreError> {
    let expires_at = tx.now().plus_seconds(KEPT).as_micros();
    let spent = tx
        .execute_one(
            "INSERT INTO request_nonces (device_key_id, nonce, expires_at) VALUES ($1, $2, $3) \
             ON CONFLICT (device_key_id, nonce) DO NOTHING",
            values![device.as_str(), nonce, expires_at],
        )
        .await?;
    Ok(if spent {
        Spending::Spent
    } else {
        Spending::Replayed
    })
}

/// Spends the nonce of a request by an enrolled device, if it is still enrolled.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn spend_enrolled(
    tx: &mut Tx<'_>,
    tenant: &TenantId,
    device: &DeviceKeyId,
    nonce: &[u8; 16],
) -> Result<Spending, StoreError> {
    if devices::hold(tx, tenant, device).await? {
        spend(tx, device, nonce).await
    } else {
        Ok(Spending::Revoked)
    }
}

/// Whether the nonce of a request is spent.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn is_spent(
    reads: &mut impl Reads,
    device: &DeviceKeyId,
    nonce: &[u8; 16],
) -> Result<bool, StoreError> {
    let row = reads
        .query_one(
            "SELECT expires_at FROM request_nonces WHERE device_key_id = $1 AND nonce = $2",
            values![device.as_str(), nonce],
        )
        .await?;
    Ok(row.is_some())
}
