//! Creating a wallet: three requests, from a device key to a proven 2-of-2 key (`protocol.md` 2.3).

use std::sync::Arc;

use countersign_mpc::envelope::MessageType;

use super::Error;
use super::admission::{Admission, AdmitStep, NotAdmitted};
use super::facts;
use super::once::Once;
use super::replies::Replies;
use super::sealed::{Binding, Opener, SealedText, in_session, round_of};
use super::steps::{Admitted, Steps};
use crate::clock;
use crate::custody::Product;
use crate::domain::{
    Generation, IdempotencyKey, OwnerId, ProfileId, ProfileName, RateClass, RateSubject, SessionId,
    SessionKind, SessionState, Suspicion, TenantId,
};
use crate::gate::rates::Metering;
use crate::gate::{self, Allowed};
use crate::identity::owner::{Applicant, Owner};
use crate::identity::replay::RequestProof;
use crate::limits::Meter;
use crate::sessions::conclude::Effect;
use crate::sessions::{Arrival, Refusal, Session};
use crate::store::devices::{DeviceRow, Subject};
use crate::store::idempotency::{self, Kept, Scope};
use crate::store::profiles::NewProfile;
use crate::store::sessions::SessionRow;
use crate::store::{
    AuditEvent, AuditRecord, CommitError, Key, Operation, Tx, devices, profiles, sessions,
};

const ROUTE: &str = "POST /api/v2/profiles";
/// The name of the device that an owner begins with.
const FIRST_DEVICE: &str = "first device";

/// What the wallet is told.
#[derive(Clone)]
pub enum Reply {
    /// After the first message.
    Round1 {
        /// The profile.
        profile_id: ProfileId,
        /// The key generation.
        session_id: SessionId,
        /// Our sealed message.
        message: String,
    },
    /// After the second message; our share is stored.
    Round2 {
        /// The profile.
        profile_id: ProfileId,
        /// The key generation.
        session_id: SessionId,
        /// The wallet's address.
        address: [u8; 20],
        /// Our sealed message.
        message: String,
    },
    /// The wallet's half is proven.
    Active {
        /// The profile.
        profile_id: ProfileId,
        /// The key generation.
        session_id: SessionId,
        /// The wallet's address.
        address: [u8; 20],
        /// Our sealed message.
        message: String,
    },
}

/// The first request.
pub struct First {
    /// The name of the profile.
    pub name: ProfileName,
    /// The request's key.
    pub idempotency_key: IdempotencyKey,
    /// SHA-256 of the body.
    pub body_hash: [u8; 32],
    /// The first message.
    pub message: SealedText,
}

/// The second and the third request.
pub struct Next {
    /// The profile.
    pub profile_id: ProfileId,
    /// The key generation.
    pub session_id: SessionId,
    /// SHA-256 of the body.
    pub body_hash: [u8; 32],
    /// The message.
    pub message: SealedText,
    /// The request's key, if it has one.
    pub idempotency_key: Option<IdempotencyKey>,
}

/// The use case.
pub struct CreateProfile {
    steps: Arc<Steps>,
    opener: Arc<Opener>,
    replies: Replies<Reply>,
}

impl CreateProfile {
    /// The use case over its parts.
    #[must_use]
    pub fn new(steps: Arc<Steps>, opener: Arc<Opener>) -> Self {
        Self {
            steps,
            opener,
            replies: Replies::default(),
        }
    }

    /// Forgets answers that are past their time.
    pub fn sweep(&self) {
        self.replies.sweep(clock::now());
    }

    /// Starts a key generation.
    ///
    /// # Errors
    /// [`Error`] says what to do.
    pub async fn start(
        self: &Arc<Self>,
        applicant: Applicant,
        proof: RequestProof,
        first: First,
        meter: Meter,
    ) -> Result<Reply, Error> {
        let this = Arc::clone(self);
        let request = async move { this.round_1(applicant, proof, first, meter).await };
        self.steps.detached(request).await
    }

    /// Goes on with a key generation.
    ///
    /// # Errors
    /// [`Error`] says what to do.
    pub async fn go_on(
        self: &Arc<Self>,
        owner: Owner,
        proof: RequestProof,
        next: Next,
    ) -> Result<Reply, Error> {
        let this = Arc::clone(self);
        let request = async move { this.next_round(owner, proof, next).await };
        self.steps.detached(request).await
    }

