//! Transactions and the chains they go to.
//!
//! [`TransactionRequest`] (what a wallet asks) + [`Preparation`] (what a node says) -> [`FeePolicy`] -> [`Terms`] ->
//! [`Unsigned1559`] (the one place that computes the digest to sign) -> [`SignedTransaction`] -> [`Node::broadcast`].
//!
//! INVARIANT: everything but [`Node`] is pure. What a node says is never trusted with the chain id, the transaction
//! hash or an unbounded fee (`protocol.md` A29).

pub mod calls;
mod fees;
mod node;
mod refusal;
mod request;
mod transaction;
mod transport;
mod units;

pub use fees::{FeePolicy, FeeRefusal, Fees, Limit, Terms};
pub use node::{Broadcast, Node, NodeError, NodeLimits, Outcome, Preparation};
pub use refusal::Refusal;
pub use request::{Field, Problem, RequestError, RequestFields, TransactionRequest};
pub use transaction::{SignedTransaction, TransactionError, Unsigned1559, UnsignedFields};
pub use transport::{ClientError, InvalidNodeUrl, NodeUrl};

use std::collections::BTreeMap;

/// The chains this appliance is configured for, each with its node.
///
/// Every node checks by itself, before its first use, that it is on its configured chain.
#[derive(Debug)]
pub struct Chains {
    nodes: BTreeMap<u64, Node>,
}

impl Chains {
    /// One node for each `(chain id, URL)`. Makes no connection.
    ///
    /// # Errors
    /// A chain id that is zero or appears twice, or an HTTP client that cannot be made.
    pub fn new(configured: Vec<(u64, NodeUrl)>, limits: NodeLimits) -> Result<Self, ChainsError> {
        let mut nodes = BTreeMap::new();
        for (chain_id, url) in configured {
            if chain_id == 0 {
                return Err(ChainsError::ZeroChainId);
            }
            let node = Node::new(chain_id, url, limits)
                .map_err(|source| ChainsError::HttpClient { chain_id, source })?;
            if nodes.insert(chain_id, node).is_some() {
                return Err(ChainsError::DuplicateChain(chain_id));
            }
        }
        Ok(Self { nodes })
    }

    /// The node of this chain, or `None` if the chain is not configured.
    #[must_use]
    pub fn node(&self, chain_id: u64) -> Option<&Node> {
        self.nodes.get(&chain_id)
    }

    /// The configured chain ids, in ascending order.
    pub fn ids(&self) -> impl Iterator<Item = u64> {
        self.nodes.keys().copied()
    }
}

/// Why the configured chains cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ChainsError {
    /// A chain is configured as number zero.
    #[error("chain id 0 is configured: EIP-155 chain ids start at 1")]
    ZeroChainId,
    /// A chain is configured twice.
    #[error("chain {0} is configured twice")]
    DuplicateChain(u64),
    /// The HTTP client of a chain's node cannot be made.
    #[error("make the HTTP client for the node of chain {chain_id}")]
    HttpClient {
        /// The chain.
        chain_id: u64,
        /// Why.
        #[source]
        source: ClientError,
    },
}

#[cfg(test)]
mod node_tests;
#[cfg(test)]
mod xcheck_vectors;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn url(text: &str) -> NodeUrl {
        NodeUrl::parse(text).unwrap()
    }

    fn chains(configured: Vec<(u64, NodeUrl)>) -> Result<Chains, ChainsError> {
        node_tests::install_crypto_provider();
        Chains::new(configured, NodeLimits::default())
    }

    #[test]
    fn configured_chains_are_found_and_others_are_not() {
        let chains = chains(vec![
            (31_337, url("http://127.0.0.1:8545")),
            (1, url("https://node.example/secret-token")),
        ])
        .unwrap();
        assert_eq!(chains.ids().collect::<Vec<_>>(), [1, 31_337]);
        assert_eq!(chains.node(1).unwrap().chain_id(), 1);
        assert!(chains.node(2).is_none());
    }

    #[test]
    fn a_chain_configured_twice_or_as_zero_is_refused() {
        let same = vec![
            (1, url("http://127.0.0.1:1")),
            (1, url("http://127.0.0.1:2")),
        ];
        assert!(matches!(chains(same), Err(ChainsError::DuplicateChain(1))));
        assert!(matches!(
            chains(vec![(0, url("http://127.0.0.1:1"))]),
            Err(ChainsError::ZeroChainId)
        ));
    }

    #[test]
    fn a30_a_node_url_is_not_shown() {
        let chains = chains(vec![(1, url("https://user:pw@node.example/secret-token"))]).unwrap();
        let shown = format!("{chains:?}");
        for secret in ["user", "pw", "node.example", "secret-token"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}
