//! One chain's JSON-RPC node: what it is asked, and how far it is believed.
//!
//! SECURITY (`protocol.md` A28, A29): the chain id is configured and compared before first use; hashes are computed here;
//! answers are bounded in time and size; an unknown outcome of a broadcast is its own answer and never a failure. Errors
//! are closed classes without any text of the node or of its URL.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use alloy_json_rpc::{RpcError, RpcRecv, RpcSend};
use alloy_primitives::{Address, B256, U64, U128, U256, hex, keccak256};
use alloy_rpc_client::RpcClient;
use alloy_transport::{TransportError, TransportErrorKind};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::transport::BoundedHttp;
use super::{ClientError, NodeUrl, Refusal, TransactionRequest};

/// How long and how much a node may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeLimits {
    /// For each request, from connecting to the last byte of the answer.
    pub deadline: Duration,
    /// The longest answer that is read, in bytes.
    pub max_body: usize,
}

impl Default for NodeLimits {
    /// 5 seconds and 1 MiB.
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(5),
            max_body: 1024 * 1024,
        }
    }
}

/// The node of one chain.
pub struct Node {
    chain_id: u64,
    rpc: RpcClient,
    verified: OnceCell<()>,
    /// Some nodes take one question at a time only.
    takes_batches: AtomicBool,
}

/// What a node says before a transaction is built. None of it is trusted: see [`super::FeePolicy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preparation {
    /// The wallet's next nonce, counting transactions that wait.
    pub nonce: u64,
    /// The base fee of the next block, in wei for each unit of gas.
    pub base_fee: u128,
    /// The priority fee that the node suggests, in wei for each unit of gas.
    pub priority_fee: u128,
    /// The wallet's own gas limit, else the node's estimate, in gas units.
    pub gas: u64,
    /// What the wallet holds after the transactions that wait, in wei.
    pub balance: U256,
}

/// What came of sending a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Broadcast {
    /// The node took it.
    Accepted {
        /// Whether the node names the hash that we computed. If not, ours is right and the node is to be distrusted.
        hash_matches: bool,
    },
    /// The node has it already.
    AlreadyKnown,
    /// The node does not want it. That is this node's word: only the chain says that it is never mined. In particular
    /// [`Refusal::NonceTooLow`] may mean that it is mined already: see [`Node::transaction_outcome`].
    Rejected(Refusal),
    /// Whether the node has it is unknown: send the same bytes again later.
    Unknown(NodeError),
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It waits.
    Pending,
    /// It is in a block.
    Mined {
        /// The block's number.
        block_number: u64,
        /// Whether the call succeeded; the nonce and the fee are used either way.
        success: bool,
    },
    /// The node does not know it, and its nonce is not used: send it again.
    NotFound,
    /// The node does not know it, and another transaction used its nonce.
    ReplacedNonce,
}

const NONCE: &str = "eth_getTransactionCount";
const FEES: &str = "eth_feeHistory";
const TIP: &str = "eth_maxPriorityFeePerGas";
const GAS: &str = "eth_estimateGas";
const BALANCE: &str = "eth_getBalance";
/// The history of one block, which ends with the base fee of the next.
const NEXT_BLOCK: (&str, &str, [(); 0]) = ("0x1", "latest", []);

/// Without fees: whether the wallet can pay them is for [`super::FeePolicy`], which knows the exact numbers.
fn call(from: Address, request: &TransactionRequest) -> [Value; 1] {
    [json!({
        "from": from,
        "to": request.to,
        "value": request.value,
        "data": request.data,
    })]
}

