//! Preparing a transaction: policy, fees, nonce, and a session that waits for the wallet's first message.
//!
//! INVARIANT: the digest that will be signed is computed here from the typed transaction, inside the
//! operation that reserves its nonce. No request carries a digest (A08), and one request is one nonce (A28).

use std::sync::Arc;

use alloy_primitives::Address;

use super::second_factor::SecondFactor;
use super::steps::Steps;
use super::{Error, facts, spends};
use crate::chain::{
    Chains, FeePolicy, FeeRefusal, Terms, TransactionRequest, Unsigned1559, UnsignedFields,
};
use crate::clock::{self, Timestamp};
use crate::domain::{
    DecisionId, Generation, IdempotencyKey, InstanceId, ProfileId, ProfileState, RateClass,
    RateSubject, SessionId, SessionKind, SessionState, TransactionId,
};
use crate::gate::rates::Metering;
use crate::gate::spends::Spending;
use crate::gate::two_factor::{Grant, Need};
use crate::gate::{self, Allowed, Denied};
use crate::identity::owner::Owner;
use crate::identity::replay::RequestProof;
use crate::limits::Meter;
use crate::limits::spend::Payer;
use crate::policy::Asked;
use crate::sessions::{self, Refusal};
use crate::store::idempotency::{self, Kept, Scope};
use crate::store::profiles::ProfileRow;
use crate::store::sessions::SessionRow;
use crate::store::transactions::{TransactionRow, TransactionState};
use crate::store::{
    AuditEvent, AuditOutcome, AuditRecord, CommitError, Key, Operation, Tx, profiles, transactions,
};
use crate::two_factor::Code;

const ROUTE: &str = "POST /api/v1/profiles/:id/transactions";
/// Prepared sessions of one profile that may wait at a time.
const MAX_WAITING: i64 = 32;

/// What is asked for.
pub struct Request {
    /// The profile that pays.
    pub profile_id: ProfileId,
    /// The transaction.
    pub transaction: TransactionRequest,
    /// The generation the wallet holds, if it says so.
    pub generation: Option<u64>,
    /// The request's key.
    pub idempotency_key: IdempotencyKey,
    /// SHA-256 of the body without its code.
    pub body_hash: [u8; 32],
    /// A code of the second factor, if one came. It is looked at only if a rule asks for one.
    pub code: Option<Code>,
    /// What is told how many more there may be.
    pub meter: Meter,
}

/// A transaction that waits for its signature.
pub struct Prepared {
    /// What will be signed, field by field.
    pub unsigned: UnsignedFields,
    /// keccak-256 of it.
    pub digest: [u8; 32],
    /// The session that will sign it.
    pub session_id: SessionId,
    /// When the session ends.
    pub expires_at: Timestamp,
    /// The generation that will sign.
    pub generation: Generation,
    /// The attempt, from 1.
    pub attempt: u32,
    /// Our nonce for this attempt.
    pub server_nonce: [u8; 32],
    /// The decision that allowed it.
    pub decision_id: DecisionId,
}

/// The use case.
pub struct PrepareTransaction {
    steps: Arc<Steps>,
    chains: Arc<Chains>,
    fees: FeePolicy,
}

impl PrepareTransaction {
    /// The use case over its parts.
    #[must_use]
    pub const fn new(steps: Arc<Steps>, chains: Arc<Chains>, fees: FeePolicy) -> Self {
        Self {
            steps,
            chains,
            fees,
        }
    }

    /// Prepares a transaction, or finds the one that the same request prepared before.
    ///
    /// # Errors
    /// [`Error`] says what to do.
    pub async fn prepare(
        &self,
        owner: Owner,
        proof: RequestProof,
        request: Request,
    ) -> Result<Prepared, Error> {
        let prepared = self.find_or_make(owner, proof, request).await;
        self.steps.count_frozen(prepared)
    }

    async fn find_or_make(
        &self,
        owner: Owner,
        proof: RequestProof,
        request: Request,
    ) -> Result<Prepared, Error> {
        let profile = self.profile(&owner, &request).await?;
        self.steps.usable(&profile).await?;
        let address = ready_address(&profile, request.generation)?;
        if let Some(earlier) = self.earlier(&owner, &request).await? {
            return Ok(earlier);
        }
        let (id, meter) = (profile.profile_id, request.meter.clone());
        let subject = RateSubject::Profile(id);
        let metering = Metering::new(&self.steps.limits, RateClass::Transactions, subject, meter);
        // A flood is not passed on to the chain's node.
        metering.look(&mut self.steps.store.reader().await?).await?;
        let Weighed {
            allowed,
            factor,
            terms,
            lowest_nonce,
        } = match self.weigh(&owner, &profile, address, &request).await {
            Ok(weighed) => weighed,
            Err(refused) => return Err(self.refuse(id, proof, metering, refused).await),
        };
        let mut server_nonce = [0; 32];
        getrandom::fill(&mut server_nonce).map_err(|_| Error::Internal)?;
        let payer = Payer {
            profile: id,
            tenant: owner.tenant().clone(),
        };
        let spending = Spending::new(&self.steps.limits, payer);
        let operation = Prepare {
            owner,
            proof,
            metering,
            request,
            address,
            terms,
            spending,
            lowest_nonce,
            server_nonce,
            allowed,
            factor,
            instance: self.steps.instance,
            session_seconds: self.steps.lifetimes.session,
        };
        let tally = operation.factor.as_ref().map(SecondFactor::tally);
        self.steps
            .commit_with(tally.unwrap_or_default(), operation)
            .await
    }

