//! HTTPS to the appliance: TLS 1.3 only with a client certificate, every request signed by the wallet's device key, every
//! answer signed by the appliance.

mod answer;
mod error;

use std::{
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use countersign_mpc::owner_proof::{self, BodyHash, DeviceKey, RequestParts};
use reqwest::{Client, Method, redirect};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, version::TLS13};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::{Serialize, de::DeserializeOwned};
use url::Url;

pub use self::answer::AnswerError;
use self::answer::Verifier;
pub use self::error::{CallError, ServerError, TransportError};
use crate::{
    api::{ErrorBody, Retry},
    clock,
    config::{Config, TokenSource},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest exchange: a key generation step costs the server half a second, more when it is busy.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(60);
/// Waiting times before the same request is sent again.
const RESEND_AFTER: [Duration; 3] = [
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
];
/// A longer `Retry-After` is the user's decision, not ours.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// The largest honest answer is a keygen message of about 200 KB.
const MAX_ANSWER: usize = 1024 * 1024;
const JSON: &str = "application/json";

/// A connection pool to one appliance.
#[derive(Clone)]
pub struct Transport {
    http: Client,
    base: Url,
    audience: String,
    jwt: Option<TokenSource>,
    verifier: Arc<Verifier>,
}

/// A request before it is signed.
#[derive(Debug, Clone)]
pub struct Request {
    method: Method,
    path: String,
    body: Option<Vec<u8>>,
    idempotency_key: Option<String>,
    session: Option<String>,
}

/// A request with the owner's signature. The parts are open so that tests can send wrong ones.
#[derive(Debug, Clone)]
pub struct SignedRequest {
    /// HTTP method.
    pub method: Method,
    /// Absolute path without query.
    pub path: String,
    /// Header names and values, the signature's among them.
    pub headers: Vec<(&'static str, String)>,
    /// JSON body.
    pub body: Option<Vec<u8>>,
}

/// An answer of any status.
#[derive(Debug, Clone)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Body as received.
    pub body: Vec<u8>,
    /// `Retry-After` in seconds.
    pub retry_after: Option<Duration>,
}

impl Request {
    /// A `GET`.
    #[must_use]
    pub fn get(path: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            body: None,
            idempotency_key: None,
            session: None,
        }
    }

    /// A `POST` of `body` as JSON.
    ///
    /// # Errors
    /// [`TransportError::Encode`].
    pub fn post(path: impl Into<String>, body: &impl Serialize) -> Result<Self, TransportError> {
        let body = serde_json::to_vec(body).map_err(TransportError::Encode)?;
        Ok(Self {
            method: Method::POST,
            path: path.into(),
            body: Some(body),
            idempotency_key: None,
            session: None,
        })
    }

    /// Adds the `Idempotency-Key` header, which the signature then covers.
    #[must_use]
    pub fn with_idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// Adds the `MPC-Session` header, by which a gateway routes all requests of a session to the instance that holds its
    /// state. Only a hint: nothing signs it, and the appliance does not read it.
    #[must_use]
    pub fn of_session(mut self, session: impl Into<String>) -> Self {
        self.session = Some(session.into());
        self
    }
}

impl Transport {
    /// Reads certificates and key and prepares the pool; connects to nothing.
    ///
    /// # Errors
    /// [`TransportError::Credentials`] or [`TransportError::Setup`].
    pub fn new(config: &Config) -> Result<Self, TransportError> {
        let http = Client::builder()
            .tls_backend_preconfigured(tls(config)?)
            .https_only(true)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(EXCHANGE_TIMEOUT)
            .user_agent(concat!("countersign/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(TransportError::Setup)?;
        Ok(Self {
            http,
            base: config.url.clone(),
            audience: config.audience.clone(),
            jwt: config.jwt.clone(),
            verifier: Arc::new(Verifier::new(config)),
        })
    }

    /// Signs `request` with `device`, with a fresh nonce (`protocol.md` section 4).
    ///
    /// # Errors
    /// [`TransportError::Sign`].
    pub fn sign(
        &self,
        request: &Request,
        device: &DeviceKey,
    ) -> Result<SignedRequest, TransportError> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|_| TransportError::Sign)?;
        let content_type = request.body.as_ref().map(|_| JSON);
        let authorization = self.jwt.as_ref().map(bearer).transpose()?;
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let parts = RequestParts {
            method: request.method.as_str(),
            path,
            query,
            content_type,
            audience: &self.audience,
            idempotency_key: request.idempotency_key.as_deref(),
            authorization: authorization.as_deref(),
            body: request.body.as_deref().map(BodyHash::of),
        };
        let signed = owner_proof::sign(device, &parts, clock::now(), nonce)
            .map_err(|_| TransportError::Sign)?;
        let mut headers = vec![
            ("mpc-audience", self.audience.clone()),
            ("signature-input", signed.signature_input),
            ("signature", signed.signature),
        ];
        headers.extend(content_type.map(|json| ("content-type", json.to_owned())));
        headers.extend(
            signed
                .content_digest
                .map(|digest| ("content-digest", digest)),
        );
        headers.extend(
            request
                .idempotency_key
                .clone()
                .map(|key| ("idempotency-key", key)),
        );
        headers.extend(authorization.map(|token| ("authorization", token)));
        headers.extend(request.session.clone().map(|id| ("mpc-session", id)));
        Ok(SignedRequest {
            method: request.method.clone(),
            path: request.path.clone(),
            headers,
            body: request.body.clone(),
        })
    }

