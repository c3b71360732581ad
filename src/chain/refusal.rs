//! What a node means when it refuses: its words differ from node to node, and so do its codes.

use std::fmt;

/// The meaning of a JSON-RPC error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The node has this very transaction already.
    AlreadyKnown,
    /// Another transaction with this nonce, or this one, is mined.
    NonceTooLow,
    /// A transaction with a lower nonce is missing.
    NonceTooHigh,
    /// Another transaction with this nonce waits, and this one does not pay enough more.
    ReplacementUnderpriced,
    /// The fee is below what the node or the next block asks for.
    FeeTooLow,
    /// The wallet does not hold amount and fee.
    InsufficientFunds,
    /// The transaction is for another chain.
    WrongChain,
    /// The node finds the signature invalid.
    InvalidSignature,
    /// The gas limit is too low for the transaction or too high for a block.
    GasLimit,
    /// The call would fail.
    Reverted,
    /// The node cannot answer now; nothing is known about the transaction.
    Busy,
    /// Anything else.
    Other,
}

/// Words by which nodes are known to say something, in lower case and without anything but letters and digits.
///
/// The order decides where a message says two things. Sources: geth `core/error.go` and `core/txpool/errors.go`,
/// anvil `crates/anvil/src/eth/error.rs`, hardhat and ganache as observed, Nethermind `AcceptTxResult.cs`, Besu
/// `TransactionInvalidReason`, Erigon `txpoolcfg.go`.
const WORDS: &[(Refusal, &[&str])] = &[
    (
        Refusal::AlreadyKnown,
        &[
            "alreadyknown",
            "alreadyimported",
            "alreadyexists",
            "alreadyinmempool",
            "alreadyinthemempool",
            "alreadyinthepool",
        ],
    ),
    (
        Refusal::ReplacementUnderpriced,
        &[
            "replacementtransactionunderpriced",
            "replacementnotallowed",
            "replacementunderpriced",
            "couldnotreplace",
        ],
    ),
    (
        Refusal::NonceTooLow,
        &["noncetoolow", "nonceistoolow", "oldnonce"],
    ),
    (
        Refusal::NonceTooHigh,
        &["noncetoohigh", "nonceistoohigh", "noncegap", "toodistant"],
    ),
    (
        Refusal::InsufficientFunds,
        &[
            "insufficientfunds",
            "insufficientbalance",
            "doesnthaveenoughfunds",
            "upfrontcostexceeds",
            "exceedsaccountbalance",
        ],
    ),
    (
        Refusal::WrongChain,
        &[
            "invalidchainid",
            "wrongchainid",
            "chainidmismatch",
            "incompatibleeip155",
            "signedforanotherchain",
            "invalidsigner",
        ],
    ),
    (
        Refusal::FeeTooLow,
        &[
            "underpriced",
            "lessthanblockbasefee",
            "feetoolow",
            "gaspricetoolow",
            "belowminimum",
            "belowbasefee",
            "istoolowforthenextblock",
        ],
    ),
    (
        Refusal::GasLimit,
        &[
            "intrinsicgas",
            "exceedsblockgaslimit",
            "exceedstransactiongaslimit",
            "exceedsallowance",
            "gaslimittoohigh",
            "gaslimitexceeded",
            "outofgas",
        ],
    ),
    (
        Refusal::InvalidSignature,
        &["invalidsignature", "invalidsender", "invalidtransactionvrs"],
    ),
    (Refusal::Reverted, &["revert"]),
    (
        Refusal::Busy,
        &[
            "ratelimit",
            "limitexceeded",
            "toomanyrequests",
            "timeout",
            "timedout",
            "tryagain",
            "unavailable",
            "overload",
            "busy",
            "internalerror",
            "notsynced",
            "syncing",
            "headernotfound",
        ],
    ),
];

