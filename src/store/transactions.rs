//! Transactions: what is to be signed, what was signed, and how it fares on its chain.

use super::engine::{Row, values};
use super::{Key, Reads, StoreError, Tx, Upkeep, spends, to_i64};
use crate::clock::Timestamp;
use crate::domain::{DecisionId, ProfileId, SessionId, TransactionId};

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
    /// Every state.
    pub const ALL: [Self; 7] = [
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

impl TransactionRow {
    fn read(row: Row) -> Result<Self, StoreError> {
        let mut row = row.of("transactions");
        let state = |name: &str| {
            let mut all = TransactionState::ALL.into_iter();
            all.find(|state| state.as_str() == name)
        };
        Ok(Self {
            transaction_id: row.parsed("transaction_id", TransactionId::parse)?,
            session_id: row.parsed("session_id", SessionId::parse)?,
            profile_id: row.parsed("profile_id", ProfileId::parse)?,
            chain_id: row.number("chain_id")?,
            sender: row.array("sender")?,
            nonce: row.number("nonce")?,
            payload: row.bytes("payload")?,
            digest: row.array("digest")?,
            state: row.named("state", state)?,
            raw: row.bytes_or_null("raw")?,
            tx_hash: row.array_or_null("tx_hash")?,
            block_number: row.number_or_null("block_number")?,
            broadcast_attempts: row.int("broadcast_attempts")?,
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
    let row = reads
        .query_one(select!("session_id = $1"), values![session.to_string()])
        .await?;
    row.map(TransactionRow::read).transpose()
}

/// The transaction that was prepared on the ground of a decision about a profile.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn of_decision(
    reads: &mut impl Reads,
    profile: ProfileId,
    decision: DecisionId,
) -> Result<Option<TransactionRow>, StoreError> {
    let row = reads
        .query_one(
            select!(
                "profile_id = $1 AND session_id IN \
                 (SELECT session_id FROM sessions WHERE profile_id = $1 AND decision_id = $2)"
            ),
            values![profile.to_string(), decision.to_string()],
        )
        .await?;
    row.map(TransactionRow::read).transpose()
}

/// Signed transactions whose next look at the chain is due.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn due(
    reads: &mut impl Reads,
    now: Timestamp,
) -> Result<Vec<TransactionRow>, StoreError> {
    let rows = reads
        .query(
            select!(
                "state IN ('broadcasting', 'submitted') AND due_at <= $1 ORDER BY due_at LIMIT 100"
            ),
            values![now.as_micros()],
        )
        .await?;
    rows.into_iter().map(TransactionRow::read).collect()
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
    let rows = reads
        .query(
            "SELECT nonce FROM transactions WHERE chain_id = $1 AND sender = $2 AND nonce >= $3 \
             AND state <> 'released' ORDER BY nonce",
            values![to_i64(chain_id), sender, to_i64(from)],
        )
        .await?;
    rows.into_iter()
        .map(|row| row.of("transactions").number("nonce"))
        .collect()
}

/// The living transactions of this address with a nonce below `before`, the highest first.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn below(
    reads: &mut impl Reads,
    chain_id: u64,
    sender: &[u8; 20],
    before: u64,
    limit: u32,
) -> Result<Vec<TransactionRow>, StoreError> {
    let rows = reads
        .query(
            select!(
                "chain_id = $1 AND sender = $2 AND nonce < $3 AND state <> 'released' \
                 ORDER BY nonce DESC LIMIT $4"
            ),
            values![to_i64(chain_id), sender, to_i64(before), i64::from(limit)],
        )
        .await?;
    rows.into_iter().map(TransactionRow::read).collect()
}

/// The highest nonce of this address that a block has used, as far as we saw. That it is not released is
/// said for SQLite, which does not see that the index of living transactions holds these.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn highest_settled(
    reads: &mut impl Reads,
    chain_id: u64,
    sender: &[u8; 20],
) -> Result<Option<u64>, StoreError> {
    let row = reads
        .query_one(
            "SELECT nonce FROM transactions WHERE chain_id = $1 AND sender = $2 AND state <> 'released' \
             AND state IN ('mined', 'reverted', 'replaced') ORDER BY nonce DESC LIMIT 1",
            values![to_i64(chain_id), sender],
        )
        .await?;
    row.map_or(Ok(None), |row| {
        row.of("transactions").number_or_null("nonce")
    })
}

