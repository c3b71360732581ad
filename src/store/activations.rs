//! Which command of operators the rules are in force by.

use super::engine::values;
use super::{Reads, StoreError, Tx};

/// The number of the command that took effect last, if one ever did.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn current(reads: &mut impl Reads) -> Result<Option<[u8; 16]>, StoreError> {
    let row = reads
        .query_one("SELECT nonce FROM rules_activations WHERE one = 1", &[])
        .await?;
    row.map(|row| row.of("rules_activations").array("nonce"))
        .transpose()
}

/// A command takes effect, in the place of the one before.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn replace(
    tx: &mut Tx<'_>,
    nonce: &[u8; 16],
    rules: &[u8; 32],
) -> Result<(), StoreError> {
    let now = tx.now().as_micros();
    tx.execute(
        "INSERT INTO rules_activations (one, nonce, rules, activated_at) VALUES (1, $1, $2, $3) \
         ON CONFLICT (one) DO UPDATE SET nonce = excluded.nonce, rules = excluded.rules, \
         activated_at = excluded.activated_at",
        values![nonce, rules, now],
    )
    .await?;
    Ok(())
}
