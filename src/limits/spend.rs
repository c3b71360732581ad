//! Spending limits: how much of an asset may leave, in base units, exactly.
//!
//! What a transaction may spend is claimed from each limit that it falls under, all of them or none, when it is prepared.
//! A claim stands until the transaction is given up; it counts from its signature for as long as the limit's window.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use alloy_primitives::U256;

use crate::domain::{ProfileId, TenantId};

/// Something that can be spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asset {
    /// The chain it is on.
    pub chain: u64,
    /// The contract of a token; the chain's own coin without one.
    pub token: Option<[u8; 20]>,
}

/// What a limit adds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Per {
    /// One transaction.
    Transaction,
    /// What one profile spends.
    Profile,
    /// What one profile spends to one recipient.
    Recipient,
    /// What all profiles of a tenant spend.
    Tenant,
    /// What all profiles spend.
    Environment,
}

impl Per {
    /// Every one.
    pub const ALL: [Self; 5] = [
        Self::Transaction,
        Self::Profile,
        Self::Recipient,
        Self::Tenant,
        Self::Environment,
    ];

    /// The name in `limits.toml` and in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transaction => "transaction",
            Self::Profile => "profile",
            Self::Recipient => "recipient",
            Self::Tenant => "tenant",
            Self::Environment => "environment",
        }
    }

    /// Whether it adds up what several profiles spend.
    #[must_use]
    pub const fn is_shared(self) -> bool {
        matches!(self, Self::Tenant | Self::Environment)
    }
}

/// At most so much of an asset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpendLimit {
    /// What it is called: told to the wallet that reaches it.
    pub name: String,
    /// Of what.
    pub asset: Asset,
    /// What is added up.
    pub per: Per,
    /// How much, in base units.
    pub amount: U256,
    /// In so many seconds; 0 for one transaction.
    pub seconds: u32,
}

/// Who pays.
#[derive(Clone, Debug)]
pub struct Payer {
    /// The profile.
    pub profile: ProfileId,
    /// Its tenant.
    pub tenant: TenantId,
}

/// What a transaction spends at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spend {
    /// Of what.
    pub asset: Asset,
    /// To whom, or who may take it.
    pub recipient: [u8; 20],
    /// How much.
    pub amount: U256,
}

/// What a transaction takes of a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim<'a> {
    /// The limit.
    pub limit: &'a SpendLimit,
    /// What it adds up: what is claimed under one name counts together.
    pub bucket: String,
    /// How much.
    pub amount: U256,
}

/// A limit does not allow it. Only its name is told: it may add up what others spend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// The limit.
    pub name: String,
}

impl SpendLimit {
    /// There is no room in this limit.
    #[must_use]
    pub fn reached(&self) -> Reached {
        Reached {
            name: self.name.clone(),
        }
    }

    /// What it adds up for a payer and a recipient. Another amount under the same name and window goes on counting what
    /// was claimed before.
    #[must_use]
    pub fn bucket(&self, payer: &Payer, recipient: Option<&[u8; 20]>) -> String {
        let mut text = format!(
            "{}/{}/{}/",
            self.per.as_str(),
            self.seconds,
            self.asset.chain
        );
        match &self.asset.token {
            Some(token) => text.push_str(&hex::encode(token)),
            None => text.push_str("native"),
        }
        // Writing to a String does not fail.
        let _written = match self.per {
            Per::Transaction | Per::Environment => Ok(()),
            Per::Profile => write!(text, "/{}", payer.profile),
            Per::Recipient => {
                let recipient = recipient.map(hex::encode).unwrap_or_default();
                write!(text, "/{}/{recipient}", payer.profile)
            }
            Per::Tenant => write!(text, "/{}", payer.tenant),
        };
        text
    }

    /// What spends take of it: in all, or of each recipient whom it adds up apart. Empty if it is about something else.
    ///
    /// # Errors
    /// [`Reached`] when it is more than can be counted.
    pub fn taken(&self, spends: &[Spend]) -> Result<BTreeMap<Option<[u8; 20]>, U256>, Reached> {
        let mut sums = BTreeMap::new();
        for spend in spends.iter().filter(|spend| spend.asset == self.asset) {
            let of = (self.per == Per::Recipient).then_some(spend.recipient);
            let sum: &mut U256 = sums.entry(of).or_default();
            *sum = sum
                .checked_add(spend.amount)
                .ok_or_else(|| self.reached())?;
        }
        Ok(sums)
    }

    /// What remains of it when so much is claimed.
    #[must_use]
    pub fn left(&self, claimed: U256) -> U256 {
        self.amount.saturating_sub(claimed)
    }
}

