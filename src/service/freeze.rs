//! Freezing, and lifting freezes: what stops all signing for a profile, a tenant or everything, at once.
//!
//! INVARIANT: no signature is stored after the answer to a freeze that stops its profile, at whatever instance: every
//! operation that leads to one looks at the freezes again inside its transaction. What was signed before
//! goes on: it is broadcast, settled and shown.
//! Whoever may freeze does it alone. A freeze waits for its place among the operations of the database, and is not shed
//! there; lifting one takes several operators, or of an owner's own their second
//! factor ([`super::unfreeze`]).

use std::sync::Arc;
use std::time::Duration;

use super::Error;
use super::show::owned_profile;
use crate::domain::{
    EnvironmentId, Freeze, FreezeScope, OperationId, PlacedBy, ProfileId, Reason, SessionId,
    Target, TenantId,
};
use crate::identity::owner::Owner;
use crate::identity::replay::RequestProof;
use crate::operators::{Approval, Approved, Deed, Operators};
use crate::sessions::lifecycle;
use crate::store::operator_commands::{self, CarriedOut};
use crate::store::{
    AuditEvent, AuditRecord, CommitError, Key, Operation, Store, StoreError, Tx, freezes, profiles,
    sessions,
};
use crate::telemetry::metrics::Metrics;

/// How often, and after which pause, a freeze is placed again, and is waited again for what began before it. Each wait is of
/// some seconds: together longer than the database server lets a transaction hang.
const MAX_TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);

/// What the record says of an owner's reason: they give none.
const BY_OWNER: &str = "by its owner";

/// The use case.
pub struct Freezing {
    store: Store,
    metrics: Arc<Metrics>,
    /// Forgets what this process keeps in memory for a session.
    forget: Box<dyn Fn(SessionId) + Send + Sync>,
    tenants: Vec<TenantId>,
    /// Who must agree to lift a freeze; without them nobody can.
    operators: Option<Arc<Operators>>,
}

impl Freezing {
    /// The use case over its parts. `forget` forgets what this process keeps in memory for a session that is given up.
    #[must_use]
    pub fn new(
        store: Store,
        metrics: Arc<Metrics>,
        forget: impl Fn(SessionId) + Send + Sync + 'static,
        (tenants, operators): (Vec<TenantId>, Option<Arc<Operators>>),
    ) -> Self {
        Self {
            store,
            metrics,
            forget: Box::new(forget),
            tenants,
            operators,
        }
    }

    /// The environment, which a command must name.
    #[must_use]
    pub const fn environment(&self) -> EnvironmentId {
        self.store.environment_id()
    }

    /// Freezes a profile for its owner, and gives up what it has open. In the place of their freeze that stands already.
    ///
    /// # Errors
    /// [`Error`] says what to do.
    pub async fn by_owner(
        &self,
        owner: Owner,
        proof: RequestProof,
        profile: ProfileId,
    ) -> Result<Freeze, Error> {
        let target = Target::Profile(profile);
        let mut reader = self.store.reader().await?;
        owned_profile(&mut reader, &owner, profile).await?;
        drop(reader);
        let who = owner.device_key_id().to_string();
        self.place(Place {
            target,
            placed_by: PlacedBy::Owner,
            who,
            reason: BY_OWNER.to_owned(),
            owner: Some(Arc::new((owner, proof))),
        })
        .await
    }

    /// Freezes for an operator, known by the name in their certificate. In the place of an operator's freeze that stands
    /// already.
    ///
    /// # Errors
    /// [`Error`] says what to do.
    pub async fn by_operator(
        &self,
        operator: String,
        target: Target,
        reason: &Reason,
    ) -> Result<Freeze, Error> {
        if let Target::Tenant(tenant) = &target
            && !self.tenants.contains(tenant)
        {
            let known: Vec<&str> = self.tenants.iter().map(TenantId::as_str).collect();
            let known = known.join(", ");
            return Err(Error::InvalidRequest(format!(
                "there is no tenant {tenant}; there is {known}"
            )));
        }
        self.place(Place {
            target,
            placed_by: PlacedBy::Operator,
            who: operator,
            reason: reason.as_str().to_owned(),
            owner: None,
        })
        .await
    }

