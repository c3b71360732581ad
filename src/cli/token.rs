//! The token as the verbs see it: opening it, and the environment object it carries.
//!
//! INVARIANT: one environment per token. The object names the environment for life; a configuration
//! or database that disagrees stops the start with exit code 3 (`protocol.md` 6).

use std::fmt;

use countersign_hsm::{HsmError, Pin, Profile, Token, TokenConfig};

use crate::cli::Failure;
use crate::config::{Config, Hsm, HsmProfile};
use crate::custody::anchor::Place;
use crate::domain::{EnvironmentId, EnvironmentKind};

/// Label of the data object that names the environment.
const LABEL: &str = "cs/environment";

/// First line of the object: format and version.
const MAGIC: &str = "countersign-environment/1";

/// Opens the configured token and logs in. Blocks.
///
/// # Errors
/// Those of [`Token::open`], and of the profile and PIN file.
pub fn open(hsm: &Hsm) -> Result<Token, HsmError> {
    let profile = match &hsm.profile {
        HsmProfile::Builtin(name) => Profile::builtin(name)?,
        HsmProfile::File(path) => Profile::load(path)?,
    };
    Token::open(TokenConfig {
        module: hsm.module.clone(),
        token_label: hsm.token_label.clone(),
        pin: Pin::from_file(&hsm.pin_file)?,
        profile,
        workers: hsm.workers,
        queue: hsm.queue,
        deadline: hsm.deadline,
    })
}

/// Where the configured environment has its anchor.
#[must_use]
pub fn anchor(token: &Token, config: &Config) -> Place {
    let witness = config.anchor.witness_file.clone();
    Place::new(config.environment_id, token.clone(), witness)
}

/// Id and kind of an environment, as the token, the database and the configuration each name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Environment {
    /// The id.
    pub id: EnvironmentId,
    /// The kind.
    pub kind: EnvironmentKind,
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.id, self.kind)
    }
}

/// Token, database and configuration do not fit together.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// `init` did not run on this token.
    #[error("the token holds no environment; run countersignd init, or connect the right token")]
    EmptyToken,
    /// The object is not one we write.
    #[error(
        "the object {LABEL} on the token is not one this version writes; connect the right token"
    )]
    UnreadableToken,
    /// Two of the three disagree.
    #[error(
        "the {what} belongs to environment {found}, the configuration to {configured}; use the ones that belong together"
    )]
    Disagreement {
        /// Token or database.
        what: &'static str,
        /// What it says.
        found: Environment,
        /// What the configuration says.
        configured: Environment,
    },
    /// Keys in files, for real value.
    #[error(
        "a production environment refuses the software token {label:?}; connect a hardware security module"
    )]
    SoftwareToken {
        /// The token's label.
        label: String,
    },
    /// The token could not be asked.
    #[error(transparent)]
    Hsm(#[from] HsmError),
}

impl EnvironmentError {
    /// With exit code 3, except for a token that did not answer.
    #[must_use]
    pub fn failure(self) -> Failure {
        match self {
            Self::Hsm(error) => Failure::from(error),
            other => Failure::environment(other),
        }
    }
}

impl Environment {
    /// The environment that a configuration names.
    #[must_use]
    pub const fn configured(config: &Config) -> Self {
        Self {
            id: config.environment_id,
            kind: config.environment_kind,
        }
    }

    /// The content of the token's object.
    #[must_use]
    pub fn encode(&self) -> String {
        format!("{MAGIC}\n{}\n{}\n", self.id, self.kind)
    }

