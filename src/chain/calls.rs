//! What a transaction does, read from its call data: coins, tokens, approvals, and the calls inside calls.
//!
//! SECURITY: what is decoded is what a contract would do with the data if it is what its function's name says; that it is,
//! nobody can know from here, which is why rules can name contracts. Arguments are read in their one canonical encoding:
//! anything else (dirty bits, other offsets, bytes behind the end) is "undecodable", never half-read. No input makes this
//! fail or run long: depth and number of calls are bounded, and what lies beyond is undecodable too.

use alloy_primitives::{Address, Bytes, FixedBytes, U256, hex};
use alloy_sol_types::abi::{AbiDecoderConfig, TokenSeq};
use alloy_sol_types::{SolType, sol_data as sol};

/// How deep calls may lie in calls, and how many there may be in all.
const MAX_DEPTH: u8 = 4;
const MAX_CALLS: usize = 128;

/// A call: the transaction itself, or one inside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// How deep it lies: the transaction itself is 0.
    pub depth: u8,
    /// Whom it calls; nobody when it creates a contract.
    pub to: Option<Address>,
    /// The coins that it carries by itself, in wei.
    pub value: U256,
    /// The first four bytes of its data.
    pub selector: Option<FixedBytes<4>>,
    /// What it does.
    pub what: What,
}

/// What a call does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// No data: it carries coins and nothing else.
    NativeTransfer,
    /// ERC-20 `transfer`.
    Erc20Transfer {
        /// Who gets the tokens.
        to: Address,
        /// How many, in the token's base units.
        amount: U256,
    },
    /// `transferFrom`, which ERC-20 and ERC-721 share: an amount, or the number of an NFT.
    TransferFrom {
        /// Whose tokens.
        from: Address,
        /// Who gets them.
        to: Address,
        /// Amount or number.
        amount: U256,
    },
    /// Permit2 `transferFrom`.
    Permit2Transfer {
        /// The token.
        token: Address,
        /// Whose tokens.
        from: Address,
        /// Who gets them.
        to: Address,
        /// How many.
        amount: U256,
    },
    /// `approve`, which ERC-20 and ERC-721 share, or Permit2's: then `token` is another than the contract that is called.
    Approve {
        /// The token.
        token: Address,
        /// Who may move it.
        spender: Address,
        /// How many, or the number of an NFT.
        amount: U256,
    },
    /// `increaseAllowance`.
    IncreaseAllowance {
        /// Who may move the token.
        spender: Address,
        /// How many more.
        amount: U256,
    },
    /// `decreaseAllowance`.
    DecreaseAllowance {
        /// Who may move the token.
        spender: Address,
        /// How many fewer.
        amount: U256,
    },
    /// ERC-2612 `permit`, or DAI's, whose amount is all or nothing.
    Permit {
        /// Whose tokens.
        owner: Address,
        /// Who may move them.
        spender: Address,
        /// How many.
        amount: U256,
    },
    /// ERC-721 `safeTransferFrom`.
    Erc721Transfer {
        /// Whose NFT.
        from: Address,
        /// Who gets it.
        to: Address,
    },
    /// ERC-1155 `safeTransferFrom` and `safeBatchTransferFrom`.
    Erc1155Transfer {
        /// Whose tokens.
        from: Address,
        /// Who gets them.
        to: Address,
    },
    /// `setApprovalForAll` of ERC-721 and ERC-1155.
    ApproveForAll {
        /// Who may move all tokens of the contract.
        operator: Address,
        /// Whether this is given, or taken back.
        approved: bool,
    },
    /// A list of calls; they follow.
    Multicall,
    /// A Safe's `execTransaction`; its call follows.
    SafeTransaction {
        /// Whether the call is a delegatecall.
        delegatecall: bool,
        /// Who is paid for the gas, if somebody is, and in which token (zero: coins).
        refund: Option<(Address, Address)>,
    },
    /// A function that is not known here, or data without a function.
    Unknown,
    /// A known function whose arguments are not in their canonical encoding, or a call too deep, or one too many.
    Undecodable,
    /// A contract is created.
    ContractCreation,
}