    /// The freezes of a target; of all, those of more than a profile and the latest of profiles.
    ///
    /// # Errors
    /// [`Error::StoreUnavailable`].
    pub async fn standing(&self, target: Option<&Target>) -> Result<Vec<Freeze>, Error> {
        let mut reader = self.store.reader().await?;
        if let Some(target) = target {
            return Ok(freezes::of(&mut reader, target).await?);
        }
        let mut standing = freezes::wide(&mut reader).await?;
        standing.extend(freezes::latest(&mut reader).await?);
        Ok(standing)
    }

    /// Carries out what enough operators have signed; what that was.
    ///
    /// # Errors
    /// [`Error::CommandRefused`] says why not.
    pub async fn carry_out(
        &self,
        brought_by: String,
        text: &str,
        approvals: &[Approval],
    ) -> Result<Deed, Error> {
        let Some(operators) = &self.operators else {
            let none = "no [operators] are configured who could agree";
            return Err(Error::CommandRefused(none.to_owned()));
        };
        let approved = operators
            .check(text, approvals, self.store.environment_id())
            .map_err(|error| Error::CommandRefused(error.to_string()))?;
        let Deed::Unfreeze { target, freeze_id } = approved.command().deed.clone() else {
            let beside = "rules are put into force by the command in bundle.approved beside them, and a reload";
            return Err(Error::CommandRefused(beside.to_owned()));
        };
        let lift = Lift {
            approved,
            target,
            freeze_id,
            brought_by,
        };
        let deed = self.store.conclude(lift).await?.into_inner();
        self.tell().await;
        Ok(deed)
    }

    async fn place(&self, place: Place) -> Result<Freeze, Error> {
        let (freeze, ended) = self.insist(place).await?;
        for session in ended {
            (self.forget)(session);
        }
        tracing::warn!(what = %freeze.target, placed_by = freeze.placed_by.as_str(), "frozen: nothing is signed for it");
        if freeze.target.scope() > FreezeScope::Profile {
            self.pass().await?;
        }
        self.tell().await;
        Ok(freeze)
    }