    async fn profile(&self, owner: &Owner, request: &Request) -> Result<ProfileRow, Error> {
        let mut reader = self.steps.store.reader().await?;
        super::show::owned_profile(&mut reader, owner, request.profile_id).await
    }

    async fn earlier(&self, owner: &Owner, request: &Request) -> Result<Option<Prepared>, Error> {
        let mut reader = self.steps.store.reader().await?;
        let scope = scope(owner, &request.idempotency_key);
        let Some(earlier) = idempotency::find(&mut reader, &scope).await? else {
            return Ok(None);
        };
        if earlier.body_hash != request.body_hash {
            return Err(Error::IdempotencyMismatch);
        }
        let id = SessionId::parse(&earlier.resource_id).map_err(|_| Error::Internal)?;
        let session = crate::store::sessions::find(&mut reader, id).await?;
        let transaction = transactions::of_session(&mut reader, id).await?;
        // The key of a spend is remembered for longer than a session that was given up.
        let (Some(session), Some(transaction)) = (session, transaction) else {
            return Err(Error::SessionExpired);
        };
        // The route's profile is not part of the body that the key is bound to, nor is the device, which alone can
        // go on with the session.
        let same_device = session.device_key_id == *owner.device_key_id();
        if session.profile_id != request.profile_id || !same_device {
            return Err(Error::IdempotencyMismatch);
        }
        prepared(&session, &transaction).map(Some)
    }

    /// What policy, the chain's node and the fee policy say.
    async fn weigh(
        &self,
        owner: &Owner,
        profile: &ProfileRow,
        address: [u8; 20],
        request: &Request,
    ) -> Result<Weighed, Refused> {
        let chain_id = request.transaction.chain_id;
        let asked = &request.transaction;
        let kind = self.steps.store.environment_kind();
        let chain = facts::of_chain(&self.chains, kind, chain_id);
        let content = facts::of_transaction(chain, Some(asked.to), asked.value, &asked.data);
        let asked = Asked::PrepareTransaction(Box::new(content));
        let mut facts = facts::of_owner(owner, profile, kind, asked);
        let expires_at = clock::now().plus_seconds(self.steps.lifetimes.session);
        let code = request.code.as_ref();
        let judging = self
            .steps
            .judge_stepping_up(&mut facts, profile, expires_at, code);
        let (allowed, factor) = judging
            .await
            .map_err(|(error, denied)| Refused { error, denied })?;
        let node = self
            .chains
            .node(chain_id)
            .ok_or(Error::ChainNotAllowed(chain_id))?;
        let preparation = node
            .prepare(Address::from(address), &request.transaction)
            .await
            .map_err(|error| node_error(chain_id, error))?;
        let terms = self
            .fees
            .terms(&request.transaction, &preparation)
            .map_err(fee_error)?;
        Ok(Weighed {
            allowed,
            factor,
            terms,
            lowest_nonce: preparation.nonce,
        })
    }

    /// Records that a request was refused, and counts it; why it was.
    async fn refuse(
        &self,
        profile_id: ProfileId,
        proof: RequestProof,
        metering: Metering,
        refused: Refused,
    ) -> Error {
        let Refused { error, denied } = refused;
        let record = RecordRefusal {
            proof,
            metering,
            denied,
            profile_id,
            record: refusal(profile_id, &error),
        };
        match self.steps.store.commit(record).await {
            Ok(_recorded) => error,
            Err(unrecorded) => unrecorded.into(),
        }
    }
}

/// A request that may be carried out, and on which terms.
struct Weighed {
    allowed: Allowed,
    /// What it is allowed with, if it takes a second factor.
    factor: Option<SecondFactor>,
    terms: Terms,
    lowest_nonce: u64,
}

/// A request that may not, or cannot.
struct Refused {
    error: Error,
    /// The denial, if policy said no.
    denied: Option<Box<Denied>>,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        let denied = None;
        Self { error, denied }
    }
}