/// Adds a prepared transaction: from here on its nonce is taken.
///
/// # Errors
/// [`StoreError`] when the database fails or the nonce is held already.
pub async fn insert(tx: &mut Tx<'_>, row: &TransactionRow) -> Result<(), StoreError> {
    let now = tx.now().as_micros();
    tx.execute("INSERT INTO transactions (transaction_id, session_id, profile_id, chain_id, sender, nonce, \
         payload, digest, state, due_at, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10, $10)", values![row.transaction_id.to_string(), row.session_id.to_string(), row.profile_id.to_string(), to_i64(row.chain_id), &row.sender, to_i64(row.nonce), row.payload.as_slice(), &row.digest, row.state.as_str(), now]).await?;
    Ok(())
}

/// Gives the nonce of an unsigned transaction back, and what it claimed of spending limits.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn release(tx: &mut Tx<'_>, session: SessionId) -> Result<(), StoreError> {
    let now = tx.now().as_micros();
    tx.execute(
        "UPDATE transactions SET state = 'released', updated_at = $2 \
         WHERE session_id = $1 AND state = 'prepared'",
        values![session.to_string(), now],
    )
    .await?;
    spends::release(tx, session).await
}

/// Takes a released nonce again for a new attempt; false if another transaction holds it now. What it may spend is to be
/// claimed again.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn reclaim(tx: &mut Tx<'_>, session: SessionId) -> Result<bool, StoreError> {
    let now = tx.now().as_micros();
    spends::release(tx, session).await?;
    tx.execute_one(
        "UPDATE transactions SET state = 'prepared', updated_at = $2 \
         WHERE session_id = $1 AND state IN ('prepared', 'released') AND NOT EXISTS ( \
             SELECT 1 FROM transactions AS other WHERE other.chain_id = transactions.chain_id \
             AND other.sender = transactions.sender AND other.nonce = transactions.nonce \
             AND other.state <> 'released' AND other.session_id <> $1)",
        values![session.to_string(), now],
    )
    .await
}

/// Stores the signed bytes, if the transaction still holds its nonce unsigned; false if not. From here on it has spent.
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
    let signed = tx
        .execute_one(
            "UPDATE transactions SET state = 'broadcasting', raw = $2, tx_hash = $3, due_at = $4, \
         updated_at = $4 WHERE session_id = $1 AND state = 'prepared'",
            values![session.to_string(), raw, tx_hash, now],
        )
        .await?;
    if signed {
        spends::commit(tx, session).await?;
    }
    Ok(signed)
}

/// Puts the next look at a transaction off.
pub(super) struct Postpone {
    pub(super) transaction: TransactionId,
    pub(super) until: Timestamp,
}

impl Upkeep for Postpone {
    type Output = ();

    fn key(&self) -> Key {
        Key::NONE
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        tx.execute(
            "UPDATE transactions SET due_at = $2, broadcast_attempts = broadcast_attempts + 1 \
             WHERE transaction_id = $1",
            values![self.transaction.to_string(), self.until.as_micros()],
        )
        .await?;
        Ok(())
    }
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
    tx.execute_one(
        "UPDATE transactions SET state = $3, block_number = $4, due_at = $5, updated_at = $6, \
         broadcast_attempts = broadcast_attempts + 1 WHERE transaction_id = $1 AND state = $2",
        values![
            progress.transaction_id.to_string(),
            progress.from.as_str(),
            progress.to.as_str(),
            progress.block_number.map(to_i64),
            progress.due_at.as_micros(),
            now
        ],
    )
    .await
}
