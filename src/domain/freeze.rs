//! What a freeze stops, and who placed it.

use std::fmt;

use super::{OperationId, ProfileId, TenantId};
use crate::clock::Timestamp;

/// How much a freeze stops. A wider one comes later in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FreezeScope {
    /// One profile.
    Profile,
    /// Every profile of a tenant.
    Tenant,
    /// Every profile.
    Global,
}

impl FreezeScope {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Profile, Self::Tenant, Self::Global];

    /// The name in the database, in metrics and in commands.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Profile => "profile",
            Self::Tenant => "tenant",
            Self::Global => "global",
        }
    }

    /// The one with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text)
    }
}

/// What a freeze stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A profile.
    Profile(ProfileId),
    /// A tenant.
    Tenant(TenantId),
    /// Everything.
    Global,
}

impl Target {
    /// How much that is.
    #[must_use]
    pub const fn scope(&self) -> FreezeScope {
        match self {
            Self::Profile(_) => FreezeScope::Profile,
            Self::Tenant(_) => FreezeScope::Tenant,
            Self::Global => FreezeScope::Global,
        }
    }

    /// Which of its scope; empty for everything.
    #[must_use]
    pub fn subject(&self) -> String {
        match self {
            Self::Profile(id) => id.to_string(),
            Self::Tenant(tenant) => tenant.to_string(),
            Self::Global => String::new(),
        }
    }

    /// What [`Target::scope`] and [`Target::subject`] say; `None` for anything else.
    #[must_use]
    pub fn of(scope: FreezeScope, subject: &str) -> Option<Self> {
        match scope {
            FreezeScope::Profile => ProfileId::parse(subject).ok().map(Self::Profile),
            FreezeScope::Tenant => TenantId::parse(subject).ok().map(Self::Tenant),
            FreezeScope::Global => subject.is_empty().then_some(Self::Global),
        }
    }

    /// What [`fmt::Display`] writes; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (scope, subject) = text.split_once(' ').unwrap_or((text, ""));
        Self::of(FreezeScope::parse(scope)?, subject).filter(|target| target.to_string() == text)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global => f.write_str("global"),
            narrower => write!(f, "{} {}", narrower.scope().as_str(), narrower.subject()),
        }
    }
}

/// Who placed a freeze.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PlacedBy {
    /// The owner of the profile.
    Owner,
    /// An operator.
    Operator,
}

impl PlacedBy {
    /// The name in the database and in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Operator => "operator",
        }
    }

    /// The one with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Owner, Self::Operator]
            .into_iter()
            .find(|who| who.as_str() == text)
    }
}

/// A freeze that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freeze {
    /// The operation that placed it.
    pub freeze_id: OperationId,
    /// What it stops.
    pub target: Target,
    /// Who placed it: of the two that may.
    pub placed_by: PlacedBy,
    /// Who placed it: the device's key id, or the name in the operator's certificate.
    pub who: String,
    /// Why.
    pub reason: String,
    /// When.
    pub frozen_at: Timestamp,
}

/// Why somebody freezes, or lifts a freeze: one line of 1 to 200 characters, no control characters, no surrounding space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason(String);

impl Reason {
    /// Characters at most.
    pub const LONGEST: usize = 200;

    /// Checks the rules above; `None` if the text breaks one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=Self::LONGEST).contains(&text.chars().count())
            && text.trim() == text
            && !text.chars().any(is_hidden);
        fits.then(|| Self(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// SECURITY: people read a reason before they sign it. What ends a line, drives a terminal or turns the direction of a
/// text round could show them another one.
fn is_hidden(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::{FreezeScope, Reason, Target};
    use crate::domain::{ProfileId, TenantId};

    #[test]
    fn a_target_has_one_spelling() {
        let profile = ProfileId::generate();
        for target in [
            Target::Profile(profile),
            Target::Tenant(TenantId::parse("acme").unwrap()),
            Target::Global,
        ] {
            assert_eq!(Target::parse(&target.to_string()), Some(target.clone()));
            let again = Target::of(target.scope(), &target.subject());
            assert_eq!(again, Some(target));
        }
        for wrong in [
            "",
            "global ",
            "global acme",
            "tenant",
            "tenant ",
            "tenant A",
            "tenant a b",
            "profile x",
            "Profile x",
            &format!("profile  {profile}"),
            &format!("profile {}", profile.to_string().to_uppercase()),
        ] {
            assert_eq!(Target::parse(wrong), None, "{wrong:?}");
        }
        assert!(
            FreezeScope::Profile < FreezeScope::Tenant && FreezeScope::Tenant < FreezeScope::Global
        );
    }

    #[test]
    fn a_reason_is_one_line_that_shows_what_it_says() {
        for good in ["stolen gateway key", "é", &"x".repeat(200)] {
            assert_eq!(Reason::parse(good).unwrap().as_str(), good);
        }
        let long = "x".repeat(201);
        for bad in [
            "",
            " ",
            "a ",
            "a\nb",
            "a\u{1b}[2J",
            "a\u{202e}b",
            "a\u{200b}b",
            &long,
        ] {
            assert_eq!(Reason::parse(bad), None, "{bad:?}");
        }
    }
}
