//! Fees: what we are ready to pay, decided here and not by the node.
//!
//! A number above a limit is refused, never lowered in silence: a lowered fee is another transaction than the one that
//! was asked for, and a node that asks for a thousandfold is lying or in trouble (`protocol.md` A29).

use std::fmt;

use alloy_primitives::U256;

use super::units::{ether, gwei};
use super::{Field, Preparation, TransactionRequest};

const GWEI: u128 = 1_000_000_000;

/// The two fees of an EIP-1559 transaction, in wei for each unit of gas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fees {
    /// The most that is paid in total.
    pub max_fee_per_gas: u128,
    /// The most that goes to the block's builder; never more than the total.
    pub max_priority_fee_per_gas: u128,
}

/// The fees and the gas limit a transaction will be built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The fees.
    pub fees: Fees,
    /// The gas limit, in gas units.
    pub gas: u64,
}

/// The limits on fees and gas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeePolicy {
    /// The highest `maxFeePerGas`, in wei.
    pub max_fee_limit: u128,
    /// The highest `maxPriorityFeePerGas`, in wei.
    pub priority_fee_limit: u128,
    /// The highest gas limit, in gas units.
    pub gas_limit: u64,
}

impl Default for FeePolicy {
    /// 500 gwei, 50 gwei, and the gas limit of EIP-7825 (2^24).
    fn default() -> Self {
        Self {
            max_fee_limit: 500 * GWEI,
            priority_fee_limit: 50 * GWEI,
            gas_limit: 1 << 24,
        }
    }
}

impl FeePolicy {
    /// The terms for `request`: the wallet's own numbers where it gave any, else the node's.
    ///
    /// Without a wish of the wallet, `maxFeePerGas` is twice the base fee plus the priority fee, which stays enough for
    /// about six full blocks (EIP-1559 raises the base fee by at most an eighth a block); and a call gets a fifth more
    /// gas than estimated, as the state it meets may differ. What is not used is not paid.
    ///
    /// # Errors
    /// [`FeeRefusal`]: a number above its limit, a maximum below the fees it must cover, or a wallet that cannot pay. All
    /// of them before anything is signed, because a signature uses up its nonce.
    pub fn terms(
        &self,
        request: &TransactionRequest,
        preparation: &Preparation,
    ) -> Result<Terms, FeeRefusal> {
        let fees = self.fees(request, preparation)?;
        let gas = request.gas.unwrap_or(if request.data.is_empty() {
            preparation.gas
        } else {
            preparation.gas.saturating_add(preparation.gas / 5)
        });
        within(
            gas.into(),
            self.gas_limit.into(),
            Field::Gas,
            request.gas.is_some(),
        )?;
        let fee = U256::from(gas).saturating_mul(U256::from(fees.max_fee_per_gas));
        let needed = request.value.saturating_add(fee);
        if needed > preparation.balance {
            return Err(FeeRefusal::InsufficientFunds {
                needed,
                balance: preparation.balance,
            });
        }
        Ok(Terms { fees, gas })
    }

    fn fees(
        &self,
        request: &TransactionRequest,
        preparation: &Preparation,
    ) -> Result<Fees, FeeRefusal> {
        let base_fee = preparation.base_fee;
        let priority_fee = request.max_priority_fee_per_gas.unwrap_or_else(|| {
            let offered = preparation.priority_fee;
            request
                .max_fee_per_gas
                .map_or(offered, |most| offered.min(most))
        });
        within(
            priority_fee,
            self.priority_fee_limit,
            Field::MaxPriorityFeePerGas,
            request.max_priority_fee_per_gas.is_some(),
        )?;
        let max_fee = request
            .max_fee_per_gas
            .unwrap_or_else(|| base_fee.saturating_mul(2).saturating_add(priority_fee));
        within(
            max_fee,
            self.max_fee_limit,
            Field::MaxFeePerGas,
            request.max_fee_per_gas.is_some(),
        )?;
        if priority_fee > max_fee {
            return Err(FeeRefusal::PriorityFeeAboveMaxFee);
        }
        if max_fee < base_fee {
            return Err(FeeRefusal::MaxFeeBelowBaseFee { base_fee });
        }
        Ok(Fees {
            max_fee_per_gas: max_fee,
            max_priority_fee_per_gas: priority_fee,
        })
    }
}

