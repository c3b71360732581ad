//! The EIP-1559 transaction we build, and the signed one that comes of it.
//!
//! SECURITY: the digest to sign is computed here, from the fields, and nowhere else; no caller can hand one in
//! (`protocol.md` A08). Bytes that come back from the database are read canonically or not at all.

use alloy_consensus::transaction::{RlpEcdsaDecodableTx, RlpEcdsaEncodableTx};
use alloy_consensus::{SignableTransaction, TxEip1559};
use alloy_primitives::{Address, B256, Signature, TxKind, U256, hex, keccak256};
use serde::Serialize;

use super::request::{MAX_DATA, MIN_GAS};
use super::units::ether;
use super::{Fees, Terms, TransactionRequest};

/// The first byte of the signing payload and of the signed transaction: the EIP-2718 type of EIP-1559.
const TYPE: u8 = 0x02;

/// Room for every field beside the call data: more than RLP can need.
const MAX_PAYLOAD: usize = MAX_DATA + 512;

/// The order of secp256k1 (SEC 2, 2.4.1).
const ORDER: [u8; 32] = hex!("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141");

/// Half of [`ORDER`], rounded down: the largest `s` that EIP-2 allows.
const HALF_ORDER: [u8; 32] =
    hex!("7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0");

/// An EIP-1559 transaction without its signature.
///
/// INVARIANT: it calls an address, has no access list, pays no more priority fee than fee in total, and its greatest
/// possible cost is a 256-bit number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsigned1559 {
    transaction: TxEip1559,
    to: Address,
    max_cost: U256,
}

impl Unsigned1559 {
    /// The transaction that was asked for, with this nonce and these terms.
    ///
    /// # Errors
    /// [`TransactionError`] if the parts make no transaction that can ever be mined.
    pub fn new(
        request: &TransactionRequest,
        nonce: u64,
        terms: Terms,
    ) -> Result<Self, TransactionError> {
        Self::checked(TxEip1559 {
            chain_id: request.chain_id,
            nonce,
            gas_limit: terms.gas,
            max_fee_per_gas: terms.fees.max_fee_per_gas,
            max_priority_fee_per_gas: terms.fees.max_priority_fee_per_gas,
            to: TxKind::Call(request.to),
            value: request.value,
            access_list: Vec::new().into(),
            input: request.data.clone(),
        })
    }

    /// The transaction with this signing payload (`0x02 ‖ rlp`), as [`Self::payload`] wrote it.
    ///
    /// # Errors
    /// [`TransactionError`] for any other bytes, also for a second spelling of the same transaction.
    pub fn from_payload(payload: &[u8]) -> Result<Self, TransactionError> {
        let Some((&TYPE, mut rlp)) = payload.split_first() else {
            return Err(TransactionError::NotEip1559);
        };
        if payload.len() > MAX_PAYLOAD {
            return Err(TransactionError::TooLong);
        }
        let transaction =
            TxEip1559::rlp_decode(&mut rlp).map_err(|_| TransactionError::NotEip1559)?;
        if transaction.encoded_for_signing() != payload {
            return Err(TransactionError::NotCanonical);
        }
        Self::checked(transaction)
    }

    fn checked(transaction: TxEip1559) -> Result<Self, TransactionError> {
        let TxKind::Call(to) = transaction.to else {
            return Err(TransactionError::ContractCreation);
        };
        if transaction.chain_id == 0 {
            return Err(TransactionError::NoChain);
        }
        if transaction.input.len() > MAX_DATA {
            return Err(TransactionError::TooLong);
        }
        if !transaction.access_list.is_empty() {
            return Err(TransactionError::AccessList);
        }
        if transaction.nonce == u64::MAX {
            return Err(TransactionError::NonceTooHigh);
        }
        if transaction.gas_limit < MIN_GAS {
            return Err(TransactionError::GasTooLow);
        }
        if transaction.max_priority_fee_per_gas > transaction.max_fee_per_gas {
            return Err(TransactionError::PriorityFeeAboveMaxFee);
        }
        // 64 bits of gas times 128 bits of fee fit in 192 bits: only the sum can overflow.
        let max_cost = max_fee(&transaction)
            .checked_add(transaction.value)
            .ok_or(TransactionError::CostOverflow)?;
        Ok(Self {
            transaction,
            to,
            max_cost,
        })
    }

