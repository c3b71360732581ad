//! Second factors, their recovery codes, and how many wrong codes came.
//!
//! INVARIANT: whatever presents a code for a profile first charges it ([`charge`]), which locks the row of its lock until the
//! end of the transaction; and a step is used by an update that only the first one makes ([`advance`]). So a code counts
//! once and a guess is counted, whichever instances they are presented to at the same time, and under whatever keys.

use super::engine::{Row, values};
use super::{Reads, StoreError, Tx, time};
use crate::clock::Timestamp;
use crate::domain::{DeviceKeyId, EnrolmentId, OwnerId, ProfileId, TenantId};

/// An enrolment.
#[derive(Clone)]
pub struct FactorRow {
    /// Its id.
    pub enrolment_id: EnrolmentId,
    /// Whose it is.
    pub profile_id: ProfileId,
    /// The device that asked for it.
    pub begun_by: DeviceKeyId,
    /// Its keys, sealed.
    pub sealed: Vec<u8>,
    /// What they are sealed under.
    pub kek_id: [u8; 16],
    /// The last step whose code was used.
    pub last_step: i64,
    /// The answer to its request, sealed to the wallet, until its first code has come.
    pub answer: Option<String>,
    /// Until when its first code may come.
    pub expires_at: Timestamp,
    /// What its first code made it.
    pub confirmed: Option<Confirmed>,
}

/// The authenticator has shown a right code.
#[derive(Clone, Copy)]
pub struct Confirmed {
    /// From when it is the factor.
    pub active_at: Timestamp,
    /// From when the profile has had one without a break.
    pub since: Timestamp,
}

impl FactorRow {
    fn read(row: Row) -> Result<Self, StoreError> {
        let mut row = row.of("two_factors");
        let enrolment_id = row.parsed("enrolment_id", EnrolmentId::parse)?;
        let profile_id = row.parsed("profile_id", ProfileId::parse)?;
        let begun_by = row.parsed("begun_by", DeviceKeyId::parse)?;
        let sealed = row.bytes("sealed")?;
        let kek_id = row.array("kek_id")?;
        let last_step = row.int("last_step")?;
        let answer = row.text_or_null("answer")?;
        let expires_at = time(row.int("expires_at")?);
        let active_at = row.int_or_null("active_at")?.map(time);
        let since = row.int_or_null("since")?.map(time);
        let confirmed = active_at
            .zip(since)
            .map(|(active_at, since)| Confirmed { active_at, since });
        Ok(Self {
            enrolment_id,
            profile_id,
            begun_by,
            sealed,
            kek_id,
            last_step,
            answer,
            expires_at,
            confirmed,
        })
    }
}

/// The enrolments of a profile, as they stand at some time.
#[derive(Default)]
pub struct Standing {
    /// The factor.
    pub active: Option<FactorRow>,
    /// The one that waits: for its first code, or for its time.
    pub next: Option<FactorRow>,
    /// Those that have had their time.
    pub over: Vec<EnrolmentId>,
}

/// The enrolments of a profile at a time.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn standing(
    reads: &mut impl Reads,
    profile: ProfileId,
    now: Timestamp,
) -> Result<Standing, StoreError> {
    let rows = reads
        .query(
            "SELECT enrolment_id, profile_id, begun_by, sealed, kek_id, last_step, answer, expires_at, active_at, since \
             FROM two_factors WHERE profile_id = $1 ORDER BY created_at DESC, enrolment_id DESC",
            values![profile.to_string()],
        )
        .await?;
    let mut standing = Standing::default();
    // The last one first: one whose time has come takes the place of all before it.
    for row in rows {
        let row = FactorRow::read(row)?;
        let place = match row.confirmed {
            Some(confirmed) if confirmed.active_at <= now => &mut standing.active,
            None if row.expires_at <= now => {
                standing.over.push(row.enrolment_id);
                continue;
            }
            Some(_) | None => &mut standing.next,
        };
        match place {
            Some(_) => standing.over.push(row.enrolment_id),
            None => *place = Some(row),
        }
    }
    Ok(standing)
}

/// An enrolment.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn find(
    reads: &mut impl Reads,
    enrolment: EnrolmentId,
) -> Result<Option<FactorRow>, StoreError> {
    let row = reads
        .query_one(
            "SELECT enrolment_id, profile_id, begun_by, sealed, kek_id, last_step, answer, expires_at, active_at, since \
             FROM two_factors WHERE enrolment_id = $1",
            values![enrolment.to_string()],
        )
        .await?;
    row.map(FactorRow::read).transpose()
}

