//! States of an MPC session (`protocol.md` 2.4). The transitions are in [`crate::sessions`].

/// What a session makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionKind {
    /// A key.
    Keygen,
    /// A signature over one transaction.
    Sign,
}

impl SessionKind {
    /// The name used in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Keygen => "keygen",
            Self::Sign => "sign",
        }
    }

    /// The kind with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Keygen, Self::Sign]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }
}

macro_rules! states {
    ($($(#[$doc:meta])* $variant:ident => $name:literal),+ $(,)?) => {
        /// Where a session stands.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum SessionState { $($(#[$doc])* $variant),+ }

        impl SessionState {
            /// Every state, for exhaustive tests.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name used in the database and in answers.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

states! {
    /// Waiting for the wallet's first message.
    Created => "created",
    /// The first message is being checked against the share.
    Round1Checking => "r1_checking",
    /// The first step is done; kept state is in memory.
    Round1Done => "r1_done",
    /// The second message is being checked against the share.
    Round2Checking => "r2_checking",
    /// The second step of a key generation is done: the share is stored, the canary is open.
    Round2Done => "r2_done",
    /// The canary of a key generation is being checked.
    Round3Checking => "r3_checking",
    /// The signature exists and is stored.
    Signed => "signed",
    /// The key exists and is proven.
    Completed => "completed",
    /// Given up; a signing session may be started again with the next attempt.
    Aborted => "aborted",
    /// Too old; a signing session may be started again with the next attempt.
    Expired => "expired",
    /// The counterparty was banned in this session.
    Banned => "banned",
}

impl SessionState {
    /// The state with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|s| s.as_str() == text)
    }

    /// Whether the session has begun and not ended: its state is in the memory of one process.
    #[must_use]
    pub const fn is_active(self) -> bool {
        self.is_checking() || matches!(self, Self::Round1Done | Self::Round2Done)
    }

    /// Whether a message is being checked right now: the key is locked and marked suspect.
    #[must_use]
    pub const fn is_checking(self) -> bool {
        matches!(
            self,
            Self::Round1Checking | Self::Round2Checking | Self::Round3Checking
        )
    }
}
