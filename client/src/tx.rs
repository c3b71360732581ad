//! What the user asked for against what the server wants signed.
//!
//! SECURITY: the digest that is signed is computed here, from the fields that were compared with the user's wish and shown
//! to the user. The server's `digest` and `raw` are only compared with ours, never used (A08).

use alloy_consensus::{SignableTransaction, TxEip1559};
use alloy_primitives::{Address, Bytes, TxKind, U256};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    api::{PrepareTransaction, Prepared, Quantity},
    units::{format_ether, format_gwei},
};

/// Most a transaction may cost in fees unless the user says otherwise: 0.05 ether, in wei.
pub const DEFAULT_FEE_CAP: U256 = U256::from_limbs([50_000_000_000_000_000, 0, 0, 0]);

/// A payment or call as the user asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Intent {
    /// Recipient.
    pub to: Address,
    /// Wei.
    pub value: U256,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Call data.
    pub data: Bytes,
    /// Gas limit, if the user insists on one.
    pub gas: Option<u64>,
    /// Wei per gas, if the user insists on it.
    pub max_fee_per_gas: Option<u128>,
    /// Wei per gas, if the user insists on it.
    pub max_priority_fee_per_gas: Option<u128>,
    /// Most the transaction may cost in fees, wei.
    pub fee_cap: U256,
}

/// Why an offered transaction is not signed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Mismatch {
    /// A field differs from what was asked.
    #[error("the server changed `{field}`: asked for {asked}, it wants to sign {offered}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// What the user asked for.
        asked: String,
        /// What the server offers.
        offered: String,
    },
    /// A field has an impossible value.
    #[error("the server's transaction has an impossible `{0}`")]
    Impossible(&'static str),
    /// The fees may exceed the cap.
    #[error("fees could reach {offered}, more than the limit of {cap} (see --max-fee)")]
    FeeTooHigh {
        /// Gas limit times maximum fee.
        offered: String,
        /// The cap.
        cap: String,
    },
    /// `raw` is not the encoding of the fields.
    #[error("the server's encoded transaction is not the one it describes")]
    Raw,
    /// `digest` is not the hash of the fields.
    #[error("the server's digest is not the hash of the transaction it describes")]
    Digest,
}

/// A transaction that is what the user asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    transaction: TxEip1559,
    digest: [u8; 32],
}

impl Intent {
    /// The request that asks the server for this transaction.
    #[must_use]
    pub fn request(&self, key_generation: u64) -> PrepareTransaction {
        PrepareTransaction {
            to: self.to,
            value: self.value.to_string(),
            chain_id: self.chain_id,
            data: self.data.clone(),
            gas: self.gas.map(|gas| format!("{gas:#x}")),
            max_fee_per_gas: self.max_fee_per_gas.map(|fee| format!("{fee:#x}")),
            max_priority_fee_per_gas: self.max_priority_fee_per_gas.map(|fee| format!("{fee:#x}")),
            key_generation,
            two_factor_code: None,
        }
    }

    /// Compares an offer with this intent and computes what would be signed.
    ///
    /// # Errors
    /// [`Mismatch`]: the first difference found. Nothing may be signed then.
    pub fn check(&self, offer: &Prepared) -> Result<Agreed, Mismatch> {
        let transaction = typed(offer)?;
        same("chain", &self.chain_id, &transaction.chain_id)?;
        same("to", &self.to, &offer.unsigned_tx.to)?;
        if self.value != transaction.value {
            return Err(field(
                "value",
                &format_ether(self.value),
                &format_ether(transaction.value),
            ));
        }
        same("data", &self.data, &transaction.input)?;
        same(
            "gas",
            &self.gas.unwrap_or(transaction.gas_limit),
            &transaction.gas_limit,
        )?;
        let fee = transaction.max_fee_per_gas;
        same("maxFeePerGas", &self.max_fee_per_gas.unwrap_or(fee), &fee)?;
        let tip = transaction.max_priority_fee_per_gas;
        same(
            "maxPriorityFeePerGas",
            &self.max_priority_fee_per_gas.unwrap_or(tip),
            &tip,
        )?;
        if tip > fee {
            return Err(Mismatch::Impossible("maxPriorityFeePerGas"));
        }
        let agreed = Agreed {
            digest: transaction.signature_hash().0,
            transaction,
        };
        if agreed.max_fee() > self.fee_cap {
            let (offered, cap) = (format_ether(agreed.max_fee()), format_ether(self.fee_cap));
            return Err(Mismatch::FeeTooHigh { offered, cap });
        }
        if offer.unsigned_tx.raw != agreed.transaction.encoded_for_signing() {
            return Err(Mismatch::Raw);
        }
        let digest = offer.digest.strip_prefix("0x").unwrap_or(&offer.digest);
        if !digest.eq_ignore_ascii_case(&hex::encode(agreed.digest)) {
            return Err(Mismatch::Digest);
        }
        Ok(agreed)
    }
}

