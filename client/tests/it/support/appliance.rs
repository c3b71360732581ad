//! An appliance on a local TLS port. It speaks the real protocol; [`Fault`]s make it fail or cheat.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use countersign_client::Config;
use countersign_mpc::owner_proof::{self, BodyHash, RequestParts};
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustls::{NamedGroup, version::TLS13};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{
    pki,
    protocol::{Answer, Protocol, SignedAnswer, refusal},
};

pub(crate) const AUDIENCE: &str = "signer.example";

/// Something that goes wrong once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The request whose message type is named is processed, but the connection breaks before the answer.
    LoseAnswer(&'static str),
    /// The request is answered with this error instead: type, status, code, retry.
    Refuse(&'static str, u16, &'static str, &'static str),
    /// A bit of the message to P1 inside the answer is flipped before it is sealed: type, position in percent.
    Tamper(&'static str, usize),
    /// The offered transaction pays somebody else.
    OfferOther,
}

impl Fault {
    /// The kind of request it happens to.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::LoseAnswer(kind) | Self::Refuse(kind, ..) | Self::Tamper(kind, _) => kind,
            Self::OfferOther => "transaction",
        }
    }
}

/// What the gateway does to answers: told the request's path, it alters an answer or puts another in its place.
pub(crate) type Meddling = Box<dyn FnMut(&str, &mut SignedAnswer, &Protocol) + Send>;

/// Handle to the running appliance.
pub(crate) struct FakeAppliance {
    address: std::net::SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    protocol: Mutex<Protocol>,
    /// While set, every connection breaks before anything is processed.
    offline: AtomicBool,
    meddling: Mutex<Option<Meddling>>,
    /// What each request would be routed by: its path and its `MPC-Session`.
    routes: Mutex<Vec<(String, Option<String>)>>,
    /// Key exchange of the last connection.
    key_exchange: Mutex<Option<NamedGroup>>,
}

