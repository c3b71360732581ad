//! Who may do what: a pure judgement over facts.
//!
//! This first bundle is built in: an owner may act on their own profiles, on chains that are both
//! configured and right for the environment. What no rule permits is denied.

use sha2::{Digest, Sha256};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Create a wallet.
    CreateProfile,
    /// Prepare a transaction for signing.
    PrepareTransaction,
    /// Take the next step of signing a prepared transaction.
    SignTransaction,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 3] = [
        Self::CreateProfile,
        Self::PrepareTransaction,
        Self::SignTransaction,
    ];

    /// The name used in decisions and in the matrix.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CreateProfile => "create-profile",
            Self::PrepareTransaction => "prepare-transaction",
            Self::SignTransaction => "sign-transaction",
        }
    }
}

/// The chain a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainFacts {
    /// Its EIP-155 id.
    pub id: u64,
    /// Whether a node for it is configured.
    pub configured: bool,
    /// Whether this kind of environment may sign for it.
    pub fits_environment: bool,
}

/// Everything the rules may look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What is asked for.
    pub action: Action,
    /// Whether the device that signed the request speaks for the owner of the profile.
    pub by_owner: bool,
    /// The chain, if the action concerns one.
    pub chain: Option<ChainFacts>,
}

impl Facts {
    /// SHA-256 over the facts, for the decision record.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let lp = countersign_mpc::lp::Lp::new("facts/1")
            .str(self.action.as_str())
            .u64(u64::from(self.by_owner));
        match self.chain {
            Some(chain) => lp
                .u64(chain.id)
                .u64(u64::from(chain.configured))
                .u64(u64::from(chain.fits_environment))
                .hash(),
            None => lp.hash(),
        }
    }
}

/// Why a request was denied, as the client may know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenyReason {
    /// A rule forbids it, or none permits it.
    Policy,
    /// The chain is not one of ours.
    Chain,
}

/// What the rules say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `None` if allowed.
    pub denied: Option<DenyReason>,
    /// The ids of the rules that decided.
    pub rules: Vec<&'static str>,
}

struct Rule {
    id: &'static str,
    /// What it says, in one line: part of the bundle's hash.
    text: &'static str,
    /// A forbidding rule carries its reason; it wins over every permitting one.
    forbids: Option<DenyReason>,
    applies: fn(&Facts) -> bool,
}

const RULES: [Rule; 4] = [
    Rule {
        id: "builtin.owner-only",
        text: "forbid any action on a profile of another owner",
        forbids: Some(DenyReason::Policy),
        applies: |facts| !facts.by_owner,
    },
    Rule {
        id: "builtin.known-chain",
        text: "forbid a chain that is not configured",
        forbids: Some(DenyReason::Chain),
        applies: |facts| facts.chain.is_some_and(|chain| !chain.configured),
    },
    Rule {
        id: "builtin.environment-chain",
        text: "forbid a chain that the environment's kind does not accept",
        forbids: Some(DenyReason::Chain),
        applies: |facts| facts.chain.is_some_and(|chain| !chain.fits_environment),
    },
    Rule {
        id: "builtin.owner-acts",
        text: "permit the owner to create profiles, and to prepare and sign transactions on a chain",
        forbids: None,
        applies: |facts| {
            facts.by_owner
                && match facts.action {
                    Action::CreateProfile => true,
                    Action::PrepareTransaction | Action::SignTransaction => facts.chain.is_some(),
                }
        },
    },
];

/// The rule id that stands for "nothing permits it".
const DEFAULT_DENY: &str = "builtin.default-deny";

/// A set of rules.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    bundle_hash: [u8; 32],
}

impl Policy {
    /// The built-in rules.
    #[must_use]
    pub fn builtin() -> Self {
        let mut hasher = Sha256::new();
        for rule in &RULES {
            hasher.update(
                countersign_mpc::lp::Lp::new("rule/1")
                    .str(rule.id)
                    .str(rule.text)
                    .finish(),
            );
        }
        Self {
            bundle_hash: hasher.finalize().into(),
        }
    }

    /// SHA-256 of the bundle: stands in every decision.
    #[must_use]
    pub const fn bundle_hash(&self) -> &[u8; 32] {
        &self.bundle_hash
    }

    /// Judges facts. A forbidding rule wins; without a permitting one the answer is no.
    #[must_use]
    pub fn judge(&self, facts: &Facts) -> Verdict {
        let forbidding: Vec<&Rule> = RULES
            .iter()
            .filter(|rule| rule.forbids.is_some() && (rule.applies)(facts))
            .collect();
        if let Some(first) = forbidding.first() {
            return Verdict {
                denied: first.forbids,
                rules: forbidding.iter().map(|rule| rule.id).collect(),
            };
        }
        let permitting: Vec<&'static str> = RULES
            .iter()
            .filter(|rule| rule.forbids.is_none() && (rule.applies)(facts))
            .map(|rule| rule.id)
            .collect();
        if permitting.is_empty() {
            return Verdict {
                denied: Some(DenyReason::Policy),
                rules: vec![DEFAULT_DENY],
            };
        }
        Verdict {
            denied: None,
            rules: permitting,
        }
    }

    /// Every combination of facts with its verdict, one line each: checked in as
    /// `policies/matrix.txt` and compared by a test.
    #[must_use]
    pub fn matrix(&self) -> String {
        let chain = |configured, fits_environment| {
            Some(ChainFacts {
                id: 1,
                configured,
                fits_environment,
            })
        };
        let chains = [
            ("no chain", None),
            ("unknown chain", chain(false, true)),
            ("chain of another kind of environment", chain(true, false)),
            ("known chain", chain(true, true)),
        ];
        let mut lines = Vec::new();
        for action in Action::ALL {
            for (who, by_owner) in [("owner", true), ("someone else", false)] {
                for (name, chain) in chains {
                    let facts = Facts {
                        action,
                        by_owner,
                        chain,
                    };
                    let verdict = self.judge(&facts);
                    let word = if verdict.denied.is_some() {
                        "deny "
                    } else {
                        "allow"
                    };
                    let rules = verdict.rules.join(", ");
                    let action = action.as_str();
                    lines.push(format!(
                        "{word} | {action:<19} | {who:<12} | {name:<36} | {rules}\n"
                    ));
                }
            }
        }
        lines.concat()
    }
}

#[cfg(test)]
mod tests {
    use super::{Action, ChainFacts, DenyReason, Facts, Policy};

    #[test]
    fn the_matrix_is_the_one_that_was_reviewed() {
        let actual = Policy::builtin().matrix();
        let new = concat!(env!("CARGO_MANIFEST_DIR"), "/target/matrix.txt");
        if actual != include_str!("../policies/matrix.txt") {
            assert!(std::fs::write(new, &actual).is_ok());
        }
        assert_eq!(
            actual,
            include_str!("../policies/matrix.txt"),
            "review {new} and copy it to policies/matrix.txt"
        );
    }

    #[test]
    fn a_foreign_owner_and_an_unknown_chain_are_denied_for_their_own_reasons() {
        let policy = Policy::builtin();
        let chain = ChainFacts {
            id: 1,
            configured: false,
            fits_environment: true,
        };
        let mut facts = Facts {
            action: Action::PrepareTransaction,
            by_owner: true,
            chain: Some(chain),
        };
        assert_eq!(policy.judge(&facts).denied, Some(DenyReason::Chain));
        facts.by_owner = false;
        assert_eq!(policy.judge(&facts).denied, Some(DenyReason::Policy));
        facts.chain = None;
        facts.by_owner = true;
        assert_eq!(policy.judge(&facts).denied, Some(DenyReason::Policy));
    }
}
