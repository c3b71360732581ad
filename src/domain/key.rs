//! The key of a profile: its generation and what it may be used for.

use std::fmt;

/// The generation of a key: 1 at creation, one more after each rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation that key generation makes.
    pub const FIRST: Self = Self(1);

    /// The value for a database column.
    #[must_use]
    pub fn as_i64(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }
}

/// From a database column.
impl TryFrom<i64> for Generation {
    type Error = std::num::TryFromIntError;

    fn try_from(value: i64) -> Result<Self, Self::Error> {
        std::num::NonZeroU64::try_from(u64::try_from(value)?).map(|value| Self(value.get()))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a profile's key may be used for (`protocol.md` 2.6; rotation adds its states).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyState {
    /// Signs with the active generation.
    Stable,
    /// Too many checks ended without a verdict: signs nothing until it is rotated.
    RefreshRequired,
    /// The counterparty was banned: signs nothing, for ever, until operators release it.
    Quarantined,
}

impl KeyState {
    /// Every state.
    pub const ALL: &'static [Self] = &[Self::Stable, Self::RefreshRequired, Self::Quarantined];

    /// The name used in the database and in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::RefreshRequired => "refresh_required",
            Self::Quarantined => "quarantined",
        }
    }

    /// The state with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|s| s.as_str() == text)
    }
}

/// What a step that failed says about the counterparty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suspicion {
    /// Nothing: an honest wallet may cause it.
    None,
    /// A final check failed that an honest wallet passes.
    FailedSignature,
    /// The check ended without a verdict.
    NoVerdict,
}