    /// One exchange; any status is `Ok` if the appliance signed the answer.
    ///
    /// # Errors
    /// [`TransportError`]: whether the server has acted on the request is then unknown.
    pub async fn send(&self, request: &SignedRequest) -> Result<Reply, TransportError> {
        let url = self
            .base
            .join(&request.path)
            .map_err(|_| TransportError::Path)?;
        let mut builder = self.http.request(request.method.clone(), url);
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        if let Some(body) = &request.body {
            builder = builder.body(body.clone());
        }
        let mut response = builder
            .send()
            .await
            .map_err(TransportError::from_exchange)?;
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(TransportError::from_exchange)?
        {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(TransportError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        self.verifier
            .verify(request, status, response.headers(), &body)
            .map_err(TransportError::Unbelievable)?;
        Ok(Reply {
            status,
            body,
            retry_after,
        })
    }

    /// Signs, sends and decodes. The same request is sent again, signed anew, after a lost connection, after an answer that
    /// is not the appliance's and when the server says `retry: same`: every route answers the identical body identically,
    /// so this never does anything twice.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call<T: DeserializeOwned>(
        &self,
        request: &Request,
        device: &DeviceKey,
    ) -> Result<T, CallError> {
        self.resend(|| self.sign(request, device)).await
    }

    async fn resend<T: DeserializeOwned>(
        &self,
        make: impl Fn() -> Result<SignedRequest, TransportError>,
    ) -> Result<T, CallError> {
        let mut waits = RESEND_AFTER.into_iter();
        loop {
            let outcome = self
                .send(&make()?)
                .await
                .map_err(CallError::from)
                .and_then(Reply::decode);
            match (outcome, waits.next()) {
                (Err(error), Some(wait)) if error.same_again() => {
                    match error.retry_after().unwrap_or(wait) {
                        wait if wait > LONGEST_WAIT => return Err(error),
                        wait => tokio::time::sleep(wait).await,
                    }
                }
                (outcome, _) => return outcome,
            }
        }
    }

    /// Fetches a document that needs no owner, only the client certificate.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn fetch<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        let request = SignedRequest {
            method: Method::GET,
            path: path.to_owned(),
            headers: Vec::new(),
            body: None,
        };
        self.resend(|| Ok(request.clone())).await
    }
}

impl Reply {
    /// The body of a 2xx answer as `T`.
    ///
    /// # Errors
    /// [`CallError::Server`] for every other status, [`TransportError::NotJson`] if the body is something else.
    pub fn decode<T: DeserializeOwned>(self) -> Result<T, CallError> {
        let not_json = |_| {
            CallError::from(TransportError::NotJson {
                status: self.status,
            })
        };
        if (200..300).contains(&self.status) {
            return serde_json::from_slice(&self.body).map_err(not_json);
        }
        let body: ErrorBody = serde_json::from_slice(&self.body).map_err(not_json)?;
        let retry = body.retry.unwrap_or(Retry::Never);
        let ErrorBody {
            error,
            message,
            details,
            ..
        } = body;
        let error = ServerError {
            status: self.status,
            code: error,
            message,
            details,
            retry,
            retry_after: self.retry_after,
        };
        Err(CallError::Server(error))
    }
}

/// The `Authorization` header with the gateway's token of this moment.
fn bearer(source: &TokenSource) -> Result<String, TransportError> {
    let failed = |message: String| TransportError::Token { message };
    let text = match source {
        TokenSource::File(path) => std::fs::read_to_string(path)
            .map_err(|error| failed(format!("{}: {error}", path.display())))?,
        TokenSource::Command(command) => {
            let (program, arguments) = command
                .split_first()
                .ok_or_else(|| failed("no program".to_owned()))?;
            let output = Command::new(program)
                .args(arguments)
                .stdin(Stdio::null())
                .stderr(Stdio::inherit())
                .output()
                .map_err(|error| failed(format!("{program}: {error}")))?;
            if !output.status.success() {
                return Err(failed(format!("{program}: {}", output.status)));
            }
            String::from_utf8(output.stdout)
                .map_err(|_| failed(format!("{program} printed no text")))?
        }
    };
    let token = text.trim();
    let visible = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    if visible {
        Ok(format!("Bearer {token}"))
    } else {
        Err(failed("it is empty or holds spaces".to_owned()))
    }
}

/// TLS 1.3 only, hybrid post-quantum key exchange first, our certificate, the configured CA and no other.
fn tls(config: &Config) -> Result<ClientConfig, TransportError> {
    let credentials = |path: &std::path::Path| {
        let path = path.to_owned();
        move |message: String| TransportError::Credentials { path, message }
    };
    let certificates = |path: &std::path::Path| {
        CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| credentials(path)(error.to_string()))
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&config.ca)? {
        roots
            .add(certificate)
            .map_err(|error| credentials(&config.ca)(error.to_string()))?;
    }
    let key = PrivateKeyDer::from_pem_file(&config.key)
        .map_err(|error| credentials(&config.key)(error.to_string()))?;
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![
        aws_lc_rs::kx_group::X25519MLKEM768,
        aws_lc_rs::kx_group::X25519,
        aws_lc_rs::kx_group::SECP256R1,
    ];
    let mut tls = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(TransportError::Tls)?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates(&config.certificate)?, key)
        .map_err(TransportError::Tls)?;
    // One request at a time gains nothing from HTTP/2, which costs both sides more.
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}
