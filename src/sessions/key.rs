//! The state machine of a key (`protocol.md` 2.6), pure over its row.
//!
//! Each state is a type, and what happens to a key consumes it. A key rests (stable, refresh required,
//! quarantined), or a rotation is under way, which leaves the resting state in its column: whatever comes to
//! nothing returns there. What signs is said here and nowhere else. `docs/states.txt` lists what becomes of
//! every state at every event.
//!
//! INVARIANT: nothing leads from a quarantined key to one that signs but [`Quarantined::release`] and, after
//! it, a signature of new shares. A generation goes back only by [`Committed::roll_back`].

use super::{MAX_BANS, MAX_FAILED_SIGNATURES, MAX_SUSPECT_EVENTS, Refusal};
use crate::domain::{Generation, KeyState, Phase, ProfileId, Rotation, RotationId};
use crate::store::profiles::{self, KeyRow};
use crate::store::{StoreError, Tx};

/// A key, by its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// It signs.
    Stable(Stable),
    /// A rotation has begun, and nothing of it is stored.
    Rotating(Rotating),
    /// The next generation is stored and not proven.
    Pending(Pending),
    /// The next generation is proven and in use; the one before it is kept, sealed, until the wallet has said that
    /// it holds the new one.
    Committed(Committed),
    /// Too many checks ended without a verdict: it signs nothing until it is rotated.
    RefreshRequired(RefreshRequired),
    /// The counterparty was caught: it signs nothing.
    Quarantined(Quarantined),
    /// It was released, and new shares are being made and proven. Until then it is quarantined.
    Recovering(Recovering),
}

/// See [`Key::Stable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stable(KeyRow);
/// See [`Key::Rotating`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotating(KeyRow);
/// See [`Key::Pending`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending(KeyRow);
/// See [`Key::Committed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed(KeyRow);
/// See [`Key::RefreshRequired`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshRequired(KeyRow);
/// See [`Key::Quarantined`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quarantined(KeyRow);
/// See [`Key::Recovering`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovering(KeyRow);

/// What must be true before a quarantined key is released.
#[derive(Clone, Copy, Debug)]
pub struct Release {
    /// How many operators released it.
    pub operators: usize,
    /// Whether its owner gave a second factor.
    pub second_factor: bool,
    /// How often the wallet was ever banned.
    pub bans: u64,
}

/// What must be true before the generation before is used again.
#[derive(Clone, Copy, Debug)]
pub struct RollBack {
    /// Whether an operator approved.
    pub operator: bool,
    /// Whether the owner gave a second factor.
    pub second_factor: bool,
    /// Whether any message that completes a signature was ever checked under the new generation. Then a
    /// signature may exist, and so may its share.
    pub used: bool,
}

/// What is missing before a guarded transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The word of the operators.
    Operators,
    /// The owner's second factor.
    SecondFactor,
    /// Nothing is missing, it is too late: only the backup is left.
    TooLate,
}

impl Key {
    /// The names of all states.
    pub const NAMES: [&'static str; 7] = [
        "STABLE",
        "ROTATING",
        "PENDING",
        "COMMITTED",
        "REFRESH_REQUIRED",
        "QUARANTINED",
        "RECOVERING",
    ];

    /// The key as its row has it. Whatever is quarantined in any way signs nothing.
    #[must_use]
    pub const fn of(row: KeyRow) -> Self {
        let phase = match row.rotation {
            None => None,
            Some(Rotation { phase, .. }) => Some(phase),
        };
        match (row.state, phase) {
            (KeyState::Stable, None) => Self::Stable(Stable(row)),
            (KeyState::RefreshRequired, None) => Self::RefreshRequired(RefreshRequired(row)),
            (KeyState::Quarantined, None) => Self::Quarantined(Quarantined(row)),
            (KeyState::Quarantined, Some(_)) | (_, Some(Phase::Recovering)) => {
                Self::Recovering(Recovering(row))
            }
            (_, Some(Phase::Rotating)) => Self::Rotating(Rotating(row)),
            (_, Some(Phase::Pending)) => Self::Pending(Pending(row)),
            (_, Some(Phase::Committed)) => Self::Committed(Committed(row)),
        }
    }

