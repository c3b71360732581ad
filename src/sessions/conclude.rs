//! The conclusion of a step: what is durable before a byte of the answer leaves.

use super::session::Unfit;
use super::{Ending, Key, Lifetimes, Session};
use crate::clock::Timestamp;
use crate::domain::{
    FreezeScope, KeyState, OperationId, OtSetup, ProfileId, ProfileState, SessionKind, Suspicion,
};
use crate::store::bans::Caught;
use crate::store::profiles::ProfileRow;
use crate::store::sessions::SessionRow;
use crate::store::shares::ShareRow;
use crate::store::steps::StepOutcome;
use crate::store::{
    self, AuditEvent, AuditOutcome, AuditRecord, CommitError, Operation, StoreError, Tx, bans,
    freezes, profiles, shares, steps, transactions,
};

/// What a step made.
#[derive(Clone)]
pub enum Effect {
    /// A message for the wallet; the session goes on.
    Advance,
    /// A new share: pending until a signature proves the wallet's half.
    StoreShare {
        /// The sealed share.
        share: Box<ShareRow>,
        /// The wallet's address.
        address: [u8; 20],
    },
    /// Proof that both halves sign together.
    Activate,
    /// A signature, already verified, in its signed transaction.
    Sign {
        /// The signed bytes.
        raw: Vec<u8>,
        /// Their hash.
        tx_hash: [u8; 32],
    },
    /// Nothing: the HSM was away and no check ran.
    NotRun,
    /// Nothing: the message was refused or the step failed.
    Abort {
        /// Why, from a closed set.
        reason: String,
        /// What it counts as.
        suspicion: Suspicion,
    },
    /// Nothing but the knowledge that the counterparty cheats.
    Ban {
        /// Which check caught it, from a closed set.
        reason: String,
        /// The share without its transfer state, if it could be sealed; otherwise that is done later.
        emptied: Option<Box<ShareRow>>,
    },
}

impl Effect {
    /// Whether it bans the counterparty, or may.
    #[must_use]
    pub const fn may_ban(&self) -> bool {
        match self {
            Self::Ban { .. } => true,
            Self::Abort { suspicion, .. } => matches!(suspicion, Suspicion::FailedSignature),
            _ => false,
        }
    }

    const fn ending(&self, until: Timestamp) -> Ending {
        match self {
            Self::Advance | Self::StoreShare { .. } => Ending::Advanced(until),
            Self::Activate | Self::Sign { .. } => Ending::Finished,
            Self::NotRun => Ending::NotRun,
            Self::Abort { .. } => Ending::Aborted,
            Self::Ban { .. } => Ending::Banned,
        }
    }

    /// Whether a check of this session can end like that.
    #[must_use]
    pub fn fits(&self, session: &SessionRow) -> bool {
        match Session::of(session.clone()) {
            Session::Checking(checking) => checking.end(self.ending(session.expires_at)).is_ok(),
            Session::Waiting(_) | Session::Ended(_) => false,
        }
    }

    const fn step_outcome(&self) -> StepOutcome {
        match self {
            Self::NotRun => StepOutcome::Failed,
            Self::Abort { .. } | Self::Ban { .. } => StepOutcome::Denied,
            _ => StepOutcome::Done,
        }
    }

    fn record(&self) -> AuditRecord {
        let (event, outcome, detail) = match self {
            Self::Advance => (AuditEvent::StepConcluded, AuditOutcome::Done, String::new()),
            Self::StoreShare { share, .. } => (
                AuditEvent::ShareStored,
                AuditOutcome::Done,
                format!("generation {}", share.generation),
            ),
            Self::Activate => (
                AuditEvent::ProfileActivated,
                AuditOutcome::Done,
                String::new(),
            ),
            Self::Sign { tx_hash, .. } => (
                AuditEvent::TransactionSigned,
                AuditOutcome::Done,
                format!("0x{}", hex::encode(tx_hash)),
            ),
            Self::NotRun => (
                AuditEvent::StepConcluded,
                AuditOutcome::Failed,
                "the share was not unwrapped".to_owned(),
            ),
            Self::Abort { reason, .. } => (
                AuditEvent::StepConcluded,
                AuditOutcome::Denied,
                reason.clone(),
            ),
            Self::Ban { reason, .. } => (
                AuditEvent::CounterpartyBanned,
                AuditOutcome::Denied,
                reason.clone(),
            ),
        };
        AuditRecord::done(event).outcome(outcome).detail(detail)
    }
}