impl What {
    /// The word that rules know it by.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NativeTransfer => "native-transfer",
            Self::Erc20Transfer { .. } => "erc20-transfer",
            Self::TransferFrom { .. } | Self::Permit2Transfer { .. } => "transfer-from",
            Self::Approve { .. } => "approve",
            Self::IncreaseAllowance { .. } => "increase-allowance",
            Self::DecreaseAllowance { .. } => "decrease-allowance",
            Self::Permit { .. } => "erc20-permit",
            Self::Erc721Transfer { .. } => "erc721-transfer",
            Self::Erc1155Transfer { .. } => "erc1155-transfer",
            Self::ApproveForAll { .. } => "approve-for-all",
            Self::Multicall => "multicall",
            Self::SafeTransaction { .. } => "safe-transaction",
            Self::Unknown => "unknown-call",
            Self::Undecodable => "undecodable-call",
            Self::ContractCreation => "contract-creation",
        }
    }

    /// Whether it gives a right without a practical limit: an amount no token has, or all tokens of a contract.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        match self {
            Self::Approve { amount, .. }
            | Self::IncreaseAllowance { amount, .. }
            | Self::Permit { amount, .. } => is_unlimited(*amount),
            Self::ApproveForAll { approved, .. } => *approved,
            _ => false,
        }
    }
}

/// Tokens that count in 96 bits take their largest number for infinite; all others take one far above 128 bits.
fn is_unlimited(amount: U256) -> bool {
    let least = U256::from(u128::MAX);
    let of_96_bits = (U256::from(1) << 96) - U256::from(1);
    amount >= least || amount == of_96_bits
}

/// Every call in a transaction, the transaction itself first, each before those inside it.
#[must_use]
pub fn decode(to: Option<Address>, value: U256, data: &[u8]) -> Vec<Call> {
    let mut calls = Vec::new();
    match to {
        Some(to) => read(&mut calls, 0, (to, value), data),
        None => calls.push(Call {
            depth: 0,
            to: None,
            value,
            selector: None,
            what: What::ContractCreation,
        }),
    }
    calls
}

/// A call inside another: whom, with how many coins, with which data.
struct Inner {
    to: Address,
    value: U256,
    data: Bytes,
    /// Whether the contract calls itself this way: then no data means its fallback function, not a transfer of coins.
    itself: bool,
}

fn read(calls: &mut Vec<Call>, depth: u8, (to, value): (Address, U256), data: &[u8]) {
    let selector = data.first_chunk::<4>().map(FixedBytes::from);
    let mut add = |what| {
        calls.push(Call {
            depth,
            to: Some(to),
            value,
            selector,
            what,
        });
    };
    if data.is_empty() {
        return add(What::NativeTransfer);
    }
    let Some((selector, arguments)) = data.split_first_chunk::<4>() else {
        return add(What::Unknown);
    };
    if let Some(what) = simple(*selector, to, arguments) {
        return add(what);
    }
    let Some(nested) = nested(*selector, to, arguments) else {
        return add(What::Unknown);
    };
    let Some((what, inner)) = nested else {
        return add(What::Undecodable);
    };
    if depth >= MAX_DEPTH {
        return add(What::Undecodable);
    }
    add(what);
    for call in inner {
        if calls.len() >= MAX_CALLS {
            // In the place of all that would follow.
            return mark_undecodable(calls);
        }
        let place = calls.len();
        read(calls, depth + 1, (call.to, call.value), &call.data);
        if call.itself
            && let Some(fallback) = calls.get_mut(place)
            && fallback.what == What::NativeTransfer
        {
            fallback.what = What::Unknown;
        }
    }
}

/// There are more calls than are read: the last one that was says so.
fn mark_undecodable(calls: &mut [Call]) {
    if let Some(last) = calls.last_mut() {
        last.what = What::Undecodable;
    }
}

/// The arguments of a call, if `data` is exactly their canonical encoding.
fn arguments<T: SolType>(data: &[u8]) -> Option<T::RustType>
where
    for<'a> T::Token<'a>: TokenSeq<'a>,
{
    let strictly = AbiDecoderConfig::new().validate(true);
    let value = T::abi_decode_params_with_config(data, strictly).ok()?;
    (T::abi_encode_params(&value) == data).then_some(value)
}

type Uint = sol::Uint<256>;
type Word = sol::FixedBytes<32>;