/// The profile of an owner that has had an active factor for the longest time.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn oldest_of_owner(
    reads: &mut impl Reads,
    (tenant, owner): (&TenantId, OwnerId),
    now: Timestamp,
) -> Result<Option<ProfileId>, StoreError> {
    let row = reads
        .query_one(
            "SELECT two_factors.profile_id FROM two_factors \
             JOIN profiles ON profiles.profile_id = two_factors.profile_id \
             WHERE profiles.tenant = $1 AND profiles.owner_id = $2 AND two_factors.active_at <= $3 \
             ORDER BY two_factors.since, two_factors.profile_id LIMIT 1",
            values![tenant.as_str(), owner.to_string(), now.as_micros()],
        )
        .await?;
    row.map(|row| row.of("two_factors").parsed("profile_id", ProfileId::parse))
        .transpose()
}

/// A new enrolment, with what is stored of its recovery codes.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn insert(
    tx: &mut Tx<'_>,
    row: &FactorRow,
    recovery: &[[u8; 32]],
) -> Result<(), StoreError> {
    let now = tx.now().as_micros();
    let id = row.enrolment_id.to_string();
    tx.execute(
        "INSERT INTO two_factors (enrolment_id, profile_id, sealed, kek_id, last_step, answer, created_at, expires_at, \
         confirmed_at, active_at, since, begun_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        values![
            id.as_str(),
            row.profile_id.to_string(),
            row.sealed.as_slice(),
            &row.kek_id,
            row.last_step,
            row.answer.clone(),
            now,
            row.expires_at.as_micros(),
            row.confirmed.map(|_| now),
            row.confirmed.map(|confirmed| confirmed.active_at.as_micros()),
            row.confirmed.map(|confirmed| confirmed.since.as_micros()),
            row.begun_by.as_str()
        ],
    )
    .await?;
    for mac in recovery {
        tx.execute(
            "INSERT INTO two_factor_recovery (enrolment_id, mac, used_at) VALUES ($1, $2, $3)",
            values![id.as_str(), mac, None::<i64>],
        )
        .await?;
    }
    Ok(())
}

/// Deletes an enrolment with its keys; false if it is not there.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn remove(tx: &mut Tx<'_>, enrolment: EnrolmentId) -> Result<bool, StoreError> {
    let id = enrolment.to_string();
    tx.execute(
        "DELETE FROM two_factor_recovery WHERE enrolment_id = $1",
        values![id.as_str()],
    )
    .await?;
    tx.execute_one(
        "DELETE FROM two_factors WHERE enrolment_id = $1",
        values![id.as_str()],
    )
    .await
}

/// Deletes what a device enrolled for any wallet of its owner and is not active yet; how many there were.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn remove_begun_by(
    tx: &mut Tx<'_>,
    (tenant, owner): (&TenantId, OwnerId),
    device: &DeviceKeyId,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let owner = owner.to_string();
    tx.execute(
        "DELETE FROM two_factor_recovery WHERE enrolment_id IN (SELECT enrolment_id FROM two_factors \
         WHERE begun_by = $3 AND (active_at IS NULL OR active_at > $4) \
         AND profile_id IN (SELECT profile_id FROM profiles WHERE tenant = $1 AND owner_id = $2))",
        values![tenant.as_str(), owner.as_str(), device.as_str(), now.as_micros()],
    )
    .await?;
    tx.execute(
        "DELETE FROM two_factors WHERE begun_by = $3 AND (active_at IS NULL OR active_at > $4) \
         AND profile_id IN (SELECT profile_id FROM profiles WHERE tenant = $1 AND owner_id = $2)",
        values![
            tenant.as_str(),
            owner.as_str(),
            device.as_str(),
            now.as_micros()
        ],
    )
    .await
}

/// The enrolments of an owner that are not active yet, on whichever wallet, and were not given up.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn waiting_of_owner(
    reads: &mut impl Reads,
    (tenant, owner): (&TenantId, OwnerId),
    now: Timestamp,
) -> Result<Vec<FactorRow>, StoreError> {
    let rows = reads
        .query(
            "SELECT enrolment_id, profile_id, begun_by, sealed, kek_id, last_step, answer, expires_at, active_at, since \
             FROM two_factors WHERE profile_id IN (SELECT profile_id FROM profiles WHERE tenant = $1 AND owner_id = $2) \
             AND ((active_at IS NULL AND expires_at > $3) OR active_at > $3) ORDER BY created_at, enrolment_id LIMIT 100",
            values![tenant.as_str(), owner.to_string(), now.as_micros()],
        )
        .await?;
    rows.into_iter().map(FactorRow::read).collect()
}

/// Counts a wrong first code of an enrolment; how many there were.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn fail_first(tx: &mut Tx<'_>, enrolment: EnrolmentId) -> Result<u32, StoreError> {
    let id = enrolment.to_string();
    tx.execute(
        "UPDATE two_factors SET wrong_first = wrong_first + 1 WHERE enrolment_id = $1",
        values![id.as_str()],
    )
    .await?;
    let row = tx
        .query_one(
            "SELECT wrong_first FROM two_factors WHERE enrolment_id = $1",
            values![id.as_str()],
        )
        .await?;
    row.map_or(Ok(0), |row| row.of("two_factors").number("wrong_first"))
}

