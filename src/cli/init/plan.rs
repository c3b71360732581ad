//! The options of `init`, checked against each other before anything is touched.

use std::fs::metadata;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;
use std::time::Duration;

use super::{Options, PostgresArgs};
use crate::chain::NodeUrl;
use crate::config::{Hsm, HsmProfile, PostgresTable, StoreProblem, root_key};
use crate::domain::EnvironmentKind;
use crate::identity::certificate::{Role, SubjectName};
use crate::store::Location;

/// The tenant that an environment begins with.
pub(super) const TENANT: &str = "default";

/// The SQLite file, in the environment's directory.
pub(super) const DATABASE: &str = "countersign.db";

/// Key generation on an HSM may take long.
const DEADLINE: Duration = Duration::from_secs(60);

/// `--rpc CHAINID=URL`
#[derive(Clone)]
pub(super) struct Rpc {
    pub(super) chain_id: u64,
    pub(super) url: String,
}

/// `--client SAN=ROLE`
#[derive(Clone)]
pub(super) struct Client {
    pub(super) san: SubjectName,
    pub(super) role: Role,
}

/// `--root HEX`
#[derive(Clone)]
pub(super) struct RootKey(pub(super) [u8; 65]);

/// Server certificate, key and client CA.
pub(super) enum Pki {
    /// Make them (development).
    Made,
    /// Files the operator brings, as absolute paths, and the clients their CA signs.
    Brought {
        certificate: PathBuf,
        key: PathBuf,
        client_ca: PathBuf,
        crls: Vec<PathBuf>,
        clients: Vec<Client>,
    },
}

/// What to make.
pub(super) struct Plan {
    pub(super) directory: PathBuf,
    pub(super) kind: EnvironmentKind,
    pub(super) audience: String,
    pub(super) hsm: Hsm,
    pub(super) listen: SocketAddr,
    pub(super) operator_listen: SocketAddr,
    pub(super) rpc: Vec<Rpc>,
    pub(super) pki: Pki,
    /// The offline roots (production).
    pub(super) roots: Vec<[u8; 65]>,
    pub(super) location: Arc<Location>,
    /// What the configuration says of [`Plan::location`], if it is a PostgreSQL server.
    pub(super) postgres: Option<PostgresTable>,
    /// Where the anchor is, unless it is on the token.
    pub(super) witness_file: Option<PathBuf>,
}