impl FakeAppliance {
    pub(crate) async fn start(directory: &Path) -> Self {
        pki::write(directory);
        let acceptor = TlsAcceptor::from(pki::server(directory, &[&TLS13]));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            protocol: Mutex::new(Protocol::new()),
            offline: AtomicBool::new(false),
            meddling: Mutex::default(),
            routes: Mutex::default(),
            key_exchange: Mutex::new(None),
        });
        tokio::spawn(accept(listener, acceptor, shared.clone()));
        Self { address, shared }
    }

    pub(crate) fn config(&self, directory: &Path) -> Config {
        Config::parse(&self.config_text(), &directory.join("client.toml")).unwrap()
    }

    pub(crate) fn config_text(&self) -> String {
        let (environment_id, root) = self.protocol(|protocol| protocol.pins());
        format!(
            "url = \"https://{}\"\nca = \"ca.pem\"\ncertificate = \"gateway.pem\"\nkey = \"gateway-key.pem\"\n\
             audience = \"{AUDIENCE}\"\nenvironment_id = \"{environment_id}\"\nenvironment_kind = \"development\"\n\
             tenant = \"default\"\nroot_keys = [\"{root}\"]\n[[chain]]\nid = 31337\n",
            self.address
        )
    }

    pub(crate) fn fault(&self, fault: Fault) {
        self.protocol(|protocol| protocol.faults.push(fault));
    }

    /// From now on every answer passes through `meddling`.
    pub(crate) fn meddle(
        &self,
        meddling: impl FnMut(&str, &mut SignedAnswer, &Protocol) + Send + 'static,
    ) {
        *self.shared.meddling.lock().unwrap() = Some(Box::new(meddling));
    }

    pub(crate) fn behave(&self) {
        *self.shared.meddling.lock().unwrap() = None;
    }

    pub(crate) fn set_offline(&self, offline: bool) {
        self.shared.offline.store(offline, Ordering::SeqCst);
    }

    /// The `MPC-Session` of all requests to `path`, in order.
    pub(crate) fn routes(&self, path: &str) -> Vec<Option<String>> {
        let routes = self.shared.routes.lock().unwrap();
        let of_path = routes.iter().filter(|(found, _)| found == path);
        of_path.map(|(_, session)| session.clone()).collect()
    }

    pub(crate) fn key_exchange(&self) -> Option<NamedGroup> {
        *self.shared.key_exchange.lock().unwrap()
    }

    /// Looks at or changes the state of the appliance.
    pub(crate) fn protocol<T>(&self, look: impl FnOnce(&mut Protocol) -> T) -> T {
        look(&mut self.shared.protocol.lock().unwrap())
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (acceptor, shared) = (acceptor.clone(), shared.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let group = stream.get_ref().1.negotiated_key_exchange_group();
            *shared.key_exchange.lock().unwrap() =
                group.map(rustls::crypto::SupportedKxGroup::name);
            let service = service_fn(move |request| answer(request, shared.clone()));
            // A broken connection is what some tests ask for.
            drop(
                http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Full<hyper::body::Bytes>>, &'static str> {
    if shared.offline.load(Ordering::SeqCst) {
        return Err("offline");
    }
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| "body")?.to_bytes();
    let mut protocol = shared.protocol.lock().unwrap();
    let path = parts.uri.path().to_owned();
    let header = |name: &str| {
        parts
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let route = (path.clone(), header("mpc-session"));
    shared.routes.lock().unwrap().push(route);
    let outcome = if path == "/api/v1/mpc/identity" {
        Ok((200, protocol.identity()))
    } else {
        match verify(&protocol, parts.method.as_str(), &path, &header, &body) {
            Ok(thumbprint) => protocol.handle(
                &path,
                header("idempotency-key").as_deref(),
                &thumbprint,
                &body,
            ),
            Err(code) => Ok(refusal(401, code, "never")),
        }
    };
    let Answer::Ok((status, json)) = outcome else {
        return Err("lost answer");
    };
    let body = serde_json::to_vec(&json).unwrap();
    let mut answer = protocol.sign_answer(status, body, header("signature").as_deref(), 0);
    if let Some(meddling) = shared.meddling.lock().unwrap().as_mut() {
        meddling(&path, &mut answer, &protocol);
    }
    let mut response = Response::builder()
        .status(StatusCode::from_u16(answer.status).unwrap())
        .header("content-type", "application/json");
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    Ok(response.body(Full::new(answer.body.into())).unwrap())
}

/// The owner's proof, as the appliance checks it. Request 1 of a key generation brings its own key.
fn verify(
    protocol: &Protocol,
    method: &str,
    path: &str,
    header: &dyn Fn(&str) -> Option<String>,
    body: &[u8],
) -> Result<String, &'static str> {
    let claim = owner_proof::parse(
        &header("signature-input").ok_or("UNAUTHENTICATED")?,
        &header("signature").ok_or("UNAUTHENTICATED")?,
    )
    .map_err(|_| "SIGNATURE_INVALID")?;
    let json: Value = serde_json::from_slice(body).unwrap_or(json!(null));
    let brought = json
        .pointer("/clientShare/publicKey")
        .map(|key| owner_proof::PublicKey::parse(key).unwrap());
    let key = protocol
        .device(&claim.key_id)
        .or(brought)
        .ok_or("SIGNATURE_INVALID")?;
    let audience = header("mpc-audience").ok_or("UNAUTHENTICATED")?;
    let (content_type, idempotency_key) = (header("content-type"), header("idempotency-key"));
    let parts = RequestParts {
        method,
        path,
        query: "",
        content_type: content_type.as_deref(),
        audience: &audience,
        idempotency_key: idempotency_key.as_deref(),
        authorization: None,
        body: (!body.is_empty()).then(|| BodyHash::of(body)),
    };
    let now = countersign_client::clock::now();
    let digest = header("content-digest");
    claim
        .verify(
            &key,
            &parts,
            digest.as_deref(),
            now,
            owner_proof::PublicKey::verify,
        )
        .map_err(|_| "SIGNATURE_INVALID")?;
    if audience == AUDIENCE {
        Ok(claim.key_id)
    } else {
        Err("SIGNATURE_INVALID")
    }
}
