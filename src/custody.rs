//! The one place that unwraps a share.
//!
//! [`Custody::step`] takes a committed permit, unwraps the share it names, runs one step of the
//! two-party protocol on it and wipes it. INVARIANT: a share is in memory only inside one call of
//! `step`, or of [`Custody::empty_shares`], which uses none; nothing here returns it, keeps it or writes it anywhere
//! but sealed.
//!
//! Before a share is used, [`guard`] makes sure that the database has not forgotten who was banned.
//!
//! Between the steps of a session the engine's own kept state stays here, in memory only, moved in and
//! moved out: a step can never run twice on the same state (A07).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use countersign_hsm::{KekId, ObjectAad, Purpose, Token};
use countersign_mpc::error::{MpcError, Refusal};
use countersign_mpc::share::{P2Share, PublicShare};
use countersign_mpc::signature::Signature;
use zeroize::Zeroizing;

use crate::clock::{self, Timestamp};
use crate::domain::{
    EnvironmentId, OtSetup, ProfileId, SessionId, SessionKind, Suspicion, TenantId,
};
use crate::gate::Permit;
use crate::store::profiles::ProfileRow;
use crate::store::shares::ShareRow;
use crate::store::{Committed, Store, StoreError, steps as records};
use crate::telemetry::metrics::{HsmCall, Metrics, Step, StepResult};

pub mod anchor;
pub mod bans;
mod emptying;
pub mod guard;
pub mod kem;
mod kept;
mod ledger;
pub mod listing;
mod places;
pub mod response_keys;
mod steps;
pub mod two_factor;

use guard::{Guard, Objection};
pub use kem::{KemError, KemRing, Message};
use kept::KeptStates;
use ledger::Ledger;
use places::Places;
pub use places::{EngineSlot, QueuePlace};
pub use response_keys::{Identity, ResponseKeys};

/// The role of our share in its AAD.
const ROLE: &str = "P2";

/// What a step made.
pub enum Product {
    /// A sealed message for the wallet.
    Message(String),
    /// A sealed message, and our share of a new key, sealed by the HSM.
    Share {
        /// The message.
        message: String,
        /// The share.
        share: Box<ShareRow>,
        /// The wallet's address.
        address: [u8; 20],
    },
    /// A sealed message, and proof that both halves sign together.
    Proven(String),
    /// A low-S signature that verifies against the wallet's address.
    Signature(Signature),
}

/// Why a step failed without a ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The message is of another protocol version.
    UnsupportedVersion,
    /// The message is not one of this round.
    BadMessage,
    /// The protocol step failed.
    Failed,
    /// Our share is missing, damaged or does not belong to its row.
    BadShare,
    /// The kept state of this session is not here.
    Lost,
    /// The new share could not be sealed.
    Unavailable,
}

/// How a step ended.
#[must_use = "a step that ran must be concluded"]
pub enum Verdict {
    /// It passed.
    Done(Product),
    /// It failed; the session is over, the key is not in danger.
    Recoverable {
        /// Why, for the wallet.
        failure: Failure,
        /// Why, for the record.
        reason: String,
        /// What it counts as.
        suspicion: Suspicion,
    },
    /// The counterparty was caught.
    Ban {
        /// Which check caught it.
        reason: String,
        /// Our share without its transfer state, if it could be sealed at once.
        emptied: Option<Box<ShareRow>>,
    },
    /// Nothing ran: the counterparty was caught before, and its row does not say so.
    Banned,
    /// Nothing ran and nothing is lost: the share could not be unwrapped.
    NotRun,
}

impl Verdict {
    const fn result(&self) -> StepResult {
        match self {
            Self::Done(_) => StepResult::Done,
            Self::Recoverable { .. } => StepResult::Recoverable,
            Self::Ban { .. } => StepResult::Ban,
            Self::Banned | Self::NotRun => StepResult::NotRun,
        }
    }

    fn recoverable(failure: Failure, reason: impl Into<String>) -> Self {
        Self::Recoverable {
            failure,
            reason: reason.into(),
            suspicion: Suspicion::None,
        }
    }
}

impl From<Objection> for Verdict {
    fn from(objection: Objection) -> Self {
        match objection {
            Objection::NotNow => Self::NotRun,
            Objection::Banned => Self::Banned,
            Objection::Damaged => {
                Self::recoverable(Failure::BadShare, "the key share does not open")
            }
        }
    }
}

impl From<MpcError> for Verdict {
    fn from(error: MpcError) -> Self {
        let failure = match error {
            MpcError::Ban { reason } => {
                return Self::Ban {
                    reason: reason.to_string(),
                    emptied: None,
                };
            }
            MpcError::Refused(Refusal::UnsupportedVersion) => Failure::UnsupportedVersion,
            MpcError::Refused(_) => Failure::BadMessage,
            MpcError::Recoverable { .. } | MpcError::Panicked => Failure::Failed,
        };
        let suspicion = match error {
            MpcError::Panicked => Suspicion::NoVerdict,
            other if other.is_suspect() => Suspicion::FailedSignature,
            _ => Suspicion::None,
        };
        Self::Recoverable {
            failure,
            reason: error.to_string(),
            suspicion,
        }
    }
}