impl Agreed {
    /// Hash that is signed: keccak-256 of `0x02 ‖ rlp(fields)`.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The transaction's fields.
    #[must_use]
    pub fn transaction(&self) -> &TxEip1559 {
        &self.transaction
    }

    /// Most the fees can cost, in wei.
    #[must_use]
    pub fn max_fee(&self) -> U256 {
        U256::from(self.transaction.gas_limit)
            .saturating_mul(U256::from(self.transaction.max_fee_per_gas))
    }

    /// Most the wallet can lose: value and fees, in wei.
    #[must_use]
    pub fn max_total(&self) -> U256 {
        self.transaction.value.saturating_add(self.max_fee())
    }

    /// What a person needs to see before agreeing, one fact per line.
    #[must_use]
    pub fn summary(&self, from: &str) -> Vec<(&'static str, String)> {
        let transaction = &self.transaction;
        let fee_per_gas = format_gwei(U256::from(transaction.max_fee_per_gas));
        let mut lines = vec![
            ("from", from.to_owned()),
            (
                "to",
                transaction
                    .to
                    .to()
                    .map(Address::to_string)
                    .unwrap_or_default(),
            ),
            ("amount", format_ether(transaction.value)),
            ("chain", transaction.chain_id.to_string()),
            ("nonce", transaction.nonce.to_string()),
            (
                "fee",
                format!(
                    "at most {} ({} gas at {fee_per_gas})",
                    format_ether(self.max_fee()),
                    transaction.gas_limit
                ),
            ),
            (
                "total",
                format!("at most {}", format_ether(self.max_total())),
            ),
            ("digest", format!("0x{}", hex::encode(self.digest))),
        ];
        if !transaction.input.is_empty() {
            let preview: String = hex::encode(&transaction.input).chars().take(64).collect();
            lines.insert(
                3,
                (
                    "data",
                    format!("{} bytes, 0x{preview}", transaction.input.len()),
                ),
            );
        }
        lines
    }
}

/// The offer's fields as a transaction.
fn typed(offer: &Prepared) -> Result<TxEip1559, Mismatch> {
    let offered = &offer.unsigned_tx;
    if offered.kind != Quantity(U256::from(2)) {
        return Err(field("type", &2, &offered.kind.0));
    }
    if !offered.access_list.is_empty() {
        return Err(field(
            "accessList",
            &"none",
            &format!("{} entries", offered.access_list.len()),
        ));
    }
    Ok(TxEip1559 {
        chain_id: narrow("chainId", offered.chain_id)?,
        nonce: narrow("nonce", offered.nonce)?,
        gas_limit: narrow("gas", offered.gas)?,
        max_fee_per_gas: narrow("maxFeePerGas", offered.max_fee_per_gas)?,
        max_priority_fee_per_gas: narrow("maxPriorityFeePerGas", offered.max_priority_fee_per_gas)?,
        to: TxKind::Call(offered.to),
        value: offered.value.0,
        access_list: alloy_eips::eip2930::AccessList::default(),
        input: offered.data.clone(),
    })
}

fn narrow<T: TryFrom<U256>>(name: &'static str, quantity: Quantity) -> Result<T, Mismatch> {
    T::try_from(quantity.0).map_err(|_| Mismatch::Impossible(name))
}

fn same<T: PartialEq + std::fmt::Debug>(
    name: &'static str,
    asked: &T,
    offered: &T,
) -> Result<(), Mismatch> {
    if asked == offered {
        Ok(())
    } else {
        Err(field(name, &format!("{asked:?}"), &format!("{offered:?}")))
    }
}

