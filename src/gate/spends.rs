//! Spending limits: claimed inside the operation that prepares a transaction, all of them or none.
//!
//! INVARIANT: whoever reserves has the buckets to itself: those of a profile by the key of the profile, those that add up
//! what several spend by [`Key::SPENDING`] besides ([`Spending::key`]). So no two transactions fit in where there is room
//! for one.

use std::sync::Arc;

use alloy_primitives::U256;

use crate::clock::Timestamp;
use crate::domain::SessionId;
use crate::limits::spend::{Claim, Payer, Reached, Spend, claims};
use crate::limits::{InForce, Limits, SpendLimit};
use crate::store::{Key, StoreError, Tx, spends};

/// The limits that a payer's transactions fall under.
pub struct Spending {
    limits: Arc<Limits>,
    payer: Payer,
}

/// Why nothing is reserved.
#[derive(Debug)]
pub enum NotReserved {
    /// A limit does not allow it.
    Reached(Reached),
    /// The store failed: nobody knows, so nothing is spent.
    Store(StoreError),
}

impl From<StoreError> for NotReserved {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Reached> for NotReserved {
    fn from(reached: Reached) -> Self {
        Self::Reached(reached)
    }
}

impl Spending {
    /// Under the limits that are in force now.
    #[must_use]
    pub fn new(limits: &InForce, payer: Payer) -> Self {
        Self {
            limits: limits.current(),
            payer,
        }
    }

    /// The limits.
    #[must_use]
    pub fn limits(&self) -> &[SpendLimit] {
        self.limits.spends()
    }

    /// What an operation that reserves has for a key, beside that of the profile.
    #[must_use]
    pub fn key(&self) -> Key {
        if self
            .limits
            .spends()
            .iter()
            .any(|limit| limit.per.is_shared())
        {
            Key::SPENDING
        } else {
            Key::NONE
        }
    }

    /// Reserves what a session's transaction may spend.
    ///
    /// # Errors
    /// [`NotReserved::Reached`] when a limit does not allow it; then what was written is to be rolled back.
    pub async fn reserve(
        &self,
        tx: &mut Tx<'_>,
        session: SessionId,
        spends: &[Spend],
    ) -> Result<(), NotReserved> {
        let claims = claims(self.limits.spends(), &self.payer, spends)?;
        if claims.is_empty() {
            return Ok(());
        }
        let now = tx.server_clock().await?;
        self.reserve_at(tx, session, &claims, now).await
    }

    async fn reserve_at(
        &self,
        tx: &mut Tx<'_>,
        session: SessionId,
        claims: &[Claim<'_>],
        now: Timestamp,
    ) -> Result<(), NotReserved> {
        let mut totals = Vec::with_capacity(claims.len());
        for claim in claims {
            let total = settled(tx, claim, now).await?.checked_add(claim.amount);
            let fits = total.filter(|total| *total <= claim.limit.amount);
            totals.push(fits.ok_or_else(|| claim.limit.reached())?);
        }
        for (claim, total) in claims.iter().zip(totals) {
            spends::set_total(tx, &claim.bucket, &total.to_be_bytes()).await?;
            let amount = claim.amount.to_be_bytes();
            spends::reserve(tx, &claim.bucket, session, now, &amount).await?;
        }
        Ok(())
    }
}

/// What is claimed in a bucket, without what has left it.
async fn settled(tx: &mut Tx<'_>, claim: &Claim<'_>, now: Timestamp) -> Result<U256, StoreError> {
    let total = spends::total(tx, &claim.bucket).await?.unwrap_or_default();
    let since = now.plus_seconds(-i64::from(claim.limit.seconds));
    let mut total = U256::from_be_bytes(total);
    let left = spends::leave(tx, &claim.bucket, since).await?;
    if left.is_empty() {
        return Ok(total);
    }
    for amount in left {
        let rest = total.checked_sub(U256::from_be_bytes(amount));
        total = rest.ok_or(StoreError::Corrupt {
            table: "spend_totals",
            column: "total",
        })?;
    }
    // At once: a refusal that follows is recorded, and what has left has left.
    spends::set_total(tx, &claim.bucket, &total.to_be_bytes()).await?;
    Ok(total)
}
