//! From signed to settled: the same bytes are handed to the node until the chain has decided.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alloy_primitives::Address;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::chain::{Broadcast, Chains, Node, Outcome, Refusal};
use crate::clock;
use crate::domain::TransactionId;
use crate::store::transactions::{self, Progress, TransactionRow, TransactionState};
use crate::store::{AuditEvent, AuditRecord, CommitError, Key, Operation, Store, StoreError, Tx};
use crate::telemetry::metrics::{Broadcast as Label, Metrics};

/// How often due transactions are looked at.
const INTERVAL: Duration = Duration::from_millis(500);
/// Looks at the chain with a pause of one second before the pause grows.
const EAGER: i64 = 60;
/// The longest pause between two looks, in seconds.
const MAX_PAUSE: i64 = 30;
/// Looks in a row that must find a transaction replaced before that is believed: behind a load
/// balancer one lagging node can say so of a transaction that another has mined.
const REPLACED_AFTER: u8 = 5;

/// Watches transactions.
pub struct Settlement {
    store: Store,
    chains: Arc<Chains>,
    metrics: Arc<Metrics>,
    /// How often in a row each transaction was found replaced.
    replaced: Mutex<HashMap<TransactionId, u8>>,
}

impl Settlement {
    /// Settlement over its parts.
    #[must_use]
    pub fn new(store: Store, chains: Arc<Chains>, metrics: Arc<Metrics>) -> Self {
        Self {
            store,
            chains,
            metrics,
            replaced: Mutex::default(),
        }
    }

