//! `countersignd init`: makes an environment.
//!
//! Crash safety: the id is written to `init.pending` before anything else exists, every step after
//! that can be repeated for the same id, and `countersignd.toml` comes last. So a run that was cut off is
//! completed by running it again, and an environment without its configuration has never been served.

mod plan;
mod render;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_hsm::{KekName, Purpose, SigningKeyId, Token};

use super::files::{self, Access};
use super::root::{Root, json};
use super::token::{self, Environment, EnvironmentError};
use super::{Failure, output};
use crate::clock;
use crate::custody::anchor::{Anchor, AnchorError, Place};
use crate::domain::{EnvironmentId, EnvironmentKind};
use crate::store::{EnvironmentRecord, Location, Store, StoreError};

use plan::Plan;
pub(super) use render::CRL_DAYS;

/// Validity of a development environment's identity key, in days.
const DEVELOPMENT_DAYS: u64 = 730;

/// Options of `countersignd init`.
#[derive(clap::Args)]
pub struct Options {
    /// Directory to create: configuration, SQLite database and, for development, certificates
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// "development" (test chains, software tokens allowed) or "production"; it can never be changed
    #[arg(long, value_name = "KIND", value_parser = plan::kind)]
    kind: EnvironmentKind,
    /// PKCS#11 library of the HSM
    #[arg(long, value_name = "FILE")]
    hsm_module: PathBuf,
    /// Label of the token; it must not carry another environment
    #[arg(long, value_name = "LABEL")]
    token_label: String,
    /// File with the token's user PIN, mode 600
    #[arg(long, value_name = "FILE")]
    pin_file: PathBuf,
    /// Built-in HSM profile, or the path of a profile file
    #[arg(long, value_name = "PROFILE", default_value = "softhsm2")]
    hsm_profile: String,
    /// A chain to sign for and its JSON-RPC node; may be given again
    #[arg(long, value_name = "CHAINID=URL", value_parser = plan::rpc)]
    rpc: Vec<plan::Rpc>,
    /// Where gateways connect
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Where operators and monitoring connect
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9443")]
    operator_listen: SocketAddr,
    /// Name of this appliance in every request that wallets sign [development: countersign.test]
    #[arg(long, value_name = "NAME")]
    audience: Option<String>,
    /// Server certificate chain, PEM (production)
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// Key of the server certificate, PEM, mode 600 (production)
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Dedicated CA of the client certificates, PEM (production)
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// Revocation list of that CA, PEM; may be given again, one for every CA in --client-ca (production)
    #[arg(long, value_name = "FILE")]
    crl: Vec<PathBuf>,
    /// A client by name in its certificate, "spiffe://domain/path=role" or "dns:host=role" (production)
    #[arg(long, value_name = "SAN=ROLE", value_parser = plan::client)]
    client: Vec<plan::Client>,
    /// Public key of an offline root that vouches for this appliance, from `countersignd root new`; a second one is a
    /// spare (production)
    #[arg(long, value_name = "HEX", value_parser = plan::root)]
    root: Vec<plan::RootKey>,
    /// Keep the anchor that shows when the database was put back in this file, in place of data objects on the token: out
    /// of reach of who can write to the database or its backups, and on one machine with every countersignd
    #[arg(long, value_name = "FILE")]
    witness_file: Option<PathBuf>,
    #[command(flatten)]
    postgres: PostgresArgs,
}

/// Where the database is, unless it is a SQLite file in `--dir`.
#[derive(clap::Args)]
#[command(next_help_heading = "PostgreSQL instead of a SQLite file in --dir")]
struct PostgresArgs {
    /// Server of an empty database that exists: a host name, always with TLS, or the directory of its socket
    #[arg(long, value_name = "HOST")]
    postgres_host: Option<String>,
    /// Its port
    #[arg(
        long,
        value_name = "PORT",
        default_value = "5432",
        requires = "postgres_host"
    )]
    postgres_port: u16,
    /// Name of the database
    #[arg(
        long,
        value_name = "NAME",
        default_value = "countersign",
        requires = "postgres_host"
    )]
    postgres_database: String,
    /// Role that owns the database; it makes the tables and needs nothing else
    #[arg(
        long,
        value_name = "NAME",
        default_value = "countersign",
        requires = "postgres_host"
    )]
    postgres_user: String,
    /// File with the role's password, mode 600; not needed where the server knows the system user ("peer")
    #[arg(long, value_name = "FILE", requires = "postgres_host")]
    postgres_password_file: Option<PathBuf>,
    /// CA of the server's certificate, PEM; needed with a host name, which the certificate must carry
    #[arg(long, value_name = "FILE", requires = "postgres_host")]
    postgres_ca: Option<PathBuf>,
}

