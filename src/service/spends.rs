//! What a transaction spends at most, of what is limited.

use alloy_primitives::{Address, U256};

use crate::chain::Unsigned1559;
use crate::chain::calls::{self, Call, What};
use crate::limits::spend::{Asset, Reached, Spend, SpendLimit};

/// What a transaction spends at most, as far as any of `limits` wants to know.
///
/// SECURITY: tokens are counted by what the call says, those that are approved like those that are sent. A call to a token
/// that has a limit, of which nobody can say how much it moves, is refused. Fees are apart: the fee policy bounds them.
///
/// # Errors
/// [`Reached`] names the limit of a token whose call does not say how much it moves.
pub fn of(limits: &[SpendLimit], unsigned: &Unsigned1559) -> Result<Vec<Spend>, Reached> {
    let content = (unsigned.to(), unsigned.value(), unsigned.data());
    of_content(limits, unsigned.chain_id(), content)
}

/// As [`of`], of what a transaction would do on a chain: whom it calls, with how many coins, with which data.
///
/// # Errors
/// As [`of`].
pub fn of_content(
    limits: &[SpendLimit],
    chain: u64,
    (to, value, data): (Address, U256, &[u8]),
) -> Result<Vec<Spend>, Reached> {
    let mut spends = vec![Spend {
        asset: Asset { chain, token: None },
        recipient: to.into(),
        amount: value,
    }];
    for call in calls::decode(Some(to), value, data) {
        spends.extend(of_call(limits, chain, &call)?);
    }
    Ok(spends)
}

fn of_call(limits: &[SpendLimit], chain: u64, call: &Call) -> Result<Option<Spend>, Reached> {
    let Some(called) = call.to else {
        return Ok(None);
    };
    let (token, moved) = match &call.what {
        What::Erc20Transfer { to, amount } | What::TransferFrom { to, amount, .. } => {
            (called, Some((*to, *amount)))
        }
        What::Permit2Transfer {
            token, to, amount, ..
        } => (*token, Some((*to, *amount))),
        What::Approve {
            token,
            spender,
            amount,
        } => (*token, Some((*spender, *amount))),
        What::IncreaseAllowance { spender, amount }
        | What::Permit {
            spender, amount, ..
        } => (called, Some((*spender, *amount))),
        What::NativeTransfer | What::DecreaseAllowance { .. } | What::Multicall => {
            return Ok(None);
        }
        // Whatever else is called may move any amount of the token that it is.
        _ => (called, None),
    };
    let asset = Asset {
        chain,
        token: Some(token.into()),
    };
    let Some(limit) = limits.iter().find(|limit| limit.asset == asset) else {
        return Ok(None);
    };
    let (recipient, amount) = moved.ok_or_else(|| limit.reached())?;
    Ok(Some(Spend {
        asset,
        recipient: recipient.into(),
        amount,
    }))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use alloy_primitives::{Address, U256};

    use super::{Asset, Call, SpendLimit, What, of_call};
    use crate::limits::spend::Per;

    const TOKEN: Address = Address::repeat_byte(7);

    fn limit() -> SpendLimit {
        SpendLimit {
            name: "usd".to_owned(),
            asset: Asset {
                chain: 1,
                token: Some(TOKEN.into()),
            },
            per: Per::Profile,
            amount: U256::from(5),
            seconds: 60,
        }
    }

    const fn call(to: Address, what: What) -> Call {
        Call {
            depth: 0,
            to: Some(to),
            value: U256::ZERO,
            selector: None,
            what,
        }
    }

    #[test]
    fn a27_a_call_to_a_limited_token_that_nobody_can_count_is_refused() {
        let limits = [limit()];
        let (operator, other) = (Address::repeat_byte(1), Address::repeat_byte(2));
        for what in [
            What::Unknown,
            What::Undecodable,
            What::ApproveForAll {
                operator,
                approved: true,
            },
        ] {
            let refused = of_call(&limits, 1, &call(TOKEN, what.clone()));
            assert_eq!(refused.unwrap_err().name, "usd");
            let elsewhere = of_call(&limits, 1, &call(other, what.clone()));
            assert_eq!(elsewhere.unwrap(), None);
            assert_eq!(of_call(&limits, 2, &call(TOKEN, what)).unwrap(), None);
        }
    }

    #[test]
    fn a27_what_is_sent_and_what_is_approved_count_for_whom_gets_it() {
        let limits = [limit()];
        let (to, amount) = (Address::repeat_byte(1), U256::from(9));
        let token = TOKEN;
        let from = Address::repeat_byte(3);
        for (called, what) in [
            (TOKEN, What::Erc20Transfer { to, amount }),
            (TOKEN, What::TransferFrom { from, to, amount }),
            (
                from,
                What::Permit2Transfer {
                    token,
                    from,
                    to,
                    amount,
                },
            ),
            (
                from,
                What::Approve {
                    token,
                    spender: to,
                    amount,
                },
            ),
            (
                TOKEN,
                What::IncreaseAllowance {
                    spender: to,
                    amount,
                },
            ),
            (
                TOKEN,
                What::Permit {
                    owner: from,
                    spender: to,
                    amount,
                },
            ),
        ] {
            let spend = of_call(&limits, 1, &call(called, what)).unwrap().unwrap();
            assert_eq!((spend.recipient, spend.amount), (to.into(), amount));
            assert_eq!(spend.asset, limits[0].asset);
        }
        for what in [
            What::NativeTransfer,
            What::Multicall,
            What::DecreaseAllowance {
                spender: to,
                amount,
            },
        ] {
            assert_eq!(of_call(&limits, 1, &call(TOKEN, what)).unwrap(), None);
        }
    }
}
