//! The second factor, checked inside the operation that needs it (`protocol.md` 5.2).
//!
//! Any operation can need one:
//!
//! 1. Before it, the use case lets custody look at what came with the request: `steps.presented(&profile, code)` gives a
//!    [`Presented`], for which the HSM was asked. It goes into the operation, and holds neither code nor secret.
//! 2. In `apply`, after the rate was taken ([`super::rates::Metering::take`]) and **before anything else is written**, it
//!    calls [`check`] (or [`check_of_owner`] for what concerns all wallets of an owner).
//! 3. [`Checked::Refused`] ends it at once with `Ok((Err(error), record))`, as a rate's refusal after counting does: the
//!    wrong code must be *committed*. A `CommitError::Refused` would roll the count back, and guessing would be free.
//!    `service::second_factor::refused` makes the two.
//! 4. [`Checked::Granted`] holds a [`Grant`]: the operation does its one thing on its ground. A grant is not kept.
//!
//! INVARIANT: a [`Grant`] is made here only, in the transaction that used the code up.

use crate::clock::Timestamp;
use crate::domain::{EnrolmentId, OwnerId, ProfileId, TenantId};
use crate::store::two_factor::{self as rows, FactorRow, Lock};
use crate::store::{StoreError, Tx};
use crate::two_factor::{Matching, day_before, pause, wait};

/// Wrong first codes after which an enrolment is over.
const WRONG_FIRST: u32 = 5;

/// What came with a request as its second factor, as custody found it.
#[derive(Clone, Copy)]
pub enum Presented {
    /// Nothing.
    Nothing,
    /// A code of an authenticator.
    Shown {
        /// Whose secret it was compared with.
        enrolment: EnrolmentId,
        /// The steps that show it.
        matching: Matching,
    },
    /// A recovery code.
    Recovery {
        /// Whose key it was stored under.
        enrolment: EnrolmentId,
        /// What is stored of it.
        mac: [u8; 32],
    },
    /// A code, and no factor to compare it with.
    Strange,
}

/// Whether there must be a second factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// If the profile has an active one.
    IfActive,
    /// In any case: a profile without one cannot do it.
    Always,
}

/// Why a request is refused. All but [`Refused::Invalid`] have changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A code is needed, and none came; of another profile of the owner, if one is named.
    Required(Option<ProfileId>),
    /// It is wrong, of another time, or was used before. Nobody is told which.
    Invalid {
        /// Whether it was one too many.
        locks: bool,
    },
    /// There were too many wrong ones: for so many seconds none is looked at.
    Locked(u32),
    /// The profile has no active factor.
    NotEnrolled,
}

/// Leave to do the one thing that the operation is about, by a code that was used up in it.
#[must_use = "a code was used up for it"]
pub struct Grant {
    enrolment: EnrolmentId,
    recovery_left: Option<u32>,
}

impl Grant {
    /// Which factor it was.
    #[must_use]
    pub const fn enrolment(&self) -> EnrolmentId {
        self.enrolment
    }

    /// How many recovery codes are left, if it was one.
    #[must_use]
    pub const fn recovery_left(&self) -> Option<u32> {
        self.recovery_left
    }

    /// What an audit record says of it, after its own words.
    #[must_use]
    pub fn detail(&self) -> String {
        self.recovery_left
            .map_or(" with a code".to_owned(), |left| {
                format!(" with a recovery code, {left} left")
            })
    }
}

/// What came of it.
#[must_use = "a refusal is committed, and a grant used"]
pub enum Checked {
    /// The code was right, and is used up.
    Granted(Grant),
    /// None is needed.
    NotNeeded,
    /// It was not.
    Refused(Refused),
}

/// Checks the second factor of a profile, by the time of the database. The module says how.
///
/// # Errors
/// [`StoreError`] when the database fails: nobody knows, so the operation does nothing.
pub async fn check(
    tx: &mut Tx<'_>,
    profile: ProfileId,
    presented: &Presented,
    need: Need,
) -> Result<Checked, StoreError> {
    let now = tx.server_clock().await?;
    check_at(tx, now, profile, presented, need).await
}

/// As [`check`], for what concerns all wallets of an owner: their devices.
///
/// SECURITY: the factor that counts is that of the wallet that has had one for the longest time, and the request goes through
/// that wallet. A thief with a device could else make one more wallet, with a factor of their own or none.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn check_of_owner(
    tx: &mut Tx<'_>,
    owner: (&TenantId, OwnerId),
    profile: ProfileId,
    presented: &Presented,
    need: Need,
) -> Result<Checked, StoreError> {
    let now = tx.server_clock().await?;
    match rows::oldest_of_owner(tx, owner, now).await? {
        Some(other) if other != profile => Ok(Checked::Refused(Refused::Required(Some(other)))),
        _ => check_at(tx, now, profile, presented, need).await,
    }
}

