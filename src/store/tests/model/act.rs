//! What happens to profiles: the operations.
#![expect(clippy::indexing_slicing, reason = "tests")]

use crate::domain::{
    DeviceKeyId, IdempotencyKey, InstanceId, KeyState, OperationId, ProfileId, SessionId, TenantId,
    TransactionId,
};
use crate::store::engine::values;
use crate::store::idempotency::{self, Kept, Scope};
use crate::store::profiles::KeyRow;
use crate::store::steps::{self, StepOutcome};
use crate::store::tests::session;
use crate::store::transactions::{self, TransactionRow, TransactionState};
use crate::store::{
    AuditEvent, AuditRecord, CommitError, Key, Operation, Reads, Tx, profiles, sessions,
};

/// Sessions of a profile.
pub(super) const SESSIONS: usize = 4;
const CHAIN: u64 = 31_337;

/// The process in which all of it happens.
pub(super) fn instance() -> InstanceId {
    InstanceId::parse("01890000-0000-7000-8000-000000000001").unwrap()
}

/// What happens to a profile.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    /// Begins a session whose transaction takes a nonce.
    Reserve { session: usize, nonce: u64 },
    /// Gives the nonce back.
    Release(usize),
    /// Takes it again.
    Reclaim(usize),
    /// Takes the key's lock for a step of a session.
    Lock(usize),
    /// Ends the step without a result.
    Unlock(usize),
    /// Ends the step with a signature.
    Conclude(usize),
    /// Counts, by reading and writing.
    SetKey(KeyState),
    /// Takes an idempotency key of this profile.
    Remember(u8),
    /// Takes one that the others want as well, and counts.
    Compete(u8),
    /// Changes everything, and then refuses.
    Refuse,
}
/// The names of a profile and of all that belongs to it.
#[derive(Clone, Copy)]
pub(super) struct Names {
    run: u32,
    pub(super) profile: ProfileId,
    pub(super) sessions: [SessionId; SESSIONS],
    sender: [u8; 20],
}

impl Names {
    pub(super) fn new(run: u32) -> Self {
        let profile = ProfileId::generate();
        let mut sender = [0; 20];
        sender.copy_from_slice(&profile.to_string().as_bytes()[16..36]);
        Self {
            run,
            profile,
            sessions: std::array::from_fn(|_| SessionId::generate()),
            sender,
        }
    }

    /// An idempotency key, of this profile or of this run.
    pub(super) fn key(&self, own: bool, number: u8) -> (TenantId, DeviceKeyId, IdempotencyKey) {
        let owner = if own {
            self.profile.to_string()
        } else {
            "shared".to_owned()
        };
        (
            TenantId::parse("default").unwrap(),
            DeviceKeyId::parse(&"m".repeat(43)).unwrap(),
            IdempotencyKey::parse(&format!("{owner}-{}-{number}-model", self.run)).unwrap(),
        )
    }
}

/// The operation that does it.
pub(super) struct Act {
    pub(super) names: Names,
    pub(super) action: Action,
}

type Applied<T> = Result<T, CommitError<()>>;

fn required(condition: bool) -> Applied<()> {
    if condition {
        Ok(())
    } else {
        Err(CommitError::Refused(()))
    }
}

impl Operation for Act {
    type Output = OperationId;
    type Refusal = ();