    /// The row it is written to.
    #[must_use]
    pub const fn row(&self) -> &KeyRow {
        match self {
            Self::Stable(Stable(row))
            | Self::Rotating(Rotating(row))
            | Self::Pending(Pending(row))
            | Self::Committed(Committed(row))
            | Self::RefreshRequired(RefreshRequired(row))
            | Self::Quarantined(Quarantined(row))
            | Self::Recovering(Recovering(row)) => row,
        }
    }

    /// Writes what the key has become since it was read from `before`; false if it is another meanwhile.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn write(
        self,
        tx: &mut Tx<'_>,
        profile: ProfileId,
        before: &KeyRow,
    ) -> Result<bool, StoreError> {
        profiles::set_key(tx, profile, before, self.row()).await
    }

    /// The name of its state.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Stable(_) => "STABLE",
            Self::Rotating(_) => "ROTATING",
            Self::Pending(_) => "PENDING",
            Self::Committed(_) => "COMMITTED",
            Self::RefreshRequired(_) => "REFRESH_REQUIRED",
            Self::Quarantined(_) => "QUARANTINED",
            Self::Recovering(_) => "RECOVERING",
        }
    }

    /// The generation that signs what its owner wants signed, and the key once it does: a rotation of which nothing
    /// is stored gives way.
    ///
    /// # Errors
    /// [`Refusal`] when it signs nothing.
    pub fn sign(self) -> Result<(Generation, Self), Refusal> {
        match (self, self.row().state) {
            (Self::Quarantined(_) | Self::Recovering(_), _) | (_, KeyState::Quarantined) => {
                Err(Refusal::Quarantined)
            }
            (_, KeyState::RefreshRequired) => Err(Refusal::RefreshRequired),
            (Self::Rotating(rotating), KeyState::Stable) => {
                Ok((rotating.0.generation, rotating.give_up()))
            }
            (key, KeyState::Stable) => Ok((key.row().generation, key)),
        }
    }

    /// The generation that a canary is signed with: the one that is to be proven, unless its checks have been cut off
    /// too often. Until it is in use they are counted together with those of the generation before it.
    #[must_use]
    pub const fn canary(&self) -> Option<Generation> {
        match self {
            Self::Pending(Pending(row)) if row.suspect_events < 2 * MAX_SUSPECT_EVENTS => {
                Some(row.generation.next())
            }
            Self::Recovering(Recovering(row)) => Some(row.generation.next()),
            Self::Committed(Committed(row)) if matches!(row.state, KeyState::Stable) => {
                Some(row.generation)
            }
            _ => None,
        }
    }

    /// The counterparty was caught. What a rotation has stored and not proven is destroyed with it.
    #[must_use]
    pub fn ban(self) -> Quarantined {
        Quarantined(KeyRow {
            state: KeyState::Quarantined,
            ..self.row().at_rest()
        })
    }

    /// A final check failed that an honest wallet passes.
    #[must_use]
    pub fn fail(self) -> Self {
        let row = KeyRow {
            failed_signatures: self.row().failed_signatures.saturating_add(1),
            ..*self.row()
        };
        let counted = Self::of(row).unless_recovering();
        if row.failed_signatures >= MAX_FAILED_SIGNATURES {
            return Self::Quarantined(counted.ban());
        }
        counted
    }

    /// A check ended without a verdict: nobody knows what the counterparty learned from it.
    #[must_use]
    pub fn suspect(self) -> Self {
        let mut row = KeyRow {
            suspect_events: self.row().suspect_events.saturating_add(1),
            ..*self.row()
        };
        if row.state == KeyState::Stable && row.suspect_events >= MAX_SUSPECT_EVENTS {
            row.state = KeyState::RefreshRequired;
        }
        Self::of(row).unless_recovering()
    }

    /// What goes wrong while a key recovers ends that.
    fn unless_recovering(self) -> Self {
        match self {
            Self::Recovering(recovering) => Self::Quarantined(recovering.give_up()),
            key => key,
        }
    }
}

impl Stable {
    /// Its owner begins a rotation.
    #[must_use]
    pub const fn rotate(self, id: RotationId) -> Rotating {
        Rotating(self.0.in_phase(Phase::Rotating, id))
    }
}

