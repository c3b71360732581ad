//! Commands of several operators that were carried out: each once.

use super::engine::values;
use super::{StoreError, Tx};

/// A command that is carried out.
pub struct CarriedOut<'a> {
    /// Its number used once.
    pub nonce: &'a [u8; 16],
    /// What was signed.
    pub command: &'a str,
    /// The names of those who signed it, comma-separated.
    pub approved_by: &'a str,
    /// The name in the certificate of whoever brought it.
    pub brought_by: &'a str,
}

/// Spends the number of a command; false if it is spent already.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn spend(tx: &mut Tx<'_>, command: &CarriedOut<'_>) -> Result<bool, StoreError> {
    let (operation, now) = (tx.operation_id(), tx.now());
    tx.execute_one(
        "INSERT INTO operator_commands (nonce, operation_id, command, approved_by, brought_by, carried_out_at) \
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (nonce) DO NOTHING",
        values![
            command.nonce,
            operation.to_string(),
            command.command,
            command.approved_by,
            command.brought_by,
            now.as_micros()
        ],
    )
    .await
}
