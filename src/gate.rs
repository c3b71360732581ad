//! Policy before key: what turns a request into a permit to use a share.
//!
//! [`judge`] makes [`Allowed`] outside any transaction. [`permit`] makes a [`Permit`] inside the
//! durable operation that admits one protocol step, after it has looked at the decision again.
//! INVARIANT: both have private fields and no other constructor, so custody cannot be reached around them:
//!
//! ```compile_fail,E0451
//! // A permit cannot be taken apart or put together: its fields are private.
//! fn open(permit: countersign::gate::Permit) {
//!     let countersign::gate::Permit { id, .. } = permit;
//! }
//! ```
//!
//! ```compile_fail,E0308
//! // An uncommitted permit does not open custody.
//! async fn misuse(
//!     custody: countersign::custody::Custody,
//!     permit: countersign::gate::Permit,
//!     slot: countersign::custody::EngineSlot,
//!     message: countersign::custody::Message,
//! ) {
//!     custody.step(permit, slot, message).await;
//! }
//! ```
//!
//! ```
//! // The committed one does.
//! async fn right(
//!     custody: countersign::custody::Custody,
//!     permit: countersign::store::Committed<countersign::gate::Permit>,
//!     slot: countersign::custody::EngineSlot,
//!     message: countersign::custody::Message,
//! ) {
//!     custody.step(permit, slot, message).await;
//! }
//! ```

pub mod rates;
pub mod spends;
pub mod two_factor;

use crate::clock::Timestamp;
use crate::domain::{
    ChainHead, DecisionId, FreezeScope, OperationId, OtSetup, ProfileId, TenantId,
};
use crate::gate::two_factor::Grant;
use crate::policy::{Facts, Policy, Reason};
use crate::store::decisions::{self, DecisionRow};
use crate::store::profiles::ProfileRow;
use crate::store::sessions::SessionRow;
use crate::store::shares::{self, ShareRow};
use crate::store::transactions::{self, TransactionRow};
use crate::store::{Reads, StoreError, Tx, bans, freezes, steps};

/// The reason of a denial that no rule gave, but a spending limit.
pub const LIMIT: &str = "limit";

/// A request that policy allowed, not yet acted on.
#[must_use = "an allowed request is acted on or dropped, never kept"]
pub struct Allowed {
    decision: DecisionRow,
}

/// A request that policy denied.
#[must_use = "a denial is recorded"]
pub struct Denied {
    /// Why.
    pub reason: Reason,
    /// The chain that was asked for, if one was.
    pub chain: Option<u64>,
    decision: DecisionRow,
}

/// Judges a request. `expires_at` is when an allowing decision stops being good.
///
/// # Errors
/// [`Denied`] when a rule forbids it or none permits it.
pub fn judge(
    policy: &Policy,
    facts: &Facts,
    profile: ProfileId,
    expires_at: Timestamp,
) -> Result<Allowed, Box<Denied>> {
    let bundle = policy.current();
    let verdict = bundle.decide(facts);
    let decision = DecisionRow {
        decision_id: DecisionId::generate(),
        profile_id: profile,
        action: facts.asked.action(),
        allowed: verdict.denied.is_none(),
        rules: verdict.rules.join(","),
        reason: verdict.denied.map_or("", Reason::as_str),
        bundle_hash: *bundle.hash(),
        bundle_version: bundle.version().to_owned(),
        inputs_hash: facts.hash(),
        inputs: facts.to_text(),
        expires_at,
        second_factor: facts.second_factor,
    };
    match verdict.denied {
        None => Ok(Allowed { decision }),
        Some(reason) => Err(Box::new(Denied {
            reason,
            chain: facts.asked.chain().map(|chain| chain.id),
            decision,
        })),
    }
}

impl Allowed {
    /// Records the decision and gives its id to what is done on its ground. One that was made with a second factor is
    /// recorded only with the grant of the code that was used up for it.
    ///
    /// # Errors
    /// [`NotPermitted::NoDecision`] without that grant.
    pub async fn record(
        &self,
        tx: &mut Tx<'_>,
        grant: Option<&Grant>,
    ) -> Result<DecisionId, NotPermitted> {
        if self.decision.second_factor && grant.is_none() {
            return Err(NotPermitted::NoDecision);
        }
        decisions::insert(tx, &self.decision).await?;
        Ok(self.decision.decision_id)
    }
}

impl Allowed {
    /// Records that rules allowed it and a limit did not.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn record_limit(&self, tx: &mut Tx<'_>, limit: &str) -> Result<(), StoreError> {
        let denied = DecisionRow {
            allowed: false,
            reason: LIMIT,
            rules: format!("{LIMIT}:{limit}"),
            ..self.decision.clone()
        };
        decisions::insert(tx, &denied).await
    }
}

