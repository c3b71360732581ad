//! The freezes that stand.
//!
//! INVARIANT: an operation that signs, or admits what signs, looks at these rows inside its transaction. A freeze of a
//! profile is placed under that profile's [`Key`], which such an operation has to itself: nothing is signed after its commit.
//! A wider one is seen from its commit on by every operation that begins to look; those that have looked before share
//! [`Key::FREEZES`] until their end, and [`Store::pass_freezes`] waits for them. It is placed without that lock, so that an
//! instance that hangs in a transaction does not keep it from the others.
//!
//! [`Key`]: super::Key
//! [`Key::FREEZES`]: super::Key::FREEZES
//! [`Store::pass_freezes`]: super::Store::pass_freezes

use super::engine::{Row, values};
use super::{Key, Reads, StoreError, Tx, Upkeep, time};
use crate::domain::{Freeze, FreezeScope, OperationId, PlacedBy, ProfileId, Target, TenantId};

/// Waits for every operation that has looked at freezes and is not over.
pub(super) struct Pass;

impl Upkeep for Pass {
    type Output = ();

    fn key(&self) -> Key {
        Key::FREEZES
    }

    async fn apply(&mut self, _tx: &mut Tx<'_>) -> Result<(), StoreError> {
        Ok(())
    }
}

fn read(row: Row) -> Result<Freeze, StoreError> {
    let mut row = row.of("freezes");
    let scope = row.named("scope", FreezeScope::parse)?;
    Ok(Freeze {
        target: row.named("subject", |subject| Target::of(scope, subject))?,
        placed_by: row.named("placed_by", PlacedBy::parse)?,
        freeze_id: row.parsed("freeze_id", OperationId::parse)?,
        who: row.text("who")?,
        reason: row.text("reason")?,
        frozen_at: time(row.int("frozen_at")?),
    })
}

macro_rules! select {
    ($condition:literal) => {
        concat!(
            "SELECT scope, subject, placed_by, freeze_id, who, reason, frozen_at FROM freezes WHERE ",
            $condition
        )
    };
}

/// The widest freeze that stops this profile of this tenant.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn over(
    reads: &mut impl Reads,
    profile: ProfileId,
    tenant: &TenantId,
) -> Result<Option<FreezeScope>, StoreError> {
    let rows = reads
        .query(
            "SELECT scope FROM freezes WHERE (scope = 'profile' AND subject = $1) \
             OR (scope = 'tenant' AND subject = $2) OR (scope = 'global' AND subject = '')",
            values![profile.to_string(), tenant.as_str()],
        )
        .await?;
    widest(rows)
}

/// The widest freeze that stops this profile, whichever tenant's it is.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn over_known(
    reads: &mut impl Reads,
    profile: ProfileId,
) -> Result<Option<FreezeScope>, StoreError> {
    let rows = reads
        .query(
            "SELECT scope FROM freezes WHERE (scope = 'profile' AND subject = $1) OR (scope = 'tenant' \
             AND subject = (SELECT tenant FROM profiles WHERE profile_id = $1)) OR (scope = 'global' AND subject = '')",
            values![profile.to_string()],
        )
        .await?;
    widest(rows)
}

fn widest(rows: Vec<Row>) -> Result<Option<FreezeScope>, StoreError> {
    let mut widest = None;
    for row in rows {
        let scope = row.of("freezes").named("scope", FreezeScope::parse)?;
        widest = widest.max(Some(scope));
    }
    Ok(widest)
}

/// The freeze of this target that one of the two placed.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn find(
    reads: &mut impl Reads,
    target: &Target,
    placed_by: PlacedBy,
) -> Result<Option<Freeze>, StoreError> {
    let row = reads
        .query_one(
            select!("scope = $1 AND subject = $2 AND placed_by = $3"),
            values![
                target.scope().as_str(),
                target.subject(),
                placed_by.as_str()
            ],
        )
        .await?;
    row.map(read).transpose()
}

/// The freezes of this target.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn of(reads: &mut impl Reads, target: &Target) -> Result<Vec<Freeze>, StoreError> {
    let rows = reads
        .query(
            select!("scope = $1 AND subject = $2 ORDER BY placed_by"),
            values![target.scope().as_str(), target.subject()],
        )
        .await?;
    rows.into_iter().map(read).collect()
}

/// The freezes of tenants and of everything.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn wide(reads: &mut impl Reads) -> Result<Vec<Freeze>, StoreError> {
    let rows = reads
        .query(
            select!("scope IN ('tenant', 'global') ORDER BY scope, subject"),
            &[],
        )
        .await?;
    rows.into_iter().map(read).collect()
}

/// The five hundred freezes of profiles that were placed last, the latest first.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn latest(reads: &mut impl Reads) -> Result<Vec<Freeze>, StoreError> {
    let rows = reads
        .query(
            select!("scope = 'profile' AND frozen_at > 0 ORDER BY frozen_at DESC LIMIT 500"),
            &[],
        )
        .await?;
    rows.into_iter().map(read).collect()
}

/// How many freezes of each scope stand.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn count(reads: &mut impl Reads) -> Result<[(FreezeScope, i64); 3], StoreError> {
    let row = reads
        .query_one(
            "SELECT (SELECT COUNT(*) FROM freezes WHERE scope = 'profile'), \
             (SELECT COUNT(*) FROM freezes WHERE scope = 'tenant'), \
             (SELECT COUNT(*) FROM freezes WHERE scope = 'global')",
            &[],
        )
        .await?;
    let mut row = row.ok_or(StoreError::NoEnvironment)?.of("freezes");
    Ok([
        (FreezeScope::Profile, row.int("profile")?),
        (FreezeScope::Tenant, row.int("tenant")?),
        (FreezeScope::Global, row.int("global")?),
    ])
}

/// Places a freeze, instead of one of the same target by the same of the two; the id of that one.
///
/// SECURITY: a freeze that is placed again is another one. What was signed to lift the one before does not lift it.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn place(tx: &mut Tx<'_>, freeze: &Freeze) -> Result<Option<OperationId>, StoreError> {
    let before = find(tx, &freeze.target, freeze.placed_by).await?;
    tx.execute(
        "INSERT INTO freezes (scope, subject, placed_by, freeze_id, who, reason, frozen_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (scope, subject, placed_by) DO UPDATE SET \
         freeze_id = excluded.freeze_id, who = excluded.who, reason = excluded.reason, \
         frozen_at = excluded.frozen_at",
        values![
            freeze.target.scope().as_str(),
            freeze.target.subject(),
            freeze.placed_by.as_str(),
            freeze.freeze_id.to_string(),
            freeze.who.as_str(),
            freeze.reason.as_str(),
            freeze.frozen_at.as_micros()
        ],
    )
    .await?;
    Ok(before.map(|before| before.freeze_id))
}

/// Lifts the freeze that this operation placed, and no later one of the same target; false if it does not stand.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn lift(
    tx: &mut Tx<'_>,
    target: &Target,
    freeze_id: OperationId,
) -> Result<bool, StoreError> {
    tx.execute_one(
        "DELETE FROM freezes WHERE scope = $1 AND subject = $2 AND freeze_id = $3",
        values![
            target.scope().as_str(),
            target.subject(),
            freeze_id.to_string()
        ],
    )
    .await
}
