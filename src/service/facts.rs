//! What policy is told of a request: by whom, of which wallet, and what it would do, read from its content.

use std::collections::BTreeSet;

use alloy_primitives::{Address, U256};

use crate::chain::Chains;
use crate::chain::calls::{self, Call, What};
use crate::clock;
use crate::domain::{EnvironmentKind, OwnerId, ProfileId};
use crate::identity::owner::{Applicant, Owner};
use crate::policy::{Asked, ChainFacts, DeviceFacts, Facts, ProfileFacts, TransactionFacts};
use crate::store::profiles::ProfileRow;

/// What stands among recipients, spenders, tokens and sources when a call was not understood: there may be others, and a
/// rule that allows certain ones only must not overlook it.
const UNKNOWN: &str = "unknown";
/// `to` of a transaction that creates a contract.
const NOBODY: &str = "none";
const WEI_PER_GWEI: u64 = 1_000_000_000;

/// What an owner asks of a wallet of theirs.
pub(crate) fn of_owner(
    owner: &Owner,
    profile: &ProfileRow,
    kind: EnvironmentKind,
    asked: Asked,
) -> Facts {
    let now = clock::now();
    Facts {
        asked,
        device: DeviceFacts {
            id: owner.device_key_id().to_string(),
            owner: owner.owner_id().to_string(),
            tenant: owner.tenant().to_string(),
            client_role: owner.role().as_str().to_owned(),
            age_seconds: (now.as_seconds() - owner.enrolled_at().as_seconds()).max(0),
        },
        profile: ProfileFacts {
            id: profile.profile_id.to_string(),
            owner: profile.owner_id.to_string(),
            tenant: profile.tenant.to_string(),
        },
        environment: kind.as_str().to_owned(),
        at: now.as_seconds(),
        second_factor: false,
    }
}

/// What somebody asks who wants a new wallet, as the owner they are or will be.
pub(crate) fn of_applicant(
    applicant: &Applicant,
    owner_id: OwnerId,
    profile_id: ProfileId,
    kind: EnvironmentKind,
) -> Facts {
    let now = clock::now();
    let owner = owner_id.to_string();
    let since = applicant.enrolled_at().unwrap_or(now);
    let tenant = applicant.tenant().to_string();
    Facts {
        asked: Asked::CreateProfile,
        device: DeviceFacts {
            id: applicant.device_key_id().to_string(),
            owner: owner.clone(),
            tenant: tenant.clone(),
            client_role: applicant.role().as_str().to_owned(),
            age_seconds: (now.as_seconds() - since.as_seconds()).max(0),
        },
        profile: ProfileFacts {
            id: profile_id.to_string(),
            owner,
            tenant,
        },
        environment: kind.as_str().to_owned(),
        at: now.as_seconds(),
        second_factor: false,
    }
}

/// What policy may know of a chain.
pub(crate) fn of_chain(chains: &Chains, kind: EnvironmentKind, chain_id: u64) -> ChainFacts {
    ChainFacts {
        id: chain_id,
        configured: chains.node(chain_id).is_some(),
        fits_environment: kind.accepts_chain(chain_id),
    }
}

/// What a transaction would do.
#[must_use]
pub fn of_transaction(
    chain: ChainFacts,
    to: Option<Address>,
    value: U256,
    data: &[u8],
) -> TransactionFacts {
    let calls = calls::decode(to, value, data);
    let mut facts = TransactionFacts {
        chain,
        to: to.map_or_else(|| NOBODY.to_owned(), name),
        value_gwei: gwei(value),
        inner_value_gwei: gwei(inner_value(&calls)),
        kinds: BTreeSet::new(),
        contracts: BTreeSet::new(),
        selectors: BTreeSet::new(),
        tokens: BTreeSet::new(),
        recipients: BTreeSet::new(),
        spenders: BTreeSet::new(),
        sources: BTreeSet::new(),
        unlimited_approval: false,
        delegatecall: false,
        calls: i64::try_from(calls.len()).unwrap_or(i64::MAX),
    };
    for call in &calls {
        add(&mut facts, call);
    }
    facts
}