/// Its first code has come: it is the factor from a time on. False if it was so already.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn confirm(
    tx: &mut Tx<'_>,
    enrolment: EnrolmentId,
    confirmed: Confirmed,
) -> Result<bool, StoreError> {
    let now = tx.now().as_micros();
    tx.execute_one(
        "UPDATE two_factors SET confirmed_at = $2, active_at = $3, since = $4, answer = NULL \
         WHERE enrolment_id = $1 AND confirmed_at IS NULL",
        values![
            enrolment.to_string(),
            now,
            confirmed.active_at.as_micros(),
            confirmed.since.as_micros()
        ],
    )
    .await
}

/// Uses a step: false if it, or a later one, was used before.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn advance(
    tx: &mut Tx<'_>,
    enrolment: EnrolmentId,
    step: i64,
) -> Result<bool, StoreError> {
    tx.execute_one(
        "UPDATE two_factors SET last_step = $2 WHERE enrolment_id = $1 AND last_step < $2",
        values![enrolment.to_string(), step],
    )
    .await
}

/// Uses a recovery code: false if it is none, or was used before.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn use_recovery(
    tx: &mut Tx<'_>,
    enrolment: EnrolmentId,
    mac: &[u8; 32],
) -> Result<bool, StoreError> {
    let now = tx.now().as_micros();
    tx.execute_one(
        "UPDATE two_factor_recovery SET used_at = $3 WHERE enrolment_id = $1 AND mac = $2 AND used_at IS NULL",
        values![enrolment.to_string(), mac, now],
    )
    .await
}

/// Recovery codes that were not used yet.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn recovery_left(
    reads: &mut impl Reads,
    enrolment: EnrolmentId,
) -> Result<u32, StoreError> {
    let row = reads
        .query_one(
            "SELECT COUNT(*) FROM two_factor_recovery WHERE enrolment_id = $1 AND used_at IS NULL",
            values![enrolment.to_string()],
        )
        .await?;
    row.map_or(Ok(0), |row| row.of("two_factor_recovery").number("count"))
}

/// How many wrong codes came in a row, and until when none is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// Wrong ones since the last right one.
    pub in_a_row: u32,
    /// Until when none is taken.
    pub until: Option<Timestamp>,
}

/// The lock of a profile.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn lock(reads: &mut impl Reads, profile: ProfileId) -> Result<Lock, StoreError> {
    let row = reads
        .query_one(
            "SELECT in_a_row, locked_until FROM two_factor_locks WHERE profile_id = $1",
            values![profile.to_string()],
        )
        .await?;
    row.map_or(Ok(Lock::default()), |row| {
        let mut row = row.of("two_factor_locks");
        Ok(Lock {
            in_a_row: row.number("in_a_row")?,
            until: row.int_or_null("locked_until")?.map(time),
        })
    })
}

/// Counts that a code is presented, before anybody looks at it; nobody else can until the transaction ends.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn charge(tx: &mut Tx<'_>, profile: ProfileId) -> Result<Lock, StoreError> {
    tx.execute(
        "INSERT INTO two_factor_locks (profile_id, attempts, in_a_row) VALUES ($1, 1, 0) \
         ON CONFLICT (profile_id) DO UPDATE SET attempts = two_factor_locks.attempts + 1",
        values![profile.to_string()],
    )
    .await?;
    lock(tx, profile).await
}

/// Records a wrong code; how many there were since a time.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn fail(
    tx: &mut Tx<'_>,
    profile: ProfileId,
    at: Timestamp,
    since: Timestamp,
) -> Result<u64, StoreError> {
    let (profile, operation) = (profile.to_string(), tx.operation_id().to_string());
    tx.execute(
        "DELETE FROM two_factor_failures WHERE profile_id = $1 AND at <= $2",
        values![profile.as_str(), since.as_micros()],
    )
    .await?;
    tx.execute(
        "INSERT INTO two_factor_failures (profile_id, at, operation_id) VALUES ($1, $2, $3)",
        values![profile.as_str(), at.as_micros(), operation.as_str()],
    )
    .await?;
    let row = tx
        .query_one(
            "SELECT COUNT(*) FROM two_factor_failures WHERE profile_id = $1",
            values![profile.as_str()],
        )
        .await?;
    row.map_or(Ok(0), |row| row.of("two_factor_failures").number("count"))
}

/// Sets the lock of a profile that was charged.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn set_lock(tx: &mut Tx<'_>, profile: ProfileId, lock: Lock) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE two_factor_locks SET in_a_row = $2, locked_until = $3 WHERE profile_id = $1",
        values![
            profile.to_string(),
            i64::from(lock.in_a_row),
            lock.until.map(Timestamp::as_micros)
        ],
    )
    .await?;
    Ok(())
}

/// Forgets the wrong codes of a profile.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn forgive(tx: &mut Tx<'_>, profile: ProfileId) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM two_factor_failures WHERE profile_id = $1",
        values![profile.to_string()],
    )
    .await?;
    Ok(())
}
