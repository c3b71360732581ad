//! Everything the rules may look at.

use std::collections::BTreeSet;

use countersign_mpc::lp::Lp;
use serde::{Deserialize, Serialize};

/// Everything the rules may look at, in one value: whoever has it can judge the same request again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// What is asked for.
    pub asked: Asked,
    /// Who asks.
    pub device: DeviceFacts,
    /// Of which wallet.
    pub profile: ProfileFacts,
    /// The kind of the environment.
    pub environment: String,
    /// When, in seconds since 1970.
    pub at: i64,
    /// Whether a second factor was given with the request.
    pub second_factor: bool,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Asked {
    /// Create a wallet.
    CreateProfile,
    /// Prepare a transaction for signing.
    PrepareTransaction(Box<TransactionFacts>),
    /// Begin another attempt to sign a prepared transaction.
    SignTransaction(Box<TransactionFacts>),
    /// Sign an EIP-712 message.
    SignTypedData(Box<TypedDataFacts>),
}

impl Asked {
    /// The name of the action, in rules and in decisions.
    #[must_use]
    pub const fn action(&self) -> &'static str {
        match self {
            Self::CreateProfile => "create-profile",
            Self::PrepareTransaction(_) => "prepare-transaction",
            Self::SignTransaction(_) => "sign-transaction",
            Self::SignTypedData(_) => "sign-typed-data",
        }
    }

    /// The chain it concerns, if it concerns one.
    #[must_use]
    pub const fn chain(&self) -> Option<&ChainFacts> {
        match self {
            Self::CreateProfile => None,
            Self::PrepareTransaction(transaction) | Self::SignTransaction(transaction) => {
                Some(&transaction.chain)
            }
            Self::SignTypedData(message) => Some(&message.chain),
        }
    }
}

/// The device that signed the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceFacts {
    /// The thumbprint of its key.
    pub id: String,
    /// The owner it speaks for.
    pub owner: String,
    /// The tenant of the gateway the request came through.
    pub tenant: String,
    /// The role of that gateway's certificate.
    pub client_role: String,
    /// Seconds since it was enrolled.
    pub age_seconds: i64,
}

/// The wallet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileFacts {
    /// Its id.
    pub id: String,
    /// Its owner.
    pub owner: String,
    /// Its tenant.
    pub tenant: String,
}

/// The chain a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainFacts {
    /// Its EIP-155 id.
    pub id: u64,
    /// Whether a node for it is configured.
    pub configured: bool,
    /// Whether this kind of environment may sign for it.
    pub fits_environment: bool,
}

/// What a transaction does, read from its content: the call itself and every call in it. What each field means is said
/// in `policies/schema.cedarschema`, by the same names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the schema says it, once")]
pub struct TransactionFacts {
    pub chain: ChainFacts,
    pub to: String,
    pub value_gwei: i64,
    pub inner_value_gwei: i64,
    pub kinds: BTreeSet<String>,
    pub contracts: BTreeSet<String>,
    pub selectors: BTreeSet<String>,
    pub tokens: BTreeSet<String>,
    pub recipients: BTreeSet<String>,
    pub spenders: BTreeSet<String>,
    pub sources: BTreeSet<String>,
    pub unlimited_approval: bool,
    pub delegatecall: bool,
    pub calls: i64,
}

/// What an EIP-712 message says, as `policies/schema.cedarschema` describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the schema says it, once")]
pub struct TypedDataFacts {
    pub chain: ChainFacts,
    pub domain_name: String,
    pub domain_version: String,
    pub verifying_contract: String,
    pub primary_type: String,
    pub fields: BTreeSet<String>,
    pub addresses: BTreeSet<String>,
    pub spenders: BTreeSet<String>,
    pub unlimited_approval: bool,
}

impl Facts {
    /// The facts as text: the same facts are the same text.
    #[must_use]
    pub fn to_text(&self) -> String {
        // Strings, numbers, lists and maps with text keys: there is nothing in it that could fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The facts that this text was made of.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn from_text(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// SHA-256 over the facts, for the decision record.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        Lp::new("facts/2").str(&self.to_text()).hash()
    }
}