/// What a transaction claims, of every limit that adds up over time.
///
/// # Errors
/// [`Reached`] when it is more than a limit allows by itself.
pub fn claims<'a>(
    limits: &'a [SpendLimit],
    payer: &Payer,
    spends: &[Spend],
) -> Result<Vec<Claim<'a>>, Reached> {
    let mut claims = Vec::new();
    for limit in limits {
        for (recipient, amount) in limit.taken(spends)? {
            if amount > limit.amount {
                return Err(limit.reached());
            }
            if limit.per != Per::Transaction && !amount.is_zero() {
                let bucket = limit.bucket(payer, recipient.as_ref());
                claims.push(Claim {
                    limit,
                    bucket,
                    amount,
                });
            }
        }
    }
    Ok(claims)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::{Asset, Payer, Per, Reached, Spend, SpendLimit, U256, claims};
    use crate::domain::{ProfileId, TenantId};

    const COIN: Asset = Asset {
        chain: 1,
        token: None,
    };

    fn limit(per: Per, amount: u64) -> SpendLimit {
        SpendLimit {
            name: format!("a-{}", per.as_str()),
            asset: COIN,
            per,
            amount: U256::from(amount),
            seconds: if per == Per::Transaction { 0 } else { 60 },
        }
    }

    fn payer() -> Payer {
        Payer {
            profile: ProfileId::generate(),
            tenant: TenantId::parse("default").unwrap(),
        }
    }

    const fn spend(asset: Asset, recipient: u8, amount: U256) -> Spend {
        Spend {
            asset,
            recipient: [recipient; 20],
            amount,
        }
    }

    fn amounts(per: Per, most: u64, spends: &[Spend]) -> Result<Vec<u64>, Reached> {
        let limits = [limit(per, most)];
        let claims = claims(&limits, &payer(), spends)?;
        Ok(claims.iter().map(|claim| claim.amount.to()).collect())
    }

    #[test]
    fn a27_the_sum_of_small_spends_counts_and_not_each_of_them() {
        let two = [spend(COIN, 1, U256::from(6)), spend(COIN, 2, U256::from(6))];
        for per in [Per::Profile, Per::Tenant, Per::Environment] {
            assert_eq!(amounts(per, 12, &two).unwrap(), [12]);
            assert!(amounts(per, 11, &two).is_err(), "{per:?}");
        }
        assert_eq!(amounts(Per::Transaction, 12, &two).unwrap(), [0; 0]);
        assert_eq!(
            amounts(Per::Transaction, 11, &two).unwrap_err().name,
            "a-transaction"
        );
        assert_eq!(amounts(Per::Recipient, 6, &two).unwrap(), [6, 6]);
        let same = [spend(COIN, 1, U256::from(6)), spend(COIN, 1, U256::from(6))];
        assert!(amounts(Per::Recipient, 6, &same).is_err());
    }

    #[test]
    fn other_assets_and_nothing_claim_nothing() {
        let token = Asset {
            token: Some([9; 20]),
            ..COIN
        };
        let other = Asset { chain: 2, ..COIN };
        let spends = [
            spend(token, 1, U256::MAX),
            spend(other, 1, U256::MAX),
            spend(COIN, 1, U256::ZERO),
        ];
        assert_eq!(amounts(Per::Profile, 1, &spends).unwrap(), [0; 0]);
    }

    #[test]
    fn a_sum_that_overflows_is_more_than_any_limit() {
        let spends = [spend(COIN, 1, U256::MAX), spend(COIN, 2, U256::from(1))];
        let limits = [SpendLimit {
            amount: U256::MAX,
            ..limit(Per::Profile, 0)
        }];
        assert!(claims(&limits, &payer(), &spends).is_err());
    }

    #[test]
    fn what_is_left_is_what_is_not_claimed_and_never_less_than_nothing() {
        let limit = limit(Per::Profile, 5);
        for (claimed, left) in [(0, 5), (3, 2), (5, 0), (6, 0)] {
            assert_eq!(limit.left(U256::from(claimed)), U256::from(left));
        }
        let shared = Per::ALL.into_iter().filter(|per| per.is_shared());
        assert!(shared.eq([Per::Tenant, Per::Environment]));
    }

    #[test]
    fn what_is_added_up_has_one_name_and_what_is_not_has_another() {
        let (one, two) = (payer(), payer());
        let bucket = |per, who: &Payer, to: u8| limit(per, 5).bucket(who, Some(&[to; 20]));
        assert_ne!(bucket(Per::Profile, &one, 1), bucket(Per::Profile, &two, 1));
        assert_eq!(bucket(Per::Profile, &one, 1), bucket(Per::Profile, &one, 2));
        assert_ne!(
            bucket(Per::Recipient, &one, 1),
            bucket(Per::Recipient, &one, 2)
        );
        assert_eq!(bucket(Per::Tenant, &one, 1), bucket(Per::Tenant, &two, 2));
        assert_eq!(bucket(Per::Environment, &one, 1), "environment/60/1/native");
        let lower = SpendLimit {
            amount: U256::from(1),
            ..limit(Per::Profile, 5)
        };
        assert_eq!(lower.bucket(&one, None), bucket(Per::Profile, &one, 1));
    }
}