    async fn round_1(
        &self,
        applicant: Applicant,
        proof: RequestProof,
        first: First,
        meter: Meter,
    ) -> Result<Reply, Error> {
        let key = first.idempotency_key.as_str().to_owned();
        if let Some(earlier) = self.earlier(&applicant, &first).await? {
            return Ok(earlier);
        }
        let profile_id = ProfileId::generate();
        self.not_frozen(profile_id, applicant.tenant()).await?;
        let (owner_id, metering) = self.metering(&applicant, meter).await?;
        let binding = Binding {
            message_type: MessageType::Keygen1,
            tenant: applicant.tenant(),
            device: applicant.device_key_id(),
            profile: key.clone(),
            session: key,
            generation: Generation::FIRST,
            attempt: 1,
        };
        let message = self.opener.open(binding, &first.message).await?;
        let session_id = SessionId::generate();
        let of = (profile_id, owner_id);
        let (allowed, proof) = self.judge(&applicant, proof, of, &metering).await?;
        let mut server_nonce = [0; 32];
        getrandom::fill(&mut server_nonce).map_err(|_| Error::Internal)?;
        let body_hash = first.body_hash;
        let admission = StartKeygen {
            steps: Arc::clone(&self.steps),
            applicant,
            proof,
            first_name: first.name,
            idempotency_key: first.idempotency_key,
            body_hash,
            profile_id,
            session_id,
            server_nonce,
            allowed,
            owner_id,
            metering,
        };
        let reply = self
            .steps
            .run(
                admission,
                session_id,
                SessionKind::Keygen,
                message,
                finish_1,
            )
            .await?;
        self.remember(&reply, body_hash);
        Ok(reply)
    }

    /// Judges the first request; a denial is recorded.
    async fn judge(
        &self,
        applicant: &Applicant,
        proof: RequestProof,
        (profile_id, owner_id): (ProfileId, OwnerId),
        metering: &Metering,
    ) -> Result<(Allowed, RequestProof), Error> {
        let kind = self.steps.store.environment_kind();
        let facts = facts::of_applicant(applicant, owner_id, profile_id, kind);
        let expires_at = clock::now().plus_seconds(self.steps.lifetimes.session);
        match self.steps.judge(&facts, profile_id, expires_at) {
            Ok(allowed) => Ok((allowed, proof)),
            Err(denied) => {
                let key = Key::device(applicant.tenant(), applicant.device_key_id());
                let event = AuditEvent::KeygenDenied;
                let metering = Some(metering.clone());
                Err(self
                    .steps
                    .deny(denied, (proof, profile_id), (event, key), metering)
                    .await)
            }
        }
    }

    async fn next_round(
        &self,
        owner: Owner,
        proof: RequestProof,
        next: Next,
    ) -> Result<Reply, Error> {
        let session = self.session(&owner, &next).await?;
        let once = Once::of(&owner, ROUTE, next.idempotency_key, next.body_hash);
        if let Some(once) = &once {
            once.earlier(&self.steps.store).await?;
        }
        if let Some(reply) = self.replies.find(next.session_id, &next.body_hash) {
            return Ok(reply);
        }
        self.not_frozen(next.profile_id, owner.tenant()).await?;
        let due = match session.state {
            SessionState::Round1Done => (MessageType::Keygen2, 2),
            _ => (MessageType::Keygen3, 3),
        };
        let (message_type, step) = round_of(SessionKind::Keygen, &next.message).unwrap_or(due);
        let arrival = Arrival {
            step,
            request_hash: next.body_hash,
            instance: self.steps.instance,
            now: clock::now(),
        };
        // Refused early, and again inside the operation. A wallet contradicts itself only by a message that opens.
        match Session::of(session.clone()).check(&arrival) {
            Ok(_) | Err(Refusal::Contradiction) => {}
            Err(Refusal::Aborted) => return Err(Error::SessionLost),
            Err(Refusal::Over) if session.state == SessionState::Banned => {
                return Err(Error::SessionLost);
            }
            Err(refusal) => return Err(refusal.into()),
        }
        let binding = in_session(message_type, &owner, &session);
        let message = self.opener.open(binding, &next.message).await?;
        let admission = AdmitStep::new(
            &self.steps,
            (&owner, proof),
            &session,
            (step, next.body_hash),
            once,
            None,
        );
        let address = self.address(next.profile_id).await?;
        let reply = self
            .steps
            .run(
                admission,
                next.session_id,
                SessionKind::Keygen,
                message,
                move |admitted, product| finish(admitted, product, address),
            )
            .await?;
        self.remember(&reply, next.body_hash);
        Ok(reply)
    }

    async fn earlier(&self, applicant: &Applicant, first: &First) -> Result<Option<Reply>, Error> {
        let mut reader = self.steps.store.reader().await?;
        let scope = scope(applicant, &first.idempotency_key);
        let Some(earlier) = idempotency::find(&mut reader, &scope).await? else {
            return Ok(None);
        };
        if earlier.body_hash != first.body_hash {
            return Err(Error::IdempotencyMismatch);
        }
        let session = SessionId::parse(&earlier.resource_id).map_err(|_| Error::Internal)?;
        if let Some(reply) = self.replies.find(session, &first.body_hash) {
            return Ok(Some(reply));
        }
        match sessions::find(&mut reader, session).await? {
            Some(row) if row.state.is_active() && row.instance_id != self.steps.instance => {
                Err(Error::Elsewhere(row.instance_id))
            }
            _ => Err(Error::SessionLost),
        }
    }

