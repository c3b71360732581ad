//! `countersignd identity …`: the identity key in the HSM, and the certificate by which wallets believe it.
//!
//! The certificate decides which key is used: rotating it is a new key, a request, a root's signature, an installation and
//! a restart. What the key before has signed stays valid for as long as it says, because each answer carries its own proof.

use std::fs;
use std::io;
use std::path::PathBuf;

use countersign_hsm::{HsmError, SigningKeyId, Token};
use countersign_mpc::identity::{IdentityCertificate, IdentityError, IdentityRequest};

use super::files::{self, Access};
use super::root::json;
use super::token::{self, Environment, EnvironmentError};
use super::{Failure, output};
use crate::clock;
use crate::config::Config;
use crate::custody::Identity;

/// The verbs.
#[derive(clap::Subcommand)]
pub(super) enum Verb {
    /// Ask for a certificate of the identity key: writes the request that `countersignd root sign` signs
    Request(Request),
    /// Check a certificate and put it where the configuration says; `serve` uses it from its next start
    Install(Install),
    /// Print the roots, and the certificate that is installed
    Show {
        /// The configuration that `countersignd init` wrote
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

/// Options of `countersignd identity request`.
#[derive(clap::Args)]
pub(super) struct Request {
    /// The configuration that `countersignd init` wrote
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The request to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Make another identity key first, to replace the one in use
    #[arg(long)]
    new_key: bool,
}

/// Options of `countersignd identity install`.
#[derive(clap::Args)]
pub(super) struct Install {
    /// The configuration that `countersignd init` wrote
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// What `countersignd root sign` wrote
    #[arg(long, value_name = "FILE")]
    certificate: PathBuf,
}

/// Why there is no usable certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// It has not been installed.
    #[error(
        "there is no identity certificate at {}: run `countersignd identity request`, have the request signed with \
         `countersignd root sign` where the root key is, and run `countersignd identity install`", path.display()
    )]
    Absent {
        /// Where it would be.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        cause: io::Error,
    },
    /// It is no certificate.
    #[error("{} is not an identity certificate of this version", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The parser's answer.
        #[source]
        cause: serde_json::Error,
    },
    /// Nobody can vouch for anything.
    #[error(
        "the configuration names no root: write identity.roots = [\"…\"] with what `countersignd root show` prints"
    )]
    NoRoots,
    /// The certificate does not hold.
    #[error("the identity certificate {} does not hold here; install another one", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: IdentityError,
    },
    /// It is for a key of another token.
    #[error("the token holds no identity key for the certificate {}; connect the right token or install another one", path.display())]
    OtherKey {
        /// The file.
        path: PathBuf,
    },
    /// The token failed.
    #[error("the identity key could not be looked up")]
    Hsm(#[from] HsmError),
}

/// Runs a verb.
///
/// # Errors
/// What could not be read, asked or written.
pub(super) async fn run(verb: &Verb) -> Result<(), Failure> {
    let load = |path| Config::load(path).map_err(Failure::usage);
    match verb {
        Verb::Request(options) => {
            let config = load(&options.config)?;
            let request = with_token(&config, async |token| {
                ask(token, &config, options.new_key).await
            });
            let request = request.await?;
            files::write(&options.out, &json(&request)?, Access::Public)?;
            output::line(format_args!("identity key   {}", hex::encode(request.key)));
            output::line(format_args!(
                "Bring {0} to the root key: countersignd root sign --key ROOT --request {0} --out certificate.json",
                options.out.display()
            ));
        }
        Verb::Install(options) => {
            let config = load(&options.config)?;
            let certificate = read(&options.certificate, &config)?;
            with_token(&config, async |token| {
                let path = options.certificate.clone();
                find(token, certificate.clone(), path).await.map(drop)
            })
            .await?;
            let to = &config.identity.certificate;
            files::directory(to.parent().unwrap_or(to))?;
            files::write(to, &json(&certificate)?, Access::Public)?;
            output::line(format_args!(
                "Installed {}; restart countersignd.",
                to.display()
            ));
        }
        Verb::Show { config } => show(&load(config)?)?,
    }
    Ok(())
}

/// Runs `work` on the configured token, and closes it also after a failure.
async fn with_token<T>(
    config: &Config,
    work: impl AsyncFnOnce(&Token) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let token = tokio::task::block_in_place(|| token::open(&config.hsm))?;
    let done = async {
        let environment = Environment::configured(config);
        let confirmed = environment.confirm(&token).await;
        confirmed.map_err(EnvironmentError::failure)?;
        work(&token).await
    };
    let done = done.await;
    let closed = token.close().await;
    let done = done?;
    closed?;
    Ok(done)
}