impl Denied {
    /// Records the decision.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn record(&self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        decisions::insert(tx, &self.decision).await
    }

    /// Reason and rules, for the audit record.
    #[must_use]
    pub fn detail(&self) -> String {
        format!("{}: {}", self.reason.as_str(), self.decision.rules)
    }
}

/// Leave to run one step of one session against one share, once.
#[must_use = "a permit is used or its step is concluded as not run"]
pub struct Permit {
    id: OperationId,
    step: u8,
    session: SessionRow,
    profile: ProfileRow,
    share: Option<ShareRow>,
    transaction: Option<TransactionRow>,
    bans: ChainHead,
}

impl Permit {
    /// The id of the operation that gave it.
    #[must_use]
    pub const fn id(&self) -> OperationId {
        self.id
    }

    /// Which step of the session, from 1.
    #[must_use]
    pub const fn step(&self) -> u8 {
        self.step
    }

    /// The session, as it stands while the step runs.
    #[must_use]
    pub const fn session(&self) -> &SessionRow {
        &self.session
    }

    /// The profile.
    #[must_use]
    pub const fn profile(&self) -> &ProfileRow {
        &self.profile
    }

    /// The sealed share, once there is one.
    #[must_use]
    pub const fn share(&self) -> Option<&ShareRow> {
        self.share.as_ref()
    }

    /// The end of the list of bans, as the operation saw it.
    #[must_use]
    pub const fn bans(&self) -> &ChainHead {
        &self.bans
    }

    /// What the counterparty is banned from if it is caught in this step.
    ///
    /// SECURITY: of the row that custody opens and verifies the share by. A row that is read again later may be anybody's.
    #[must_use]
    pub fn ot_setup(&self) -> OtSetup {
        let made_by = self.share.as_ref().map(|row| row.dkg_session_id.as_slice());
        let SessionRow {
            profile_id,
            generation,
            ..
        } = self.session;
        OtSetup::of(profile_id, generation, made_by.unwrap_or_default())
    }

    /// The transaction that is signed, in a signing session.
    #[must_use]
    pub const fn transaction(&self) -> Option<&TransactionRow> {
        self.transaction.as_ref()
    }
}

/// Why a permit was not given.
#[derive(Debug)]
pub enum NotPermitted {
    /// The decision is too old.
    DecisionExpired,
    /// The policy changed since the decision.
    PolicyChanged,
    /// There is no allowing decision.
    NoDecision,
    /// A freeze stops the profile.
    Frozen(FreezeScope),
    /// The store failed.
    Store(StoreError),
}

impl From<StoreError> for NotPermitted {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Whether no freeze stops a profile of this tenant. Inside an operation that looks at [`Key::FREEZES`] and has the
/// profile's key, that stays so until its end.
///
/// [`Key::FREEZES`]: crate::store::Key::FREEZES
///
/// # Errors
/// [`NotPermitted::Frozen`] when one does.
pub async fn not_frozen(
    reads: &mut impl Reads,
    profile: ProfileId,
    tenant: &TenantId,
) -> Result<(), NotPermitted> {
    match freezes::over(reads, profile, tenant).await? {
        None => Ok(()),
        Some(scope) => Err(NotPermitted::Frozen(scope)),
    }
}

/// Gives a permit, inside the operation that admits the step.
///
/// # Errors
/// [`NotPermitted`] when the profile is frozen, or the session's decision no longer stands.
pub async fn permit(
    tx: &mut Tx<'_>,
    policy: &Policy,
    session: SessionRow,
    profile: ProfileRow,
    step: u8,
) -> Result<Permit, NotPermitted> {
    not_frozen(tx, profile.profile_id, &profile.tenant).await?;
    let decision = decisions::find(tx, session.decision_id)
        .await?
        .filter(|decision| decision.allowed)
        .ok_or(NotPermitted::NoDecision)?;
    if decision.bundle_hash != *policy.current().hash() {
        return Err(NotPermitted::PolicyChanged);
    }
    if decision.expires_at <= tx.now() {
        return Err(NotPermitted::DecisionExpired);
    }
    let share = shares::find(tx, session.profile_id, session.generation).await?;
    let transaction = transactions::of_session(tx, session.session_id).await?;
    let bans = bans::head(tx).await?;
    steps::open(tx, session.session_id, session.attempt, step).await?;
    Ok(Permit {
        id: tx.operation_id(),
        step,
        session,
        profile,
        share,
        transaction,
        bans,
    })
}
