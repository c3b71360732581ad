//! Which requests are counted, and for whom.

use super::{OwnerId, ProfileId};

/// A kind of request whose number in any window of time is limited (`protocol.md` 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RateClass {
    /// A session's admission to its first round, for each attempt.
    Signing,
    /// Key generations, and changes of keys and devices.
    KeyOperations,
    /// Backups.
    Backup,
    /// Transactions that are prepared.
    Transactions,
    /// Reconciliations.
    Reconcile,
}

impl RateClass {
    /// Every class.
    pub const ALL: [Self; 5] = [
        Self::Signing,
        Self::KeyOperations,
        Self::Backup,
        Self::Transactions,
        Self::Reconcile,
    ];

    /// The name in the database, in headers and in `limits.toml`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Signing => "signing",
            Self::KeyOperations => "key-operations",
            Self::Backup => "backup",
            Self::Transactions => "transactions",
            Self::Reconcile => "reconcile",
        }
    }

    /// Its requests, in a sentence.
    #[must_use]
    pub const fn requests(self) -> &'static str {
        match self {
            Self::Signing => "signing requests",
            Self::KeyOperations => "key operations",
            Self::Backup => "backup requests",
            Self::Transactions => "transactions",
            Self::Reconcile => "reconcile requests",
        }
    }
}

/// Whose requests are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RateSubject {
    /// Those for one profile.
    Profile(ProfileId),
    /// Those of one owner, who has no profile yet or makes another one.
    Owner(OwnerId),
    /// Those of one user whom gateways vouch for, whatever devices they have: a hash of tenant, issuer and name.
    User([u8; 32]),
}

impl RateSubject {
    /// The text in the database. No two subjects share one.
    #[must_use]
    pub fn to_text(self) -> String {
        match self {
            Self::Profile(id) => id.to_string(),
            Self::Owner(id) => format!("owner:{id}"),
            Self::User(hash) => format!("user:{}", hex::encode(hash)),
        }
    }
}
