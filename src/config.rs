//! The configuration: read once from TOML into validated types; nothing is parsed later.
//!
//! INVARIANT: unknown keys are errors, so a misspelt safety setting never falls back to a default in
//! silence. Secrets come from files or systemd credentials, never from the environment. Relative paths
//! are relative to the configuration file.

mod anchor;
mod file;
mod identity;
mod operators;
mod owners;
mod policy;
mod retention;
pub(crate) mod secret_file;
mod store;
mod two_factor;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::chain::NodeUrl;
use crate::domain::{EnvironmentId, EnvironmentKind, TenantId};
use crate::identity::certificate::AllowList;
use crate::identity::jwt::GatewayJwt;
use crate::operators::Operators;
use crate::store::Location;
use crate::store::retention::Retention;

pub use anchor::Anchor;
pub use identity::{Identity, root_key};
pub use policy::{ActivatedBy, PolicyFiles};
pub use store::{PostgresTable, StoreProblem};
pub use two_factor::TwoFactor;

/// Everything `countersignd` was told.
pub struct Config {
    /// The file it was read from.
    pub path: PathBuf,
    /// Id of the environment; must equal the token's and the database's.
    pub environment_id: EnvironmentId,
    /// Kind of the environment; must equal the token's and the database's.
    pub environment_kind: EnvironmentKind,
    /// The value clients sign as `MPC-Audience`.
    pub audience: String,
    /// Every tenant, in the order of the file; never empty.
    pub tenants: Vec<TenantId>,
    /// Where gateways connect.
    pub api: Listener,
    /// Where operators and monitoring connect.
    pub operator: Listener,
    /// Who may connect, on either listener.
    pub clients: AllowList,
    /// Who vouches for the identity key.
    pub identity: Identity,
    /// The token.
    pub hsm: Hsm,
    /// The database.
    pub store: Arc<Location>,
    /// The chains we sign for; ids are distinct.
    pub chains: Vec<Chain>,
    /// Limits of the MPC engine.
    pub mpc: Mpc,
    /// The files that say who may do what, and how much.
    pub policy: PolicyFiles,
    /// How long rows are kept that have served their purpose.
    pub retention: Retention,
    /// What is kept outside the database.
    pub anchor: Anchor,
    /// Seconds before a device that was enrolled may act.
    pub cooling_off: i64,
    /// How second factors are dealt with.
    pub two_factor: TwoFactor,
    /// Which tokens of a gateway are asked for, if any.
    pub gateway_jwt: Option<GatewayJwt>,
    /// Who must agree before a command of operators is carried out; nothing is without them.
    pub operators: Option<Arc<Operators>>,
}

/// One mTLS listener.
#[derive(Debug)]
pub struct Listener {
    /// Address and port to bind.
    pub listen: SocketAddr,
    /// Certificate, key and client CA.
    pub tls: TlsFiles,
    /// What one client, or all together, may take up.
    pub limits: Limits,
}

/// The PEM files of a listener.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Server certificate chain, leaf first.
    pub certificate: PathBuf,
    /// Private key of the leaf; accessible to its owner only.
    pub key: PathBuf,
    /// Every CA that signs client certificates, and no other.
    pub client_ca: PathBuf,
    /// What those CAs have revoked. Empty only in a development environment: nothing is revoked then.
    pub crls: Vec<PathBuf>,
}

/// What connections may take up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections whose handshake is done.
    pub max_connections: usize,
    /// Of these, how many one client may have.
    pub max_connections_per_client: usize,
    /// Handshakes in progress; the oldest gives way to a new one.
    pub max_handshakes: usize,
    /// Requests that one client may have in progress.
    pub max_requests_per_client: usize,
    /// Requests per second that one client may send for ever.
    pub requests_per_second: u32,
    /// Requests that one client may send at once after a pause.
    pub request_burst: u32,
    /// TLS handshake.
    pub handshake_timeout: Duration,
    /// Request head over HTTP/1.1, counted from the end of the request before: also how long such a
    /// connection may idle. Over HTTP/2, how often a silent peer is probed.
    pub header_timeout: Duration,
    /// Request body, from its first read to its end.
    pub body_timeout: Duration,
    /// A connection (of either protocol) without a request in progress is closed after this.
    pub idle_timeout: Duration,
    /// A connection is closed after this, so that every client proves itself anew.
    pub max_connection_age: Duration,
    /// How long running requests may take when their connection is closed.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_connections_per_client: 256,
            max_handshakes: 256,
            max_requests_per_client: 128,
            requests_per_second: 100,
            request_burst: 200,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(120),
            max_connection_age: Duration::from_secs(3600),
            // Less than the service unit's TimeoutStopSec.
            drain_timeout: Duration::from_secs(20),
        }
    }
}

/// How to reach the token.
#[derive(Debug)]
pub struct Hsm {
    /// The PKCS#11 library.
    pub module: PathBuf,
    /// `CKA_LABEL` of the token.
    pub token_label: String,
    /// File with the user PIN; accessible to its owner only.
    pub pin_file: PathBuf,
    /// What is special about this model of HSM.
    pub profile: HsmProfile,
    /// Worker threads, each with one session.
    pub workers: usize,
    /// Calls that may wait for a worker.
    pub queue: usize,
    /// Longest time from queueing to answer.
    pub deadline: Duration,
}

/// Where the profile of an HSM comes from.
#[derive(Debug, PartialEq, Eq)]
pub enum HsmProfile {
    /// One that ships with the program.
    Builtin(String),
    /// A file: the configured text holds a `/`.
    File(PathBuf),
}

/// A chain we sign for.
pub struct Chain {
    /// EIP-155 chain id.
    pub id: u64,
    /// Its JSON-RPC node; the URL may hold an access token.
    pub rpc_url: NodeUrl,
}

/// Limits of the MPC engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mpc {
    /// How long a session may take from its preparation to its last message.
    pub session_ttl: Duration,
    /// How long kept MPC state stays in memory between two messages (`protocol.md` 2.1).
    pub kept_state_ttl: Duration,
    /// MPC steps computed at the same time.
    pub concurrency: usize,
}

/// Why a configuration is refused. The program exits with code 2.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{}: {key}: cannot read {}", config.display(), file.display())]
    Read {
        /// The configuration file.
        config: PathBuf,
        /// The key that names the file.
        key: String,
        /// The file.
        file: PathBuf,
        /// The operating system's answer.
        #[source]
        cause: std::io::Error,
    },
    /// Not TOML, or a key is unknown, missing or of another type.
    #[error("{}:{line}: {message}", config.display())]
    Syntax {
        /// The configuration file.
        config: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong; never the text of the line, which may be a secret.
        message: String,
    },
    /// A value is not acceptable.
    #[error("{}: {key}: {problem}; {instead}", config.display())]
    Invalid {
        /// The configuration file.
        config: PathBuf,
        /// The key, with its table.
        key: String,
        /// What is wrong with the value.
        problem: String,
        /// What to write or do instead.
        instead: String,
    },
}

impl Config {
    /// Reads and checks a configuration file and the permissions of the secret files it names.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, the key and what to write instead.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        file::load(path)
    }
}

/// Whether a URL consists of scheme, host and port only, and so cannot hold an access token.
#[must_use]
pub fn is_plain_url(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| {
        url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none()
    })
}

#[cfg(test)]
mod tests;
