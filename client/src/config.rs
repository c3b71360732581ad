//! `client.toml`: where the appliance is and which one it has to be.
//!
//! Parsed once into validated types; unknown fields are refused. Paths are relative to the file.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;
use url::Url;

/// Validated configuration of one appliance.
#[derive(Debug, Clone)]
pub struct Config {
    /// Base address, `https` only, without query or fragment.
    pub url: Url,
    /// PEM file with the certificates that may sign the gateway's server certificate.
    pub ca: PathBuf,
    /// PEM file with the client certificate chain.
    pub certificate: PathBuf,
    /// PEM file with the client certificate's private key.
    pub key: PathBuf,
    /// Value of the `MPC-Audience` header that every owner signature covers.
    pub audience: String,
    /// The environment this client belongs to (32 bytes, lower-case hex in the file).
    pub environment_id: [u8; 32],
    /// `production` or `development`.
    pub environment_kind: EnvironmentKind,
    /// Tenant name that the sealed messages are bound to.
    pub tenant: String,
    /// Pinned offline roots of which one must vouch for the appliance: P-256, 65 bytes, SEC1 uncompressed.
    pub root_keys: Vec<[u8; 65]>,
    /// Known chains; a wallet sends on no other.
    pub chains: Vec<Chain>,
    /// Where the gateway's token comes from, if the appliance asks for one.
    pub jwt: Option<TokenSource>,
}

/// Where a gateway's token comes from, anew for each request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// A file that holds it.
    File(PathBuf),
    /// A program and its arguments, which prints it.
    Command(Vec<String>),
}

/// One chain a wallet may send on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    /// EIP-155 chain id.
    pub id: u64,
    /// JSON-RPC node, used to show balances and nothing else.
    pub rpc: Option<Url>,
}

/// Kind of environment, fixed when the appliance was set up (`protocol.md` section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EnvironmentKind {
    /// Real value.
    Production,
    /// Test chains only.
    Development,
}

impl EnvironmentKind {
    /// The text used in the file and on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Production => "production",
            Self::Development => "development",
        }
    }
}

/// Why a configuration was refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, an unknown or missing field, or a wrong type.
    #[error("the configuration {path} is not valid: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its line.
        message: String,
    },
    /// A field holds an impossible value.
    #[error("the configuration {path} is not valid: `{field}` {problem}")]
    Field {
        /// The file.
        path: PathBuf,
        /// The field's name.
        field: &'static str,
        /// What it has to be.
        problem: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    url: Url,
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    audience: String,
    environment_id: String,
    environment_kind: EnvironmentKind,
    tenant: String,
    root_keys: Vec<String>,
    #[serde(default)]
    chain: Vec<Chain>,
    jwt_file: Option<PathBuf>,
    jwt_command: Option<Vec<String>>,
}

impl Config {
    /// Reads and validates `path`.
    ///
    /// # Errors
    /// [`ConfigError`], which names the file and the field.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Validates `text` as if it had been read from `path`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let file: File = toml::from_str(text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            message: error.to_string(),
        })?;
        let field = |field, problem| ConfigError::Field {
            path: path.to_owned(),
            field,
            problem,
        };
        if file.url.scheme() != "https" || file.url.host_str().is_none() {
            return Err(field("url", "must start with https://"));
        }
        if file.url.path() != "/" {
            // The owner's signature covers the path, so nobody may put one in front of it.
            return Err(field("url", "must have no path"));
        }
        if file.url.query().is_some() || file.url.fragment().is_some() {
            return Err(field("url", "must have no query and no fragment"));
        }
        if file.audience.is_empty() {
            return Err(field("audience", "must not be empty"));
        }
        let environment_id = hex_array(&file.environment_id)
            .ok_or_else(|| field("environment_id", "must be 64 hex digits"))?;
        let root_keys: Option<Vec<_>> = file.root_keys.iter().map(|key| hex_array(key)).collect();
        let root_keys = root_keys.filter(|keys| !keys.is_empty()).ok_or_else(|| {
            field(
                "root_keys",
                "must list keys of 130 hex digits (SEC1 uncompressed)",
            )
        })?;
        let directory = path.parent().unwrap_or_else(|| Path::new("."));
        let jwt = match (file.jwt_file, file.jwt_command) {
            (None, None) => None,
            (Some(file), None) => Some(TokenSource::File(directory.join(file))),
            (None, Some(command)) if !command.is_empty() => Some(TokenSource::Command(command)),
            _ => {
                return Err(field(
                    "jwt_command",
                    "must name a program, or be jwt_file instead",
                ));
            }
        };
        Ok(Self {
            url: file.url,
            ca: directory.join(file.ca),
            certificate: directory.join(file.certificate),
            key: directory.join(file.key),
            audience: file.audience,
            environment_id,
            environment_kind: file.environment_kind,
            tenant: file.tenant,
            root_keys,
            chains: file.chain,
            jwt,
        })
    }
}

fn hex_array<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut out = [0; N];
    hex::decode_to_slice(text, &mut out).ok().map(|()| out)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn text() -> String {
        format!(
            r#"url = "https://127.0.0.1:8443"
ca = "pki/ca.pem"
certificate = "pki/gateway.pem"
key = "/etc/keys/gateway-key.pem"
audience = "signer.example"
environment_id = "{}"
environment_kind = "development"
tenant = "default"
root_keys = ["{}"]
[[chain]]
id = 31337
rpc = "http://127.0.0.1:8545"
"#,
            "ab".repeat(32),
            "04".repeat(65)
        )
    }

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("/home/user/client.toml"))
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let config = parse(&text()).unwrap();
        assert_eq!(config.ca, Path::new("/home/user/pki/ca.pem"));
        assert_eq!(config.key, Path::new("/etc/keys/gateway-key.pem"));
        assert_eq!(config.chains.first().unwrap().id, 31337);
        assert_eq!(config.environment_kind, EnvironmentKind::Development);
    }

    #[test]
    fn wrong_values_are_refused_by_name() {
        for (from, to, named) in [
            ("https://", "http://", "url"),
            ("signer.example", "", "audience"),
            ("abab", "ab", "environment_id"),
            ("0404", "04", "root_keys"),
            (&format!("\"{}\"", "04".repeat(65)), "", "root_keys"),
            ("development", "test", "environment_kind"),
            ("tenant = ", "tenants = ", "tenants"),
            ("id = 31337", "id = 31337\ndefault = true", "default"),
        ] {
            let error = parse(&text().replacen(from, to, 1))
                .unwrap_err()
                .to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
