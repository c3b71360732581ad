//! Transactions: what is to be signed, what was signed, and how it fares on its chain.

use sqlx::{FromRow, SqliteConnection};

use super::{Reads, StoreError, Tx, readable, to_i64};
use crate::clock::Timestamp;
use crate::domain::{ProfileId, SessionId, TransactionId};

/// Where a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransactionState {
    /// Its nonce is reserved; nothing is signed.
    Prepared,
    /// Given up before a signature existed: its nonce is free again.
    Released,
    /// Signed and stored; no node has confirmed to have it.
    Broadcasting,
    /// A node has it.
    Submitted,
    /// In a block, executed.
    Mined,
    /// In a block, failed on chain.
    Reverted,
    /// Another transaction took its nonce.
    Replaced,
}

impl TransactionState {
    const ALL: [Self; 7] = [
        Self::Prepared,
        Self::Released,
        Self::Broadcasting,
        Self::Submitted,
        Self::Mined,
        Self::Reverted,
        Self::Replaced,
    ];

    /// The name used in the database and in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Released => "released",
            Self::Broadcasting => "broadcasting",
            Self::Submitted => "submitted",
            Self::Mined => "mined",
            Self::Reverted => "reverted",
            Self::Replaced => "replaced",
        }
    }
}

/// A transaction.
#[derive(Clone, Debug)]
pub struct TransactionRow {
    /// Its id.
    pub transaction_id: TransactionId,
    /// The session that signs it.
    pub session_id: SessionId,
    /// The profile that pays.
    pub profile_id: ProfileId,
    /// The chain.
    pub chain_id: u64,
    /// The paying address.
    pub sender: [u8; 20],
    /// The chain nonce it holds.
    pub nonce: u64,
    /// The unsigned EIP-2718 payload.
    pub payload: Vec<u8>,
    /// keccak-256 of `payload`: what is signed.
    pub digest: [u8; 32],
    /// Where it stands.
    pub state: TransactionState,
    /// The signed bytes.
    pub raw: Option<Vec<u8>>,
    /// The hash of `raw`.
    pub tx_hash: Option<[u8; 32]>,
    /// The block it is in.
    pub block_number: Option<u64>,
    /// How often it was handed to a node.
    pub broadcast_attempts: i64,
}

#[derive(FromRow)]
struct Raw {
    transaction_id: String,
    session_id: String,
    profile_id: String,
    chain_id: i64,
    sender: Vec<u8>,
    nonce: i64,
    payload: Vec<u8>,
    digest: Vec<u8>,
    state: String,
    raw: Option<Vec<u8>>,
    tx_hash: Option<Vec<u8>>,
    block_number: Option<i64>,
    broadcast_attempts: i64,
}

const TABLE: &str = "transactions";

impl TryFrom<Raw> for TransactionRow {
    type Error = StoreError;

    fn try_from(raw: Raw) -> Result<Self, StoreError> {
        let state = TransactionState::ALL
            .into_iter()
            .find(|state| state.as_str() == raw.state);
        let tx_hash = raw
            .tx_hash
            .map(|hash| readable(hash.try_into().ok(), TABLE, "tx_hash"))
            .transpose()?;
        let id = TransactionId::parse(&raw.transaction_id).ok();
        Ok(Self {
            transaction_id: readable(id, TABLE, "transaction_id")?,
            session_id: readable(SessionId::parse(&raw.session_id).ok(), TABLE, "session_id")?,
            profile_id: readable(ProfileId::parse(&raw.profile_id).ok(), TABLE, "profile_id")?,
            chain_id: readable(u64::try_from(raw.chain_id).ok(), TABLE, "chain_id")?,
            sender: readable(raw.sender.try_into().ok(), TABLE, "sender")?,
            nonce: readable(u64::try_from(raw.nonce).ok(), TABLE, "nonce")?,
            payload: raw.payload,
            digest: readable(raw.digest.try_into().ok(), TABLE, "digest")?,
            state: readable(state, TABLE, "state")?,
            raw: raw.raw,
            tx_hash,
            block_number: raw.block_number.and_then(|n| u64::try_from(n).ok()),
            broadcast_attempts: raw.broadcast_attempts,
        })
    }
}

macro_rules! select {
    ($condition:literal) => {
        concat!(
            "SELECT transaction_id, session_id, profile_id, chain_id, sender, nonce, payload, digest, \
             state, raw, tx_hash, block_number, broadcast_attempts FROM transactions WHERE ",
            $condition
        )
    };
}

/// The transaction of a signing session.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn of_session(
    reads: &mut impl Reads,
    session: SessionId,
) -> Result<Option<TransactionRow>, StoreError> {
    let raw: Option<Raw> = sqlx::query_as(select!("session_id = $1"))
        .bind(session.to_string())
        .fetch_optional(reads.connection())
        .await?;
    raw.map(TransactionRow::try_from).transpose()
}

/// Signed transactions whose next look at the chain is due.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn due(
    reads: &mut impl Reads,
    now: Timestamp,
) -> Result<Vec<TransactionRow>, StoreError> {
    let raws: Vec<Raw> = sqlx::query_as(select!(
        "state IN ('broadcasting', 'submitted') AND due_at <= $1 ORDER BY due_at LIMIT 100"
    ))
    .bind(now.as_micros())
    .fetch_all(reads.connection())
    .await?;
    raws.into_iter().map(TransactionRow::try_from).collect()
}