    /// Watches until told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            match self.due().await {
                Ok(rows) => {
                    self.look_at_all(rows, &stop).await;
                }
                Err(error) => error.log("due transactions could not be read"),
            }
            drop(tokio::time::timeout(INTERVAL, stop.cancelled()).await);
        }
    }

    /// Chains wait for their own node only, and no look begins once the watch is to stop.
    async fn look_at_all(self: &Arc<Self>, rows: Vec<TransactionRow>, stop: &CancellationToken) {
        let mut chains: BTreeMap<u64, Vec<TransactionRow>> = BTreeMap::new();
        for row in rows {
            chains.entry(row.chain_id).or_default().push(row);
        }
        let mut looks = JoinSet::new();
        for rows in chains.into_values() {
            let (this, stop) = (Arc::clone(self), stop.clone());
            looks.spawn(async move {
                for row in rows {
                    if stop.is_cancelled() {
                        return;
                    }
                    this.look_at(row).await;
                }
            });
        }
        while looks.join_next().await.is_some() {}
    }

    async fn due(&self) -> Result<Vec<TransactionRow>, StoreError> {
        let mut reader = self.store.reader().await?;
        transactions::due(&mut reader, clock::now()).await
    }

    /// Looks once after a transaction, a just signed one among them: hands it to its node or asks for its
    /// fate, and says what it found. `None` if that could not be recorded: the watch goes on with it.
    pub async fn look_at(&self, row: TransactionRow) -> Option<TransactionState> {
        // A chain that is no longer configured keeps its transactions; nothing is decided about them.
        let found = match self.chains.node(row.chain_id) {
            Some(node) => self.ask(node, &row).await,
            None => (row.state, None),
        };
        let (to, block_number) = found;
        let pause = if row.broadcast_attempts < EAGER {
            1
        } else {
            MAX_PAUSE
        };
        let due_at = clock::now().plus_seconds(pause);
        if to == row.state {
            if let Err(error) = self.store.postpone(row.transaction_id, due_at).await {
                error.log("the next look at a transaction could not be put off");
            }
            return Some(to);
        }
        let progress = Progress {
            transaction_id: row.transaction_id,
            from: row.state,
            to,
            block_number,
            due_at,
        };
        let advance = Advance { row, progress };
        match self.store.commit(advance).await {
            // Another look has recorded its finding meanwhile; this one is as true.
            Ok(_) | Err(CommitError::Refused(MovedOn)) => Some(to),
            Err(CommitError::Store(error)) => {
                error.log("the progress of a transaction could not be recorded");
                None
            }
        }
    }

    async fn ask(&self, node: &Node, row: &TransactionRow) -> (TransactionState, Option<u64>) {
        if row.state == TransactionState::Broadcasting
            && let Some(state) = self.send(node, row).await
        {
            return (state, None);
        }
        let Some(hash) = row.tx_hash else {
            return (row.state, None);
        };
        let sender = Address::from(row.sender);
        let outcome = node.transaction_outcome(hash, sender, row.nonce).await;
        let replaced = self.believe_replaced(row.transaction_id, outcome.as_ref().ok());
        match outcome {
            Ok(Outcome::Mined {
                block_number,
                success,
            }) => {
                self.metrics.broadcast(if success {
                    Label::Mined
                } else {
                    Label::Reverted
                });
                let state = if success {
                    TransactionState::Mined
                } else {
                    TransactionState::Reverted
                };
                (state, Some(block_number))
            }
            Ok(Outcome::ReplacedNonce) if replaced => {
                self.metrics.broadcast(Label::Replaced);
                (TransactionState::Replaced, None)
            }
            Ok(Outcome::Pending) => (TransactionState::Submitted, None),
            // The node forgot it, or says that its nonce is used: hand it over again.
            Ok(Outcome::NotFound | Outcome::ReplacedNonce) => {
                (TransactionState::Broadcasting, None)
            }
            Err(error) => {
                tracing::warn!(chain = row.chain_id, %error, "the fate of a transaction is unknown");
                (row.state, None)
            }
        }
    }

    /// Counts findings in a row; true once there are enough.
    fn believe_replaced(&self, id: TransactionId, outcome: Option<&Outcome>) -> bool {
        let mut counts = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(outcome, Some(Outcome::ReplacedNonce)) {
            counts.remove(&id);
            return false;
        }
        let count = counts.entry(id).or_default();
        *count = count.saturating_add(1);
        let enough = *count >= REPLACED_AFTER;
        if enough {
            counts.remove(&id);
        }
        enough
    }

    /// Hands the bytes over; the state they are in now, or `None` if the chain must be asked.
    async fn send(&self, node: &Node, row: &TransactionRow) -> Option<TransactionState> {
        let raw = row.raw.as_deref()?;
        match node.broadcast(raw).await {
            Broadcast::Accepted { hash_matches } => {
                if !hash_matches {
                    tracing::error!(
                        chain = row.chain_id,
                        "rpc_hash_mismatch: the node reports another hash than ours"
                    );
                }
                self.metrics.broadcast(Label::Submitted);
                Some(TransactionState::Submitted)
            }
            Broadcast::AlreadyKnown => Some(TransactionState::Submitted),
            // Its nonce is used: by itself, or by another. The chain knows.
            Broadcast::Rejected(Refusal::NonceTooLow) => None,
            Broadcast::Rejected(refusal) => {
                tracing::warn!(chain = row.chain_id, %refusal, "the node refuses a signed transaction; it will be offered again");
                self.metrics.broadcast(Label::Rejected);
                Some(TransactionState::Broadcasting)
            }
            Broadcast::Unknown(error) => {
                tracing::warn!(chain = row.chain_id, %error, "the node is away; the transaction will be offered again");
                self.metrics.broadcast(Label::Unavailable);
                Some(TransactionState::Broadcasting)
            }
        }
    }
}

/// Another look has recorded its progress meanwhile.
struct MovedOn;

/// Records what a look at the chain found.
struct Advance {
    row: TransactionRow,
    progress: Progress,
}

impl Operation for Advance {
    type Output = ();
    type Refusal = MovedOn;

    fn key(&self) -> Key {
        Key::profile(self.row.profile_id)
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<MovedOn>> {
        if !transactions::advance(tx, &self.progress).await? {
            return Err(CommitError::Refused(MovedOn));
        }
        let record = AuditRecord::done(AuditEvent::TransactionSettled)
            .profile(self.row.profile_id)
            .session(self.row.session_id)
            .detail(self.progress.to.as_str());
        Ok(((), record))
    }
}