/// Why a conclusion found nothing to conclude.
#[derive(Debug)]
pub struct Gone;

/// How a step was concluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concluded {
    /// As it ended.
    AsItEnded,
    /// It made a signature, and the profile has been frozen meanwhile: nobody will see it, and its session is given up.
    Frozen(FreezeScope),
}

/// Ends a step. It may be committed again after a failure of the store: the first one counts.
#[derive(Clone)]
pub struct Conclude {
    /// The session, as it stood while the step ran.
    pub session: SessionRow,
    /// The permit the step ran under.
    pub permit_id: OperationId,
    /// What the counterparty is banned from if it was caught.
    pub ot_setup: OtSetup,
    /// What the step made.
    pub effect: Effect,
    /// How long the session lives on.
    pub lifetimes: Lifetimes,
}

impl Operation for Conclude {
    type Output = Concluded;
    type Refusal = Gone;

    fn key(&self) -> store::Key {
        store::Key::profile(self.session.profile_id)
    }

    fn also(&self) -> store::Key {
        if self.effect.may_ban() {
            store::Key::BANS
        } else {
            store::Key::NONE
        }
    }

    fn looks_at(&self) -> store::Key {
        if matches!(self.effect, Effect::Sign { .. }) {
            store::Key::FREEZES
        } else {
            store::Key::NONE
        }
    }

    /// INVARIANT: a signature is stored, and so can be broadcast or told, only while no freeze stands.
    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<(Concluded, AuditRecord), CommitError<Gone>> {
        match self.frozen(tx).await? {
            None => {
                let ((), record) = self.conclude(tx).await?;
                Ok((Concluded::AsItEnded, record))
            }
            Some(scope) => {
                let withheld = Self {
                    effect: Effect::Abort {
                        reason: format!("a freeze stands: {}", scope.as_str()),
                        suspicion: Suspicion::None,
                    },
                    ..self.clone()
                };
                let ((), record) = withheld.conclude(tx).await?;
                Ok((Concluded::Frozen(scope), record))
            }
        }
    }
}

impl Conclude {
    /// The freeze that stands in the way of a signature.
    async fn frozen(&self, tx: &mut Tx<'_>) -> Result<Option<FreezeScope>, StoreError> {
        if !matches!(self.effect, Effect::Sign { .. }) {
            return Ok(None);
        }
        freezes::over_known(tx, self.session.profile_id).await
    }