/// As [`check`], for a factor that a profile is to have: by the one it has, or else by the one that speaks for all wallets of
/// its owner. A thief with a device could else enrol one of their own on a wallet without any.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn check_of_any(
    tx: &mut Tx<'_>,
    owner: (&TenantId, OwnerId),
    profile: ProfileId,
    presented: &Presented,
) -> Result<Checked, StoreError> {
    let now = tx.server_clock().await?;
    let own = rows::standing(tx, profile, now).await?.active;
    let other = match own {
        Some(_) => None,
        None => rows::oldest_of_owner(tx, owner, now).await?,
    };
    let checked = check_at(tx, now, other.unwrap_or(profile), presented, Need::IfActive).await?;
    Ok(match checked {
        Checked::Refused(Refused::Required(None)) => Checked::Refused(Refused::Required(other)),
        checked => checked,
    })
}

/// What came of a first code.
#[must_use = "a refusal is committed"]
pub enum First {
    /// The authenticator has the secret, and the code is used up.
    Proven,
    /// It was not right.
    Wrong {
        /// Whether that was one too many: the enrolment is gone.
        ended: bool,
    },
    /// It is no code of an authenticator.
    NotShown,
}

/// Checks the first code of an enrolment that waits for it.
///
/// SECURITY: who asked for the enrolment was told its secret, so there is nothing to guess, and nothing here touches the lock of
/// the factor that the profile may have: a thief with a device could else lock it, or have its count forgotten.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn check_first(
    tx: &mut Tx<'_>,
    now: Timestamp,
    pending: &FactorRow,
    presented: &Presented,
) -> Result<First, StoreError> {
    let id = pending.enrolment_id;
    let step = match presented {
        Presented::Shown {
            enrolment,
            matching,
        } if *enrolment == id => matching.step(now),
        Presented::Shown { .. } => None,
        // A recovery code shows nothing of the authenticator.
        Presented::Nothing | Presented::Recovery { .. } | Presented::Strange => {
            return Ok(First::NotShown);
        }
    };
    if let Some(step) = step
        && rows::advance(tx, id, step).await?
    {
        return Ok(First::Proven);
    }
    let ended = rows::fail_first(tx, id).await? >= WRONG_FIRST;
    if ended {
        rows::remove(tx, id).await?;
    }
    Ok(First::Wrong { ended })
}

pub(crate) async fn check_at(
    tx: &mut Tx<'_>,
    now: Timestamp,
    profile: ProfileId,
    presented: &Presented,
    need: Need,
) -> Result<Checked, StoreError> {
    let standing = rows::standing(tx, profile, now).await?;
    match (standing.active, need, presented) {
        (None, Need::IfActive, _) => Ok(Checked::NotNeeded),
        (None, Need::Always, _) => Ok(Checked::Refused(Refused::NotEnrolled)),
        (Some(_), _, Presented::Nothing) => Ok(Checked::Refused(Refused::Required(None))),
        (Some(active), _, presented) => verify(tx, now, &active, presented).await,
    }
}

/// Looks at the lock, charges, compares, and uses the code up or counts it as wrong.
async fn verify(
    tx: &mut Tx<'_>,
    now: Timestamp,
    factor: &FactorRow,
    presented: &Presented,
) -> Result<Checked, StoreError> {
    let profile = factor.profile_id;
    let lock = rows::charge(tx, profile).await?;
    let locked = lock.until.filter(|until| *until > now);
    let (right, recovery) = match (presented, locked) {
        // Right and wrong alike: nobody looks.
        (Presented::Shown { .. }, Some(until)) => {
            return Ok(Checked::Refused(Refused::Locked(wait(until, now))));
        }
        (
            Presented::Shown {
                enrolment,
                matching,
            },
            None,
        ) if *enrolment == factor.enrolment_id => {
            let used = match matching.step(now) {
                Some(step) => rows::advance(tx, *enrolment, step).await?,
                None => false,
            };
            (used, false)
        }
        // Its 80 bits are not guessed: the lock does not keep the owner out who has one.
        (Presented::Recovery { enrolment, mac }, _) if *enrolment == factor.enrolment_id => {
            (rows::use_recovery(tx, *enrolment, mac).await?, true)
        }
        _ => (false, false),
    };
    if right {
        return granted(tx, factor, recovery).await.map(Checked::Granted);
    }
    match locked {
        Some(until) => Ok(Checked::Refused(Refused::Locked(wait(until, now)))),
        None => wrong(tx, now, profile, lock).await,
    }
}

async fn granted(tx: &mut Tx<'_>, factor: &FactorRow, recovery: bool) -> Result<Grant, StoreError> {
    let (profile, enrolment) = (factor.profile_id, factor.enrolment_id);
    rows::set_lock(tx, profile, Lock::default()).await?;
    let mut recovery_left = None;
    if recovery {
        rows::forgive(tx, profile).await?;
        recovery_left = Some(rows::recovery_left(tx, enrolment).await?);
    }
    Ok(Grant {
        enrolment,
        recovery_left,
    })
}

async fn wrong(
    tx: &mut Tx<'_>,
    now: Timestamp,
    profile: ProfileId,
    lock: Lock,
) -> Result<Checked, StoreError> {
    let in_a_row = lock.in_a_row.saturating_add(1);
    let in_a_day = rows::fail(tx, profile, now, day_before(now)).await?;
    let until = pause(in_a_row, in_a_day, now);
    rows::set_lock(tx, profile, Lock { in_a_row, until }).await?;
    let locks = until.is_some();
    Ok(Checked::Refused(Refused::Invalid { locks }))
}