/// What is recorded of a request that was refused after it was counted. The error's own text may be a node's.
fn refusal(profile: ProfileId, error: &Error) -> AuditRecord {
    if let Error::LimitReached(reached) = error {
        return AuditRecord::done(AuditEvent::TransactionDenied)
            .outcome(AuditOutcome::Denied)
            .profile(profile)
            .detail(format!("limit:{}", reached.name));
    }
    let (outcome, why) = match error {
        Error::ChainUnavailable => (AuditOutcome::Failed, "the chain's node"),
        Error::PolicyDenied => (AuditOutcome::Denied, "the fees"),
        Error::StateConflict { .. } => (AuditOutcome::Denied, "too many wait"),
        _ => (AuditOutcome::Denied, "not well formed"),
    };
    AuditRecord::done(AuditEvent::RequestRefused)
        .outcome(outcome)
        .profile(profile)
        .detail(format!("transaction: {why}"))
}

fn scope<'a>(owner: &'a Owner, key: &'a IdempotencyKey) -> Scope<'a> {
    Scope {
        tenant: owner.tenant(),
        holder: owner.owner_id().to_string(),
        route: ROUTE,
        key,
    }
}

/// The address of a profile that can pay.
fn ready_address(profile: &ProfileRow, generation: Option<u64>) -> Result<[u8; 20], Error> {
    let not_active = Error::StateConflict {
        message: "the profile is not active",
        again: false,
    };
    if profile.state != ProfileState::Active {
        return Err(not_active);
    }
    if generation.is_some_and(|held| held != profile.generation.0) {
        return Err(Error::GenerationMismatch);
    }
    profile.address.ok_or(not_active)
}

fn node_error(chain_id: u64, error: crate::chain::NodeError) -> Error {
    if error.is_about_request() {
        return Error::InvalidRequest(format!("the chain refuses this transaction: {error}"));
    }
    tracing::warn!(chain_id, %error, "the node could not prepare a transaction");
    Error::ChainUnavailable
}

fn fee_error(refusal: FeeRefusal) -> Error {
    match refusal {
        FeeRefusal::NodeAboveLimit(_) => {
            tracing::warn!(%refusal, "the node asks for more than the fee policy allows");
            Error::PolicyDenied
        }
        FeeRefusal::WalletAboveLimit(_) => Error::PolicyDenied,
        _ => Error::InvalidRequest(refusal.to_string()),
    }
}

fn prepared(session: &SessionRow, transaction: &TransactionRow) -> Result<Prepared, Error> {
    let unsigned = Unsigned1559::from_payload(&transaction.payload).map_err(|_| Error::Internal)?;
    Ok(Prepared {
        unsigned: unsigned.fields(),
        digest: transaction.digest,
        session_id: session.session_id,
        expires_at: session.expires_at,
        generation: session.generation,
        attempt: session.attempt,
        server_nonce: session.server_nonce,
        decision_id: session.decision_id,
    })
}

/// Records the decision, reserves the nonce, builds the transaction and opens its session.
struct Prepare {
    owner: Owner,
    proof: RequestProof,
    metering: Metering,
    request: Request,
    address: [u8; 20],
    terms: Terms,
    spending: Spending,
    lowest_nonce: u64,
    server_nonce: [u8; 32],
    allowed: Allowed,
    factor: Option<SecondFactor>,
    instance: InstanceId,
    session_seconds: i64,
}

impl Operation for Prepare {
    /// A request that is refused once it counts is counted.
    type Output = Result<Prepared, Error>;
    type Refusal = Error;

    fn key(&self) -> Key {
        Key::profile(self.request.profile_id)
    }

    fn also(&self) -> Key {
        self.spending.key()
    }

