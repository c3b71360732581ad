//! A wallet profile and its lifecycle.

/// Where a profile stands. Only `Active` has an address that may be shown and funded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProfileState {
    /// Key generation has started; no share exists yet.
    Keygen,
    /// The share of generation 1 is stored; no signature has proven the wallet's half yet.
    Pending,
    /// A canary signature proved both halves.
    Active,
    /// Key generation failed for good; the share, if any, was destroyed.
    Destroyed,
}

impl ProfileState {
    /// Every state.
    pub const ALL: &'static [Self] = &[Self::Keygen, Self::Pending, Self::Active, Self::Destroyed];

    /// The name used in the database and in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Keygen => "keygen",
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Destroyed => "destroyed",
        }
    }

    /// The state with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|s| s.as_str() == text)
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name(String);

        impl $name {
            /// Checks the rules above; `None` if the text breaks one.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                let length = text.chars().count();
                let fits = (1..=64).contains(&length)
                    && text.trim() == text
                    && !text.chars().any(char::is_control);
                fits.then(|| Self(text.to_owned()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// The name an owner gives a profile: 1 to 64 characters, no control characters, no surrounding space.
    ProfileName
);
name!(
    /// The name an owner gives a device: as that of a profile.
    DeviceName
);