    fn key(&self) -> Key {
        Key::profile(self.names.profile)
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Applied<(OperationId, AuditRecord)> {
        let names = self.names;
        let profile = names.profile;
        match self.action {
            Action::Reserve { session, nonce } => {
                self.reserve(tx, names.sessions[session], nonce).await?;
            }
            Action::Release(session) => {
                let session = names.sessions[session];
                let found = transactions::of_session(tx, session).await?;
                required(found.is_some())?;
                transactions::release(tx, session).await?;
            }
            Action::Reclaim(session) => {
                required(transactions::reclaim(tx, names.sessions[session]).await?)?;
            }
            Action::Lock(session) => {
                let session = names.sessions[session];
                required(sessions::find(tx, session).await?.is_some())?;
                // Before it is known whether the lock is free: what refuses takes it back.
                steps::open(tx, session, 1, 1).await?;
                required(profiles::lock(tx, profile, session, instance()).await?)?;
            }
            Action::Unlock(session) => {
                steps::orphan(tx, names.sessions[session]).await?;
                required(profiles::unlock(tx, profile, names.sessions[session]).await?)?;
            }
            Action::Conclude(session) => self.conclude(tx, names.sessions[session]).await?,
            Action::SetKey(state) => count(tx, profile, Some(state)).await?,
            Action::Remember(number) => self.remember(tx, true, number).await?,
            Action::Compete(number) => {
                count(tx, profile, None).await?;
                self.remember(tx, false, number).await?;
            }
            Action::Refuse => {
                count(tx, profile, Some(KeyState::Quarantined)).await?;
                profiles::set_address(tx, profile, Some(&[1; 20])).await?;
                self.reserve(tx, SessionId::generate(), 99).await?;
                required(false)?;
            }
        }
        let record = AuditRecord::done(AuditEvent::StepConcluded).profile(profile);
        Ok((tx.operation_id(), record))
    }
}

impl Act {
    async fn reserve(&self, tx: &mut Tx<'_>, id: SessionId, nonce: u64) -> Applied<()> {
        let Names {
            profile, sender, ..
        } = self.names;
        required(sessions::find(tx, id).await?.is_none())?;
        sessions::insert(tx, &session(profile, id)).await?;
        let held = transactions::held_nonces(tx, CHAIN, &sender, 0).await?;
        required(!held.contains(&nonce))?;
        let row = TransactionRow {
            transaction_id: TransactionId::generate(),
            session_id: id,
            profile_id: profile,
            chain_id: CHAIN,
            sender,
            nonce,
            payload: vec![2],
            digest: [3; 32],
            state: TransactionState::Prepared,
            raw: None,
            tx_hash: None,
            block_number: None,
            broadcast_attempts: 0,
        };
        Ok(transactions::insert(tx, &row).await?)
    }

    async fn conclude(&self, tx: &mut Tx<'_>, session: SessionId) -> Applied<()> {
        let sql = "SELECT permit_id FROM steps WHERE session_id = $1 AND outcome = 'open'";
        let row = tx.query_one(sql, values![session.to_string()]).await?;
        required(row.is_some())?;
        let permit = row
            .unwrap()
            .of("steps")
            .parsed("permit_id", OperationId::parse)?;
        required(steps::close(tx, permit, StepOutcome::Done).await?)?;
        required(profiles::unlock(tx, self.names.profile, session).await?)?;
        required(transactions::set_signed(tx, session, &[4], &[5; 32]).await?)
    }

    async fn remember(&self, tx: &mut Tx<'_>, own: bool, number: u8) -> Applied<()> {
        let (tenant, device_key_id, key) = &self.names.key(own, number);
        let scope = Scope {
            tenant,
            holder: device_key_id.to_string(),
            route: "model",
            key,
        };
        if own {
            required(idempotency::find(tx, &scope).await?.is_none())?;
        }
        let made = self.names.profile.to_string();
        Ok(idempotency::insert(tx, &scope, &[6; 32], &made, Kept::AsConfigured).await?)
    }
}

async fn count(tx: &mut Tx<'_>, id: ProfileId, state: Option<KeyState>) -> Applied<()> {
    let row = profiles::find(tx, id).await?.unwrap();
    let before = row.key();
    let events = before.suspect_events + 1;
    let after = KeyRow {
        state: state.unwrap_or(before.state),
        suspect_events: events,
        failed_signatures: -events,
        ..before
    };
    required(profiles::set_key(tx, id, &before, &after).await?)
}