/// Why an environment cannot be made.
#[derive(Debug, thiserror::Error)]
enum InitError {
    #[error("{} already holds an environment; choose another --dir", dir.display())]
    Complete { dir: PathBuf },
    #[error(
        "the token already carries environment {found}; use another token. If that environment comes from an \
         init that was cut off and its directory is lost, delete the token's object cs/environment first"
    )]
    TokenTaken { found: Environment },
    #[error("{} is not a file this version writes; if no init is running, remove it and try again", path.display())]
    Pending { path: PathBuf },
    #[error(
        "an init of another kind was cut off here ({found}); repeat it, or choose another --dir"
    )]
    OtherKind { found: Environment },
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("the system has no random numbers")]
    Random(#[source] getrandom::Error),
}

/// Makes the environment, or completes one that was cut off.
///
/// # Errors
/// Exit code 2 for options that do not fit together, 3 when directory, token or database already belong to
/// an environment or the token is not fit for this kind.
pub async fn run(options: &Options) -> Result<(), Failure> {
    let plan = Plan::new(options).map_err(Failure::usage)?;
    super::refuse_driver_settings(&plan.location)?;
    let paths = Paths::new(&plan.directory);
    if paths.config.exists() {
        return finished(&paths);
    }
    let token = token::open(&plan.hsm)?;
    let made = make(&plan, &paths, &token).await;
    // Also after a failure: a process that ends under the module's threads may crash.
    let closed = token.close().await;
    summary(&plan, &paths, &made?);
    Ok(closed?)
}

async fn make(plan: &Plan, paths: &Paths, token: &Token) -> Result<Environment, Failure> {
    let environment = choose(plan, paths)?;
    environment
        .accepts(token)
        .map_err(EnvironmentError::failure)?;
    match Environment::of_token(token)
        .await
        .map_err(EnvironmentError::failure)?
    {
        Some(found) if found != environment => {
            return Err(Failure::environment(InitError::TokenTaken { found }));
        }
        _ => {}
    }
    files::directory(&plan.directory)?;
    files::write(&paths.pending, &environment.encode(), Access::Private)?;
    make_database(&plan.location, &environment).await?;
    let identity_key = make_keys(token, &environment).await?;
    make_anchor(plan, token, &environment).await?;
    let roots = identity(plan, paths, token, (identity_key, &environment)).await?;
    render::write(plan, paths, &environment, &roots)?;
    files::remove(&paths.pending)?;
    Ok(environment)
}

/// Where everything is.
struct Paths {
    config: PathBuf,
    client: PathBuf,
    operator: PathBuf,
    pki: PathBuf,
    identity: PathBuf,
    pending: PathBuf,
}

impl Paths {
    fn new(directory: &Path) -> Self {
        Self {
            config: directory.join("countersignd.toml"),
            client: directory.join("client.toml"),
            operator: directory.join("operator.toml"),
            pki: directory.join("pki"),
            identity: directory.join("identity"),
            pending: directory.join("init.pending"),
        }
    }
}

/// The configuration exists: only the removal of the mark can be missing.
fn finished(paths: &Paths) -> Result<(), Failure> {
    let directory = paths.config.parent().unwrap_or(Path::new("")).to_owned();
    if !paths.pending.exists() {
        return Err(Failure::environment(InitError::Complete { dir: directory }));
    }
    files::remove(&paths.pending)?;
    output::line(format_args!(
        "The environment in {} was complete already.",
        directory.display()
    ));
    Ok(())
}