    /// Where a key generation is counted, and for which owner: refused early if there is no room, and again inside the
    /// operation.
    async fn metering(
        &self,
        applicant: &Applicant,
        meter: Meter,
    ) -> Result<(OwnerId, Metering), Error> {
        let (tenant, device) = (applicant.tenant(), applicant.device_key_id());
        let mut reader = self.steps.store.reader().await?;
        let known = devices::find(&mut reader, tenant, device).await?;
        let owner_id = known.map_or_else(OwnerId::generate, |device| device.owner_id);
        let subject = match applicant.subject() {
            Some(user) => user_of(tenant, user),
            None => RateSubject::Owner(owner_id),
        };
        let class = RateClass::KeyOperations;
        let metering = Metering::new(&self.steps.limits, class, subject, meter);
        metering.look(&mut reader).await?;
        Ok((owner_id, metering))
    }

    async fn session(&self, owner: &Owner, next: &Next) -> Result<SessionRow, Error> {
        let mut reader = self.steps.store.reader().await?;
        super::show::owned_profile(&mut reader, owner, next.profile_id).await?;
        let session = sessions::find(&mut reader, next.session_id)
            .await?
            .filter(|session| {
                session.kind == SessionKind::Keygen
                    && session.profile_id == next.profile_id
                    && session.device_key_id == *owner.device_key_id()
            });
        session.ok_or(Error::SessionNotFound)
    }

    /// Looked at early, and again inside the operation.
    async fn not_frozen(&self, profile: ProfileId, tenant: &TenantId) -> Result<(), Error> {
        let mut reader = self.steps.store.reader().await?;
        Ok(gate::not_frozen(&mut reader, profile, tenant).await?)
    }

    async fn address(&self, profile: ProfileId) -> Result<Option<[u8; 20]>, Error> {
        let mut reader = self.steps.store.reader().await?;
        let profile = profiles::find(&mut reader, profile).await?;
        Ok(profile.and_then(|profile| profile.address))
    }

    fn remember(&self, reply: &Reply, body_hash: [u8; 32]) {
        let session_id = match reply {
            Reply::Round1 { session_id, .. }
            | Reply::Round2 { session_id, .. }
            | Reply::Active { session_id, .. } => *session_id,
        };
        self.replies
            .put(session_id, body_hash, reply.clone(), clock::now());
    }
}

fn scope<'a>(applicant: &'a Applicant, key: &'a IdempotencyKey) -> Scope<'a> {
    Scope {
        tenant: applicant.tenant(),
        holder: applicant.device_key_id().to_string(),
        route: ROUTE,
        key,
    }
}

/// A user is one subject, whatever devices and owners they come with.
fn user_of(tenant: &TenantId, user: &Subject) -> RateSubject {
    let lp = countersign_mpc::lp::Lp::new("rate-user/1").str(tenant.as_str());
    RateSubject::User(lp.str(&user.issuer).str(&user.subject).hash())
}

fn finish_1(admitted: &Admitted, product: Product) -> (Effect, Result<Reply, Error>) {
    finish(admitted, product, None)
}

fn finish(
    admitted: &Admitted,
    product: Product,
    address: Option<[u8; 20]>,
) -> (Effect, Result<Reply, Error>) {
    let (profile_id, session_id) = (admitted.session.profile_id, admitted.session.session_id);
    match (product, address) {
        (Product::Message(message), _) => {
            let reply = Reply::Round1 {
                profile_id,
                session_id,
                message,
            };
            (Effect::Advance, Ok(reply))
        }
        (
            Product::Share {
                message,
                share,
                address,
            },
            _,
        ) => {
            let reply = Reply::Round2 {
                profile_id,
                session_id,
                address,
                message,
            };
            (Effect::StoreShare { share, address }, Ok(reply))
        }
        (Product::Proven(message), Some(address)) => {
            let reply = Reply::Active {
                profile_id,
                session_id,
                address,
                message,
            };
            (Effect::Activate, Ok(reply))
        }
        (Product::Proven(_) | Product::Signature(_), _) => {
            let effect = Effect::Abort {
                reason: "the step made something else".to_owned(),
                suspicion: Suspicion::None,
            };
            (effect, Err(Error::Internal))
        }
    }
}