    fn looks_at(&self) -> Key {
        Key::FREEZES
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<(Self::Output, AuditRecord), CommitError<Error>> {
        self.proof.spend(tx).await?;
        let generation = self.check(tx).await.map_err(CommitError::Refused)?;
        self.metering.take(tx).await?;
        let mut grant = None;
        if let Some(factor) = &self.factor {
            grant = match factor
                .check(tx, self.request.profile_id, Need::Always)
                .await?
            {
                Ok(grant) => grant,
                Err(refused) => return Ok((Err(refused.error), refused.record)),
            };
        }
        let session_id = SessionId::generate();
        let unsigned = match self.build(tx, session_id).await {
            Ok(unsigned) => unsigned,
            Err(Error::StoreUnavailable(error)) => return Err(CommitError::Store(error)),
            // Nothing else is written yet.
            Err(error) => {
                if let Error::LimitReached(reached) = &error {
                    self.allowed.record_limit(tx, &reached.name).await?;
                }
                let record = refusal(self.request.profile_id, &error);
                return Ok((Err(error), record));
            }
        };
        let decision_id = self.allowed.record(tx, grant.as_ref()).await?;
        let session = SessionRow {
            session_id,
            kind: SessionKind::Sign,
            profile_id: self.request.profile_id,
            device_key_id: self.owner.device_key_id().clone(),
            certificate_spki: *self.owner.certificate_spki(),
            state: SessionState::Created,
            attempt: 1,
            generation,
            server_nonce: self.server_nonce,
            decision_id,
            instance_id: self.instance,
            request_hash: None,
            expires_at: tx.now().plus_seconds(self.session_seconds),
        };
        crate::store::sessions::insert(tx, &session).await?;
        let transaction = TransactionRow {
            transaction_id: TransactionId::generate(),
            session_id: session.session_id,
            profile_id: self.request.profile_id,
            chain_id: unsigned.chain_id(),
            sender: self.address,
            nonce: unsigned.nonce(),
            payload: unsigned.payload(),
            digest: unsigned.digest(),
            state: TransactionState::Prepared,
            raw: None,
            tx_hash: None,
            block_number: None,
            broadcast_attempts: 0,
        };
        transactions::insert(tx, &transaction).await?;
        let scope = scope(&self.owner, &self.request.idempotency_key);
        let resource = session.session_id.to_string();
        let body_hash = &self.request.body_hash;
        idempotency::insert(tx, &scope, body_hash, &resource, Kept::ForEver).await?;
        let record = AuditRecord::done(AuditEvent::TransactionPrepared)
            .profile(session.profile_id)
            .session(session.session_id)
            .detail(format!(
                "chain {} nonce {} digest 0x{}{}",
                transaction.chain_id,
                transaction.nonce,
                hex::encode(transaction.digest),
                grant.as_ref().map(Grant::detail).unwrap_or_default()
            ));
        let prepared = prepared(&session, &transaction).map_err(CommitError::Refused)?;
        Ok((Ok(prepared), record))
    }
}

impl Prepare {
    /// What must hold at the moment of the reservation, whatever was read before.
    async fn check(&self, tx: &mut Tx<'_>) -> Result<Generation, Error> {
        let scope = scope(&self.owner, &self.request.idempotency_key);
        if idempotency::find(tx, &scope).await?.is_some() {
            return Err(Refusal::Busy.into());
        }
        let profile = profiles::find(tx, self.request.profile_id)
            .await?
            .ok_or(Error::ProfileNotFound)?;
        gate::not_frozen(tx, profile.profile_id, &profile.tenant).await?;
        sessions::usable(&profile)?;
        ready_address(&profile, self.request.generation)?;
        Ok(profile.generation)
    }

    /// The transaction with the lowest nonce, what it may spend reserved. It has the nonce that no living transaction of ours holds.
    async fn build(&self, tx: &mut Tx<'_>, session: SessionId) -> Result<Unsigned1559, Error> {
        let waiting = crate::store::sessions::count_created(tx, self.request.profile_id).await?;
        if waiting >= MAX_WAITING {
            return Err(Error::StateConflict {
                message: "too many prepared transactions wait for their signature",
                again: true,
            });
        }
        let chain_id = self.request.transaction.chain_id;
        let settled = transactions::highest_settled(tx, chain_id, &self.address).await?;
        if settled.is_some_and(|settled| settled >= self.lowest_nonce) {
            tracing::error!(
                chain_id,
                lowest = self.lowest_nonce,
                ?settled,
                "the node is behind what was mined already"
            );
            return Err(Error::ChainUnavailable);
        }
        let held =
            transactions::held_nonces(tx, chain_id, &self.address, self.lowest_nonce).await?;
        let mut nonce = self.lowest_nonce;
        for taken in held {
            if taken != nonce {
                break;
            }
            nonce = nonce.checked_add(1).ok_or(Error::ChainUnavailable)?;
        }
        let unsigned = Unsigned1559::new(&self.request.transaction, nonce, self.terms)
            .map_err(|error| Error::InvalidRequest(error.to_string()))?;
        let spends = spends::of(self.spending.limits(), &unsigned)?;
        self.spending.reserve(tx, session, &spends).await?;
        Ok(unsigned)
    }
}

/// Records that a request was refused before its operation, and counts it.
struct RecordRefusal {
    proof: RequestProof,
    metering: Metering,
    denied: Option<Box<Denied>>,
    profile_id: ProfileId,
    record: AuditRecord,
}

impl Operation for RecordRefusal {
    type Output = ();
    type Refusal = Error;

    fn key(&self) -> Key {
        Key::profile(self.profile_id)
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<((), AuditRecord), CommitError<Self::Refusal>> {
        self.proof.spend(tx).await?;
        self.metering.take(tx).await?;
        let Some(denied) = &self.denied else {
            return Ok(((), self.record.clone()));
        };
        denied.record(tx).await?;
        let record = AuditRecord::done(AuditEvent::TransactionDenied)
            .outcome(AuditOutcome::Denied)
            .profile(self.profile_id)
            .detail(denied.detail());
        Ok(((), record))
    }
}