fn next_base_fee(history: &FeeHistory) -> Result<u128, NodeError> {
    let next = history.base_fee_per_gas.last();
    next.map(|fee| fee.to()).ok_or(NodeError::NoBaseFee)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FeeHistory {
    base_fee_per_gas: Vec<U128>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Receipt {
    transaction_hash: B256,
    block_number: Option<U64>,
    status: Option<U64>,
}

#[derive(Debug, Deserialize)]
struct Known {
    hash: B256,
}

impl Node {
    /// The node of `chain_id` behind `url`. Makes no connection.
    ///
    /// # Errors
    /// An HTTP client that cannot be made; above all, a process without a TLS crypto provider.
    pub fn new(chain_id: u64, url: NodeUrl, limits: NodeLimits) -> Result<Self, ClientError> {
        let transport = BoundedHttp::new(url, limits.deadline, limits.max_body)?;
        Ok(Self {
            chain_id,
            rpc: RpcClient::new(transport, false),
            verified: OnceCell::new(),
            takes_batches: AtomicBool::new(true),
        })
    }

    /// The configured chain id.
    #[must_use]
    pub const fn chain_id(&self) -> u64 {
        self.chain_id
    }

    /// Compares the node's chain id with the configured one; asks until they have matched once. Every other call does
    /// this first.
    ///
    /// # Errors
    /// [`NodeError::ChainIdMismatch`], or the node cannot be asked.
    pub async fn verify_chain_id(&self) -> Result<(), NodeError> {
        self.verified
            .get_or_try_init(|| async {
                let reported: U64 = self.ask("eth_chainId", ()).await?;
                let (expected, reported) = (self.chain_id, reported.to());
                if reported == expected {
                    Ok(())
                } else {
                    Err(NodeError::ChainIdMismatch { expected, reported })
                }
            })
            .await
            .copied()
    }

    /// Asks what is needed to build `request` for the wallet `address`.
    ///
    /// # Errors
    /// [`NodeError::Refused`] if the node says that the call cannot work; else the node cannot be asked.
    pub async fn prepare(
        &self,
        address: Address,
        request: &TransactionRequest,
    ) -> Result<Preparation, NodeError> {
        self.verify_chain_id().await?;
        if self.takes_batches.load(Ordering::Relaxed) {
            match self.prepare_at_once(address, request).await {
                // So answers, among others, a node that knows no batches.
                Err(NodeError::Malformed | NodeError::Status(_)) => {}
                answer => return answer,
            }
        }
        let preparation = self.prepare_in_turn(address, request).await?;
        self.takes_batches.store(false, Ordering::Relaxed);
        Ok(preparation)
    }

    /// All questions in one JSON-RPC batch (JSON-RPC 2.0, section 6): one exchange instead of five.
    async fn prepare_at_once(
        &self,
        address: Address,
        request: &TransactionRequest,
    ) -> Result<Preparation, NodeError> {
        let failed = |error| NodeError::from_rpc(&error);
        let mut batch = self.rpc.new_batch();
        let pending = &(address, "pending");
        let nonce = batch.add_call::<_, U64>(NONCE, pending).map_err(failed)?;
        let history = batch.add_call(FEES, &NEXT_BLOCK).map_err(failed)?;
        let tip = batch.add_call::<_, U128>(TIP, &()).map_err(failed)?;
        let balance = batch.add_call(BALANCE, pending).map_err(failed)?;
        let gas = match request.gas {
            Some(_) => None,
            None => Some(
                batch
                    .add_call::<_, U64>(GAS, &call(address, request))
                    .map_err(failed)?,
            ),
        };
        batch.send().await.map_err(failed)?;
        let (nonce, history, tip, balance) =
            tokio::try_join!(nonce, history, tip, balance).map_err(failed)?;
        let estimate = match gas {
            Some(gas) => Some(gas.await.map_err(failed)?.to()),
            None => None,
        };
        Ok(Preparation {
            nonce: nonce.to(),
            base_fee: next_base_fee(&history)?,
            priority_fee: tip.to(),
            gas: request.gas.or(estimate).ok_or(NodeError::Malformed)?,
            balance,
        })
    }

    async fn prepare_in_turn(
        &self,
        address: Address,
        request: &TransactionRequest,
    ) -> Result<Preparation, NodeError> {
        let (nonce, history, tip, gas, balance) = tokio::try_join!(
            self.ask::<_, U64>(NONCE, (address, "pending")),
            self.ask(FEES, NEXT_BLOCK),
            self.ask::<_, U128>(TIP, ()),
            self.gas(address, request),
            self.ask(BALANCE, (address, "pending")),
        )?;
        Ok(Preparation {
            nonce: nonce.to(),
            base_fee: next_base_fee(&history)?,
            priority_fee: tip.to(),
            gas,
            balance,
        })
    }

    async fn gas(&self, from: Address, request: &TransactionRequest) -> Result<u64, NodeError> {
        if let Some(gas) = request.gas {
            return Ok(gas);
        }
        let gas: U64 = self.ask(GAS, call(from, request)).await?;
        Ok(gas.to())
    }

    /// Sends a signed transaction. Sending the same bytes again is harmless.
    pub async fn broadcast(&self, raw: &[u8]) -> Broadcast {
        let sent = async {
            self.verify_chain_id().await?;
            self.ask::<_, B256>("eth_sendRawTransaction", [hex::encode_prefixed(raw)])
                .await
        };
        match sent.await {
            Ok(hash) => Broadcast::Accepted {
                hash_matches: hash == keccak256(raw),
            },
            Err(NodeError::Refused {
                refusal: Refusal::AlreadyKnown,
                ..
            }) => Broadcast::AlreadyKnown,
            // hardhat mines a call that fails and then answers with its failure.
            Err(
                error @ NodeError::Refused {
                    refusal: Refusal::Busy | Refusal::Reverted,
                    ..
                },
            ) => Broadcast::Unknown(error),
            Err(NodeError::Refused { refusal, .. }) => Broadcast::Rejected(refusal),
            Err(error) => Broadcast::Unknown(error),
        }
    }

    /// Asks what became of the transaction `hash` that used `nonce` of the wallet `sender`.
    ///
    /// [`Outcome::ReplacedNonce`] and [`Outcome::NotFound`] may be passing errors where several nodes share one URL: act
    /// on them only when they persist.
    ///
    /// # Errors
    /// The node cannot be asked, or contradicts itself.
    pub async fn transaction_outcome(
        &self,
        hash: [u8; 32],
        sender: Address,
        nonce: u64,
    ) -> Result<Outcome, NodeError> {
        self.verify_chain_id().await?;
        let hash = B256::from(hash);
        if let Some(outcome) = self.receipt(hash).await? {
            return Ok(outcome);
        }
        let known: Option<Known> = self.ask("eth_getTransactionByHash", [hash]).await?;
        match known {
            Some(known) if known.hash != hash => return Err(NodeError::Malformed),
            Some(_) => return Ok(Outcome::Pending),
            None => {}
        }
        let used: U64 = self
            .ask("eth_getTransactionCount", (sender, "latest"))
            .await?;
        if used.to::<u64>() <= nonce {
            return Ok(Outcome::NotFound);
        }
        // It may have been mined since the first question.
        Ok(self.receipt(hash).await?.unwrap_or(Outcome::ReplacedNonce))
    }

    async fn receipt(&self, hash: B256) -> Result<Option<Outcome>, NodeError> {
        let receipt: Option<Receipt> = self.ask("eth_getTransactionReceipt", [hash]).await?;
        let Some(receipt) = receipt else {
            return Ok(None);
        };
        if receipt.transaction_hash != hash {
            return Err(NodeError::Malformed);
        }
        match (
            receipt.block_number,
            receipt.status.map(|status| status.to()),
        ) {
            (None, _) => Ok(Some(Outcome::Pending)),
            (Some(block), Some(status @ 0..=1_u64)) => Ok(Some(Outcome::Mined {
                block_number: block.to(),
                success: status == 1,
            })),
            _ => Err(NodeError::Malformed),
        }
    }

    pub(super) async fn ask<P: RpcSend + 'static, R: RpcRecv>(
        &self,
        method: &'static str,
        params: P,
    ) -> Result<R, NodeError> {
        self.rpc
            .request(method, params)
            .await
            .map_err(|error| NodeError::from_rpc(&error))
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("chain_id", &self.chain_id)
            .finish_non_exhaustive()
    }
}

/// Why a node gave no answer that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The node is on another chain than configured.
    #[error("the node is on chain {reported}, configured is chain {expected}")]
    ChainIdMismatch {
        /// The configured chain id.
        expected: u64,
        /// The node's chain id.
        reported: u64,
    },
    /// No connection, or it broke.
    #[error("the node cannot be reached")]
    Unreachable,
    /// No complete answer before the deadline.
    #[error("the node did not answer in time")]
    Timeout,
    /// The answer is longer than the limit.
    #[error("the node's answer is longer than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The node sends us elsewhere, where we do not go.
    #[error("the node redirects to another URL")]
    Redirected,
    /// An HTTP error without a JSON-RPC answer.
    #[error("the node answers with HTTP status {0}")]
    Status(u16),
    /// The answer is no JSON-RPC, or not what was asked for.
    #[error("the node's answer makes no sense")]
    Malformed,
    /// The chain has no base fee: it does not know EIP-1559.
    #[error("the chain does not support EIP-1559 transactions")]
    NoBaseFee,
    /// The node answers with a JSON-RPC error.
    #[error("the node refuses: {refusal} (code {code})")]
    Refused {
        /// What it means.
        refusal: Refusal,
        /// The node's own code.
        code: i64,
    },
}

impl NodeError {
    /// Whether the wallet's request is the reason, and not the node: asking again with the same request is useless.
    #[must_use]
    pub const fn is_about_request(self) -> bool {
        matches!(
            self,
            Self::Refused {
                refusal: Refusal::InsufficientFunds | Refusal::Reverted | Refusal::GasLimit,
                ..
            }
        )
    }

    fn from_rpc(error: &TransportError) -> Self {
        match error {
            RpcError::ErrorResp(payload) => Self::Refused {
                refusal: Refusal::of(&payload.message),
                code: payload.code,
            },
            RpcError::Transport(TransportErrorKind::Custom(error)) => error
                .downcast_ref::<Self>()
                .copied()
                .unwrap_or(Self::Malformed),
            _ => Self::Malformed,
        }
    }
}