/// A call of a function that calls nothing else, if the function is one of those.
fn simple(selector: [u8; 4], contract: Address, data: &[u8]) -> Option<What> {
    let what = match selector {
        TRANSFER => arguments::<(sol::Address, Uint)>(data)
            .map(|(to, amount)| What::Erc20Transfer { to, amount }),
        TRANSFER_FROM => arguments::<(sol::Address, sol::Address, Uint)>(data)
            .map(|(from, to, amount)| What::TransferFrom { from, to, amount }),
        APPROVE => arguments::<(sol::Address, Uint)>(data).map(|(spender, amount)| What::Approve {
            token: contract,
            spender,
            amount,
        }),
        INCREASE_ALLOWANCE => arguments::<(sol::Address, Uint)>(data)
            .map(|(spender, amount)| What::IncreaseAllowance { spender, amount }),
        DECREASE_ALLOWANCE => arguments::<(sol::Address, Uint)>(data)
            .map(|(spender, amount)| What::DecreaseAllowance { spender, amount }),
        PERMIT | PERMIT_DAI | PERMIT2_APPROVE | PERMIT2_TRANSFER => permit(selector, data),
        SET_APPROVAL_FOR_ALL => arguments::<(sol::Address, sol::Bool)>(data)
            .map(|(operator, approved)| What::ApproveForAll { operator, approved }),
        SAFE_TRANSFER | SAFE_TRANSFER_DATA | SAFE_TRANSFER_1155 | SAFE_BATCH_TRANSFER_1155 => {
            collectible(selector, data)
        }
        _ => return None,
    };
    Some(what.unwrap_or(What::Undecodable))
}

/// Rights that are given by a signature, and Permit2.
fn permit(selector: [u8; 4], data: &[u8]) -> Option<What> {
    type Address = sol::Address;
    match selector {
        PERMIT => arguments::<(Address, Address, Uint, Uint, sol::Uint<8>, Word, Word)>(data).map(
            |(owner, spender, amount, ..)| What::Permit {
                owner,
                spender,
                amount,
            },
        ),
        PERMIT_DAI => {
            type Dai = (
                Address,
                Address,
                Uint,
                Uint,
                sol::Bool,
                sol::Uint<8>,
                Word,
                Word,
            );
            arguments::<Dai>(data).map(|(owner, spender, _, _, allowed, ..)| What::Permit {
                owner,
                spender,
                amount: if allowed { U256::MAX } else { U256::ZERO },
            })
        }
        PERMIT2_APPROVE => arguments::<(Address, Address, sol::Uint<160>, sol::Uint<48>)>(data)
            .map(|(token, spender, amount, _)| What::Approve {
                token,
                spender,
                amount: U256::from(amount),
            }),
        PERMIT2_TRANSFER => arguments::<(Address, Address, sol::Uint<160>, Address)>(data).map(
            |(from, to, amount, token)| What::Permit2Transfer {
                token,
                from,
                to,
                amount: U256::from(amount),
            },
        ),
        _ => None,
    }
}

/// Transfers of NFTs and of ERC-1155's tokens.
fn collectible(selector: [u8; 4], data: &[u8]) -> Option<What> {
    type Address = sol::Address;
    match selector {
        SAFE_TRANSFER => arguments::<(Address, Address, Uint)>(data)
            .map(|(from, to, _)| What::Erc721Transfer { from, to }),
        SAFE_TRANSFER_DATA => arguments::<(Address, Address, Uint, sol::Bytes)>(data)
            .map(|(from, to, ..)| What::Erc721Transfer { from, to }),
        SAFE_TRANSFER_1155 => arguments::<(Address, Address, Uint, Uint, sol::Bytes)>(data)
            .map(|(from, to, ..)| What::Erc1155Transfer { from, to }),
        SAFE_BATCH_TRANSFER_1155 => {
            type Batch = (
                Address,
                Address,
                sol::Array<Uint>,
                sol::Array<Uint>,
                sol::Bytes,
            );
            arguments::<Batch>(data).map(|(from, to, ..)| What::Erc1155Transfer { from, to })
        }
        _ => None,
    }
}