fn field(field: &'static str, asked: &dyn ToString, offered: &dyn ToString) -> Mismatch {
    Mismatch::Field {
        field,
        asked: asked.to_string(),
        offered: offered.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use serde_json::{Value, json};

    use super::*;

    const TO: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";

    fn intent() -> Intent {
        Intent {
            to: TO.parse().unwrap(),
            value: U256::from(10_000_000_000_000_000_u64),
            chain_id: 31337,
            data: Bytes::new(),
            gas: None,
            max_fee_per_gas: None,
            max_priority_fee_per_gas: None,
            fee_cap: DEFAULT_FEE_CAP,
        }
    }

    /// What an honest server answers to [`intent`].
    fn offer() -> Value {
        let transaction = TxEip1559 {
            chain_id: 31337,
            nonce: 7,
            gas_limit: 21_000,
            max_fee_per_gas: 2_000_000_000,
            max_priority_fee_per_gas: 1_000_000_000,
            to: TxKind::Call(TO.parse().unwrap()),
            value: U256::from(10_000_000_000_000_000_u64),
            access_list: alloy_eips::eip2930::AccessList::default(),
            input: Bytes::new(),
        };
        json!({
            "unsignedTx": {
                "type": "0x2", "chainId": 31337, "nonce": "0x7", "to": TO, "value": "10000000000000000", "data": "0x",
                "gas": "0x5208", "maxFeePerGas": "0x77359400", "maxPriorityFeePerGas": "0x3b9aca00", "accessList": [],
                "raw": format!("0x{}", hex::encode(transaction.encoded_for_signing())), "summary": "0.01 ETH",
            },
            "sessionId": "s", "digest": format!("0x{}", hex::encode(transaction.signature_hash())), "expiresAt": 1,
            "keyGeneration": 1, "attempt": 1, "serverNonce": "00", "policyDecisionId": "d",
        })
    }

    fn check(intent: &Intent, offer: Value) -> Result<Agreed, Mismatch> {
        intent.check(&serde_json::from_value(offer).unwrap())
    }

    #[test]
    fn an_honest_offer_is_agreed_and_its_digest_is_our_own() {
        let agreed = check(&intent(), offer()).unwrap();
        assert_eq!(agreed.max_fee(), U256::from(42_000_000_000_000_u64));
        assert_eq!(agreed.max_total(), U256::from(10_042_000_000_000_000_u64));
        assert_eq!(agreed.digest(), agreed.transaction().signature_hash().0);
        let summary = agreed.summary("0xfrom");
        assert!(summary.contains(&("amount", "0.01 ETH".to_owned())));
        assert!(summary.contains(&("total", "at most 0.010042 ETH".to_owned())));
    }

    #[test]
    fn a08_every_difference_is_refused_by_name() {
        let other = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC";
        for (name, value, named) in [
            ("type", json!("0x0"), "`type`"),
            ("chainId", json!(1), "`chain`"),
            ("chainId", json!("0xffffffffffffffffff"), "`chainId`"),
            ("to", json!(other), "`to`"),
            ("value", json!("10000000000000001"), "`value`"),
            ("data", json!("0xdeadbeef"), "`data`"),
            (
                "accessList",
                json!([{"address": other, "storageKeys": []}]),
                "`accessList`",
            ),
            ("gas", json!("0x10000000000000000"), "`gas`"),
            ("maxFeePerGas", json!("0x1"), "`maxPriorityFeePerGas`"),
            (
                "maxFeePerGas",
                json!("0x9184e72a000"),
                "fees could reach 0.21 ETH",
            ),
            ("nonce", json!("0x8"), "encoded transaction"),
            ("raw", json!("0x02c0"), "encoded transaction"),
        ] {
            let mut changed = offer();
            changed["unsignedTx"][name] = value.clone();
            let error = check(&intent(), changed).unwrap_err().to_string();
            assert!(error.contains(named), "{name}={value}: {error}");
        }
        let mut changed = offer();
        changed["digest"] = json!(format!("0x{}", "11".repeat(32)));
        assert_eq!(check(&intent(), changed), Err(Mismatch::Digest));
    }

    #[test]
    fn fees_the_user_insists_on_are_kept() {
        for insist in [
            Intent {
                gas: Some(30_000),
                ..intent()
            },
            Intent {
                max_fee_per_gas: Some(1),
                ..intent()
            },
            Intent {
                max_priority_fee_per_gas: Some(1),
                ..intent()
            },
        ] {
            assert!(matches!(
                check(&insist, offer()),
                Err(Mismatch::Field { .. })
            ));
        }
        let exact = Intent {
            gas: Some(21_000),
            max_fee_per_gas: Some(2_000_000_000),
            ..intent()
        };
        assert!(check(&exact, offer()).is_ok());
        let stingy = Intent {
            fee_cap: U256::from(41_999_999_999_999_u64),
            ..intent()
        };
        assert!(matches!(
            check(&stingy, offer()),
            Err(Mismatch::FeeTooHigh { .. })
        ));
    }
}