/// The environment of an init that was cut off here, else a new one.
fn choose(plan: &Plan, paths: &Paths) -> Result<Environment, Failure> {
    let path = paths.pending.clone();
    match fs::read_to_string(&path) {
        Ok(text) => match Environment::parse(&text) {
            Some(found) if found.kind == plan.kind => Ok(found),
            Some(found) => Err(Failure::environment(InitError::OtherKind { found })),
            None => Err(InitError::Pending { path }.into()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut id = [0; 32];
            getrandom::fill(&mut id).map_err(InitError::Random)?;
            Ok(Environment {
                id: EnvironmentId(id),
                kind: plan.kind,
            })
        }
        Err(cause) => Err(InitError::Read { path, cause }.into()),
    }
}

/// The environment object and every key that lasts; returns the identity key.
async fn make_keys(token: &Token, environment: &Environment) -> Result<SigningKeyId, Failure> {
    environment.store_on(token).await?;
    for purpose in [Purpose::Share, Purpose::Totp] {
        token
            .create_kek(&KekName {
                environment_id: environment.id.0,
                tenant: plan::TENANT.to_owned(),
                purpose,
                epoch: 1,
            })
            .await?;
    }
    token
        .create_signing_key(&token::audit_key_label(&environment.id))
        .await?;
    let label = token::identity_key_label(&environment.id, 1);
    Ok(token.create_signing_key(&label).await?)
}

/// The first anchor: of an empty database. One that an init that was cut off has made is left as it is.
async fn make_anchor(plan: &Plan, token: &Token, environment: &Environment) -> Result<(), Failure> {
    let place = Place::new(environment.id, token.clone(), plan.witness_file.clone());
    match place.read().await {
        Err(AnchorError::Missing) => Ok(place.advance(&Anchor::default()).await?),
        found => Ok(found.map(|_| ())?),
    }
}

/// The roots to believe. For development a root is made here and signs the identity key at once; a real one never comes
/// near the appliance.
async fn identity(
    plan: &Plan,
    paths: &Paths,
    token: &Token,
    (key, environment): (SigningKeyId, &Environment),
) -> Result<Vec<[u8; 65]>, Failure> {
    files::directory(&paths.identity)?;
    if plan.kind == EnvironmentKind::Production {
        return Ok(plan.roots.clone());
    }
    let (root, pem) = Root::generate()?;
    let request = super::identity::request(token, key, environment).await?;
    let certificate = root.certify(&request, DEVELOPMENT_DAYS)?;
    let file = |name| paths.identity.join(name);
    files::write(&file("root-key.pem"), &pem, Access::Private)?;
    files::write(
        &file("certificate.json"),
        &json(&certificate)?,
        Access::Public,
    )?;
    Ok(vec![root.public()?])
}

async fn make_database(location: &Arc<Location>, environment: &Environment) -> Result<(), Failure> {
    let record = EnvironmentRecord {
        id: environment.id,
        kind: environment.kind,
        created_at: clock::now(),
    };
    match Store::create(Arc::clone(location), &record).await {
        Ok(_) => Ok(()),
        Err(error @ StoreError::EnvironmentExists(_)) => Err(Failure::environment(error)),
        Err(error) => Err(error.into()),
    }
}

fn summary(plan: &Plan, paths: &Paths, environment: &Environment) {
    let Environment { id, kind } = environment;
    output::line(format_args!("Made a {kind} environment."));
    output::line(format_args!("  id             {id}"));
    output::line(format_args!(
        "  token          {} (keys cs/{}.../...)",
        plan.hsm.token_label,
        short(id)
    ));
    output::line(format_args!("  database       {}", plan.location));
    output::line(format_args!("  configuration  {}", paths.config.display()));
    if *kind == EnvironmentKind::Development {
        output::line(format_args!(
            "  certificates   {} (for tests only)",
            paths.pki.display()
        ));
        output::line(format_args!("  for wallets    {}", paths.client.display()));
        output::line(format_args!(
            "  for operators  {}",
            paths.operator.display()
        ));
    }
    if plan.rpc.is_empty() {
        output::line("  chains         none yet: add a [[chain]] to the configuration");
    }
    let config = paths.config.display();
    if *kind == EnvironmentKind::Production {
        output::line(format_args!(
            "Next: countersignd identity request --config {config} --out request.json, then `countersignd root sign` where \
             the root key is, then `countersignd identity install`, then"
        ));
    } else {
        output::line(format_args!(
            "  root key       {} (for tests only; a real one is kept offline)",
            paths.identity.join("root-key.pem").display()
        ));
    }
    output::line(format_args!("Next: countersignd serve --config {config}"));
}

fn short(id: &EnvironmentId) -> String {
    hex::encode(id.0.first_chunk::<8>().unwrap_or(&[0; 8]))
}

#[cfg(test)]
mod tests;