fn add(facts: &mut TransactionFacts, call: &Call) {
    facts.kinds.insert(call.what.kind().to_owned());
    facts.unlimited_approval |= call.what.is_unlimited();
    if let Some(selector) = call.selector {
        facts.selectors.insert(format!("{selector:#x}"));
    }
    let Some(to) = call.to else { return };
    if call.what != What::NativeTransfer {
        facts.contracts.insert(name(to));
    }
    if call.what == What::NativeTransfer || !call.value.is_zero() {
        facts.recipients.insert(name(to));
    }
    let Moved {
        token,
        from,
        recipient,
        spender,
    } = moved(&call.what, to);
    facts.tokens.extend(token.map(name));
    facts.sources.extend(from.map(name));
    facts.recipients.extend(recipient.map(name));
    facts.spenders.extend(spender.map(name));
    match &call.what {
        What::SafeTransaction { delegatecall, .. } => facts.delegatecall |= delegatecall,
        What::Unknown | What::Undecodable => {
            for names in [
                &mut facts.tokens,
                &mut facts.sources,
                &mut facts.recipients,
                &mut facts.spenders,
            ] {
                names.insert(UNKNOWN.to_owned());
            }
        }
        _ => {}
    }
}

/// Whom a call concerns besides the contract it calls.
#[derive(Default)]
struct Moved {
    token: Option<Address>,
    from: Option<Address>,
    recipient: Option<Address>,
    spender: Option<Address>,
}

fn moved(what: &What, contract: Address) -> Moved {
    let here = Moved {
        token: Some(contract),
        ..Moved::default()
    };
    match *what {
        What::Erc20Transfer { to, .. } => Moved {
            recipient: Some(to),
            ..here
        },
        What::TransferFrom { from, to, .. }
        | What::Erc721Transfer { from, to }
        | What::Erc1155Transfer { from, to } => Moved {
            from: Some(from),
            recipient: Some(to),
            ..here
        },
        What::Permit2Transfer {
            token, from, to, ..
        } => Moved {
            token: Some(token),
            from: Some(from),
            recipient: Some(to),
            spender: None,
        },
        What::Approve { token, spender, .. } => Moved {
            token: Some(token),
            spender: Some(spender),
            ..Moved::default()
        },
        What::IncreaseAllowance { spender, .. } | What::DecreaseAllowance { spender, .. } => {
            Moved {
                spender: Some(spender),
                ..here
            }
        }
        What::Permit { owner, spender, .. } => Moved {
            from: Some(owner),
            spender: Some(spender),
            ..here
        },
        What::ApproveForAll { operator, approved } => Moved {
            // Taking a right back gives nobody one.
            spender: approved.then_some(operator),
            ..here
        },
        What::SafeTransaction {
            refund: Some((receiver, token)),
            ..
        } => Moved {
            token: (!token.is_zero()).then_some(token),
            recipient: Some(receiver),
            ..Moved::default()
        },
        What::NativeTransfer
        | What::Multicall
        | What::SafeTransaction { refund: None, .. }
        | What::Unknown
        | What::Undecodable
        | What::ContractCreation => Moved::default(),
    }
}

fn inner_value(calls: &[Call]) -> U256 {
    let inner = calls.iter().filter(|call| call.depth > 0);
    inner.fold(U256::ZERO, |sum, call| sum.saturating_add(call.value))
}

/// Wei in gwei: rounded up, so that a limit is never passed by less than one, and never more than Cedar can count.
fn gwei(wei: U256) -> i64 {
    i64::try_from(wei.div_ceil(U256::from(WEI_PER_GWEI))).unwrap_or(i64::MAX)
}

fn name(address: Address) -> String {
    format!("{address:#x}")
}

#[cfg(test)]
mod tests;