    /// What is signed: keccak-256 of [`Self::payload`].
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.transaction.signature_hash().0
    }

    /// The EIP-2718 signing payload: `0x02 ‖ rlp([chain id, nonce, …, access list])`.
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        self.transaction.encoded_for_signing()
    }

    /// The chain it is for.
    #[must_use]
    pub const fn chain_id(&self) -> u64 {
        self.transaction.chain_id
    }

    /// Its nonce.
    #[must_use]
    pub const fn nonce(&self) -> u64 {
        self.transaction.nonce
    }

    /// The recipient.
    #[must_use]
    pub const fn to(&self) -> Address {
        self.to
    }

    /// The amount, in wei.
    #[must_use]
    pub const fn value(&self) -> U256 {
        self.transaction.value
    }

    /// The call data.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.transaction.input
    }

    /// The fees and the gas limit.
    #[must_use]
    pub const fn terms(&self) -> Terms {
        Terms {
            fees: Fees {
                max_fee_per_gas: self.transaction.max_fee_per_gas,
                max_priority_fee_per_gas: self.transaction.max_priority_fee_per_gas,
            },
            gas: self.transaction.gas_limit,
        }
    }

    /// The most that can leave the wallet: amount plus gas limit times `maxFeePerGas`, in wei.
    #[must_use]
    pub const fn max_cost(&self) -> U256 {
        self.max_cost
    }

    /// What this transaction does, for a human. Amounts are exact.
    #[must_use]
    pub fn summary(&self) -> String {
        let Self {
            transaction, to, ..
        } = self;
        let action = if transaction.input.is_empty() {
            format!("Send {} to {to}", ether(transaction.value))
        } else {
            format!(
                "Call {to} with {} bytes of data and {}",
                transaction.input.len(),
                ether(transaction.value)
            )
        };
        format!(
            "{action} on chain {}, fee at most {}",
            transaction.chain_id,
            ether(max_fee(transaction))
        )
    }

    /// The `unsignedTx` object of the API (`protocol.md` 2.10).
    #[must_use]
    pub fn fields(&self) -> UnsignedFields {
        let transaction = &self.transaction;
        UnsignedFields {
            kind: "0x2",
            chain_id: transaction.chain_id,
            nonce: format!("{:#x}", transaction.nonce),
            to: self.to.to_checksum(None),
            value: transaction.value.to_string(),
            data: hex::encode_prefixed(&transaction.input),
            gas: format!("{:#x}", transaction.gas_limit),
            max_fee_per_gas: format!("{:#x}", transaction.max_fee_per_gas),
            max_priority_fee_per_gas: format!("{:#x}", transaction.max_priority_fee_per_gas),
            access_list: [],
            raw: hex::encode_prefixed(self.payload()),
            summary: self.summary(),
        }
    }

    /// Joins the transaction and its signature: big-endian `r` and `s`, and whether the nonce point's y is odd.
    ///
    /// SECURITY: this checks the form of the signature only. Whether it recovers to the wallet's address is checked by
    /// the caller with `countersign_mpc::signature`, a second implementation; nothing may be sent before that.
    ///
    /// # Errors
    /// `r` outside 1..n-1 or `s` outside 1..n/2 (EIP-2; some nodes accept a high `s` and others do not).
    pub fn sign(
        &self,
        r: &[u8; 32],
        s: &[u8; 32],
        y_parity: bool,
    ) -> Result<SignedTransaction, TransactionError> {
        // Big-endian numbers of one length compare as their bytes do.
        if r == &[0; 32] || s == &[0; 32] || r >= &ORDER || s >= &ORDER {
            return Err(TransactionError::SignatureOutOfRange);
        }
        if s > &HALF_ORDER {
            return Err(TransactionError::HighS);
        }
        let signature =
            Signature::from_scalars_and_parity(B256::from(*r), B256::from(*s), y_parity);
        let mut raw = Vec::with_capacity(self.transaction.eip2718_encoded_length(&signature));
        self.transaction.eip2718_encode(&signature, &mut raw);
        Ok(SignedTransaction {
            hash: keccak256(&raw).0,
            raw,
        })
    }
}

/// A transaction ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedTransaction {
    /// The EIP-2718 bytes: `0x02 ‖ rlp([…, y parity, r, s])`.
    pub raw: Vec<u8>,
    /// The transaction hash: keccak-256 of the bytes. Computed here, never asked of a node.
    pub hash: [u8; 32],
}

