//! The verdicts on a fixed set of requests: one page that people review when rules change.

use std::collections::BTreeSet;

use crate::bundle::Bundle;
use crate::facts::{
    Asked, ChainFacts, DeviceFacts, Facts, ProfileFacts, TransactionFacts, TypedDataFacts,
};

pub(crate) const KNOWN: ChainFacts = ChainFacts {
    id: 1,
    configured: true,
    fits_environment: true,
};
pub(crate) const UNKNOWN: ChainFacts = ChainFacts {
    configured: false,
    ..KNOWN
};
pub(crate) const OTHER_KIND: ChainFacts = ChainFacts {
    fits_environment: false,
    ..KNOWN
};
const CHAINS: [(&str, ChainFacts); 3] = [
    ("known chain", KNOWN),
    ("unknown chain", UNKNOWN),
    ("chain of another kind of environment", OTHER_KIND),
];
const WHO: [(&str, bool); 2] = [("owner", true), ("someone else", false)];

const SOMEBODY: &str = "0x00000000000000000000000000000000000000aa";
const CONTRACT: &str = "0x00000000000000000000000000000000000000cc";

/// What a transaction may hold: a name, the kinds of its calls, whether a right in it is unlimited, whether it is a
/// delegatecall.
const CONTENTS: [(&str, &[&str], bool, bool); 17] = [
    ("coins", &["native-transfer"], false, false),
    ("tokens", &["erc20-transfer"], false, false),
    (
        "tokens of somebody, or an NFT",
        &["transfer-from"],
        false,
        false,
    ),
    ("limited approval", &["approve"], false, false),
    ("unlimited approval", &["approve"], true, false),
    ("raised approval", &["increase-allowance"], false, false),
    ("lowered approval", &["decrease-allowance"], false, false),
    ("signed approval", &["erc20-permit"], false, false),
    ("NFT", &["erc721-transfer"], false, false),
    ("tokens of ERC-1155", &["erc1155-transfer"], false, false),
    (
        "approval for a whole collection",
        &["approve-for-all"],
        true,
        false,
    ),
    (
        "multicall of tokens",
        &["erc20-transfer", "multicall"],
        false,
        false,
    ),
    (
        "multicall with an unknown call",
        &["multicall", "unknown-call"],
        false,
        false,
    ),
    (
        "Safe sends tokens",
        &["erc20-transfer", "safe-transaction"],
        false,
        false,
    ),
    (
        "Safe delegatecall",
        &["safe-transaction", "unknown-call"],
        false,
        true,
    ),
    ("unknown call", &["unknown-call"], false, false),
    ("contract creation", &["contract-creation"], false, false),
];

impl Bundle {
    /// Actions, people, chains and contents with their verdicts, one line each. For the built-in rules this is checked in
    /// as `policies/matrix.txt`.
    #[must_use]
    pub fn matrix(&self) -> String {
        let mut lines = Vec::new();
        for (who, by_owner) in WHO {
            let facts = facts(by_owner, Asked::CreateProfile);
            lines.push(self.line(who, "", "", &facts));
        }
        for asked in [Asked::PrepareTransaction, Asked::SignTransaction] {
            for (who, by_owner) in WHO {
                for (chain_name, chain) in CHAINS {
                    let (name, kinds, unlimited, delegatecall) = CONTENTS[0];
                    let content = transaction(chain, kinds, unlimited, delegatecall);
                    let facts = facts(by_owner, asked(Box::new(content)));
                    lines.push(self.line(who, chain_name, name, &facts));
                }
            }
            for (name, kinds, unlimited, delegatecall) in CONTENTS.into_iter().skip(1) {
                let content = transaction(KNOWN, kinds, unlimited, delegatecall);
                let facts = facts(true, asked(Box::new(content)));
                lines.push(self.line("owner", "known chain", name, &facts));
            }
        }
        let message = facts(true, Asked::SignTypedData(Box::new(typed_data())));
        lines.push(self.line("owner", "known chain", "permit of a token", &message));
        lines.concat()
    }

    fn line(&self, who: &str, chain: &str, content: &str, facts: &Facts) -> String {
        let verdict = self.decide(facts);
        let word = verdict.denied.map_or("allow", |reason| match reason {
            crate::Reason::SecondFactor => "2fa",
            _ => "deny",
        });
        let action = facts.asked.action();
        let rules = verdict.rules.join(", ");
        format!("{word:<5} | {action:<19} | {who:<12} | {chain:<36} | {content:<31} | {rules}\n")
    }
}

pub(crate) fn facts(by_owner: bool, asked: Asked) -> Facts {
    let owner = if by_owner { "owner" } else { "someone else" };
    Facts {
        asked,
        device: DeviceFacts {
            id: "device".to_owned(),
            owner: owner.to_owned(),
            tenant: "default".to_owned(),
            client_role: "gateway".to_owned(),
            age_seconds: 30 * 86_400,
        },
        profile: ProfileFacts {
            id: "profile".to_owned(),
            owner: "owner".to_owned(),
            tenant: "default".to_owned(),
        },
        environment: "production".to_owned(),
        // A Wednesday, at noon.
        at: 1_700_049_600,
        second_factor: false,
    }
}

pub(crate) fn transaction(
    chain: ChainFacts,
    kinds: &[&str],
    unlimited_approval: bool,
    delegatecall: bool,
) -> TransactionFacts {
    let of = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    let plain = kinds == ["native-transfer"];
    let none = BTreeSet::new;
    TransactionFacts {
        chain,
        to: if plain { SOMEBODY } else { CONTRACT }.to_owned(),
        value_gwei: i64::from(plain),
        inner_value_gwei: 0,
        kinds: of(kinds),
        contracts: if plain { none() } else { of(&[CONTRACT]) },
        selectors: none(),
        tokens: none(),
        recipients: of(&[SOMEBODY]),
        spenders: none(),
        sources: none(),
        unlimited_approval,
        delegatecall,
        calls: i64::try_from(kinds.len()).unwrap_or(i64::MAX),
    }
}

fn typed_data() -> TypedDataFacts {
    let of = |name: &str| BTreeSet::from([name.to_owned()]);
    TypedDataFacts {
        chain: KNOWN,
        domain_name: "Token".to_owned(),
        domain_version: "1".to_owned(),
        verifying_contract: CONTRACT.to_owned(),
        primary_type: "Permit".to_owned(),
        fields: of("spender"),
        addresses: of(SOMEBODY),
        spenders: of(SOMEBODY),
        unlimited_approval: false,
    }
}