    /// Places a freeze, however busy its profile is. A wider one does not wait behind what a hanging instance holds up.
    async fn insist(&self, place: Place) -> Result<(Freeze, Vec<SessionId>), Error> {
        let (mut tries, mut maybe_done) = (0, false);
        loop {
            let placed = match place.target {
                Target::Profile(_) => self.store.conclude(place.clone()).await,
                Target::Tenant(_) | Target::Global => {
                    self.store.conclude_apart(place.clone()).await
                }
            };
            let error = match placed {
                Ok(placed) => return Ok(placed.into_inner()),
                // An earlier try, whose outcome was unknown, was committed after all.
                Err(CommitError::Refused(Error::SignatureReplayed)) if maybe_done => {
                    let mut reader = self.store.reader().await?;
                    let found = freezes::find(&mut reader, &place.target, place.placed_by).await?;
                    return Ok((found.ok_or(Error::Internal)?, Vec::new()));
                }
                Err(CommitError::Store(error)) if tries < MAX_TRIES => error,
                Err(error) => return Err(error.into()),
            };
            maybe_done |= matches!(error, StoreError::OutcomeUnknown(_));
            error.log("a freeze is not placed yet");
            tries += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until whatever looked before the freeze is over. A hanging instance holds that up until the database server
    /// ends its transaction; the freeze stands all the same.
    async fn pass(&self) -> Result<(), StoreError> {
        let mut tries = 0;
        loop {
            match self.store.pass_freezes().await {
                Ok(()) => return Ok(()),
                Err(error) if tries >= MAX_TRIES => return Err(error),
                Err(error) => error.log("what began before a freeze is not over yet"),
            }
            tries += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn tell(&self) {
        if let Err(error) = tell_frozen(&self.store, &self.metrics).await {
            error.log("the number of freezes is not known");
        }
    }
}

/// Shows how many freezes stand.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn tell_frozen(store: &Store, metrics: &Metrics) -> Result<(), StoreError> {
    let mut reader = store.reader().await?;
    for (scope, count) in freezes::count(&mut reader).await? {
        metrics.frozen(scope, count);
    }
    Ok(())
}

/// The profile that a freeze stops, which an operation on it has to itself.
fn profile_of(target: &Target) -> Key {
    match target {
        Target::Profile(id) => Key::profile(*id),
        Target::Tenant(_) | Target::Global => Key::NONE,
    }
}

/// A refusal, or what the store did not do.
fn failed(error: Error) -> CommitError<Error> {
    match error {
        Error::StoreUnavailable(error) => CommitError::Store(error),
        refusal => CommitError::Refused(refusal),
    }
}

/// Places a freeze. It may be placed again after a failure of the store.
#[derive(Clone)]
struct Place {
    target: Target,
    placed_by: PlacedBy,
    who: String,
    reason: String,
    /// Of a freeze by an owner: who, and their request.
    owner: Option<Arc<(Owner, RequestProof)>>,
}

impl Operation for Place {
    type Output = (Freeze, Vec<SessionId>);
    type Refusal = Error;

    fn key(&self) -> Key {
        profile_of(&self.target)
    }

    fn also(&self) -> Key {
        Key::freeze(&self.target)
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<(Self::Output, AuditRecord), CommitError<Error>> {
        if let Some(owner) = &self.owner {
            owner.1.spend(tx).await?;
        }
        self.check(tx).await.map_err(failed)?;
        let freeze = Freeze {
            freeze_id: tx.operation_id(),
            target: self.target.clone(),
            placed_by: self.placed_by,
            who: self.who.clone(),
            reason: self.reason.clone(),
            frozen_at: tx.now(),
        };
        let replaced = freezes::place(tx, &freeze).await?;
        let ended = self.give_up(tx).await?;
        let replaced = replaced.map(|id| format!(" (instead of {id})"));
        let detail = format!(
            "{} by {} {}: {}{}, {} sessions given up",
            freeze.target,
            self.placed_by.as_str(),
            self.who,
            self.reason,
            replaced.unwrap_or_default(),
            ended.len()
        );
        let mut record = AuditRecord::done(AuditEvent::Frozen).detail(detail);
        if let Target::Profile(id) = &self.target {
            record = record.profile(*id);
        }
        Ok(((freeze, ended), record))
    }
}

impl Place {
    /// Whether there is such a profile, and of this owner.
    async fn check(&self, tx: &mut Tx<'_>) -> Result<(), Error> {
        let Target::Profile(id) = &self.target else {
            return Ok(());
        };
        if let Some(owner) = &self.owner {
            return owned_profile(tx, &owner.0, *id).await.map(drop);
        }
        let profile = profiles::find(tx, *id).await?;
        profile.map(drop).ok_or(Error::ProfileNotFound)
    }

    /// Gives up what the profile has open. What is being checked right now is given up when it is concluded; the sessions of
    /// a wider freeze are refused and run out of time.
    async fn give_up(&self, tx: &mut Tx<'_>) -> Result<Vec<SessionId>, StoreError> {
        let mut ended = Vec::new();
        if let Target::Profile(id) = &self.target {
            for session in sessions::open_of_profile(tx, *id).await? {
                if lifecycle::give_up(tx, &session).await? {
                    ended.push(session.session_id);
                }
            }
        }
        Ok(ended)
    }
}

/// Lifts a freeze, as several operators have commanded.
struct Lift {
    approved: Approved,
    target: Target,
    freeze_id: OperationId,
    brought_by: String,
}

impl Operation for Lift {
    type Output = Deed;
    type Refusal = Error;

    fn key(&self) -> Key {
        profile_of(&self.target)
    }

    fn also(&self) -> Key {
        Key::freeze(&self.target)
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<(Deed, AuditRecord), CommitError<Error>> {
        let refused = |why: &str| CommitError::Refused(Error::CommandRefused(why.to_owned()));
        let command = self.approved.command();
        let approved_by = self.approved.by();
        let carried_out = CarriedOut {
            nonce: &command.nonce,
            command: self.approved.text(),
            approved_by: &approved_by,
            brought_by: &self.brought_by,
        };
        if !operator_commands::spend(tx, &carried_out).await? {
            return Err(refused("the command was carried out before"));
        }
        // By the time of all instances, and after any wait.
        let now = tx.server_clock().await?;
        if let Err(not_now) = command.is_good_at(now) {
            return Err(refused(&not_now.to_string()));
        }
        let Self {
            target, freeze_id, ..
        } = self;
        if !freezes::lift(tx, target, *freeze_id).await? {
            return Err(refused("this freeze does not stand (any more)"));
        }
        let mut record = AuditRecord::done(AuditEvent::Unfrozen).detail(format!(
            "{target} freeze {freeze_id} approved by {approved_by}, brought by {}: {} (nonce {}, operators {})",
            self.brought_by,
            command.reason.as_str(),
            hex::encode(command.nonce),
            self.approved.operators()
        ));
        if let Target::Profile(id) = target {
            record = record.profile(*id);
        }
        Ok((command.deed.clone(), record))
    }
}
