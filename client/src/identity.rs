//! Which appliance this is: its identity document against what the configuration pins.
//!
//! SECURITY: a key to seal to exists only as a field of [`Identity`], which exists only after all checks.

use countersign_mpc::{
    envelope::KemPublicKey,
    identity::{self, IdentityDocument},
};
use thiserror::Error;

use crate::config::Config;

/// A verified identity document.
pub struct Identity {
    kid: String,
    key: KemPublicKey,
}

/// Why the other side is not the appliance of this configuration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// The appliance is of another kind of environment.
    #[error(
        "the appliance says it is a {offered} environment, the configuration expects {expected}"
    )]
    Kind {
        /// From the configuration.
        expected: &'static str,
        /// From the document.
        offered: String,
    },
    /// The appliance goes by another audience, so it would refuse our signatures.
    #[error("the appliance goes by the audience {0:?}, the configuration by another")]
    Audience(String),
    /// Environment id, identity key, or the statement about the message key.
    #[error("this is not the appliance of the configuration, or a key of it is not valid now")]
    Document(#[source] identity::IdentityError),
}

impl Identity {
    /// Checks `document` at `now` (Unix seconds): environment id and kind, audience, an identity key that a pinned root
    /// vouches for, and its signature over a message key; both valid now.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn verify(
        document: IdentityDocument,
        config: &Config,
        now: i64,
    ) -> Result<Self, IdentityError> {
        let now = u64::try_from(now).unwrap_or(0);
        let expected = config.environment_kind.as_str();
        if document.environment_kind != expected {
            return Err(IdentityError::Kind {
                expected,
                offered: document.environment_kind,
            });
        }
        if document.audience != config.audience {
            return Err(IdentityError::Audience(document.audience));
        }
        let key = document
            .verify(&config.environment_id, &config.root_keys, now)
            .map_err(IdentityError::Document)?;
        Ok(Self {
            kid: document.kem.kid,
            key,
        })
    }

    /// Id of the message key.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The message key.
    #[must_use]
    pub fn key(&self) -> &KemPublicKey {
        &self.key
    }
}