/// The shares' keeper.
pub struct Custody {
    token: Token,
    store: Store,
    guard: Guard,
    environment_id: EnvironmentId,
    share_keks: HashMap<TenantId, KekId>,
    factor_keks: HashMap<TenantId, KekId>,
    places: Places,
    kept: KeptStates,
    ledger: Ledger,
    kept_seconds: i64,
    metrics: Arc<Metrics>,
}

/// The active KEKs of each tenant, by purpose.
#[derive(Clone)]
pub struct Keks {
    /// For shares.
    pub share: HashMap<TenantId, KekId>,
    /// For second factors.
    pub factor: HashMap<TenantId, KekId>,
}

/// How much of the machine custody may use.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// How many signing steps may run at once. A quarter of them may make keys, which takes a hundred
    /// times as long.
    pub cores: usize,
    /// How long kept state stays in memory, in seconds.
    pub kept_seconds: i64,
}

impl Custody {
    /// Custody over the shares and second factors of an environment, under each tenant's active KEKs.
    #[must_use]
    pub fn new(
        (token, store, guard): (Token, Store, Guard),
        environment_id: EnvironmentId,
        keks: Keks,
        capacity: Capacity,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            token,
            store,
            guard,
            environment_id,
            share_keks: keks.share,
            factor_keks: keks.factor,
            places: Places::new(capacity.cores),
            kept: KeptStates::default(),
            ledger: Ledger::default(),
            kept_seconds: capacity.kept_seconds,
            metrics,
        }
    }

    /// What keeps a database that was put back from undoing a ban.
    #[must_use]
    pub const fn guard(&self) -> &Guard {
        &self.guard
    }

    /// A place in the queue for the engine; `None` when the queue is full. Messages wait in memory, so
    /// their number is bounded.
    #[must_use]
    pub fn queue(&self, kind: SessionKind) -> Option<QueuePlace> {
        self.places.queue(kind)
    }

    /// Waits for a place at the engine and gives the one in the queue back.
    pub async fn slot(&self, place: QueuePlace) -> EngineSlot {
        self.places.slot(place).await
    }

    /// Runs one permitted step.
    pub async fn step(
        &self,
        permit: Committed<Permit>,
        slot: EngineSlot,
        message: Message,
    ) -> Verdict {
        let permit = permit.into_inner();
        let started = Instant::now();
        let step = step_label(permit.session().kind, permit.step());
        let _begun = self.ledger.begin(permit.id());
        let verdict = match step {
            Step::KeygenRound1 => self.keygen_1(&permit, message).await,
            Step::KeygenRound2 => self.keygen_2(&permit, message).await,
            Step::KeygenRound3 => self.keygen_3(&permit, message).await,
            Step::SignRound1 => self.sign_1(&permit, message).await,
            Step::SignRound2 => self.sign_2(&permit, message).await,
        };
        drop(slot);
        if matches!(verdict, Verdict::Ban { .. }) {
            self.condemn(&permit);
        }
        self.metrics
            .mpc_step(step, verdict.result(), started.elapsed());
        verdict
    }

    /// What is known of a step whose task ended in a panic: a wallet that was caught stays caught.
    pub fn after_panic(&self, profile: ProfileId, setup: OtSetup) -> Verdict {
        if self.guard.is_banned(profile, setup) {
            Verdict::Banned
        } else {
            MpcError::Panicked.into()
        }
    }

    fn condemn(&self, permit: &Permit) {
        let profile = permit.profile().profile_id;
        self.guard.condemn(profile, permit.ot_setup());
    }

    /// Looks up the records of what was unwrapped. If one is missing, the database has lost or never kept what it
    /// acknowledged, and nothing is unwrapped any more.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails: what is not looked up now is looked up the next time.
    pub async fn prove_unwraps(&self) -> Result<(), StoreError> {
        let unproven = self.ledger.unproven();
        if unproven.is_empty() || self.guard.is_stopped() {
            return Ok(());
        }
        let mut reader = self.store.reader().await?;
        for permits in unproven.chunks(records::RECORDED_AT_ONCE) {
            let recorded = records::recorded(&mut reader, permits).await?;
            for permit in permits {
                if recorded.contains(permit) {
                    self.ledger.proven(*permit);
                    self.metrics.unwrap_proven();
                } else {
                    tracing::error!(%permit, "a share was unwrapped, and there is no record of it");
                    self.guard.contradicted();
                }
            }
        }
        Ok(())
    }

    /// Forgets the kept state of sessions that are past their time, and says how many live on.
    pub fn sweep(&self, now: Timestamp) {
        let open = self.kept.sweep(now);
        self.metrics.sessions_open(SessionKind::Keygen, open.keygen);
        self.metrics.sessions_open(SessionKind::Sign, open.sign);
    }

    /// Forgets the kept state of a session.
    pub fn forget(&self, session: SessionId) {
        self.kept.forget(session);
    }

    /// Unwraps the share a permit names: one 32-byte decryption in the HSM.
    async fn unwrap(&self, permit: &Permit) -> Result<P2Share, Verdict> {
        let missing = || Verdict::recoverable(Failure::BadShare, "the key share is missing");
        let row = permit.share().ok_or_else(missing)?;
        let profile = permit.profile().profile_id;
        if !self.ledger.unwrap(permit.id()) {
            self.guard.contradicted();
            return Err(Verdict::recoverable(
                Failure::Unavailable,
                "the permit was used before",
            ));
        }
        self.metrics.share_unwrapped();
        let started = Instant::now();
        let sealed = (row.sealed.clone(), self.aad(permit.profile(), row));
        let opening = self
            .guard
            .open_share(permit.bans(), (profile, permit.ot_setup()), sealed);
        let (error, opened) = opening.await;
        self.hsm_call(HsmCall::Open, error.as_ref(), started);
        if let Some(error) = error {
            tracing::error!(?error, %profile, "a share could not be unwrapped");
        }
        let bytes = opened?;
        let public = public_share(row, permit.profile()).ok_or_else(missing)?;
        P2Share::from_bytes(&bytes, &public).map_err(|error| {
            tracing::error!(%error, profile = %permit.profile().profile_id, "a share does not match its row");
            Verdict::recoverable(Failure::BadShare, "the key share does not match its row")
        })
    }

    /// Seals a new share under the tenant's KEK.
    async fn seal(
        &self,
        permit: &Permit,
        share: &P2Share,
        public: &PublicShare,
    ) -> Result<ShareRow, Verdict> {
        let unavailable = |reason: &str| Verdict::recoverable(Failure::Unavailable, reason);
        let row = ShareRow {
            generation: permit.session().generation,
            object_version: 1,
            kek_id: [0; 16],
            sealed: Vec::new(),
            public_key: public.public_key,
            x1: public.x1,
            x2: public.x2,
            dkg_session_id: public.session_id,
        };
        let bytes = share
            .to_bytes()
            .map_err(|_| unavailable("the new share does not encode"))?;
        self.seal_as(permit.profile(), row, bytes)
            .await
            .ok_or_else(|| unavailable("the new share could not be sealed"))
    }

    /// Seals the bytes of a share as what `row` says it is, under the tenant's KEK; `None` if that cannot be done now.
    async fn seal_as(
        &self,
        profile: &ProfileRow,
        row: ShareRow,
        bytes: Zeroizing<Vec<u8>>,
    ) -> Option<ShareRow> {
        let Some(kek) = self.share_keks.get(&profile.tenant).copied() else {
            tracing::error!(tenant = %profile.tenant, "the tenant has no share KEK");
            return None;
        };
        let started = Instant::now();
        let sealed = self.token.seal(kek, self.aad(profile, &row), bytes).await;
        self.hsm_call(HsmCall::Seal, sealed.as_ref().err(), started);
        match sealed {
            Ok(sealed) => Some(ShareRow {
                kek_id: kek.0,
                sealed,
                ..row
            }),
            Err(error) => {
                tracing::error!(?error, "a share could not be sealed");
                None
            }
        }
    }

    /// What a sealed share is bound to (`protocol.md` A19).
    fn aad(&self, profile: &ProfileRow, row: &ShareRow) -> ObjectAad {
        ObjectAad {
            environment_id: self.environment_id.0,
            tenant: profile.tenant.to_string(),
            purpose: Purpose::Share,
            profile_id: profile.profile_id.to_string(),
            owner_id: profile.owner_id.to_string(),
            key_generation: row.generation.0,
            object_version: row.object_version,
            role: ROLE,
            public_key: row.public_key.to_vec(),
        }
    }

    fn hsm_call(&self, call: HsmCall, error: Option<&countersign_hsm::HsmError>, started: Instant) {
        let result = error.map_or("ok", |error| error.kind().as_str());
        self.metrics.hsm_call(call, result, started.elapsed());
    }

    fn keep_until(&self) -> Timestamp {
        clock::now().plus_seconds(self.kept_seconds)
    }
}

/// The public facts that a stored share must match.
fn public_share(row: &ShareRow, profile: &ProfileRow) -> Option<PublicShare> {
    Some(PublicShare {
        public_key: row.public_key,
        address: profile.address?,
        x1: row.x1,
        x2: row.x2,
        session_id: row.dkg_session_id,
    })
}

const fn step_label(kind: SessionKind, step: u8) -> Step {
    match (kind, step) {
        (SessionKind::Keygen, 1) => Step::KeygenRound1,
        (SessionKind::Keygen, 2) => Step::KeygenRound2,
        (SessionKind::Keygen, _) => Step::KeygenRound3,
        (SessionKind::Sign, 1) => Step::SignRound1,
        (SessionKind::Sign, _) => Step::SignRound2,
    }
}