/// Options that do not fit together.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlanError {
    #[error(
        "--rpc: a {kind} environment does not sign for chain {chain_id}; use 31337, 1337, 11155111, 17000 or 560048, or --kind production"
    )]
    Chain {
        kind: EnvironmentKind,
        chain_id: u64,
    },
    #[error("--rpc: chain {0} is given twice")]
    ChainTwice(u64),
    #[error("a production environment brings its own certificates: also give {0}")]
    Missing(&'static str),
    #[error("a development environment makes its own certificates: leave out {0}")]
    Surplus(&'static str),
    #[error("--postgres-{option}: {problem}; {instead}")]
    Postgres {
        option: String,
        problem: String,
        instead: String,
    },
    #[error("{} is not a usable path", path.display())]
    Path {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

impl Plan {
    pub(super) fn new(options: &Options) -> Result<Self, PlanError> {
        check_chains(options)?;
        let profile = if options.hsm_profile.contains('/') {
            HsmProfile::File(full(Path::new(&options.hsm_profile))?)
        } else {
            HsmProfile::Builtin(options.hsm_profile.clone())
        };
        let (audience, pki) = match options.kind {
            EnvironmentKind::Development => development(options)?,
            EnvironmentKind::Production => production(options)?,
        };
        let directory = full(&options.dir)?;
        let postgres = postgres(&options.postgres)?;
        let location = match &postgres {
            None => Location::Sqlite(directory.join(DATABASE)),
            Some(table) => Location::Postgres(table.options(&directory)?),
        };
        Ok(Self {
            directory,
            kind: options.kind,
            audience,
            hsm: Hsm {
                module: full(&options.hsm_module)?,
                token_label: options.token_label.clone(),
                pin_file: full(&options.pin_file)?,
                profile,
                workers: 1,
                queue: 8,
                deadline: DEADLINE,
            },
            listen: options.listen,
            operator_listen: options.operator_listen,
            rpc: options.rpc.clone(),
            pki,
            roots: options.root.iter().map(|root| root.0).collect(),
            location: Arc::new(location),
            postgres,
            witness_file: options.witness_file.as_deref().map(full).transpose()?,
        })
    }
}

fn postgres(options: &PostgresArgs) -> Result<Option<PostgresTable>, PlanError> {
    let Some(host) = options.postgres_host.clone() else {
        return Ok(None);
    };
    let file = |path: Option<&PathBuf>| path.map(|path| full(path)).transpose();
    Ok(Some(PostgresTable {
        host,
        port: Some(options.postgres_port),
        database: options.postgres_database.clone(),
        user: options.postgres_user.clone(),
        password_file: file(options.postgres_password_file.as_ref())?,
        ca_file: file(options.postgres_ca.as_ref())?,
        connections: None,
    }))
}

/// The options are named after the keys, but for `--postgres-ca`.
impl From<StoreProblem> for PlanError {
    fn from(problem: StoreProblem) -> Self {
        match problem {
            StoreProblem::Invalid {
                key,
                problem,
                instead,
            } => Self::Postgres {
                option: match key {
                    "ca_file" => "ca".to_owned(),
                    key => key.replace('_', "-"),
                },
                problem,
                instead,
            },
            StoreProblem::Unreadable { file, cause, .. } => Self::Path { path: file, cause },
        }
    }
}

fn check_chains(options: &Options) -> Result<(), PlanError> {
    let mut seen = Vec::new();
    for Rpc { chain_id, .. } in &options.rpc {
        if !options.kind.accepts_chain(*chain_id) {
            return Err(PlanError::Chain {
                kind: options.kind,
                chain_id: *chain_id,
            });
        }
        if seen.contains(chain_id) {
            return Err(PlanError::ChainTwice(*chain_id));
        }
        seen.push(*chain_id);
    }
    Ok(())
}

fn development(options: &Options) -> Result<(String, Pki), PlanError> {
    let surplus = [
        ("--certificate", options.certificate.is_some()),
        ("--key", options.key.is_some()),
        ("--client-ca", options.client_ca.is_some()),
        ("--crl", !options.crl.is_empty()),
        ("--client", !options.client.is_empty()),
        ("--root", !options.root.is_empty()),
    ];
    match surplus.iter().find(|(_, given)| *given) {
        Some((name, _)) => Err(PlanError::Surplus(name)),
        None => {
            let audience = options.audience.clone();
            Ok((
                audience.unwrap_or_else(|| "countersign.test".to_owned()),
                Pki::Made,
            ))
        }
    }
}

fn production(options: &Options) -> Result<(String, Pki), PlanError> {
    fn given<'a, T>(option: Option<&'a T>, name: &'static str) -> Result<&'a T, PlanError> {
        option.ok_or(PlanError::Missing(name))
    }
    let audience = given(options.audience.as_ref(), "--audience")?.clone();
    let pki = Pki::Brought {
        certificate: existing(given(options.certificate.as_ref(), "--certificate")?)?,
        key: existing(given(options.key.as_ref(), "--key")?)?,
        client_ca: existing(given(options.client_ca.as_ref(), "--client-ca")?)?,
        crls: options
            .crl
            .iter()
            .map(|path| existing(path))
            .collect::<Result<_, _>>()?,
        clients: options.client.clone(),
    };
    given(options.crl.first(), "--crl")?;
    given(options.client.first(), "--client")?;
    given(
        options.root.first(),
        "--root (countersignd root new makes one)",
    )?;
    Ok((audience, pki))
}

fn full(path: &Path) -> Result<PathBuf, PlanError> {
    absolute(path).map_err(|cause| PlanError::Path {
        path: path.to_owned(),
        cause,
    })
}

fn existing(path: &Path) -> Result<PathBuf, PlanError> {
    let path = full(path)?;
    match metadata(&path) {
        Ok(_) => Ok(path),
        Err(cause) => Err(PlanError::Path { path, cause }),
    }
}

pub(super) fn kind(text: &str) -> Result<EnvironmentKind, &'static str> {
    EnvironmentKind::parse(text).ok_or("write development or production")
}

pub(super) fn rpc(text: &str) -> Result<Rpc, &'static str> {
    let problem = "write the chain's id and its node's URL, such as 31337=http://127.0.0.1:8545";
    let (chain_id, url) = text.split_once('=').ok_or(problem)?;
    let chain_id = chain_id.parse().map_err(|_| problem)?;
    NodeUrl::parse(url).map_err(|_| problem)?;
    Ok(Rpc {
        chain_id,
        url: url.to_owned(),
    })
}

pub(super) fn root(text: &str) -> Result<RootKey, &'static str> {
    root_key(text)
        .map(RootKey)
        .ok_or("write the 130 hex digits that countersignd root show prints")
}

pub(super) fn client(text: &str) -> Result<Client, &'static str> {
    let problem = "write spiffe://domain/path=role or dns:host=role";
    let (san, role) = text.rsplit_once('=').ok_or(problem)?;
    let role = Role::parse(role)
        .ok_or("the role is gateway, operator, security-officer, auditor or metrics")?;
    Ok(Client {
        san: SubjectName::parse(san).ok_or(problem)?,
        role,
    })
}
