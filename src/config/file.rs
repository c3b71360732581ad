//! The configuration file as written, and its checks.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use zeroize::Zeroizing;

use super::anchor::{AnchorTable, anchor};
use super::identity::{IdentityTable, identity};
use super::operators::{OperatorsTable, operators};
use super::owners::{DevicesTable, GatewayJwtTable, cooling_off, gateway_jwt};
use super::policy::{PolicyTable, policy};
use super::retention::{RetentionTable, retention};
use super::secret_file::{self, SecretFileError};
use super::store::{StoreProblem, StoreTable};
use super::two_factor::{TwoFactorTable, two_factor};
use super::{
    Chain, Config, ConfigError, Hsm, HsmProfile, Limits, Listener, Mpc, TlsFiles, is_plain_url,
};
use crate::chain::NodeUrl;
use crate::domain::{EnvironmentId, EnvironmentKind, TenantId};
use crate::identity::certificate::{AllowList, Role, SubjectName};
use crate::identity::jwt::GatewayJwt;
use crate::store::Location;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    audience: String,
    environment: EnvironmentTable,
    api: ListenerTable,
    operator: ListenerTable,
    #[serde(default)]
    identity: IdentityTable,
    hsm: HsmTable,
    #[serde(default)]
    store: StoreTable,
    #[serde(default)]
    tenant: Vec<TenantTable>,
    #[serde(default)]
    client: Vec<ClientTable>,
    #[serde(default)]
    chain: Vec<ChainTable>,
    #[serde(default)]
    mpc: MpcTable,
    #[serde(default)]
    policy: PolicyTable,
    #[serde(default)]
    retention: RetentionTable,
    #[serde(default)]
    anchor: AnchorTable,
    #[serde(default)]
    devices: DevicesTable,
    #[serde(default)]
    two_factor: TwoFactorTable,
    gateway_jwt: Option<GatewayJwtTable>,
    operators: Option<OperatorsTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvironmentTable {
    id: String,
    kind: EnvironmentKind,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenerTable {
    listen: SocketAddr,
    certificate: PathBuf,
    key: PathBuf,
    client_ca: PathBuf,
    #[serde(default)]
    crl: OneOrMany,
    max_connections: Option<NonZeroU32>,
    max_connections_per_client: Option<NonZeroU32>,
    max_handshakes: Option<NonZeroU32>,
    max_requests_per_client: Option<NonZeroU32>,
    requests_per_second: Option<NonZeroU32>,
    request_burst: Option<NonZeroU32>,
    handshake_timeout_seconds: Option<NonZeroU32>,
    header_timeout_seconds: Option<NonZeroU32>,
    body_timeout_seconds: Option<NonZeroU32>,
    idle_timeout_seconds: Option<NonZeroU32>,
    max_connection_age_seconds: Option<NonZeroU32>,
    drain_timeout_seconds: Option<NonZeroU32>,
}

/// `crl = "file"` or `crl = ["file", "file"]`
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

impl Default for OneOrMany {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl OneOrMany {
    fn as_slice(&self) -> &[PathBuf] {
        match self {
            Self::One(path) => std::slice::from_ref(path),
            Self::Many(paths) => paths,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TenantTable {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientTable {
    san: String,
    role: Role,
    #[serde(default = "default_tenant")]
    tenant: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HsmTable {
    module: PathBuf,
    token_label: String,
    pin_file: Option<PathBuf>,
    profile: String,
    workers: Option<NonZeroU32>,
    queue: Option<NonZeroU32>,
    deadline_ms: Option<NonZeroU32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChainTable {
    id: u64,
    rpc_url: Option<String>,
    rpc_url_file: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct MpcTable {
    session_ttl_seconds: Option<NonZeroU32>,
    kept_state_ttl_seconds: Option<NonZeroU32>,
    concurrency: Option<NonZeroU32>,
}

fn default_tenant() -> String {
    "default".to_owned()
}

pub(super) fn load(path: &Path) -> Result<Config, ConfigError> {
    let checker = Checker::new(path);
    let text = Zeroizing::new(checker.read("--config", path)?);
    let file: File = toml::from_str(&text).map_err(|error| checker.syntax(&text, &error))?;
    let kind = file.environment.kind;
    let tenants = checker.tenants(&file.tenant)?;
    Ok(Config {
        path: path.to_owned(),
        environment_id: checker.environment_id(&file.environment.id)?,
        environment_kind: kind,
        audience: checker.audience(file.audience)?,
        api: checker.listener("api", &file.api, kind)?,
        operator: checker.listener("operator", &file.operator, kind)?,
        clients: checker.clients(file.client, &tenants)?,
        tenants,
        identity: identity(file.identity, checker.directory).map_err(|problem| {
            let instead = "write the 130 hex digits that `countersignd root show` prints";
            checker.invalid("identity.roots", problem, instead)
        })?,
        hsm: checker.hsm(file.hsm)?,
        store: Arc::new(checker.store(file.store)?),
        chains: checker.chains(file.chain, kind)?,
        mpc: checker.mpc(&file.mpc)?,
        policy: policy(file.policy, checker.directory, file.operators.is_some())
            .map_err(|(key, problem, instead)| checker.invalid(key, problem, instead))?,
        retention: retention(&file.retention)
            .map_err(|(key, problem, instead)| checker.invalid(key, problem, instead))?,
        anchor: anchor(file.anchor, checker.directory),
        cooling_off: cooling_off(&file.devices, kind)
            .map_err(|(key, problem, instead)| checker.invalid(key, problem, instead))?,
        two_factor: two_factor(file.two_factor, kind)
            .map_err(|(key, problem, instead)| checker.invalid(key, problem, instead))?,
        gateway_jwt: file
            .gateway_jwt
            .map(|table| checker.gateway_jwt(table))
            .transpose()?,
        operators: file
            .operators
            .map(|table| operators(table).map(Arc::new))
            .transpose()
            .map_err(|(key, problem, instead)| checker.invalid(key, problem, instead))?,
    })
}

/// Knows the file whose values are checked, for paths and error texts.
struct Checker<'a> {
    config: &'a Path,
    directory: &'a Path,
}

impl<'a> Checker<'a> {
    fn new(config: &'a Path) -> Self {
        Self {
            config,
            directory: config.parent().unwrap_or(Path::new("")),
        }
    }

    fn invalid(
        &self,
        key: &str,
        problem: impl Into<String>,
        instead: impl Into<String>,
    ) -> ConfigError {
        ConfigError::Invalid {
            config: self.config.to_owned(),
            key: key.to_owned(),
            problem: problem.into(),
            instead: instead.into(),
        }
    }

    /// SECURITY: shows the line number and the parser's sentence, not the line.
    fn syntax(&self, text: &str, error: &toml::de::Error) -> ConfigError {
        let start = error.span().map_or(0, |span| span.start);
        let before = text.as_bytes().get(..start).unwrap_or_default();
        ConfigError::Syntax {
            config: self.config.to_owned(),
            line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
            message: error.message().to_owned(),
        }
    }

    fn resolve(&self, path: &Path) -> PathBuf {
        self.directory.join(path)
    }

    fn read(&self, key: &str, file: &Path) -> Result<String, ConfigError> {
        fs::read_to_string(file).map_err(|cause| self.unreadable(key, file, cause))
    }

    fn unreadable(&self, key: &str, file: &Path, cause: std::io::Error) -> ConfigError {
        ConfigError::Read {
            config: self.config.to_owned(),
            key: key.to_owned(),
            file: file.to_owned(),
            cause,
        }
    }

    fn gateway_jwt(&self, table: GatewayJwtTable) -> Result<GatewayJwt, ConfigError> {
        let file = self.resolve(&table.jwks_file);
        let jwks = self.read("gateway_jwt.jwks_file", &file)?;
        gateway_jwt(table, &jwks)
            .map_err(|(key, problem, instead)| self.invalid(key, problem, instead))
    }

    /// The file exists.
    fn present(&self, key: &str, path: &Path) -> Result<PathBuf, ConfigError> {
        let file = self.resolve(path);
        fs::metadata(&file).map_err(|cause| self.unreadable(key, &file, cause))?;
        Ok(file)
    }

    /// The file exists and nobody but its owner may access it.
    fn private(&self, key: &str, path: &Path) -> Result<PathBuf, ConfigError> {
        let file = self.resolve(path);
        secret_file::check(&file).map_err(|error| match error {
            SecretFileError::Unreadable(cause) => self.unreadable(key, &file, cause),
            SecretFileError::Open { problem, instead } => self.invalid(key, problem, instead),
        })?;
        Ok(file)
    }

    fn environment_id(&self, text: &str) -> Result<EnvironmentId, ConfigError> {
        EnvironmentId::parse(text).ok_or_else(|| {
            self.invalid(
                "environment.id",
                "not an environment id",
                "write the 64 lower-case hex digits that `countersignd init` made",
            )
        })
    }

    fn audience(&self, text: String) -> Result<String, ConfigError> {
        let fits = (1..=253).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._:".contains(&b));
        if fits {
            return Ok(text);
        }
        Err(self.invalid(
            "audience",
            "not a name that clients can sign",
            "write the host name of this appliance, such as \"signer.example\"",
        ))
    }

    fn tenants(&self, tables: &[TenantTable]) -> Result<Vec<TenantId>, ConfigError> {
        let mut tenants = Vec::new();
        for table in tables {
            let tenant = self.tenant("tenant.name", &table.name)?;
            if tenants.contains(&tenant) {
                return Err(self.invalid(
                    "tenant.name",
                    format!("{tenant} is listed twice"),
                    "remove one of the two",
                ));
            }
            tenants.push(tenant);
        }
        if tenants.is_empty() {
            tenants.push(self.tenant("tenant.name", &default_tenant())?);
        }
        Ok(tenants)
    }

    fn tenant(&self, key: &str, text: &str) -> Result<TenantId, ConfigError> {
        TenantId::parse(text).map_err(|error| {
            self.invalid(
                key,
                error.to_string(),
                "use 1 to 32 characters of a-z 0-9 -",
            )
        })
    }

    fn clients(
        &self,
        tables: Vec<ClientTable>,
        tenants: &[TenantId],
    ) -> Result<AllowList, ConfigError> {
        let mut clients = AllowList::new();
        for table in tables {
            let name = SubjectName::parse(&table.san).ok_or_else(|| {
                self.invalid(
                    "client.san",
                    format!("{:?} names no certificate", table.san),
                    "write \"spiffe://domain/path\" or \"dns:host.name\" in lower case",
                )
            })?;
            let tenant = self.tenant("client.tenant", &table.tenant)?;
            if !tenants.contains(&tenant) {
                return Err(self.invalid(
                    "client.tenant",
                    format!("there is no tenant {tenant}"),
                    "add a [[tenant]] with this name",
                ));
            }
            let twice = self.invalid(
                "client.san",
                format!("{name} is listed twice"),
                "remove one: a certificate has one role and one tenant",
            );
            if !clients.insert(name, table.role, tenant) {
                return Err(twice);
            }
        }
        Ok(clients)
    }

    fn listener(
        &self,
        table: &str,
        listener: &ListenerTable,
        kind: EnvironmentKind,
    ) -> Result<Listener, ConfigError> {
        Ok(Listener {
            listen: listener.listen,
            tls: TlsFiles {
                certificate: self
                    .present(&format!("{table}.certificate"), &listener.certificate)?,
                key: self.private(&format!("{table}.key"), &listener.key)?,
                client_ca: self.present(&format!("{table}.client_ca"), &listener.client_ca)?,
                crls: self.crls(&format!("{table}.crl"), listener.crl.as_slice(), kind)?,
            },
            limits: limits(listener),
        })
    }

    fn crls(
        &self,
        key: &str,
        paths: &[PathBuf],
        kind: EnvironmentKind,
    ) -> Result<Vec<PathBuf>, ConfigError> {
        if paths.is_empty() && kind == EnvironmentKind::Production {
            return Err(self.invalid(
                key,
                "a production environment must be able to revoke client certificates",
                "write crl = \"file\" with the revocation list of the client CA",
            ));
        }
        paths.iter().map(|path| self.present(key, path)).collect()
    }

    fn hsm(&self, table: HsmTable) -> Result<Hsm, ConfigError> {
        let pin_file = match (table.pin_file, std::env::var_os("CREDENTIALS_DIRECTORY")) {
            (Some(file), _) => file,
            (None, Some(directory)) => PathBuf::from(directory).join("hsm-pin"),
            (None, None) => {
                return Err(self.invalid(
                    "hsm.pin_file",
                    "no PIN is configured and there is no systemd credential hsm-pin",
                    "write pin_file = \"path\", or LoadCredential=hsm-pin:path in the unit",
                ));
            }
        };
        Ok(Hsm {
            module: self.present("hsm.module", &table.module)?,
            token_label: table.token_label,
            pin_file: self.private("hsm.pin_file", &pin_file)?,
            profile: if table.profile.contains('/') {
                HsmProfile::File(self.present("hsm.profile", Path::new(&table.profile))?)
            } else {
                HsmProfile::Builtin(table.profile)
            },
            workers: count(table.workers, 4),
            queue: count(table.queue, 256),
            deadline: Duration::from_millis(table.deadline_ms.map_or(2_000, |ms| ms.get().into())),
        })
    }

    fn store(&self, table: StoreTable) -> Result<Location, ConfigError> {
        let key = |key: &str| match key {
            "" => "store".to_owned(),
            key => format!("store.postgres.{key}"),
        };
        table
            .location(self.directory)
            .map_err(|problem| match problem {
                StoreProblem::Invalid {
                    key: name,
                    problem,
                    instead,
                } => self.invalid(&key(name), problem, instead),
                StoreProblem::Unreadable {
                    key: name,
                    file,
                    cause,
                } => self.unreadable(&key(name), &file, cause),
            })
    }

    fn chains(
        &self,
        tables: Vec<ChainTable>,
        kind: EnvironmentKind,
    ) -> Result<Vec<Chain>, ConfigError> {
        let mut seen = BTreeSet::new();
        let mut chains = Vec::new();
        for table in tables {
            if !kind.accepts_chain(table.id) {
                return Err(self.invalid("chain.id", format!("a {kind} environment does not sign for chain {}", table.id), "use a test chain (31337, 1337, 11155111, 17000, 560048) or a production environment"));
            }
            if !seen.insert(table.id) {
                return Err(self.invalid(
                    "chain.id",
                    format!("{} is listed twice", table.id),
                    "remove one of the two",
                ));
            }
            chains.push(Chain {
                id: table.id,
                rpc_url: self.rpc_url(&table)?,
            });
        }
        Ok(chains)
    }

    fn rpc_url(&self, table: &ChainTable) -> Result<NodeUrl, ConfigError> {
        let bad = |key: &str| {
            self.invalid(
                key,
                format!("chain {} has no usable URL", table.id),
                "write an http:// or https:// URL",
            )
        };
        match (&table.rpc_url, &table.rpc_url_file) {
            (Some(text), None) => {
                let url = NodeUrl::parse(text).map_err(|_| bad("chain.rpc_url"))?;
                // SECURITY: a path, query or user name is where providers put access tokens.
                if is_plain_url(text) {
                    return Ok(url);
                }
                Err(self.invalid(
                    "chain.rpc_url",
                    format!("the URL of chain {} may hold an access token", table.id),
                    "put it into a file with mode 600 and write rpc_url_file = \"that file\"",
                ))
            }
            (None, Some(file)) => {
                let file = self.private("chain.rpc_url_file", file)?;
                let text = Zeroizing::new(self.read("chain.rpc_url_file", &file)?);
                NodeUrl::parse(text.trim_end()).map_err(|_| bad("chain.rpc_url_file"))
            }
            _ => Err(self.invalid(
                "chain",
                format!("chain {} needs its JSON-RPC node", table.id),
                "write either rpc_url or rpc_url_file",
            )),
        }
    }

    fn mpc(&self, table: &MpcTable) -> Result<Mpc, ConfigError> {
        let seconds = |value: Option<NonZeroU32>, default| {
            Duration::from_secs(value.map_or(default, |value| value.get().into()))
        };
        let mpc = Mpc {
            session_ttl: seconds(table.session_ttl_seconds, 120),
            kept_state_ttl: seconds(table.kept_state_ttl_seconds, 60),
            concurrency: count(
                table.concurrency,
                std::thread::available_parallelism().map_or(1, Into::into),
            ),
        };
        if mpc.kept_state_ttl > mpc.session_ttl {
            return Err(self.invalid(
                "mpc.kept_state_ttl_seconds",
                "kept state would outlive its session",
                "write at most session_ttl_seconds",
            ));
        }
        Ok(mpc)
    }
}

fn limits(listener: &ListenerTable) -> Limits {
    let default = Limits::default();
    let seconds = |value: Option<NonZeroU32>, default: Duration| {
        value.map_or(default, |value| Duration::from_secs(value.get().into()))
    };
    let max_connections = count(listener.max_connections, default.max_connections);
    let requests_per_second = listener
        .requests_per_second
        .map_or(default.requests_per_second, NonZeroU32::get);
    Limits {
        max_connections,
        // A quarter of them, so that no single client keeps all others out.
        max_connections_per_client: count(
            listener.max_connections_per_client,
            max_connections.div_ceil(4),
        ),
        max_handshakes: count(listener.max_handshakes, default.max_handshakes),
        max_requests_per_client: count(
            listener.max_requests_per_client,
            default.max_requests_per_client,
        ),
        requests_per_second,
        request_burst: listener
            .request_burst
            .map_or(requests_per_second.saturating_mul(2), NonZeroU32::get),
        handshake_timeout: seconds(
            listener.handshake_timeout_seconds,
            default.handshake_timeout,
        ),
        header_timeout: seconds(listener.header_timeout_seconds, default.header_timeout),
        body_timeout: seconds(listener.body_timeout_seconds, default.body_timeout),
        idle_timeout: seconds(listener.idle_timeout_seconds, default.idle_timeout),
        max_connection_age: seconds(
            listener.max_connection_age_seconds,
            default.max_connection_age,
        ),
        drain_timeout: seconds(listener.drain_timeout_seconds, default.drain_timeout),
    }
}

fn count(value: Option<NonZeroU32>, default: usize) -> usize {
    value.map_or(default, |value| {
        usize::try_from(value.get()).unwrap_or(usize::MAX)
    })
}