impl Refusal {
    /// The meaning of a node's error message. Codes are not looked at: they differ per node for the same thing.
    pub(super) fn of(message: &str) -> Self {
        let words: String = message
            .chars()
            .take(500)
            .filter(char::is_ascii_alphanumeric)
            .map(|letter| letter.to_ascii_lowercase())
            .collect();
        // At the beginning only, because of "unknown transaction type".
        if words.starts_with("knowntransaction") {
            return Self::AlreadyKnown;
        }
        WORDS
            .iter()
            .find(|(_, known)| known.iter().any(|known| words.contains(known)))
            .map_or(Self::Other, |(refusal, _)| *refusal)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AlreadyKnown => "the transaction is already known",
            Self::NonceTooLow => "the nonce is used already",
            Self::NonceTooHigh => "a transaction with a lower nonce is missing",
            Self::ReplacementUnderpriced => "another transaction with this nonce pays as much",
            Self::FeeTooLow => "the fee is too low",
            Self::InsufficientFunds => "the wallet does not hold amount and fee",
            Self::WrongChain => "the transaction is for another chain",
            Self::InvalidSignature => "the signature is invalid",
            Self::GasLimit => "the gas limit is too low or too high",
            Self::Reverted => "the call would fail",
            Self::Busy => "the node cannot answer now",
            Self::Other => "the node gives another reason",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn understood(messages: &[(&str, Refusal)]) {
        for (message, meaning) in messages {
            assert_eq!(Refusal::of(message), *meaning, "{message}");
        }
    }

    #[test]
    fn the_words_of_geth_and_anvil_are_understood() {
        understood(&[
            // geth
            ("already known", Refusal::AlreadyKnown),
            (
                "nonce too low: next nonce 5, tx nonce 4",
                Refusal::NonceTooLow,
            ),
            (
                "replacement transaction underpriced",
                Refusal::ReplacementUnderpriced,
            ),
            (
                "transaction underpriced: gas tip cap 0, minimum needed 1",
                Refusal::FeeTooLow,
            ),
            (
                "insufficient funds for gas * price + value: balance 0, tx cost 1, overshot 1",
                Refusal::InsufficientFunds,
            ),
            ("invalid sender", Refusal::InvalidSignature),
            (
                "intrinsic gas too low: gas 20000, minimum needed 21000",
                Refusal::GasLimit,
            ),
            ("gas required exceeds allowance (0)", Refusal::GasLimit),
            (
                "execution reverted: ERC20: transfer amount exceeds balance",
                Refusal::Reverted,
            ),
            (
                "invalid chain id for signer: have 1 want 2",
                Refusal::WrongChain,
            ),
            // anvil
            ("transaction already imported", Refusal::AlreadyKnown),
            ("nonce too low", Refusal::NonceTooLow),
            (
                "Insufficient funds for gas * price + value",
                Refusal::InsufficientFunds,
            ),
            (
                "max fee per gas less than block base fee",
                Refusal::FeeTooLow,
            ),
            ("invalid chain id for signer", Refusal::WrongChain),
        ]);
    }

    #[test]
    fn the_words_of_other_nodes_are_understood() {
        understood(&[
            // hardhat
            ("Known transaction: 0xabcd", Refusal::AlreadyKnown),
            (
                "Nonce too low. Expected nonce to be 1 but got 0.",
                Refusal::NonceTooLow,
            ),
            (
                "Nonce too high. Expected nonce to be 0 but got 7. Note that transactions can't be queued when automining.",
                Refusal::NonceTooHigh,
            ),
            (
                "Replacement transaction underpriced. A gasPrice/maxFeePerGas of at least 2 is necessary to replace \
                 the existing transaction with nonce 0.",
                Refusal::ReplacementUnderpriced,
            ),
            (
                "Sender doesn't have enough funds to send tx. The max upfront cost is: 2 and the sender's balance is: 1.",
                Refusal::InsufficientFunds,
            ),
            (
                "Trying to send an incompatible EIP-155 transaction, signed for another chain.",
                Refusal::WrongChain,
            ),
            ("Invalid Signature", Refusal::InvalidSignature),
            (
                "Transaction maxFeePerGas (0) is too low for the next block, which has a baseFeePerGas of 875000000",
                Refusal::FeeTooLow,
            ),
            (
                "Transaction gas limit is 31000000 and exceeds block gas limit of 30000000",
                Refusal::GasLimit,
            ),
            (
                "Error: Transaction reverted without a reason string",
                Refusal::Reverted,
            ),
            // Nethermind
            ("AlreadyKnown", Refusal::AlreadyKnown),
            (
                "OldNonce, Current nonce: 5, nonce of rejected tx: 4",
                Refusal::NonceTooLow,
            ),
            (
                "InsufficientFunds, Account balance: 0",
                Refusal::InsufficientFunds,
            ),
            // Besu
            (
                "Upfront cost exceeds account balance",
                Refusal::InsufficientFunds,
            ),
            // providers
            (
                "daily request count exceeded, request rate limited",
                Refusal::Busy,
            ),
            ("request timed out", Refusal::Busy),
        ]);
    }

    #[test]
    fn what_is_not_understood_is_not_guessed() {
        for message in [
            "",
            "unknown transaction type",
            "method not found",
            "0x",
            "🦀",
        ] {
            assert_eq!(Refusal::of(message), Refusal::Other, "{message}");
        }
    }
}