/// Binds an owner from before tokens were asked for to the user that the token names; it may not be another one's.
async fn bind(
    tx: &mut Tx<'_>,
    owner: OwnerId,
    subject: &Subject,
) -> Result<(), CommitError<Error>> {
    let bound = devices::subject_of(tx, owner).await?;
    if bound.as_ref() == Some(subject) || devices::bind_owner(tx, owner, subject).await? {
        return Ok(());
    }
    Err(CommitError::Refused(Error::ProfileNotFound))
}

/// Enrols the device, adds the profile and its key generation, and permits the first step.
struct StartKeygen {
    steps: Arc<Steps>,
    applicant: Applicant,
    proof: RequestProof,
    first_name: ProfileName,
    idempotency_key: IdempotencyKey,
    body_hash: [u8; 32],
    profile_id: ProfileId,
    session_id: SessionId,
    server_nonce: [u8; 32],
    allowed: Allowed,
    /// The owner that the device speaks for, or the one that it will speak for.
    owner_id: OwnerId,
    /// Of the user, if a gateway vouches for one, or of that owner.
    metering: Metering,
}

impl Operation for StartKeygen {
    type Output = Admission;
    type Refusal = Error;

    fn key(&self) -> Key {
        Key::device(self.applicant.tenant(), self.applicant.device_key_id())
    }

    fn also(&self) -> Key {
        self.metering.key()
    }

    fn looks_at(&self) -> Key {
        Key::FREEZES
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<(Admission, AuditRecord), CommitError<Error>> {
        self.proof.spend(tx).await?;
        let scope = scope(&self.applicant, &self.idempotency_key);
        if idempotency::find(tx, &scope).await?.is_some() {
            // The same request is in flight: its own answer will be the one.
            return Err(CommitError::Refused(Refusal::Busy.into()));
        }
        let session_id = self.session_id;
        let resource = session_id.to_string();
        idempotency::insert(tx, &scope, &self.body_hash, &resource, Kept::AsConfigured).await?;
        let owner_id = self.owner(tx).await?;
        self.metering.take(tx).await?;
        let profile = NewProfile {
            profile_id: self.profile_id,
            tenant: self.applicant.tenant(),
            owner_id,
            name: self.first_name.as_str(),
        };
        profiles::insert(tx, &profile).await?;
        let session = SessionRow {
            session_id,
            kind: SessionKind::Keygen,
            profile_id: self.profile_id,
            device_key_id: self.applicant.device_key_id().clone(),
            certificate_spki: *self.applicant.certificate_spki(),
            state: SessionState::Round1Checking,
            attempt: 1,
            generation: Generation::FIRST,
            server_nonce: self.server_nonce,
            decision_id: self.allowed.record(tx, None).await?,
            instance_id: self.steps.instance,
            request_hash: Some(self.body_hash),
            expires_at: tx.now().plus_seconds(self.steps.lifetimes.session),
        };
        sessions::insert(tx, &session).await?;
        if !profiles::lock(tx, self.profile_id, session_id, self.steps.instance).await? {
            return Err(CommitError::Refused(Error::LeaseLapsed));
        }
        let row = profiles::find(tx, self.profile_id).await?;
        let row = row.ok_or(CommitError::Refused(Error::Internal))?;
        let record = AuditRecord::done(AuditEvent::KeygenRequested)
            .profile(self.profile_id)
            .session(session_id);
        let permit = gate::permit(tx, &self.steps.policy, session, row, 1)
            .await
            .map_err(|reason| CommitError::Refused(NotAdmitted::Permit(reason).into()))?;
        Ok((Ok(permit), record))
    }
}

impl StartKeygen {
    /// The owner this device speaks for already, or a new one.
    async fn owner(&self, tx: &mut Tx<'_>) -> Result<OwnerId, CommitError<Error>> {
        let (tenant, device) = (self.applicant.tenant(), self.applicant.device_key_id());
        let subject = self.applicant.subject();
        if let Some(known) = devices::find(tx, tenant, device).await? {
            // It may have been enrolled, or revoked, while this request waited.
            if known.revoked_at.is_some() || known.active_at > tx.now() {
                return Err(CommitError::Refused(Error::SignatureInvalid));
            }
            if subject.is_none() && known.owner_id != self.owner_id {
                // Its owner was made meanwhile, by another request, and this one is to be counted with that.
                return Err(CommitError::Refused(Refusal::Busy.into()));
            }
            if let Some(subject) = subject {
                bind(tx, known.owner_id, subject).await?;
            }
            return Ok(known.owner_id);
        }
        let now = tx.now();
        let row = DeviceRow {
            device_key_id: device.clone(),
            owner_id: self.owner_id,
            public_key: *self.applicant.public_key(),
            name: FIRST_DEVICE.to_owned(),
            created_at: now,
            active_at: now,
            revoked_at: None,
        };
        devices::insert_owner(tx, tenant, row.owner_id, subject).await?;
        devices::insert(tx, tenant, &row).await?;
        Ok(row.owner_id)
    }
}
