//! What the rows of a profile must be, and what they are.
#![expect(clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeSet;

use super::act::{Action, Names, SESSIONS};
use crate::domain::{KeyState, ProfileId, SessionId};
use crate::store::engine::values;
use crate::store::idempotency::{self, Scope};
use crate::store::transactions::{self, TransactionState};
use crate::store::{Reads, profiles};

/// What the rows of one profile must be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Model {
    checking: Option<usize>,
    key_state: KeyState,
    counted: i64,
    transactions: [Option<(u64, TransactionState)>; SESSIONS],
    /// Steps that are open, orphaned, done.
    steps: [[usize; 3]; SESSIONS],
    remembered: BTreeSet<u8>,
}

impl Model {
    pub(super) const fn new() -> Self {
        Self {
            checking: None,
            key_state: KeyState::Stable,
            counted: 0,
            transactions: [None; SESSIONS],
            steps: [[0; 3]; SESSIONS],
            remembered: BTreeSet::new(),
        }
    }

    fn holder(&self, nonce: u64) -> Option<usize> {
        let living = |found: &Option<(u64, TransactionState)>| {
            found.is_some_and(|(held, state)| held == nonce && state != TransactionState::Released)
        };
        self.transactions.iter().position(living)
    }

    /// Whether an operation is committed; `won` is for those that compete.
    pub(super) fn apply(&mut self, action: Action, won: bool) -> bool {
        use TransactionState::{Broadcasting, Prepared, Released};
        match action {
            Action::Reserve { session, nonce } => {
                let free = self.transactions[session].is_none() && self.holder(nonce).is_none();
                if free {
                    self.transactions[session] = Some((nonce, Prepared));
                }
                free
            }
            Action::Release(session) => {
                if let Some((_, state @ Prepared)) = &mut self.transactions[session] {
                    *state = Released;
                }
                self.transactions[session].is_some()
            }
            Action::Reclaim(session) => match self.transactions[session] {
                Some((_, Prepared)) => true,
                Some((nonce, Released)) if self.holder(nonce).is_none() => {
                    self.transactions[session] = Some((nonce, Prepared));
                    true
                }
                _ => false,
            },
            Action::Lock(session) => {
                let free = self.transactions[session].is_some() && self.checking.is_none();
                if free {
                    self.checking = Some(session);
                    self.steps[session][0] += 1;
                }
                free
            }
            Action::Unlock(session) => self.end(session, 1),
            Action::Conclude(session) => {
                let Some((nonce, Prepared)) = self.transactions[session] else {
                    return false;
                };
                let ended = self.end(session, 2);
                if ended {
                    self.transactions[session] = Some((nonce, Broadcasting));
                }
                ended
            }
            Action::SetKey(state) => {
                self.key_state = state;
                self.counted += 1;
                true
            }
            Action::Remember(number) => self.remembered.insert(number),
            Action::Compete(_) => {
                self.counted += i64::from(won);
                won
            }
            Action::Refuse => false,
        }
    }

    fn end(&mut self, session: usize, how: usize) -> bool {
        let holds = self.checking == Some(session);
        if holds {
            self.checking = None;
            self.steps[session][0] -= 1;
            self.steps[session][how] += 1;
        }
        holds
    }
}

/// What the rows of one profile are.
pub(super) async fn read(reads: &mut impl Reads, names: &Names) -> Model {
    let row = profiles::find(reads, names.profile).await.unwrap().unwrap();
    assert_eq!(
        (row.failed_signatures, row.address),
        (-row.suspect_events, None)
    );
    let at = |id: SessionId| {
        names
            .sessions
            .iter()
            .position(|known| *known == id)
            .unwrap()
    };
    let mut model = Model {
        checking: row.checking.map(at),
        key_state: row.key_state,
        counted: row.suspect_events,
        ..Model::new()
    };
    for (session, id) in names.sessions.into_iter().enumerate() {
        let row = transactions::of_session(reads, id).await.unwrap();
        model.transactions[session] = row.map(|row| (row.nonce, row.state));
        for (column, outcome) in ["open", "orphaned", "done"].into_iter().enumerate() {
            let sql = "SELECT permit_id FROM steps WHERE session_id = $1 AND outcome = $2";
            let rows = reads.query(sql, values![id.to_string(), outcome]).await;
            model.steps[session][column] = rows.unwrap().len();
        }
    }
    for number in 0..4 {
        let (tenant, device_key_id, key) = &names.key(true, number);
        let scope = Scope {
            tenant,
            holder: device_key_id.to_string(),
            route: "model",
            key,
        };
        if idempotency::find(reads, &scope).await.unwrap().is_some() {
            model.remembered.insert(number);
        }
    }
    model
}

/// The operations that left a record about a profile.
pub(super) async fn recorded(reads: &mut impl Reads, profile: ProfileId) -> Vec<String> {
    let sql = "SELECT operation_id FROM audit_records WHERE profile_id = $1 \
         AND event = 'step_concluded' ORDER BY operation_id";
    let rows = reads
        .query(sql, values![profile.to_string()])
        .await
        .unwrap();
    let ids = rows
        .into_iter()
        .map(|row| row.of("audit_records").text("operation_id"));
    let mut ids: Vec<String> = ids.map(Result::unwrap).collect();
    ids.sort_unstable();
    ids
}
