//! The identity document: what a wallet checks before it seals anything to us.

use std::sync::Arc;

use countersign_mpc::identity::{IdentityCertificate, IdentityDocument};

use super::Error;
use crate::custody::KemRing;
use crate::domain::{EnvironmentId, EnvironmentKind};

/// The use case.
pub struct ShowIdentity {
    /// The environment.
    pub environment_id: EnvironmentId,
    /// Its kind.
    pub kind: EnvironmentKind,
    /// What wallets sign as `MPC-Audience`.
    pub audience: String,
    /// The HSM identity key, as its root certifies it.
    pub identity: IdentityCertificate,
    /// The KEM keys.
    pub kem: Arc<KemRing>,
}

impl ShowIdentity {
    /// The document as it is now.
    ///
    /// # Errors
    /// [`Error::DuoNodeUnavailable`] when no KEM key is valid.
    pub fn show(&self) -> Result<IdentityDocument, Error> {
        let kem = self.kem.document().map_err(|error| {
            tracing::error!(?error, "no identity document can be given");
            Error::DuoNodeUnavailable
        })?;
        Ok(IdentityDocument {
            environment_id: self.environment_id.0,
            environment_kind: self.kind.as_str().to_owned(),
            audience: self.audience.clone(),
            identity: self.identity.clone(),
            kem,
        })
    }
}
