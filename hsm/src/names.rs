//! Names and identifiers of keys on the token (design `hsm.md` 4.4).

use std::fmt;

use crate::error::HsmError;

/// What a key encryption key, or the object under it, is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// P2 key shares.
    Share,
    /// Second-factor secrets.
    Totp,
    /// The secret half of the daily HPKE key.
    Kem,
    /// Secrets in the configuration.
    Config,
}

impl Purpose {
    /// The name in labels and in the AAD.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Share => "share",
            Self::Totp => "totp",
            Self::Kem => "kem",
            Self::Config => "config",
        }
    }
}

/// Names one key encryption key: an environment's tenant, purpose and epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KekName {
    /// The environment id, 32 bytes.
    pub environment_id: [u8; 32],
    /// Tenant name: 1 to 64 characters of `a-z`, `0-9`, `-`, `_`, `.`.
    pub tenant: String,
    /// What the key protects.
    pub purpose: Purpose,
    /// Rotation epoch, from 1.
    pub epoch: u32,
}

impl KekName {
    /// `cs/<env>/<tenant>/<purpose>/v<NNN>`; `<env>` is the first 8 bytes of the environment id in hex
    /// (labels are short on some HSMs; the full id is bound by the AAD of every object).
    ///
    /// # Errors
    /// [`HsmError::Name`] for a tenant that breaks the rules above.
    pub fn label(&self) -> Result<String, HsmError> {
        check_tenant(&self.tenant)?;
        let environment = hex::encode(self.environment_id.first_chunk::<8>().unwrap_or(&[0; 8]));
        let purpose = self.purpose.as_str();
        Ok(format!(
            "cs/{environment}/{}/{purpose}/v{:03}",
            self.tenant, self.epoch
        ))
    }
}

fn check_tenant(tenant: &str) -> Result<(), HsmError> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    if tenant.is_empty() || tenant.len() > 64 || !tenant.chars().all(allowed) {
        return Err(HsmError::Name(
            "a tenant is 1 to 64 characters of a-z 0-9 - _ .",
        ));
    }
    Ok(())
}

/// Checks the label of a signing key or data object: 1 to 96 printable ASCII characters without spaces.
pub(crate) fn check_label(label: &str) -> Result<(), HsmError> {
    if label.is_empty() || label.len() > 96 || !label.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(HsmError::Name(
            "a label is 1 to 96 printable characters without spaces",
        ));
    }
    Ok(())
}

/// `CKA_ID` of a key encryption key: 16 random bytes, in the header of every object under it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KekId(pub [u8; 16]);

/// `CKA_ID` of a P-256 signing key: 16 random bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SigningKeyId(pub [u8; 16]);

impl fmt::Display for KekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KekId({self})")
    }
}

impl fmt::Display for SigningKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for SigningKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKeyId({self})")
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::{KekName, Purpose};

    fn named(tenant: &str) -> KekName {
        KekName {
            environment_id: [0xab; 32],
            tenant: tenant.to_owned(),
            purpose: Purpose::Share,
            epoch: 7,
        }
    }

    #[test]
    fn a_label_names_environment_tenant_purpose_and_epoch() {
        assert_eq!(
            named("default").label().unwrap(),
            "cs/abababababababab/default/share/v007"
        );
    }

    #[test]
    fn a_tenant_cannot_imitate_another_label() {
        for tenant in ["", "a/b", "A", "a b", "ä", &"x".repeat(65)] {
            assert!(named(tenant).label().is_err(), "{tenant:?}");
        }
    }
}
