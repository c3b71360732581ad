//! The devices that speak for an owner: enrolled by one another, revoked by any of them.
//!
//! INVARIANT: there is always a device that may act, so that nobody locks themselves out; and a revoked device acts
//! never again: every operation that acts for a request looks at the device once more ([`RequestProof`]), so nothing
//! that was let in before its revocation is begun after it.

use std::sync::Arc;

use countersign_mpc::owner_proof::{Enrolment, MAX_ENROLMENT, PublicKey};

use super::Error;
use super::second_factor::{SecondFactor, Terms};
use super::show::owned_profile;
use super::steps::Steps;
use crate::clock::{self, Timestamp};
use crate::domain::{
    DeviceKeyId, DeviceName, IdempotencyKey, ProfileId, RateClass, RateSubject, SessionId,
};
use crate::gate::rates::Metering;
use crate::gate::two_factor::{Grant, Need};
use crate::identity::owner::Owner;
use crate::identity::replay::RequestProof;
use crate::limits::Meter;
use crate::sessions::lifecycle;
use crate::store::devices::DeviceRow;
use crate::store::idempotency::{self, Kept, Scope};
use crate::store::profiles::ProfileRow;
use crate::store::{
    AuditEvent, AuditOutcome, AuditRecord, CommitError, Key, Operation, Tx, devices, sessions,
    two_factor,
};
use crate::two_factor::Code;

const ENROL: &str = "POST /api/v1/profiles/:id/devices";
const REVOKE: &str = "POST /api/v1/profiles/:id/devices/:keyId/revoke";
/// Devices of one owner that may act, now or soon.
const MAX_DEVICES: usize = 8;

/// A new device, as an enrolled one presents it.
pub struct Presented {
    /// Its key.
    pub public_key: PublicKey,
    /// What its owner calls it.
    pub name: DeviceName,
    /// Of its statement.
    pub nonce: [u8; 16],
    /// When its statement ends, Unix seconds.
    pub expires: i64,
    /// Over its statement.
    pub signature: [u8; 64],
}

/// What a request that changes devices carries besides.
pub struct Change {
    /// The profile through whose owner it goes.
    pub profile_id: ProfileId,
    /// The request's key.
    pub idempotency_key: IdempotencyKey,
    /// SHA-256 of the body without its code.
    pub body_hash: [u8; 32],
    /// A code of the second factor, if one came.
    pub code: Option<Code>,
    /// What is told how many more there may be.
    pub meter: Meter,
}

/// The use case.
pub struct Devices {
    steps: Arc<Steps>,
    /// Seconds before a new device may act.
    cooling_off: i64,
    /// Whether who enrols one has a second factor, or need not.
    enrolment: Need,
}

impl Devices {
    /// The use case over its parts.
    #[must_use]
    pub const fn new(steps: Arc<Steps>, cooling_off: i64, terms: &Terms) -> Self {
        Self {
            steps,
            cooling_off,
            enrolment: if terms.required {
                Need::Always
            } else {
                Need::IfActive
            },
        }
    }

    /// The devices of the owner of a profile: those that stand, then the last revoked ones.
    ///
    /// # Errors
    /// [`Error::ProfileNotFound`].
    pub async fn list(&self, owner: &Owner, profile: ProfileId) -> Result<Vec<DeviceRow>, Error> {
        let mut reader = self.steps.store.reader().await?;
        owned_profile(&mut reader, owner, profile).await?;
        let mut found = devices::standing(&mut reader, owner.owner_id()).await?;
        found.extend(devices::revoked(&mut reader, owner.owner_id()).await?);
        Ok(found)
    }

    /// Enrols a device, or finds what the same request enrolled before.
    ///
    /// # Errors
    /// [`Error`] says what to do.
    pub async fn enrol(
        &self,
        owner: Owner,
        proof: RequestProof,
        change: Change,
        presented: Presented,
    ) -> Result<DeviceRow, Error> {
        let profile = match self.earlier(&owner, &change, ENROL).await? {
            Found::Earlier(earlier) => return Ok(earlier),
            Found::New(profile) => profile,
        };
        self.check(&owner, &change, &presented)?;
        let metering = self.metering(&change);
        metering.look(&mut self.steps.store.reader().await?).await?;
        let factor = self.steps.presented(&profile, change.code.as_ref());
        let factor = factor.await?;
        let operation = Enrol {
            factor,
            need: self.enrolment,
            owner,
            proof,
            change,
            presented,
            cooling_off: self.cooling_off,
            metering,
        };
        let tally = operation.factor.tally();
        self.steps.commit_with(tally, operation).await
    }