impl RefreshRequired {
    /// Its owner begins a rotation.
    #[must_use]
    pub const fn rotate(self, id: RotationId) -> Rotating {
        Rotating(self.0.in_phase(Phase::Rotating, id))
    }
}

impl Rotating {
    /// The new share is stored, with the next generation.
    #[must_use]
    pub fn store(self) -> Pending {
        Pending(self.0.to_phase(Phase::Pending))
    }

    /// The rotation is given up: aborted, out of time, lost with its process.
    #[must_use]
    pub fn give_up(self) -> Key {
        Key::of(self.0.at_rest())
    }
}

impl Pending {
    /// A canary proved the new shares. What was counted against the old ones does not count against these.
    #[must_use]
    pub fn commit(self) -> Committed {
        Committed(KeyRow {
            generation: self.0.generation.next(),
            ..self.0.to_phase(Phase::Committed).renewed()
        })
    }

    /// The wallet has signed that it gives the rotation up: the new share is destroyed. Time alone never does
    /// this, because the wallet may hold nothing but the new one.
    #[must_use]
    pub fn give_up(self) -> Key {
        Key::of(self.0.at_rest())
    }
}

impl Committed {
    /// The wallet has said, or shown by a signature, that it holds the new share: the old one is destroyed.
    #[must_use]
    pub fn acknowledge(self) -> Key {
        Key::of(self.0.at_rest())
    }

    /// The wallet has lost the new share and proved that it holds the old one, which is used again and the new one
    /// destroyed. What was counted against the old one is no longer known, so it must be rotated before it signs.
    ///
    /// # Errors
    /// [`Missing`] says what must come first.
    pub fn roll_back(self, given: &RollBack) -> Result<RefreshRequired, Missing> {
        if given.used {
            return Err(Missing::TooLate);
        }
        if !given.second_factor {
            return Err(Missing::SecondFactor);
        }
        if !given.operator {
            return Err(Missing::Operators);
        }
        Ok(RefreshRequired(KeyRow {
            state: KeyState::RefreshRequired,
            generation: self.0.generation.previous().ok_or(Missing::TooLate)?,
            ..self.0.at_rest()
        }))
    }
}

impl Quarantined {
    /// Operators and owner release it: new shares may be made, from which nothing that was learned of the old ones
    /// tells anything.
    ///
    /// # Errors
    /// [`Missing`] says what must come first.
    pub const fn release(self, id: RotationId, given: &Release) -> Result<Recovering, Missing> {
        if given.bans >= MAX_BANS {
            return Err(Missing::TooLate);
        }
        if !given.second_factor {
            return Err(Missing::SecondFactor);
        }
        if given.operators < 2 {
            return Err(Missing::Operators);
        }
        Ok(Recovering(self.0.in_phase(Phase::Recovering, id)))
    }
}

impl Recovering {
    /// A canary proved the new shares; the old one is destroyed.
    #[must_use]
    pub fn prove(self) -> Stable {
        Stable(KeyRow {
            state: KeyState::Stable,
            generation: self.0.generation.next(),
            ..self.0.at_rest().renewed()
        })
    }

    /// The recovery is given up: aborted, out of time, lost with its process, or cheated in.
    #[must_use]
    pub fn give_up(self) -> Quarantined {
        Quarantined(KeyRow {
            state: KeyState::Quarantined,
            ..self.0.at_rest()
        })
    }
}

impl KeyRow {
    const fn in_phase(mut self, phase: Phase, id: RotationId) -> Self {
        self.rotation = Some(Rotation { phase, id });
        self
    }

    fn to_phase(mut self, phase: Phase) -> Self {
        self.rotation = self
            .rotation
            .map(|Rotation { id, .. }| Rotation { phase, id });
        self
    }

    const fn at_rest(mut self) -> Self {
        self.rotation = None;
        self
    }

    /// New shares: nothing counts against them yet.
    const fn renewed(mut self) -> Self {
        self.state = KeyState::Stable;
        self.suspect_events = 0;
        self.failed_signatures = 0;
        self
    }
}