/// The nonces at or above `from` that living transactions of this address hold, in order.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn held_nonces(
    reads: &mut impl Reads,
    chain_id: u64,
    sender: &[u8; 20],
    from: u64,
) -> Result<Vec<u64>, StoreError> {
    let nonces: Vec<i64> = sqlx::query_scalar(
        "SELECT nonce FROM transactions WHERE chain_id = $1 AND sender = $2 AND nonce >= $3 \
         AND state <> 'released' ORDER BY nonce",
    )
    .bind(to_i64(chain_id))
    .bind(sender.as_slice())
    .bind(to_i64(from))
    .fetch_all(reads.connection())
    .await?;
    nonces
        .into_iter()
        .map(|nonce| readable(u64::try_from(nonce).ok(), TABLE, "nonce"))
        .collect()
}

/// The highest nonce of this address that a block has used, as far as we saw.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn highest_settled(
    reads: &mut impl Reads,
    chain_id: u64,
    sender: &[u8; 20],
) -> Result<Option<u64>, StoreError> {
    let nonce: Option<i64> = sqlx::query_scalar(
        "SELECT MAX(nonce) FROM transactions WHERE chain_id = $1 AND sender = $2 \
         AND state IN ('mined', 'reverted', 'replaced')",
    )
    .bind(to_i64(chain_id))
    .bind(sender.as_slice())
    .fetch_one(reads.connection())
    .await?;
    Ok(nonce.and_then(|nonce| u64::try_from(nonce).ok()))
}

/// Adds a prepared transaction: from here on its nonce is taken.
///
/// # Errors
/// [`StoreError`] when the database fails or the nonce is held already.
pub async fn insert(tx: &mut Tx<'_>, row: &TransactionRow) -> Result<(), StoreError> {
    let now = tx.now().as_micros();
    sqlx::query(
        "INSERT INTO transactions (transaction_id, session_id, profile_id, chain_id, sender, nonce, \
         payload, digest, state, due_at, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10, $10)",
    )
    .bind(row.transaction_id.to_string())
    .bind(row.session_id.to_string())
    .bind(row.profile_id.to_string())
    .bind(to_i64(row.chain_id))
    .bind(row.sender.as_slice())
    .bind(to_i64(row.nonce))
    .bind(row.payload.as_slice())
    .bind(row.digest.as_slice())
    .bind(row.state.as_str())
    .bind(now)
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// Gives the nonce of an unsigned transaction back.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn release(tx: &mut Tx<'_>, session: SessionId) -> Result<(), StoreError> {
    let now = tx.now().as_micros();
    sqlx::query(
        "UPDATE transactions SET state = 'released', updated_at = $2 \
         WHERE session_id = $1 AND state = 'prepared'",
    )
    .bind(session.to_string())
    .bind(now)
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// Takes a released nonce again for a new attempt; false if another transaction holds it now.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn reclaim(tx: &mut Tx<'_>, session: SessionId) -> Result<bool, StoreError> {
    let now = tx.now().as_micros();
    let done = sqlx::query(
        "UPDATE transactions SET state = 'prepared', updated_at = $2 \
         WHERE session_id = $1 AND state IN ('prepared', 'released') AND NOT EXISTS ( \
             SELECT 1 FROM transactions AS other WHERE other.chain_id = transactions.chain_id \
             AND other.sender = transactions.sender AND other.nonce = transactions.nonce \
             AND other.state <> 'released' AND other.session_id <> $1)",
    )
    .bind(session.to_string())
    .bind(now)
    .execute(tx.connection())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Stores the signed bytes, if the transaction still holds its nonce unsigned; false if not.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn set_signed(
    tx: &mut Tx<'_>,
    session: SessionId,
    raw: &[u8],
    tx_hash: &[u8; 32],
) -> Result<bool, StoreError> {
    let now = tx.now().as_micros();
    let done = sqlx::query(
        "UPDATE transactions SET state = 'broadcasting', raw = $2, tx_hash = $3, due_at = $4, \
         updated_at = $4 WHERE session_id = $1 AND state = 'prepared'",
    )
    .bind(session.to_string())
    .bind(raw)
    .bind(tx_hash.as_slice())
    .bind(now)
    .execute(tx.connection())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Puts the next look at the chain off.
pub(super) async fn postpone(
    connection: &mut SqliteConnection,
    id: TransactionId,
    until: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE transactions SET due_at = $2, broadcast_attempts = broadcast_attempts + 1 \
         WHERE transaction_id = $1",
    )
    .bind(id.to_string())
    .bind(until.as_micros())
    .execute(connection)
    .await?;
    Ok(())
}

/// What a look at the chain found.
pub struct Progress {
    /// The transaction.
    pub transaction_id: TransactionId,
    /// Where it stood before.
    pub from: TransactionState,
    /// Where it stands now.
    pub to: TransactionState,
    /// The block, once it is in one.
    pub block_number: Option<u64>,
    /// When to look again.
    pub due_at: Timestamp,
}

/// Records progress; false if the transaction has moved meanwhile.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn advance(tx: &mut Tx<'_>, progress: &Progress) -> Result<bool, StoreError> {
    let now = tx.now().as_micros();
    let done = sqlx::query(
        "UPDATE transactions SET state = $3, block_number = $4, due_at = $5, updated_at = $6, \
         broadcast_attempts = broadcast_attempts + 1 WHERE transaction_id = $1 AND state = $2",
    )
    .bind(progress.transaction_id.to_string())
    .bind(progress.from.as_str())
    .bind(progress.to.as_str())
    .bind(progress.block_number.map(to_i64))
    .bind(progress.due_at.as_micros())
    .bind(now)
    .execute(tx.connection())
    .await?;
    Ok(done.rows_affected() == 1)
}