/// The `unsignedTx` object of the API: 0x-hex quantities, but `chainId` a number and `value` a decimal string of wei.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UnsignedFields {
    /// The transaction type, always `0x2`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The chain id.
    pub chain_id: u64,
    /// The nonce.
    pub nonce: String,
    /// The recipient, with its EIP-55 checksum.
    pub to: String,
    /// The amount: wei, decimal.
    pub value: String,
    /// The call data.
    pub data: String,
    /// The gas limit.
    pub gas: String,
    /// `maxFeePerGas`, wei.
    pub max_fee_per_gas: String,
    /// `maxPriorityFeePerGas`, wei.
    pub max_priority_fee_per_gas: String,
    /// Always empty.
    pub access_list: [(); 0],
    /// The EIP-2718 signing payload.
    pub raw: String,
    /// What it does, for a human; for display only.
    pub summary: String,
}

/// Why bytes or parts make no transaction of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    /// The bytes are no EIP-1559 signing payload.
    #[error("the bytes are no EIP-1559 signing payload")]
    NotEip1559,
    /// The bytes are not the canonical encoding of what they say.
    #[error("the signing payload is not encoded canonically")]
    NotCanonical,
    /// The payload or its call data is too long.
    #[error("the call data is longer than {MAX_DATA} bytes")]
    TooLong,
    /// It creates a contract.
    #[error("contract creation is not supported")]
    ContractCreation,
    /// It has an access list.
    #[error("access lists are not supported")]
    AccessList,
    /// Its chain id is zero.
    #[error("chain id 0 would be valid on no chain")]
    NoChain,
    /// Its nonce is the one that EIP-2681 excludes.
    #[error("the nonce is out of range")]
    NonceTooHigh,
    /// Its gas limit is below what every transaction costs.
    #[error("the gas limit is below {MIN_GAS}")]
    GasTooLow,
    /// It pays more priority fee than fee in total.
    #[error("maxPriorityFeePerGas is above maxFeePerGas")]
    PriorityFeeAboveMaxFee,
    /// Amount and fee together exceed 256 bits.
    #[error("amount and fee together exceed what exists")]
    CostOverflow,
    /// `r` or `s` is zero or not below the curve's order.
    #[error("the signature is out of range")]
    SignatureOutOfRange,
    /// `s` is in the upper half (EIP-2).
    #[error("the signature's s is in the upper half")]
    HighS,
}

fn max_fee(transaction: &TxEip1559) -> U256 {
    U256::from(transaction.gas_limit).saturating_mul(U256::from(transaction.max_fee_per_gas))
}

