//! A gateway in the hands of an attacker: it ends the wallets' TLS, holds the gateway's certificate, and does to requests and
//! answers what a test says.

use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use url::Url;

use super::Appliance;

/// A request on its way.
#[derive(Clone)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// An answer on its way.
#[derive(Clone)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// What is done to a request.
type OnRequest = Box<dyn FnMut(&mut Asked) + Send>;
/// What is done to the answer to a request; the request is as the wallet sent it.
type OnAnswer = Box<dyn FnMut(&Asked, &mut Answered) + Send>;

/// The running gateway.
pub(crate) struct Proxy {
    url: Url,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: reqwest::Client,
    appliance: Url,
    on_request: Mutex<Option<OnRequest>>,
    on_answer: Mutex<Option<OnAnswer>>,
    recorded: Mutex<Vec<(Asked, Answered)>>,
}

fn certificates(file: &str) -> Vec<CertificateDer<'static>> {
    let found = CertificateDer::pem_file_iter(file).unwrap();
    found.collect::<Result<_, _>>().unwrap()
}

impl Proxy {
    /// Starts one in front of `appliance`, and has its wallets go through it.
    pub(crate) async fn before(appliance: &mut Appliance) -> Self {
        let key = |name: &str| PrivateKeyDer::from_pem_file(appliance.pki(name)).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&appliance.pki("ca.pem")) {
            roots.add(certificate).unwrap();
        }
        let gateway = certificates(&appliance.pki("gateway.pem"));
        let as_gateway = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(gateway, key("gateway-key.pem"))
            .unwrap();
        let upstream = reqwest::Client::builder()
            .tls_backend_preconfigured(as_gateway)
            .no_proxy()
            .build()
            .unwrap();
        // The wallets' side: a certificate they trust, and no interest in theirs.
        let server = certificates(&appliance.pki("server.pem"));
        let as_server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(server, key("server-key.pem"))
            .unwrap();
        let shared = Arc::new(Shared {
            upstream,
            appliance: appliance.client.config().url.clone(),
            on_request: Mutex::default(),
            on_answer: Mutex::default(),
            recorded: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Url = format!("https://{}/", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        tokio::spawn(accept(
            listener,
            TlsAcceptor::from(Arc::new(as_server)),
            Arc::clone(&shared),
        ));
        let mut config = appliance.client.config().clone();
        config.url = url.clone();
        appliance.client = countersign_client::Appliance::new(config).unwrap();
        Self { url, shared }
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// From now on, every request passes through `meddling`.
    pub(crate) fn on_request(&self, meddling: impl FnMut(&mut Asked) + Send + 'static) {
        *self.shared.on_request.lock().unwrap() = Some(Box::new(meddling));
    }

    /// From now on, every answer passes through `meddling`.
    pub(crate) fn on_answer(&self, meddling: impl FnMut(&Asked, &mut Answered) + Send + 'static) {
        *self.shared.on_answer.lock().unwrap() = Some(Box::new(meddling));
    }

    /// From now on, all is passed on as it is.
    pub(crate) fn behave(&self) {
        *self.shared.on_request.lock().unwrap() = None;
        *self.shared.on_answer.lock().unwrap() = None;
    }

    /// All requests and answers so far, as they came.
    pub(crate) fn recorded(&self) -> Vec<(Asked, Answered)> {
        self.shared.recorded.lock().unwrap().clone()
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let service = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { pass(request, &shared).await }
            });
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            // A wallet that goes away is none of our business.
            drop(
                builder
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        });
    }
}

async fn pass(
    request: hyper::Request<Incoming>,
    shared: &Shared,
) -> Result<hyper::Response<Full<Bytes>>, reqwest::Error> {
    let (parts, body) = request.into_parts();
    let sent = Asked {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        headers: parts.headers,
        body: body.collect().await.unwrap().to_bytes().to_vec(),
    };
    let mut asked = sent.clone();
    if let Some(meddling) = shared.on_request.lock().unwrap().as_mut() {
        meddling(&mut asked);
    }
    let url = shared.appliance.join(&asked.path).unwrap();
    let mut headers = asked.headers.clone();
    for own in ["host", "content-length", "connection"] {
        headers.remove(own);
    }
    let response = shared
        .upstream
        .request(asked.method.clone(), url)
        .headers(headers)
        .body(asked.body.clone())
        .send()
        .await?;
    let mut answered = Answered {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: response.bytes().await?.to_vec(),
    };
    let record = (sent.clone(), answered.clone());
    shared.recorded.lock().unwrap().push(record);
    if let Some(meddling) = shared.on_answer.lock().unwrap().as_mut() {
        meddling(&sent, &mut answered);
    }
    for own in ["content-length", "transfer-encoding", "connection"] {
        answered.headers.remove(own);
    }
    let mut response = hyper::Response::new(Full::new(Bytes::from(answered.body)));
    *response.status_mut() = hyper::StatusCode::from_u16(answered.status).unwrap();
    *response.headers_mut() = answered.headers;
    Ok(response)
}
