//! How a verb reaches the operators' listener of a running appliance: by `operator.toml`, over mutual TLS.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::Policy;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use url::Url;

use super::Failure;
use crate::config::secret_file::{self, SecretFileError};

/// Longest wait for a connection to one instance. Then the next one is asked.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest wait for its answer: a freeze waits for what began before it.
const PATIENCE: Duration = Duration::from_secs(45);

/// The option that names the file.
#[derive(clap::Args)]
pub(super) struct ConnectOption {
    /// How to reach the appliance: operator.toml, with urls, ca, certificate and key
    #[arg(long, value_name = "FILE")]
    connect: PathBuf,
}

/// The file as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    urls: Vec<String>,
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

/// Why the appliance is not reached, or what it says.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{}: {message}", path.display())]
    Syntax { path: PathBuf, message: String },
    #[error("{}: write urls = [\"https://host:port\"], one for each instance", path.display())]
    Urls { path: PathBuf },
    #[error("{} is not usable", path.display())]
    Pem {
        path: PathBuf,
        #[source]
        cause: pem::Error,
    },
    #[error("the key is not safe")]
    Key(#[from] SecretFileError),
    #[error("certificate, key and CA do not fit together")]
    Tls(#[from] rustls::Error),
    #[error("the connection cannot be set up")]
    Setup(#[source] reqwest::Error),
    #[error("no instance answers; {0}")]
    Away(Tries),
    #[error("{0}")]
    Refused(Refused),
    #[error("{url} answers something that is not of this appliance ({status})")]
    Answer { url: Url, status: u16 },
}

/// What became of each try.
#[derive(Debug)]
pub(super) struct Tries(Vec<(Url, String)>);

impl fmt::Display for Tries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = self.0.iter().map(|(url, why)| format!("{url}: {why}"));
        f.write_str(&each.collect::<Vec<_>>().join("; "))
    }
}

/// An error that an instance answered.
#[derive(Debug, Deserialize)]
pub(super) struct Refused {
    error: String,
    message: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.error)
    }
}

/// A way to the appliance.
pub(super) struct Remote {
    http: reqwest::Client,
    urls: Vec<Url>,
}

impl ConnectOption {
    /// The option, given as this.
    pub(super) const fn of(connect: PathBuf) -> Self {
        Self { connect }
    }

    /// Reads the file and what it names; connects to nothing yet.
    ///
    /// # Errors
    /// What is not usable.
    pub(super) fn open(&self) -> Result<Remote, Failure> {
        Remote::open(&self.connect).map_err(Failure::usage)
    }
}

impl Remote {
    fn open(file: &Path) -> Result<Self, ConnectError> {
        let path = || file.to_owned();
        let text = fs::read_to_string(file).map_err(|cause| ConnectError::Read {
            path: path(),
            cause,
        })?;
        let mut table: Table = toml::from_str(&text).map_err(|error| ConnectError::Syntax {
            path: path(),
            message: error.message().to_owned(),
        })?;
        let parsed = table.urls.iter().map(|url| {
            let url = Url::parse(url).ok();
            url.filter(|url| url.scheme() == "https" && url.has_host())
        });
        let urls: Option<Vec<Url>> = parsed.collect();
        let Some(urls) = urls.filter(|urls| !urls.is_empty()) else {
            return Err(ConnectError::Urls { path: path() });
        };
        let directory = file.parent().unwrap_or(Path::new(""));
        for named in [&mut table.ca, &mut table.certificate, &mut table.key] {
            *named = directory.join(&*named);
        }
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(&table)?)
            .https_only(true)
            .redirect(Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT)
            .timeout(PATIENCE)
            .build()
            .map_err(ConnectError::Setup)?;
        Ok(Self { http, urls })
    }

    /// Asks.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ConnectError> {
        self.ask(path, |url| self.http.get(url)).await
    }

    /// Has something done. It may be sent to more than one instance, when one does not answer: all that can be done here is
    /// done once.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ConnectError> {
        let body = serde_json::to_vec(body).unwrap_or_default();
        let request = |url| {
            let request = self.http.post(url);
            let request = request.header("content-type", "application/json");
            request.body(body.clone())
        };
        self.ask(path, request).await
    }

    /// The first instance that can answer does.
    async fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        request: impl Fn(Url) -> reqwest::RequestBuilder,
    ) -> Result<T, ConnectError> {
        let mut tries = Vec::new();
        for base in &self.urls {
            let Ok(url) = base.join(path) else { continue };
            let answered = async {
                let response = request(url.clone()).send().await?;
                let status = response.status().as_u16();
                Ok::<_, reqwest::Error>((status, response.bytes().await?))
            };
            let (status, body) = match answered.await {
                Ok(answer) => answer,
                Err(error) => {
                    let why = super::output::chain(&error.without_url());
                    tries.push((base.clone(), why));
                    continue;
                }
            };
            if status == 200 {
                let answer = serde_json::from_slice(&body);
                return answer.map_err(|_| ConnectError::Answer { url, status });
            }
            let refused: Result<Refused, _> = serde_json::from_slice(&body);
            match refused {
                Ok(refused) if status == 503 => tries.push((base.clone(), refused.to_string())),
                Ok(refused) => return Err(ConnectError::Refused(refused)),
                Err(_) => return Err(ConnectError::Answer { url, status }),
            }
        }
        Err(ConnectError::Away(Tries(tries)))
    }
}

fn tls(table: &Table) -> Result<ClientConfig, ConnectError> {
    let pem = |path: &Path| {
        let path = path.to_owned();
        move |cause| ConnectError::Pem { path, cause }
    };
    let certificates = |path: &Path| {
        CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(pem(path))
    };
    secret_file::check(&table.key)?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&table.ca)? {
        roots.add(certificate)?;
    }
    let key = PrivateKeyDer::from_pem_file(&table.key).map_err(pem(&table.key))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates(&table.certificate)?, key)?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}