    /// Revokes a device, and gives up what it had begun.
    ///
    /// # Errors
    /// [`Error`] says what to do.
    pub async fn revoke(
        &self,
        owner: Owner,
        proof: RequestProof,
        change: Change,
        device: Option<DeviceKeyId>,
    ) -> Result<DeviceRow, Error> {
        let profile = match self.earlier(&owner, &change, REVOKE).await? {
            // The route's device is not part of the body that the key is bound to.
            Found::Earlier(earlier) if Some(&earlier.device_key_id) == device.as_ref() => {
                return Ok(earlier);
            }
            Found::Earlier(_) => return Err(Error::IdempotencyMismatch),
            Found::New(profile) => profile,
        };
        let device = device.ok_or(Error::DeviceNotFound)?;
        let metering = self.metering(&change);
        let factor = self.steps.presented(&profile, change.code.as_ref());
        let factor = factor.await?;
        let operation = Revoke {
            factor,
            owner,
            proof,
            change,
            device,
            metering,
        };
        let tally = operation.factor.tally();
        let (revoked, sessions) = self.steps.commit_with(tally, operation).await?;
        for session in sessions {
            self.steps.custody.forget(session);
        }
        Ok(revoked)
    }

    fn metering(&self, change: &Change) -> Metering {
        let subject = RateSubject::Profile(change.profile_id);
        let (class, meter) = (RateClass::KeyOperations, change.meter.clone());
        Metering::new(&self.steps.limits, class, subject, meter)
    }

    /// What the same request made before, or the profile it goes through, which is the owner's.
    async fn earlier(
        &self,
        owner: &Owner,
        change: &Change,
        route: &'static str,
    ) -> Result<Found, Error> {
        let mut reader = self.steps.store.reader().await?;
        let profile = owned_profile(&mut reader, owner, change.profile_id).await?;
        let scope = scope(owner, route, &change.idempotency_key);
        let Some(earlier) = idempotency::find(&mut reader, &scope).await? else {
            return Ok(Found::New(Box::new(profile)));
        };
        if earlier.body_hash != change.body_hash {
            return Err(Error::IdempotencyMismatch);
        }
        let id = DeviceKeyId::parse(&earlier.resource_id).map_err(|_| Error::Internal)?;
        let device = devices::find(&mut reader, owner.tenant(), &id).await?;
        device.map(Found::Earlier).ok_or(Error::Internal)
    }

    /// Whether the new device holds its key and wants to be enrolled here, now.
    fn check(&self, owner: &Owner, change: &Change, presented: &Presented) -> Result<(), Error> {
        let now = clock::now().as_seconds();
        let expires = u64::try_from(presented.expires).unwrap_or_default();
        let enrolment = Enrolment {
            environment_id: &self.steps.store.environment_id().0,
            tenant: owner.tenant().as_str(),
            profile_id: &change.profile_id.to_string(),
            name: presented.name.as_str(),
            nonce: &presented.nonce,
            expires,
        };
        let statement = enrolment.statement(&presented.public_key);
        let invalid = |what: &str| Err(Error::InvalidRequest(what.to_owned()));
        if !(now..=now.saturating_add(MAX_ENROLMENT)).contains(&presented.expires) {
            return invalid("the new device's statement has expired, or ends too late");
        }
        if !presented
            .public_key
            .verify(&statement, &presented.signature)
        {
            return invalid("the new device's signature does not hold for its statement");
        }
        Ok(())
    }
}

/// Whether a request is a repeated one.
enum Found {
    /// What the first one made.
    Earlier(DeviceRow),
    /// It is the first one, for this profile.
    New(Box<ProfileRow>),
}

fn scope<'a>(owner: &'a Owner, route: &'static str, key: &'a IdempotencyKey) -> Scope<'a> {
    Scope {
        tenant: owner.tenant(),
        holder: owner.owner_id().to_string(),
        route,
        key,
    }
}

/// What both operations look at once more; the owner's devices that are not revoked.
async fn look_again(
    tx: &mut Tx<'_>,
    owner: &Owner,
    change: &Change,
    route: &'static str,
) -> Result<Vec<DeviceRow>, Error> {
    owned_profile(tx, owner, change.profile_id).await?;
    let scope = scope(owner, route, &change.idempotency_key);
    if idempotency::find(tx, &scope).await?.is_some() {
        // The same request is in flight: its own answer will be the one.
        return Err(crate::sessions::Refusal::Busy.into());
    }
    Ok(devices::standing(tx, owner.owner_id()).await?)
}

