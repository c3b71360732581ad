//! The keys that wallets seal their messages to, sealed by the HSM.

use super::engine::{Row, values};
use super::{Reads, StoreError, Tx, time};
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

impl KemKeyRow {
    fn read(row: Row) -> Result<Self, StoreError> {
        let mut row = row.of("kem_keys");
        Ok(Self {
            kid: row.text("kid")?,
            public_key: row.array("public_key")?,
            sealed: row.bytes("sealed")?,
            signature: row.array("signature")?,
            not_before: time(row.int("not_before")?),
            not_after: time(row.int("not_after")?),
        })
    }
}

/// Keys that are still valid at `now`, newest first.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn valid(reads: &mut impl Reads, now: Timestamp) -> Result<Vec<KemKeyRow>, StoreError> {
    let rows = reads
        .query(
            "SELECT kid, public_key, sealed, signature, not_before, not_after FROM kem_keys \
             WHERE not_after > $1 ORDER BY not_after DESC LIMIT 8",
            values![now.as_micros()],
        )
        .await?;
    rows.into_iter().map(KemKeyRow::read).collect()
}

/// Adds a key and deletes those that nobody may use any more.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn rotate(tx: &mut Tx<'_>, key: &KemKeyRow) -> Result<(), StoreError> {
    let now = tx.now().as_micros();
    tx.execute("DELETE FROM kem_keys WHERE not_after <= $1", values![now])
        .await?;
    tx.execute(
        "INSERT INTO kem_keys (kid, public_key, sealed, signature, not_before, not_after) \
         VALUES ($1, $2, $3, $4, $5, $6)",
        values![
            key.kid.as_str(),
            &key.public_key,
            key.sealed.as_slice(),
            &key.signature,
            key.not_before.as_micros(),
            key.not_after.as_micros()
        ],
    )
    .await?;
    Ok(())
}