    async fn conclude(&self, tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<Gone>> {
        let (profile, id) = (self.session.profile_id, self.session.session_id);
        // The permit is this very check; the session may be in another one meanwhile.
        if !steps::close(tx, self.permit_id, self.effect.step_outcome()).await? {
            return self.too_late(tx).await;
        }
        let Session::Checking(checking) = Session::of(self.session.clone()) else {
            return Err(CommitError::Refused(Gone));
        };
        let until = tx.now().plus_seconds(self.lifetimes.kept_state);
        let ended = checking.end(self.effect.ending(until));
        let ended = ended.map_err(|Unfit| CommitError::Refused(Gone))?;
        let moved = ended.write(tx).await?.is_some();
        let unlocked = profiles::unlock(tx, profile, id).await?;
        if !(moved && unlocked) {
            return self.too_late(tx).await;
        }
        self.apply_effect(tx).await?;
        let record = self.effect.record().profile(profile).session(id);
        Ok(((), record))
    }

    /// The wallet that was caught, and what it is banned from.
    #[must_use]
    pub const fn caught(&self) -> Option<(ProfileId, OtSetup)> {
        match self.effect {
            Effect::Ban { .. } => Some((self.session.profile_id, self.ot_setup)),
            _ => None,
        }
    }

    /// The check was ended by somebody else, as one of a process that died, and counted as such. What it found is
    /// refused, but a counterparty that was caught is banned all the same: a verdict is never dropped.
    async fn too_late(&self, tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<Gone>> {
        let Effect::Ban { reason, emptied } = &self.effect else {
            return Err(CommitError::Refused(Gone));
        };
        let session = &self.session;
        let profile = profiles::find(tx, session.profile_id).await?;
        if !self.ban(tx, reason, emptied.as_deref()).await? {
            return Err(CommitError::Refused(Gone));
        }
        // The list has it whatever the row says; a key that the row has by now was not checked with.
        if let Some(profile) = profile.filter(|row| row.generation == session.generation) {
            change_key(tx, &profile, |key| Key::Quarantined(key.ban())).await?;
        }
        let record = self.effect.record().profile(session.profile_id);
        Ok(((), record.session(session.session_id)))
    }

    async fn apply_effect(&self, tx: &mut Tx<'_>) -> Result<(), CommitError<Gone>> {
        let session = &self.session;
        let profile = session.profile_id;
        let found = match &self.effect {
            Effect::Advance | Effect::NotRun => true,
            Effect::StoreShare { share, address } => {
                shares::insert_pending(tx, profile, share).await?;
                profiles::set_address(tx, profile, Some(address)).await?;
                profiles::change_state(tx, profile, ProfileState::Keygen, ProfileState::Pending)
                    .await?
            }
            Effect::Activate => {
                let (from, to) = (ProfileState::Pending, ProfileState::Active);
                shares::activate(tx, profile, session.generation).await?
                    && profiles::change_state(tx, profile, from, to).await?
            }
            Effect::Sign { raw, tx_hash } => {
                transactions::set_signed(tx, session.session_id, raw, tx_hash).await?
            }
            Effect::Abort { reason, suspicion } => {
                let change = match suspicion {
                    Suspicion::None => |key| key,
                    Suspicion::FailedSignature => Key::fail,
                    Suspicion::NoVerdict => Key::suspect,
                };
                self.end(tx, change, reason).await?
            }
            Effect::Ban { reason, emptied } => {
                // First: what names the setup goes with a key in the making.
                self.ban(tx, reason, emptied.as_deref()).await?;
                self.end(tx, |key| Key::Quarantined(key.ban()), reason)
                    .await?
            }
        };
        if found {
            Ok(())
        } else {
            Err(CommitError::Refused(Gone))
        }
    }

    /// A session that ends without a result: a key in the making is destroyed with it; a finished key
    /// keeps its count.
    async fn end(
        &self,
        tx: &mut Tx<'_>,
        change: fn(Key) -> Key,
        reason: &str,
    ) -> Result<bool, StoreError> {
        let session = &self.session;
        if session.kind == SessionKind::Keygen {
            return super::lifecycle::destroy_profile(tx, session.profile_id).await;
        }
        let Some(profile) = profiles::find(tx, session.profile_id).await? else {
            return Ok(false);
        };
        let key = change_key(tx, &profile, change).await?;
        // Whatever cannot ban has not the list to itself.
        if self.effect.may_ban() && key.row().state == KeyState::Quarantined {
            self.ban(tx, reason, None).await?;
        }
        transactions::release(tx, session.session_id).await?;
        Ok(true)
    }

    /// What makes a quarantine last, whatever becomes of the profile's row: an entry in the list of bans, and a share
    /// that has lost its transfer state. False if it is there already; then nothing changes.
    async fn ban(
        &self,
        tx: &mut Tx<'_>,
        reason: &str,
        emptied: Option<&ShareRow>,
    ) -> Result<bool, StoreError> {
        let session = &self.session;
        let caught = Caught {
            profile_id: session.profile_id,
            generation: session.generation,
            ot_setup: self.ot_setup,
            session_id: Some(session.session_id),
            reason,
        };
        if !bans::append(tx, &caught).await? {
            return Ok(false);
        }
        let done = match emptied {
            Some(emptied) => shares::empty(tx, session.profile_id, emptied).await?,
            None => false,
        };
        if !done {
            shares::empty_later(tx, session.profile_id, session.generation).await?;
        }
        Ok(true)
    }
}

/// Changes a key from what it is in a row that was read in this transaction; what it is now.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn change_key(
    tx: &mut Tx<'_>,
    profile: &ProfileRow,
    change: impl FnOnce(Key) -> Key,
) -> Result<Key, StoreError> {
    let before = profile.key();
    let after = change(Key::of(before));
    if *after.row() == before || after.write(tx, profile.profile_id, &before).await? {
        return Ok(after);
    }
    // Nobody else changes a key whose operation this is. Tried again, it is read again: a ban is never lost to it.
    Err(StoreError::RowChanged("profiles"))
}
