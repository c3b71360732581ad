//! HSM profiles: what differs between PKCS#11 modules is data, never an `if` on a vendor.

use std::path::Path;

use serde::Deserialize;

use crate::error::HsmError;

const SOFTHSM2: &str = include_str!("../profiles/softhsm2.toml");

/// Who chooses the IV of a wrapped data key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IvMode {
    /// We pass 12 random bytes.
    Caller,
    /// We pass zeros and store what the HSM wrote back (AWS CloudHSM, Luna in FIPS mode).
    HsmWriteback,
}

impl IvMode {
    /// The byte in the header of a sealed object.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Caller => 1,
            Self::HsmWriteback => 2,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Caller),
            2 => Some(Self::HsmWriteback),
            _ => None,
        }
    }
}

/// Template attributes that some modules reject and a profile may leave out. Required attributes are
/// not in this list, so no profile can weaken a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wanted {
    Modifiable,
    Copyable,
    Destroyable,
    AllowedMechanisms,
}

/// How to talk to one model of HSM.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub(crate) name: String,
    pub(crate) software: bool,
    pub(crate) iv_mode: IvMode,
    pub(crate) mechanisms: Mechanisms,
    pub(crate) template: Template,
}

/// Mechanism numbers; vendors have their own for AES-GCM.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mechanisms {
    pub(crate) aes_gcm: u32,
    pub(crate) ecdsa: u32,
}

/// Deviations from the strict key template.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Template {
    pub(crate) drop: Vec<Wanted>,
}

impl Profile {
    /// A profile that ships with the program: `"softhsm2"`.
    ///
    /// # Errors
    /// [`HsmError::Profile`] for an unknown name.
    pub fn builtin(name: &str) -> Result<Self, HsmError> {
        match name {
            "softhsm2" => Self::parse(name, SOFTHSM2),
            _ => Err(HsmError::Profile {
                name: name.to_owned(),
                reason: "no built-in profile has this name; known: softhsm2".to_owned(),
            }),
        }
    }

    /// Reads a profile file (TOML, see `hsm/profiles/`).
    ///
    /// # Errors
    /// [`HsmError::Profile`] when it cannot be read or holds an unknown or missing field.
    pub fn load(path: &Path) -> Result<Self, HsmError> {
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&name, &text),
            Err(error) => Err(HsmError::Profile {
                name,
                reason: error.to_string(),
            }),
        }
    }

    fn parse(name: &str, text: &str) -> Result<Self, HsmError> {
        toml::from_str(text).map_err(|error| HsmError::Profile {
            name: name.to_owned(),
            reason: error.message().to_owned(),
        })
    }

    /// The profile's own name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether keys live in software: a production environment refuses such a profile.
    #[must_use]
    pub const fn software(&self) -> bool {
        self.software
    }

    pub(crate) fn drops(&self, attribute: Wanted) -> bool {
        self.template.drop.contains(&attribute)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::{IvMode, Profile};

    #[test]
    fn softhsm2_is_a_software_profile() {
        let profile = Profile::builtin("softhsm2").unwrap();
        assert!(profile.software());
        assert_eq!(
            (profile.name(), profile.iv_mode),
            ("softhsm2", IvMode::Caller)
        );
    }

    #[test]
    fn a_profile_cannot_drop_a_required_attribute() {
        let weakened = super::SOFTHSM2.replace("drop = []", "drop = [\"sensitive\"]");
        assert_ne!(weakened, super::SOFTHSM2);
        assert!(Profile::parse("weakened", &weakened).is_err());
    }

    #[test]
    fn an_unknown_field_or_name_is_refused() {
        let extended = format!("colour = \"red\"\n{}", super::SOFTHSM2);
        assert!(Profile::parse("extended", &extended).is_err());
        assert!(Profile::builtin("luna").is_err());
    }
}