/// A number that is above its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The field of the transaction.
    pub field: Field,
    /// The number: wei for each unit of gas, or gas units for [`Field::Gas`].
    pub asked: u128,
    /// The most it may be.
    pub limit: u128,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |number: u128| match self.field {
            Field::Gas => number.to_string(),
            _ => gwei(number),
        };
        let (asked, limit) = (shown(self.asked), shown(self.limit));
        write!(f, "{} of {asked} is above the limit of {limit}", self.field)
    }
}

/// Why there are no terms for a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeeRefusal {
    /// The wallet asked for more than its limit.
    #[error("{0}")]
    WalletAboveLimit(Limit),
    /// The node's numbers lead above the limit.
    #[error("the chain asks for more than we pay: {0}")]
    NodeAboveLimit(Limit),
    /// The wallet's `maxFeePerGas` does not cover the priority fee.
    #[error("maxPriorityFeePerGas is above maxFeePerGas")]
    PriorityFeeAboveMaxFee,
    /// The wallet's `maxFeePerGas` is below what a block asks now. Signed, it would block the nonces after it.
    #[error("maxFeePerGas is below the chain's base fee of {}", gwei(*base_fee))]
    MaxFeeBelowBaseFee {
        /// The base fee of the next block, in wei for each unit of gas.
        base_fee: u128,
    },
    /// The wallet does not hold amount and fee.
    #[error("amount and fee need {}, the wallet holds {}", ether(*needed), ether(*balance))]
    InsufficientFunds {
        /// Amount and greatest fee, in wei.
        needed: U256,
        /// What the wallet holds, in wei.
        balance: U256,
    },
}

