//! The keys that wallets seal their messages to, sealed by the HSM.

use sqlx::FromRow;

use super::{Reads, StoreError, Tx, readable, time};
use crate::clock::Timestamp;

/// A KEM key.
#[derive(Clone)]
pub struct KemKeyRow {
    /// Its id.
    pub kid: String,
    /// X25519 public key.
    pub public_key: [u8; 32],
    /// The private key, sealed under the purpose `kem`.
    pub sealed: Vec<u8>,
    /// The identity key's signature over the KEM statement, `r || s`.
    pub signature: [u8; 64],
    /// From when wallets may use it.
    pub not_before: Timestamp,
    /// Until when.
    pub not_after: Timestamp,
}

#[derive(FromRow)]
struct Raw {
    kid: String,
    public_key: Vec<u8>,
    sealed: Vec<u8>,
    signature: Vec<u8>,
    not_before: i64,
    not_after: i64,
}

/// Keys that are still valid at `now`, newest first.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn valid(reads: &mut impl Reads, now: Timestamp) -> Result<Vec<KemKeyRow>, StoreError> {
    const TABLE: &str = "kem_keys";
    let raws: Vec<Raw> = sqlx::query_as(
        "SELECT kid, public_key, sealed, signature, not_before, not_after FROM kem_keys \
         WHERE not_after > $1 ORDER BY not_after DESC LIMIT 8",
    )
    .bind(now.as_micros())
    .fetch_all(reads.connection())
    .await?;
    raws.into_iter()
        .map(|raw| {
            Ok(KemKeyRow {
                kid: raw.kid,
                public_key: readable(raw.public_key.try_into().ok(), TABLE, "public_key")?,
                sealed: raw.sealed,
                signature: readable(raw.signature.try_into().ok(), TABLE, "signature")?,
                not_before: time(raw.not_before),
                not_after: time(raw.not_after),
            })
        })
        .collect()
}

/// Adds a key and deletes those that nobody may use any more.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn rotate(tx: &mut Tx<'_>, key: &KemKeyRow) -> Result<(), StoreError> {
    let now = tx.now().as_micros();
    sqlx::query("DELETE FROM kem_keys WHERE not_after <= $1")
        .bind(now)
        .execute(tx.connection())
        .await?;
    sqlx::query(
        "INSERT INTO kem_keys (kid, public_key, sealed, signature, not_before, not_after) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(key.kid.as_str())
    .bind(key.public_key.as_slice())
    .bind(key.sealed.as_slice())
    .bind(key.signature.as_slice())
    .bind(key.not_before.as_micros())
    .bind(key.not_after.as_micros())
    .execute(tx.connection())
    .await?;
    Ok(())
}