async fn ask(token: &Token, config: &Config, new_key: bool) -> Result<IdentityRequest, Failure> {
    let keys = all(token, config).await?;
    let newest = keys.last().map(|(id, _)| *id);
    let id = match newest {
        Some(id) if !new_key => id,
        _ => {
            let epoch = u32::try_from(keys.len())?.saturating_add(1);
            let label = token::identity_key_label(&config.environment_id, epoch);
            token.create_signing_key(&label).await?
        }
    };
    request(token, id, &Environment::configured(config)).await
}

/// A request for the key `id`, signed by it.
pub(super) async fn request(
    token: &Token,
    id: SigningKeyId,
    environment: &Environment,
) -> Result<IdentityRequest, Failure> {
    let mut request = IdentityRequest {
        environment_id: environment.id.0,
        environment_kind: environment.kind.as_str().to_owned(),
        key: token.public_key(id).await?,
        signature: [0; 64],
    };
    request.signature = token.sign(id, request.statement().hash()).await?;
    Ok(request)
}

fn show(config: &Config) -> Result<(), Failure> {
    for root in &config.identity.roots {
        output::line(format_args!("root           {}", hex::encode(root)));
    }
    let certificate = read(&config.identity.certificate, config)?;
    let days = |at: u64| at.saturating_sub(now()) / 86_400;
    output::line(format_args!(
        "identity key   {}",
        hex::encode(certificate.key)
    ));
    output::line(format_args!("serial         {}", certificate.serial));
    output::line(format_args!(
        "expires        in {} days",
        days(certificate.not_after)
    ));
    Ok(())
}

/// The installed certificate, if a configured root vouches for it, here and now.
pub(super) fn installed(config: &Config) -> Result<IdentityCertificate, CertificateError> {
    read(&config.identity.certificate, config)
}

/// The identity key in the HSM for the certificate that is installed.
pub(super) async fn of_token(token: &Token, config: &Config) -> Result<Identity, Failure> {
    let path = config.identity.certificate.clone();
    find(token, installed(config)?, path).await
}

fn read(path: &std::path::Path, config: &Config) -> Result<IdentityCertificate, CertificateError> {
    let path = || path.to_owned();
    let text = fs::read_to_string(path()).map_err(|cause| match cause.kind() {
        io::ErrorKind::NotFound => CertificateError::Absent { path: path() },
        _ => CertificateError::Read {
            path: path(),
            cause,
        },
    })?;
    let certificate: IdentityCertificate = serde_json::from_str(&text).map_err(|cause| {
        let path = path();
        CertificateError::Parse { path, cause }
    })?;
    let roots = &config.identity.roots;
    if roots.is_empty() {
        return Err(CertificateError::NoRoots);
    }
    certificate
        .verify(
            &config.environment_id.0,
            config.environment_kind.as_str(),
            roots,
            now(),
        )
        .map_err(|cause| CertificateError::Refused {
            path: path(),
            cause,
        })?;
    Ok(certificate)
}

async fn find(
    token: &Token,
    certificate: IdentityCertificate,
    path: PathBuf,
) -> Result<Identity, Failure> {
    let environment = crate::domain::EnvironmentId(certificate.environment_id);
    for (key, public) in of_environment(token, &environment).await? {
        if public == certificate.key {
            return Ok(Identity { key, certificate });
        }
    }
    Err(CertificateError::OtherKey { path }.into())
}

async fn all(token: &Token, config: &Config) -> Result<Vec<(SigningKeyId, [u8; 65])>, HsmError> {
    of_environment(token, &config.environment_id).await
}

/// Every identity key of an environment, in the order they were made.
async fn of_environment(
    token: &Token,
    environment: &crate::domain::EnvironmentId,
) -> Result<Vec<(SigningKeyId, [u8; 65])>, HsmError> {
    let mut keys = Vec::new();
    for epoch in 1.. {
        let label = token::identity_key_label(environment, epoch);
        let Some(id) = token.find_signing_key(&label).await? else {
            break;
        };
        keys.push((id, token.public_key(id).await?));
    }
    Ok(keys)
}

fn now() -> u64 {
    u64::try_from(clock::now().as_seconds()).unwrap_or(0)
}