fn within(asked: u128, limit: u128, field: Field, by_wallet: bool) -> Result<(), FeeRefusal> {
    let exceeded = Limit {
        field,
        asked,
        limit,
    };
    if asked <= limit {
        Ok(())
    } else if by_wallet {
        Err(FeeRefusal::WalletAboveLimit(exceeded))
    } else {
        Err(FeeRefusal::NodeAboveLimit(exceeded))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use alloy_primitives::{Address, Bytes};
    use proptest::prelude::*;

    use super::*;

    fn request() -> TransactionRequest {
        TransactionRequest {
            chain_id: 1,
            to: Address::ZERO,
            value: U256::ZERO,
            data: Bytes::new(),
            gas: None,
            max_fee_per_gas: None,
            max_priority_fee_per_gas: None,
        }
    }

    fn preparation() -> Preparation {
        Preparation {
            nonce: 0,
            base_fee: 10 * GWEI,
            priority_fee: 2 * GWEI,
            gas: 21_000,
            balance: U256::MAX,
        }
    }

    fn terms(request: &TransactionRequest, preparation: &Preparation) -> Result<Terms, FeeRefusal> {
        FeePolicy::default().terms(request, preparation)
    }

    #[test]
    fn without_a_wish_the_fee_outlives_six_full_blocks() {
        let terms = terms(&request(), &preparation()).unwrap();
        assert_eq!(terms.fees.max_fee_per_gas, 22 * GWEI);
        assert_eq!(terms.fees.max_priority_fee_per_gas, 2 * GWEI);
        assert_eq!(terms.gas, 21_000);
    }

    #[test]
    fn a_call_gets_a_fifth_more_gas_unless_the_wallet_says_otherwise() {
        let call = TransactionRequest {
            data: Bytes::from_static(&[1]),
            ..request()
        };
        let estimate = Preparation {
            gas: 50_000,
            ..preparation()
        };
        assert_eq!(terms(&call, &estimate).unwrap().gas, 60_000);
        let own = TransactionRequest {
            gas: Some(50_001),
            ..call
        };
        assert_eq!(terms(&own, &estimate).unwrap().gas, 50_001);
    }

    #[test]
    fn a29_a_wish_above_a_limit_is_refused_not_lowered() {
        for (wish, field) in [
            (
                TransactionRequest {
                    max_fee_per_gas: Some(500 * GWEI + 1),
                    ..request()
                },
                Field::MaxFeePerGas,
            ),
            (
                TransactionRequest {
                    max_priority_fee_per_gas: Some(50 * GWEI + 1),
                    ..request()
                },
                Field::MaxPriorityFeePerGas,
            ),
            (
                TransactionRequest {
                    gas: Some((1 << 24) + 1),
                    ..request()
                },
                Field::Gas,
            ),
        ] {
            let refusal = terms(&wish, &preparation()).unwrap_err();
            assert!(
                matches!(refusal, FeeRefusal::WalletAboveLimit(limit) if limit.field == field),
                "{refusal}"
            );
        }
    }

    #[test]
    fn a29_a_node_that_asks_for_a_thousandfold_is_refused() {
        for (lie, field) in [
            (
                Preparation {
                    base_fee: 10_000 * GWEI,
                    ..preparation()
                },
                Field::MaxFeePerGas,
            ),
            (
                Preparation {
                    base_fee: u128::MAX,
                    ..preparation()
                },
                Field::MaxFeePerGas,
            ),
            (
                Preparation {
                    priority_fee: 2_000 * GWEI,
                    ..preparation()
                },
                Field::MaxPriorityFeePerGas,
            ),
            (
                Preparation {
                    gas: u64::MAX,
                    ..preparation()
                },
                Field::Gas,
            ),
        ] {
            let refusal = terms(&request(), &lie).unwrap_err();
            assert!(
                matches!(refusal, FeeRefusal::NodeAboveLimit(limit) if limit.field == field),
                "{refusal}"
            );
        }
    }

    #[test]
    fn a_maximum_that_cannot_be_mined_is_refused() {
        let low = TransactionRequest {
            max_fee_per_gas: Some(10 * GWEI - 1),
            ..request()
        };
        assert_eq!(
            terms(&low, &preparation()),
            Err(FeeRefusal::MaxFeeBelowBaseFee {
                base_fee: 10 * GWEI
            })
        );
        let crossed = TransactionRequest {
            max_fee_per_gas: Some(11 * GWEI),
            max_priority_fee_per_gas: Some(12 * GWEI),
            ..request()
        };
        assert_eq!(
            terms(&crossed, &preparation()),
            Err(FeeRefusal::PriorityFeeAboveMaxFee)
        );
    }

    #[test]
    fn refusals_speak_in_human_units() {
        let text = |field, asked, limit| {
            FeeRefusal::WalletAboveLimit(Limit {
                field,
                asked,
                limit,
            })
            .to_string()
        };
        assert_eq!(
            text(Field::MaxFeePerGas, 501 * GWEI, 500 * GWEI),
            "maxFeePerGas of 501 gwei is above the limit of 500 gwei"
        );
        assert_eq!(text(Field::Gas, 2, 1), "gas of 2 is above the limit of 1");
    }

    #[test]
    fn the_node_s_priority_fee_yields_to_the_wallet_s_maximum() {
        let tight = TransactionRequest {
            max_fee_per_gas: Some(GWEI),
            ..request()
        };
        let calm = Preparation {
            base_fee: GWEI / 2,
            ..preparation()
        };
        let fees = terms(&tight, &calm).unwrap().fees;
        assert_eq!(
            (fees.max_fee_per_gas, fees.max_priority_fee_per_gas),
            (GWEI, GWEI)
        );
    }

    #[test]
    fn a_wallet_that_cannot_pay_the_whole_is_refused_before_it_signs() {
        let transfer = TransactionRequest {
            value: U256::from(GWEI),
            ..request()
        };
        let needed = U256::from(GWEI + 21_000 * 22 * GWEI);
        let holding = |balance| {
            let preparation = Preparation {
                balance,
                ..preparation()
            };
            terms(&transfer, &preparation)
        };
        assert!(holding(needed).is_ok());
        let balance = needed - U256::from(1);
        assert_eq!(
            holding(balance),
            Err(FeeRefusal::InsufficientFunds { needed, balance })
        );
    }

    proptest! {
        #[test]
        fn a29_terms_are_within_the_limits_whatever_the_node_says(
            base_fee: u128, priority_fee: u128, gas: u64, max in any::<Option<u128>>(), tip in any::<Option<u128>>(),
        ) {
            let policy = FeePolicy::default();
            let wish = TransactionRequest { max_fee_per_gas: max, max_priority_fee_per_gas: tip, ..request() };
            let said = Preparation { nonce: 0, base_fee, priority_fee, gas, balance: U256::MAX };
            if let Ok(Terms { fees, gas }) = policy.terms(&wish, &said) {
                prop_assert!(fees.max_fee_per_gas <= policy.max_fee_limit);
                prop_assert!(fees.max_priority_fee_per_gas <= policy.priority_fee_limit);
                prop_assert!(fees.max_priority_fee_per_gas <= fees.max_fee_per_gas);
                prop_assert!(gas <= policy.gas_limit);
                prop_assert!(max.is_none_or(|max| max == fees.max_fee_per_gas));
                prop_assert!(tip.is_none_or(|tip| tip == fees.max_priority_fee_per_gas));
            }
        }
    }
}