/// A call that holds others, if the function is one of those; inside it `None` if its arguments do not decode.
fn nested(selector: [u8; 4], contract: Address, data: &[u8]) -> Option<Option<(What, Vec<Inner>)>> {
    type Calls = sol::Array<(sol::Address, sol::Bytes)>;
    let own = |data: Vec<Bytes>| {
        data.into_iter()
            .map(|data| inner(contract, data, true))
            .collect()
    };
    let others = |calls: Vec<(Address, Bytes)>| {
        calls
            .into_iter()
            .map(|(to, data)| inner(to, data, false))
            .collect()
    };
    let calls: Option<Vec<Inner>> = match selector {
        MULTICALL => arguments::<(sol::Array<sol::Bytes>,)>(data).map(|(calls,)| own(calls)),
        MULTICALL_UNTIL => {
            arguments::<(Uint, sol::Array<sol::Bytes>)>(data).map(|(_, calls)| own(calls))
        }
        MULTICALL_AFTER => {
            arguments::<(Word, sol::Array<sol::Bytes>)>(data).map(|(_, calls)| own(calls))
        }
        AGGREGATE | BLOCK_AND_AGGREGATE => {
            arguments::<(Calls,)>(data).map(|(calls,)| others(calls))
        }
        TRY_AGGREGATE | TRY_BLOCK_AND_AGGREGATE => {
            arguments::<(sol::Bool, Calls)>(data).map(|(_, calls)| others(calls))
        }
        AGGREGATE_3 => {
            type Calls3 = sol::Array<(sol::Address, sol::Bool, sol::Bytes)>;
            arguments::<(Calls3,)>(data)
                .map(|(calls,)| others(calls.into_iter().map(|(to, _, data)| (to, data)).collect()))
        }
        AGGREGATE_3_VALUE => {
            type Calls3 = sol::Array<(sol::Address, sol::Bool, Uint, sol::Bytes)>;
            arguments::<(Calls3,)>(data).map(|(calls,)| {
                let with_value = |(to, _, value, data)| Inner {
                    to,
                    value,
                    data,
                    itself: false,
                };
                calls.into_iter().map(with_value).collect()
            })
        }
        EXEC_TRANSACTION => return Some(safe(data)),
        _ => return None,
    };
    Some(calls.map(|calls| (What::Multicall, calls)))
}

fn inner(to: Address, data: Bytes, itself: bool) -> Inner {
    Inner {
        to,
        value: U256::ZERO,
        data,
        itself,
    }
}

/// The arguments of `execTransaction`.
type Exec = (
    sol::Address,
    Uint,
    sol::Bytes,
    sol::Uint<8>,
    Uint,
    Uint,
    Uint,
    sol::Address,
    sol::Address,
    sol::Bytes,
);

fn safe(data: &[u8]) -> Option<(What, Vec<Inner>)> {
    let (to, value, data, operation, _, _, gas_price, gas_token, refund_receiver, _) =
        arguments::<Exec>(data)?;
    let delegatecall = match operation {
        0 => false,
        1 => true,
        _ => return None,
    };
    let what = What::SafeTransaction {
        delegatecall,
        refund: (!gas_price.is_zero()).then_some((refund_receiver, gas_token)),
    };
    let call = Inner {
        to,
        value,
        data,
        itself: delegatecall,
    };
    Some((what, vec![call]))
}

const TRANSFER: [u8; 4] = hex!("a9059cbb");
const TRANSFER_FROM: [u8; 4] = hex!("23b872dd");
const APPROVE: [u8; 4] = hex!("095ea7b3");
const INCREASE_ALLOWANCE: [u8; 4] = hex!("39509351");
const DECREASE_ALLOWANCE: [u8; 4] = hex!("a457c2d7");
const PERMIT: [u8; 4] = hex!("d505accf");
const PERMIT_DAI: [u8; 4] = hex!("8fcbaf0c");
const PERMIT2_APPROVE: [u8; 4] = hex!("87517c45");
const PERMIT2_TRANSFER: [u8; 4] = hex!("36c78516");
const SET_APPROVAL_FOR_ALL: [u8; 4] = hex!("a22cb465");
const SAFE_TRANSFER: [u8; 4] = hex!("42842e0e");
const SAFE_TRANSFER_DATA: [u8; 4] = hex!("b88d4fde");
const SAFE_TRANSFER_1155: [u8; 4] = hex!("f242432a");
const SAFE_BATCH_TRANSFER_1155: [u8; 4] = hex!("2eb2c2d6");
const MULTICALL: [u8; 4] = hex!("ac9650d8");
const MULTICALL_UNTIL: [u8; 4] = hex!("5ae401dc");
const MULTICALL_AFTER: [u8; 4] = hex!("1f0464d1");
const AGGREGATE: [u8; 4] = hex!("252dba42");
const BLOCK_AND_AGGREGATE: [u8; 4] = hex!("c3077fa9");
const TRY_AGGREGATE: [u8; 4] = hex!("bce38bd7");
const TRY_BLOCK_AND_AGGREGATE: [u8; 4] = hex!("399542e9");
const AGGREGATE_3: [u8; 4] = hex!("82ad56cb");
const AGGREGATE_3_VALUE: [u8; 4] = hex!("174dea71");
const EXEC_TRANSACTION: [u8; 4] = hex!("6a761202");

#[cfg(test)]
mod tests;
#[cfg(test)]
mod xcheck_vectors;