/// The end of a request that is refused after it was counted: it has written nothing else but that a code was used up, and
/// both stay.
fn refused<T>(
    change: &Change,
    error: Error,
    grant: Option<&Grant>,
) -> Result<(Result<T, Error>, AuditRecord), CommitError<Error>> {
    match error {
        error @ (Error::DeviceConflict(_) | Error::DeviceNotFound) => {
            let record = AuditRecord::done(AuditEvent::RequestRefused)
                .outcome(AuditOutcome::Denied)
                .profile(change.profile_id)
                .detail(error.to_string() + &with(grant));
            Ok((Err(error), record))
        }
        other => Err(CommitError::Refused(other)),
    }
}

fn with(grant: Option<&Grant>) -> String {
    grant.map(Grant::detail).unwrap_or_default()
}

/// Remembers what a request did to a device.
async fn remember(
    tx: &mut Tx<'_>,
    owner: &Owner,
    change: &Change,
    (route, device): (&'static str, &DeviceKeyId),
) -> Result<(), Error> {
    let scope = scope(owner, route, &change.idempotency_key);
    let hash = &change.body_hash;
    Ok(idempotency::insert(tx, &scope, hash, device.as_str(), Kept::AsConfigured).await?)
}

/// Enrols a device, which may act once its cooling-off is over.
struct Enrol {
    factor: SecondFactor,
    need: Need,
    owner: Owner,
    proof: RequestProof,
    change: Change,
    presented: Presented,
    cooling_off: i64,
    metering: Metering,
}

impl Operation for Enrol {
    /// A request that is refused once it counts is counted.
    type Output = Result<DeviceRow, Error>;
    type Refusal = Error;

    fn key(&self) -> Key {
        Key::owner(self.owner.owner_id())
    }

    fn also(&self) -> Key {
        self.metering.key()
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<(Self::Output, AuditRecord), CommitError<Error>> {
        self.proof.spend(tx).await?;
        let devices = look_again(tx, &self.owner, &self.change, ENROL).await;
        let devices = devices.map_err(CommitError::Refused)?;
        self.metering.take(tx).await?;
        let of = (&self.owner, self.change.profile_id);
        let grant = match self.factor.check_of_owner(tx, of, self.need).await? {
            Ok(grant) => grant,
            Err(refused) => return Ok((Err(refused.error), refused.record)),
        };
        let device = match self.enrol(tx, &devices).await {
            Ok(device) => device,
            Err(error) => return refused(&self.change, error, grant.as_ref()),
        };
        let record = AuditRecord::done(AuditEvent::DeviceEnrolled)
            .profile(self.change.profile_id)
            .detail(format!(
                "device {} {} by {} active from {}{}",
                device.device_key_id,
                device.public_key.algorithm().as_str(),
                self.owner.device_key_id(),
                device.active_at.as_seconds(),
                with(grant.as_ref())
            ));
        Ok((Ok(device), record))
    }
}

impl Enrol {
    async fn enrol(&self, tx: &mut Tx<'_>, devices: &[DeviceRow]) -> Result<DeviceRow, Error> {
        let owner = &self.owner;
        if devices.len() >= MAX_DEVICES {
            return Err(Error::DeviceConflict(
                "the owner has as many devices as there may be: revoke one first",
            ));
        }
        let now = tx.now();
        let thumbprint = self.presented.public_key.thumbprint();
        let device = DeviceRow {
            device_key_id: DeviceKeyId::parse(&thumbprint).map_err(|_| Error::Internal)?,
            owner_id: owner.owner_id(),
            public_key: self.presented.public_key,
            name: self.presented.name.as_str().to_owned(),
            created_at: now,
            active_at: now.plus_seconds(self.cooling_off),
            revoked_at: None,
        };
        let known = devices::find(tx, owner.tenant(), &device.device_key_id).await?;
        if known.is_some() {
            return Err(Error::DeviceConflict(
                "this device key was enrolled before: make a new one",
            ));
        }
        devices::insert(tx, owner.tenant(), &device).await?;
        remember(tx, owner, &self.change, (ENROL, &device.device_key_id)).await?;
        Ok(device)
    }
}

/// Revokes a device and gives up its open sessions.
struct Revoke {
    factor: SecondFactor,
    owner: Owner,
    proof: RequestProof,
    change: Change,
    device: DeviceKeyId,
    metering: Metering,
}

impl Operation for Revoke {
    /// A request that is refused once it counts is counted.
    type Output = Result<(DeviceRow, Vec<SessionId>), Error>;
    type Refusal = Error;

    fn key(&self) -> Key {
        Key::owner(self.owner.owner_id())
    }

    fn also(&self) -> Key {
        self.metering.key()
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<(Self::Output, AuditRecord), CommitError<Error>> {
        self.proof.spend(tx).await?;
        let devices = look_again(tx, &self.owner, &self.change, REVOKE).await;
        let devices = devices.map_err(CommitError::Refused)?;
        // SECURITY: whoever uses up the rate, with a stolen device and made-up key ids, keeps no owner from revoking it.
        let mut grant = None;
        if devices.iter().any(|one| one.device_key_id == self.device) {
            self.metering.note(tx).await?;
            let of = (&self.owner, self.change.profile_id);
            grant = match self.factor.check_of_owner(tx, of, Need::IfActive).await? {
                Ok(grant) => grant,
                // No rate bounds these, so none of them is written: nothing was looked at.
                Err(refused) if matches!(refused.error, Error::TwoFactorRequired(_)) => {
                    return Err(CommitError::Refused(refused.error));
                }
                Err(refused) => return Ok((Err(refused.error), refused.record)),
            };
        } else {
            self.metering.take(tx).await?;
        }
        let (device, sessions) = match self.revoke(tx, &devices).await {
            Ok(revoked) => revoked,
            Err(error) => return refused(&self.change, error, grant.as_ref()),
        };
        let record = AuditRecord::done(AuditEvent::DeviceRevoked)
            .profile(self.change.profile_id)
            .detail(format!(
                "device {} by {}{}, {} sessions given up",
                device.device_key_id,
                self.owner.device_key_id(),
                with(grant.as_ref()),
                sessions.len()
            ));
        Ok((Ok((device, sessions)), record))
    }
}

impl Revoke {
    async fn revoke(
        &self,
        tx: &mut Tx<'_>,
        devices: &[DeviceRow],
    ) -> Result<(DeviceRow, Vec<SessionId>), Error> {
        let owner = &self.owner;
        let now = tx.now();
        let mut found = devices::find(tx, owner.tenant(), &self.device)
            .await?
            .filter(|device| device.owner_id == owner.owner_id())
            .ok_or(Error::DeviceNotFound)?;
        let acts = |device: &DeviceRow| device.revoked_at.is_none() && device.active_at <= now;
        let other = |device: &&DeviceRow| device.device_key_id != self.device;
        if acts(&found) && !devices.iter().filter(other).any(acts) {
            return Err(Error::DeviceConflict(
                "this is the last device that may act: enrol another one first",
            ));
        }
        let mut ended = Vec::new();
        if devices::revoke(tx, owner.tenant(), &self.device).await? {
            found.revoked_at = Some(now);
            ended = give_up_sessions(tx, owner, &self.device).await?;
            // SECURITY: what a stolen device enrolled becomes nobody's factor after it was revoked.
            let of = (owner.tenant(), owner.owner_id());
            let now = tx.server_clock().await?;
            two_factor::remove_begun_by(tx, of, &self.device, now).await?;
        }
        remember(tx, owner, &self.change, (REVOKE, &self.device)).await?;
        Ok((found, ended))
    }
}

/// Gives up what a device has open. What is being checked right now ends in its verdict, and then nobody may go on
/// with it: it runs out of time.
async fn give_up_sessions(
    tx: &mut Tx<'_>,
    owner: &Owner,
    device: &DeviceKeyId,
) -> Result<Vec<SessionId>, Error> {
    let mut ended = Vec::new();
    for session in sessions::open_of_device(tx, owner.tenant(), device).await? {
        if lifecycle::give_up(tx, &session).await? {
            ended.push(session.session_id);
        }
    }
    Ok(ended)
}

/// Where a device stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may not act yet.
    Pending,
    /// It may act.
    Active,
    /// It may not act any more.
    Revoked,
}

impl Standing {
    /// Of a device at a time.
    #[must_use]
    pub fn of(device: &DeviceRow, now: Timestamp) -> Self {
        match device.revoked_at {
            Some(_) => Self::Revoked,
            None if device.active_at > now => Self::Pending,
            None => Self::Active,
        }
    }

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Revoked => "revoked",
        }
    }
}