#[cfg(test)]
pub(super) mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use alloy_primitives::{Bytes, address};
    use proptest::prelude::*;

    use super::*;

    /// Any transaction that [`Unsigned1559`] can hold.
    pub(in crate::chain) fn any_unsigned() -> impl Strategy<Value = Unsigned1559> {
        let data = prop_oneof![
            Just(Vec::new()),
            prop::collection::vec(any::<u8>(), 0..80),
            prop::collection::vec(any::<u8>(), 0..2_000),
        ];
        let sizes = (any::<u64>(), any::<u64>(), any::<u128>(), any::<u128>());
        let shifts = (0..64_u32, 0..64_u32, 0..128_u32, 0..128_u32, 8..256_usize);
        (any::<[u8; 20]>(), any::<[u8; 32]>(), data, sizes, shifts).prop_map(
            |(to, value, data, (chain_id, nonce, fee, tip), (a, b, c, d, e))| {
                // Shifted, so that numbers of every length appear and not only the longest.
                let max_fee_per_gas = fee >> c;
                let request = TransactionRequest {
                    chain_id: (chain_id >> a).max(1),
                    to: to.into(),
                    value: U256::from_be_bytes(value) >> e,
                    data: Bytes::from(data),
                    gas: None,
                    max_fee_per_gas: None,
                    max_priority_fee_per_gas: None,
                };
                let terms = Terms {
                    fees: Fees {
                        max_fee_per_gas,
                        max_priority_fee_per_gas: (tip >> d).min(max_fee_per_gas),
                    },
                    gas: (nonce >> a).max(MIN_GAS),
                };
                Unsigned1559::new(&request, (nonce >> b).min(u64::MAX - 1), terms).unwrap()
            },
        )
    }

    fn example() -> Unsigned1559 {
        let request = TransactionRequest {
            chain_id: 31_337,
            to: address!("5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"),
            value: U256::from(10_000_000_000_000_000_u64),
            data: Bytes::new(),
            gas: None,
            max_fee_per_gas: None,
            max_priority_fee_per_gas: None,
        };
        let fees = Fees {
            max_fee_per_gas: 2_000_000_000,
            max_priority_fee_per_gas: 1_000_000_000,
        };
        Unsigned1559::new(&request, 7, Terms { fees, gas: 21_000 }).unwrap()
    }

    #[test]
    fn fields_are_those_of_the_api() {
        let raw = hex::encode_prefixed(example().payload());
        assert_eq!(
            serde_json::to_value(example().fields()).unwrap(),
            serde_json::json!({
                "type": "0x2",
                "chainId": 31_337,
                "nonce": "0x7",
                "to": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
                "value": "10000000000000000",
                "data": "0x",
                "gas": "0x5208",
                "maxFeePerGas": "0x77359400",
                "maxPriorityFeePerGas": "0x3b9aca00",
                "accessList": [],
                "raw": raw,
                "summary": "Send 0.01 ETH to 0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed on chain 31337, \
                            fee at most 0.000042 ETH",
            })
        );
    }

    #[test]
    fn the_encoding_is_the_one_of_eip_1559() {
        // Written out by hand: 0x02, list of 42 bytes, then each field.
        let payload = hex!(
            "02 f0 827a69 07 843b9aca00 8477359400 825208 94 5aaeb6053f3e94c9b9a09f33669435e7ef1beaed
             87 2386f26fc10000 80 c0"
        );
        assert_eq!(hex::encode(example().payload()), hex::encode(payload));
        assert_eq!(example().digest(), keccak256(payload).0);
    }

    #[test]
    fn the_most_it_can_cost_is_amount_and_whole_fee() {
        let expected = 10_000_000_000_000_000_u64 + 21_000 * 2_000_000_000;
        assert_eq!(example().max_cost(), U256::from(expected));
    }

    #[test]
    fn a10_a_high_s_or_a_value_out_of_range_is_refused() {
        let (transaction, one) = (example(), U256::from(1));
        let be = |number: U256| number.to_be_bytes::<32>();
        let (n, half) = (U256::from_be_bytes(ORDER), U256::from_be_bytes(HALF_ORDER));
        assert_eq!(n >> 1, half);
        assert!(transaction.sign(&be(n - one), &be(half), true).is_ok());
        assert_eq!(
            transaction.sign(&be(one), &be(half + one), true),
            Err(TransactionError::HighS)
        );
        assert_eq!(
            transaction.sign(&be(one), &be(n - one), false),
            Err(TransactionError::HighS)
        );
        for (r, s) in [
            (U256::ZERO, one),
            (one, U256::ZERO),
            (n, one),
            (one, n),
            (U256::MAX, one),
        ] {
            assert_eq!(
                transaction.sign(&be(r), &be(s), true),
                Err(TransactionError::SignatureOutOfRange)
            );
        }
    }

    #[test]
    fn parts_that_make_no_transaction_are_refused() {
        let good = example().transaction;
        let refused = |transaction| Unsigned1559::checked(transaction).unwrap_err();
        for (transaction, error) in [
            (
                TxEip1559 {
                    to: TxKind::Create,
                    ..good.clone()
                },
                TransactionError::ContractCreation,
            ),
            (
                TxEip1559 {
                    chain_id: 0,
                    ..good.clone()
                },
                TransactionError::NoChain,
            ),
            (
                TxEip1559 {
                    nonce: u64::MAX,
                    ..good.clone()
                },
                TransactionError::NonceTooHigh,
            ),
            (
                TxEip1559 {
                    gas_limit: 20_999,
                    ..good.clone()
                },
                TransactionError::GasTooLow,
            ),
            (
                TxEip1559 {
                    max_fee_per_gas: 1,
                    ..good.clone()
                },
                TransactionError::PriorityFeeAboveMaxFee,
            ),
            (
                TxEip1559 {
                    value: U256::MAX,
                    ..good.clone()
                },
                TransactionError::CostOverflow,
            ),
            (
                TxEip1559 {
                    input: vec![0; MAX_DATA + 1].into(),
                    ..good.clone()
                },
                TransactionError::TooLong,
            ),
            (
                TxEip1559 {
                    access_list: vec![Default::default()].into(),
                    ..good
                },
                TransactionError::AccessList,
            ),
        ] {
            // The same by way of the database.
            let stored = Unsigned1559::from_payload(&transaction.encoded_for_signing());
            assert_eq!(stored, Err(error));
            assert_eq!(refused(transaction), error);
        }
    }

    #[test]
    fn the_longest_transaction_can_be_stored_and_read() {
        let transaction = TxEip1559 {
            chain_id: u64::MAX,
            nonce: u64::MAX - 1,
            gas_limit: u64::MAX,
            max_fee_per_gas: u128::MAX,
            max_priority_fee_per_gas: u128::MAX,
            value: U256::MAX >> 1,
            input: vec![0xff; MAX_DATA].into(),
            ..example().transaction
        };
        let unsigned = Unsigned1559::checked(transaction).unwrap();
        assert_eq!(
            Unsigned1559::from_payload(&unsigned.payload()),
            Ok(unsigned)
        );
    }

    #[test]
    fn a_second_spelling_of_the_same_transaction_is_refused() {
        let mut trailing = example().payload();
        trailing.push(0);
        assert_eq!(
            Unsigned1559::from_payload(&trailing),
            Err(TransactionError::NotCanonical)
        );
        // The nonce 7 written as the one-byte string 0x81 07.
        let long = hex!(
            "02 f1 827a69 8107 843b9aca00 8477359400 825208 94 5aaeb6053f3e94c9b9a09f33669435e7ef1beaed
             87 2386f26fc10000 80 c0"
        );
        assert!(Unsigned1559::from_payload(&long).is_err());
    }

    /// protocol.md 2.3: 0x19 ‖ "MPC wallet canary v1\n" ‖ LP(profile id, generation, session id).
    fn canary_preimage(profile: &str, generation: u64, session: &str) -> Vec<u8> {
        let mut preimage = b"\x19MPC wallet canary v1\n".to_vec();
        for part in [
            profile.as_bytes(),
            &generation.to_be_bytes(),
            session.as_bytes(),
        ] {
            preimage.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
            preimage.extend(part);
        }
        preimage
    }

    proptest! {
        #[test]
        fn what_is_stored_is_what_was_built(unsigned in any_unsigned()) {
            let payload = unsigned.payload();
            prop_assert_eq!(unsigned.digest(), keccak256(&payload).0);
            let read = Unsigned1559::from_payload(&payload).unwrap();
            prop_assert_eq!(read.digest(), unsigned.digest());
            prop_assert_eq!(read, unsigned);
        }

        #[test]
        fn a_signed_transaction_says_what_was_signed(
            unsigned in any_unsigned(), r in any::<[u8; 31]>(), s in any::<[u8; 31]>(), y_parity: bool,
        ) {
            // 31 random bytes: below half the order, never mind which point that is.
            let scalar = |bytes: [u8; 31]| (U256::from_be_slice(&bytes) + U256::from(1)).to_be_bytes::<32>();
            let signed = unsigned.sign(&scalar(r), &scalar(s), y_parity).unwrap();
            let decoded = TxEip1559::eip2718_decode(&mut signed.raw.as_slice()).unwrap();
            prop_assert_eq!(decoded.hash().0, signed.hash);
            prop_assert_eq!(decoded.signature().r().to_be_bytes::<32>(), scalar(r));
            prop_assert_eq!(decoded.signature().v(), y_parity);
            prop_assert_eq!(decoded.tx(), &unsigned.transaction);
        }

        #[test]
        fn a08_any_other_byte_gives_another_digest_or_no_transaction(
            unsigned in any_unsigned(), position: prop::sample::Index, flip in 1..=255_u8,
        ) {
            let mut payload = unsigned.payload();
            let at = position.index(payload.len());
            *payload.get_mut(at).unwrap() ^= flip;
            if let Ok(other) = Unsigned1559::from_payload(&payload) {
                prop_assert_ne!(other.digest(), unsigned.digest());
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut typed = vec![TYPE];
            typed.extend(&bytes);
            for bytes in [bytes, typed] {
                if let Ok(read) = Unsigned1559::from_payload(&bytes) {
                    prop_assert_eq!(read.payload(), bytes);
                }
            }
        }

        #[test]
        fn a09_a_canary_is_never_a_transaction(
            profile in ".{0,80}", generation: u64, session in ".{0,80}",
        ) {
            use alloy_consensus::{EthereumTypedTransaction, TxEip4844, TxEnvelope, TxLegacy};
            use alloy_eips::Decodable2718;

            let canary = canary_preimage(&profile, generation, &session);
            prop_assert_eq!(Unsigned1559::from_payload(&canary), Err(TransactionError::NotEip1559));
            let mut bytes = canary.as_slice();
            prop_assert!(EthereumTypedTransaction::<TxEip4844>::decode_unsigned(&mut bytes).is_err());
            prop_assert!(TxEnvelope::decode_2718(&mut canary.as_slice()).is_err());
            prop_assert!(TxLegacy::rlp_decode(&mut canary.as_slice()).is_err());
        }
    }
}