    /// Parses what [`Environment::encode`] writes, and nothing else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let environment = match (lines.next(), lines.next(), lines.next()) {
            (Some(MAGIC), Some(id), Some(kind)) => Self {
                id: EnvironmentId::parse(id)?,
                kind: EnvironmentKind::parse(kind)?,
            },
            _ => return None,
        };
        (environment.encode() == text).then_some(environment)
    }

    /// The environment that the token carries, if any.
    ///
    /// # Errors
    /// [`EnvironmentError::UnreadableToken`] for an object of another format.
    pub async fn of_token(token: &Token) -> Result<Option<Self>, EnvironmentError> {
        let Some(bytes) = token.read_data(LABEL).await? else {
            return Ok(None);
        };
        let parsed = std::str::from_utf8(&bytes).ok().and_then(Self::parse);
        parsed.map(Some).ok_or(EnvironmentError::UnreadableToken)
    }

    /// Checks that the token is fit for this environment and carries it, as every start must.
    ///
    /// # Errors
    /// [`EnvironmentError`].
    pub async fn confirm(&self, token: &Token) -> Result<(), EnvironmentError> {
        self.accepts(token)?;
        let found = Self::of_token(token)
            .await?
            .ok_or(EnvironmentError::EmptyToken)?;
        self.agrees("token", found)
    }

    /// Writes the environment to the token; writing the same one again is allowed.
    ///
    /// # Errors
    /// [`HsmError::DataConflict`] when the token carries another one.
    pub async fn store_on(&self, token: &Token) -> Result<(), HsmError> {
        token.store_data(LABEL, self.encode().into_bytes()).await
    }

    /// Checks that the kind of token fits the kind of environment.
    ///
    /// # Errors
    /// [`EnvironmentError::SoftwareToken`].
    pub fn accepts(&self, token: &Token) -> Result<(), EnvironmentError> {
        let info = token.info();
        if self.kind == EnvironmentKind::Production && info.software {
            return Err(EnvironmentError::SoftwareToken {
                label: info.label.clone(),
            });
        }
        Ok(())
    }

    /// Checks that `found`, read from `what`, is this environment.
    ///
    /// # Errors
    /// [`EnvironmentError::Disagreement`].
    pub fn agrees(&self, what: &'static str, found: Self) -> Result<(), EnvironmentError> {
        if *self == found {
            return Ok(());
        }
        Err(EnvironmentError::Disagreement {
            what,
            found,
            configured: *self,
        })
    }
}

/// Label of a key that signs the environment's other public keys: `cs/<env>/identity/v<NNN>`, from 1.
#[must_use]
pub fn identity_key_label(environment: &EnvironmentId, epoch: u32) -> String {
    label(environment, "identity", epoch)
}

/// Label of the key that signs audit checkpoints: `cs/<env>/audit/v001`.
#[must_use]
pub fn audit_key_label(environment: &EnvironmentId) -> String {
    label(environment, "audit", 1)
}

/// `<env>` is the first 8 bytes of the id in hex, as in the labels of the key encryption keys.
fn label(environment: &EnvironmentId, purpose: &str, epoch: u32) -> String {
    let short = hex::encode(environment.0.first_chunk::<8>().unwrap_or(&[0; 8]));
    format!("cs/{short}/{purpose}/v{epoch:03}")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::{Environment, EnvironmentError, identity_key_label};
    use crate::domain::{EnvironmentId, EnvironmentKind};

    const PRODUCTION: Environment = Environment {
        id: EnvironmentId([0xab; 32]),
        kind: EnvironmentKind::Production,
    };

    #[test]
    fn the_token_object_has_one_spelling() {
        let text = PRODUCTION.encode();
        assert_eq!(Environment::parse(&text), Some(PRODUCTION));
        for other in [
            text.trim_end().to_owned(),
            format!("{text}\n"),
            text.replace("/1", "/2"),
            text.to_uppercase(),
            String::new(),
        ] {
            assert_eq!(Environment::parse(&other), None, "{other:?}");
        }
        assert_eq!(
            identity_key_label(&PRODUCTION.id, 2),
            "cs/abababababababab/identity/v002"
        );
    }

    #[test]
    fn a40_a_development_database_under_production_disagrees() {
        let development = Environment {
            kind: EnvironmentKind::Development,
            ..PRODUCTION
        };
        let error = PRODUCTION.agrees("database", development).err().unwrap();
        assert!(matches!(error, EnvironmentError::Disagreement { .. }));
        assert!(PRODUCTION.agrees("database", PRODUCTION).is_ok());
    }
}
