//! The two operations around a protocol step: its admission and its conclusion, statement by statement as the
//! appliance runs them, so that a wallet's session goes round as often as one likes.

use countersign::domain::{OperationId, ProfileId, SessionId, SessionState};
use countersign::store::sessions::SessionRow;
use countersign::store::steps::{self, StepOutcome};
use countersign::store::{
    AuditEvent, AuditRecord, CommitError, Key, Operation, Store, Tx, profiles, sessions,
};

/// A wallet with its session.
#[derive(Clone, Copy)]
pub(crate) struct Wallet {
    pub(crate) profile: ProfileId,
    pub(crate) session: SessionId,
}

/// A row was not as the operation left it.
#[derive(Debug)]
pub(crate) struct Changed;

/// Takes the key's lock, marks the check, writes the permit's row.
struct Admit(Wallet);

/// Ends the step, moves the session, gives the lock back.
struct Conclude(Wallet, OperationId);

async fn find(tx: &mut Tx<'_>, wallet: Wallet) -> Result<SessionRow, CommitError<Changed>> {
    let session = sessions::find(tx, wallet.session).await?;
    session.ok_or(CommitError::Refused(Changed))
}

async fn advance(
    tx: &mut Tx<'_>,
    session: &SessionRow,
    to: SessionState,
) -> Result<(), CommitError<Changed>> {
    let next = SessionRow {
        state: to,
        ..session.clone()
    };
    expect(sessions::update(tx, session, &next).await?)
}

const fn expect(changed: bool) -> Result<(), CommitError<Changed>> {
    if changed {
        Ok(())
    } else {
        Err(CommitError::Refused(Changed))
    }
}

impl Operation for Admit {
    type Output = OperationId;
    type Refusal = Changed;

    fn key(&self) -> Key {
        Key::profile(self.0.profile)
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<(OperationId, AuditRecord), CommitError<Changed>> {
        let Wallet { profile, session } = self.0;
        let row = find(tx, self.0).await?;
        expect(profiles::find(tx, profile).await?.is_some())?;
        expect(profiles::lock(tx, profile, session, row.instance_id).await?)?;
        advance(tx, &row, SessionState::Round1Checking).await?;
        steps::open(tx, session, 1, 1).await?;
        let record = AuditRecord::done(AuditEvent::StepPermitted)
            .profile(profile)
            .session(session)
            .detail("attempt 1 step 1");
        Ok((tx.operation_id(), record))
    }
}

impl Operation for Conclude {
    type Output = ();
    type Refusal = Changed;

    fn key(&self) -> Key {
        Key::profile(self.0.profile)
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<Changed>> {
        let Self(wallet, permit) = *self;
        expect(steps::close(tx, permit, StepOutcome::Done).await?)?;
        let session = find(tx, wallet).await?;
        advance(tx, &session, SessionState::Created).await?;
        expect(profiles::unlock(tx, wallet.profile, wallet.session).await?)?;
        let record = AuditRecord::done(AuditEvent::StepConcluded)
            .profile(wallet.profile)
            .session(wallet.session)
            .detail("attempt 1 step 1");
        Ok(((), record))
    }
}

/// Operations in one [`step`].
pub(crate) const OPERATIONS: u64 = 2;

/// Admits and concludes a step of a wallet.
pub(crate) async fn step(store: &Store, wallet: Wallet) {
    let permit = store.commit(Admit(wallet)).await.unwrap().into_inner();
    let concluded = store.conclude(Conclude(wallet, permit)).await;
    concluded.unwrap().into_inner();
}
