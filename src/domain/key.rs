//! The key of a profile: its generation and what it may be used for.

use std::fmt;

use super::RotationId;

/// The generation of a key: 1 at creation, one more after each rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation that key generation makes.
    pub const FIRST: Self = Self(1);

    /// The one after it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The one before it; the first has none.
    #[must_use]
    pub const fn previous(self) -> Option<Self> {
        match self.0 {
            0 | 1 => None,
            number => Some(Self(number - 1)),
        }
    }

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

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $variant:ident => $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$about])* $variant),+ }

        impl $name {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name used in the database.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The one with this name.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.as_str() == text)
            }
        }
    };
}

names! {
    /// What a profile's key is when no rotation of it is under way, and what a rotation that comes to nothing leaves
    /// it. With a [`Rotation`] it makes the states of `protocol.md` 2.6, which are in [`crate::sessions::key`].
    KeyState {
        /// Signs with the generation in use.
        Stable => "stable",
        /// Too many checks ended without a verdict: signs nothing until it is rotated.
        RefreshRequired => "refresh_required",
        /// The counterparty was banned: signs nothing, for ever, until operators release it.
        Quarantined => "quarantined",
    }
}

names! {
    /// How far a rotation has come.
    Phase {
        /// Nothing of it is stored.
        Rotating => "rotating",
        /// The next generation is stored and not proven.
        Pending => "pending",
        /// The new generation is in use, and the one before it is kept.
        Committed => "committed",
        /// As rotating and pending, of a quarantined key.
        Recovering => "recovering",
    }
}

/// A rotation that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rotation {
    /// Which.
    pub id: RotationId,
    /// How far it has come.
    pub phase: Phase,
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
