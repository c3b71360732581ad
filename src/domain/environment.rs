//! The environment: what a deployment is, fixed for life by `countersignd init`.

use std::fmt;

/// 32 random bytes that name an environment; bound into every AAD, session id and audit record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EnvironmentId(pub [u8; 32]);

impl EnvironmentId {
    /// Parses 64 lower-case hex digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; 32] = hex::decode(text).ok()?.try_into().ok()?;
        let id = Self(bytes);
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for EnvironmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Chains that a development environment accepts (Anvil/Hardhat, Geth dev, Sepolia, Holesky, Hoodi).
pub const TEST_CHAINS: [u64; 5] = [31_337, 1_337, 11_155_111, 17_000, 560_048];

/// What an environment is for. It cannot be changed after `init`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EnvironmentKind {
    /// Real value: software HSM profiles are refused.
    Production,
    /// Test chains only; software tokens allowed.
    Development,
}

impl EnvironmentKind {
    /// The name used in the database, the token and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Production => "production",
            Self::Development => "development",
        }
    }

    /// The kind with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Production, Self::Development]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }

    /// Whether this kind of environment may sign for a chain at all.
    #[must_use]
    pub fn accepts_chain(self, chain_id: u64) -> bool {
        match self {
            Self::Production => true,
            Self::Development => TEST_CHAINS.contains(&chain_id),
        }
    }
}

impl fmt::Display for EnvironmentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::EnvironmentKind;

    #[test]
    fn a40_development_refuses_mainnet() {
        assert!(!EnvironmentKind::Development.accepts_chain(1));
        assert!(EnvironmentKind::Development.accepts_chain(31_337));
        assert!(EnvironmentKind::Production.accepts_chain(1));
    }
}
