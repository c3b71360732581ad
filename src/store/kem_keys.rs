//! The keys that wallets seal their messages to, sealed by the HSM, each under a key encryption key of its own.

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
    /// The epoch of the key encryption key it is sealed under.
    pub kek_epoch: u32,
    /// The identity key that signed the KEM statement.
    pub identity_key: [u8; 65],
    /// Its signature, `r || s`.
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
            kek_epoch: row.number("kek_epoch")?,
            identity_key: row.array("identity_key")?,
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
            "SELECT kid, public_key, sealed, kek_epoch, identity_key, signature, not_before, not_after \
             FROM kem_keys WHERE not_after > $1 ORDER BY not_after DESC, kid LIMIT 8",
            values![now.as_micros()],
        )
        .await?;
    rows.into_iter().map(KemKeyRow::read).collect()
}

/// Whether there is a key that nobody may use any more at `now`.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn any_ended(reads: &mut impl Reads, now: Timestamp) -> Result<bool, StoreError> {
    let sql = "SELECT kid FROM kem_keys WHERE not_after <= $1 LIMIT 1";
    let rows = reads.query(sql, values![now.as_micros()]).await?;
    Ok(!rows.is_empty())
}

/// Epochs of the key encryption keys that are to be destroyed at `now`: the next few behind `after`.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn overdue(
    reads: &mut impl Reads,
    now: Timestamp,
    after: u32,
) -> Result<Vec<u32>, StoreError> {
    let rows = reads
        .query(
            "SELECT epoch FROM kem_keks WHERE destroy_at <= $1 AND epoch > $2 ORDER BY epoch LIMIT 8",
            values![now.as_micros(), i64::from(after)],
        )
        .await?;
    rows.into_iter()
        .map(|row| row.of("kem_keks").number("epoch"))
        .collect()
}

/// Whether somebody has claimed an epoch after `since` and has not made its key yet.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn any_claimed(tx: &mut Tx<'_>, since: Timestamp) -> Result<bool, StoreError> {
    let rows = tx
        .query(
            "SELECT epoch FROM kem_keks WHERE claimed_at > $1 \
             AND NOT EXISTS (SELECT 1 FROM kem_keys WHERE kem_keys.kek_epoch = kem_keks.epoch) LIMIT 1",
            values![since.as_micros()],
        )
        .await?;
    Ok(!rows.is_empty())
}

/// Claims an epoch that nobody else has: the first after all that are known, and not before `at_least`.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn claim(
    tx: &mut Tx<'_>,
    at_least: u32,
    destroy_at: Timestamp,
) -> Result<u32, StoreError> {
    let sql = "SELECT epoch FROM kem_keks ORDER BY epoch DESC LIMIT 1";
    let last = tx.query(sql, &[]).await?.into_iter().next();
    let next = match last {
        Some(row) => row.of("kem_keks").number::<u32>("epoch")?.saturating_add(1),
        None => 1,
    };
    let epoch = next.max(at_least);
    tx.execute(
        "INSERT INTO kem_keks (epoch, claimed_at, destroy_at) VALUES ($1, $2, $3)",
        values![
            i64::from(epoch),
            tx.now().as_micros(),
            destroy_at.as_micros()
        ],
    )
    .await?;
    Ok(epoch)
}

/// Adds a key.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn insert(tx: &mut Tx<'_>, key: &KemKeyRow) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO kem_keys (kid, public_key, sealed, kek_epoch, identity_key, signature, not_before, \
         not_after) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        values![
            key.kid.as_str(),
            &key.public_key,
            key.sealed.as_slice(),
            i64::from(key.kek_epoch),
            &key.identity_key,
            &key.signature,
            key.not_before.as_micros(),
            key.not_after.as_micros()
        ],
    )
    .await?;
    Ok(())
}

/// Deletes the keys that nobody may use any more.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn delete_ended(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    let now = tx.now().as_micros();
    let sql = "DELETE FROM kem_keys WHERE not_after <= $1";
    tx.execute(sql, values![now]).await?;
    Ok(())
}

/// Deletes a key encryption key that is destroyed, and what it sealed.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn delete_destroyed(tx: &mut Tx<'_>, epoch: u32) -> Result<(), StoreError> {
    let epoch = i64::from(epoch);
    let sql = "DELETE FROM kem_keys WHERE kek_epoch = $1";
    tx.execute(sql, values![epoch]).await?;
    let sql = "DELETE FROM kem_keks WHERE epoch = $1";
    tx.execute(sql, values![epoch]).await?;
    Ok(())
}
