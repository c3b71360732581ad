//! One connection, from its handshake to its end.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Request, header};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::activity::Activity;
use super::handshakes::Handshake;
use super::refusal;
use crate::clock;
use crate::config::Limits;
use crate::domain::EnvironmentKind;
use crate::http::deadline::Deadline;
use crate::http::error::ApiError;
use crate::http::quota::Quota;
use crate::http::sign_response::App;
use crate::http::tls::{Entrance, Trust};
use crate::identity::certificate::ClientIdentity;
use crate::telemetry::metrics::{ConnectionRefusal, ConnectionStage};

/// Longest request head over either protocol, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Most headers of a request.
const MAX_HEADERS: usize = 64;
/// Requests in progress on one HTTP/2 connection.
const MAX_STREAMS: u32 = 64;
/// Streams a peer may open and reset before we stop listening (CVE-2023-44487).
const MAX_RESET_STREAMS: usize = 20;
/// Receive window of one HTTP/2 stream: what a peer may make us hold before a handler reads it.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Receive window of one HTTP/2 connection.
const CONNECTION_WINDOW: u32 = 1024 * 1024;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

pub(super) struct Connection {
    pub(super) entrance: Arc<Entrance>,
    pub(super) app: App,
    pub(super) slots: Arc<Semaphore>,
    pub(super) shutdown: CancellationToken,
}

/// A client with business here, and its quota.
#[derive(Clone)]
struct Client {
    identity: Arc<ClientIdentity>,
    quota: Arc<Quota>,
}

/// What a connection keeps from others until it ends.
struct Places {
    _of_peer: OwnedSemaphorePermit,
    _of_listener: OwnedSemaphorePermit,
}

impl Connection {
    pub(super) async fn serve(self, stream: TcpStream, handshake: Handshake) {
        // Taken before the handshake: a reload during it is noticed afterwards.
        let trust = self.entrance.trust();
        let shaken = {
            let _counted = Counted::new(&self.entrance, ConnectionStage::Handshake);
            self.handshake(stream, &trust, handshake).await
        };
        let stream = match shaken {
            Ok(stream) => stream,
            Err((reason, error)) => {
                self.refused(reason);
                // Anyone can cause these: no more than a trace of them in the log.
                return debug!(%error, "tls handshake failed");
            }
        };
        let client = self.client(&stream);
        let places = match self.places(client.as_ref()) {
            Ok(places) => places,
            Err(reason) => return self.refused(reason),
        };
        let _counted = Counted::new(&self.entrance, ConnectionStage::Established);
        if let Err(error) = self.http(stream, client, trust).await {
            debug!(%error, "connection ended with an error");
        }
        drop(places);
    }

    fn refused(&self, reason: ConnectionRefusal) {
        let Entrance { name, metrics, .. } = &*self.entrance;
        metrics.connection_refused(*name, reason);
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        trust: &watch::Receiver<Arc<Trust>>,
        handshake: Handshake,
    ) -> Result<TlsStream<TcpStream>, (ConnectionRefusal, io::Error)> {
        let config = trust.borrow().config.clone();
        let accept = async {
            stream.set_nodelay(true)?;
            TlsAcceptor::from(config).accept(stream).await
        };
        let result = tokio::select! {
            result = timeout(self.entrance.limits.handshake_timeout, accept) => {
                result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            }
            () = self.shutdown.cancelled() => Err(io::ErrorKind::ConnectionAborted.into()),
            () = handshake.crowded_out.cancelled() => {
                let error = io::ErrorKind::ConnectionAborted.into();
                return Err((ConnectionRefusal::CrowdedOut, error));
            }
        };
        result.map_err(|error| (refusal::of_handshake(&error), error))
    }

    /// Who came, if it has business here.
    fn client(&self, stream: &TlsStream<TcpStream>) -> Option<Client> {
        match self.entrance.identify(stream.get_ref().1) {
            Ok(identity) => Some(Client {
                quota: self.entrance.quotas.of(&identity)?,
                identity: Arc::new(identity),
            }),
            Err(refused) => {
                warn!(reason = %refused, "client refused");
                self.refused(ConnectionRefusal::Forbidden);
                None
            }
        }
    }

    fn places(&self, client: Option<&Client>) -> Result<Places, ConnectionRefusal> {
        let of_peer = match client {
            Some(client) => client.quota.connection(),
            None => self.entrance.quotas.stranger(),
        };
        let of_listener = self.slots.clone().try_acquire_owned();
        Ok(Places {
            _of_peer: of_peer.ok_or(ConnectionRefusal::ClientLimit)?,
            _of_listener: of_listener.map_err(|_| ConnectionRefusal::ListenerLimit)?,
        })
    }

    async fn http(
        self,
        stream: TlsStream<TcpStream>,
        client: Option<Client>,
        trust: watch::Receiver<Arc<Trust>>,
    ) -> Result<(), BoxError> {
        let limits = self.entrance.limits;
        let activity = Arc::new(Activity::new());
        let session = stream.get_ref().1;
        let h2 = session.alpn_protocol() == Some(b"h2");
        let chain = owned(session.peer_certificates().unwrap_or_default());
        let changed = Notify::new();
        let oldest = self.oldest(client.as_ref(), &trust.borrow());
        let service = service_fn(|request: Request<Incoming>| {
            let busy = activity.begin();
            let answer = self.answer(request, client.as_ref());
            async move {
                let response = answer.await;
                drop(busy);
                response
            }
        });
        let builder = builder(&limits, h2);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let serving = async {
            tokio::select! {
                done = connection.as_mut() => return done,
                () = self.shutdown.cancelled() => {}
                () = sleep_until(oldest) => {}
                () = activity.idle_for(limits.idle_timeout) => {}
                () = changed.notified() => {}
            }
            connection.as_mut().graceful_shutdown();
            timeout(limits.drain_timeout, connection)
                .await
                .unwrap_or_else(|_| Err("cut off after the drain timeout".into()))
        };
        // Dropping the connection cancels no protocol step: those run in tasks of their own.
        tokio::select! {
            biased;
            error = withdrawn(trust, &chain, &changed) => {
                self.refused(ConnectionRefusal::Withdrawn);
                warn!(%error, "a connection was cut: its certificate is no longer accepted");
                Err(error.into())
            }
            done = serving => done,
        }
    }

    /// When the connection must end: keep-alive extends the life of neither certificate nor revocation list, and who
    /// has no business here stays no longer than one who never finishes a handshake.
    fn oldest(&self, client: Option<&Client>, trust: &Trust) -> Instant {
        let limits = &self.entrance.limits;
        let valid = client.map_or(limits.handshake_timeout, |client| {
            let certificate = client.identity.not_after();
            let until = trust
                .expiry()
                .crl
                .map_or(certificate, |crl| crl.min(certificate));
            let left = until.as_seconds() - clock::now().as_seconds();
            Duration::from_secs(u64::try_from(left).unwrap_or(0))
        });
        Instant::now() + limits.max_connection_age.min(valid)
    }

    fn answer(
        &self,
        request: Request<Incoming>,
        client: Option<&Client>,
    ) -> impl Future<Output = Result<Response, Infallible>> + use<> {
        let Limits { body_timeout, .. } = self.entrance.limits;
        let (parts, body) = request.into_parts();
        let waits = parts.headers.contains_key(header::EXPECT);
        let (body, unread) = Deadline::new(body, body_timeout);
        let mut request = Request::from_parts(parts, Body::new(body));
        let refusal = match client {
            Some(client) => {
                let extensions = request.extensions_mut();
                extensions.insert(Arc::clone(&client.identity));
                extensions.insert(Arc::clone(&client.quota));
                None
            }
            None => Some(ApiError::forbidden_role()),
        };
        let answer = self.app.answer(request, refusal);
        let kind = self.entrance.kind;
        async move {
            let mut response = answer.await;
            mark(kind, &mut response);
            // Who waits to be told to send is not told to.
            if !waits {
                unread.drain().await;
            }
            Ok(response)
        }
    }
}

/// Resolves when a reload leaves no trust in this certificate chain; tells of every other reload.
async fn withdrawn(
    mut trust: watch::Receiver<Arc<Trust>>,
    chain: &[CertificateDer<'_>],
    changed: &Notify,
) -> rustls::Error {
    while trust.changed().await.is_ok() {
        let now = trust.borrow_and_update().clone();
        if let Err(error) = now.accepts(chain) {
            return error;
        }
        changed.notify_one();
    }
    std::future::pending().await
}

fn owned(chain: &[CertificateDer<'_>]) -> Vec<CertificateDer<'static>> {
    chain.iter().map(|one| one.clone().into_owned()).collect()
}

/// Counts a connection while it is in a stage.
struct Counted(prometheus::IntGauge);

impl Counted {
    fn new(entrance: &Entrance, stage: ConnectionStage) -> Self {
        let gauge = entrance.metrics.connections(entrance.name, stage);
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Nobody shall take a development environment for a real one (`protocol.md` 6).
fn mark(kind: EnvironmentKind, response: &mut Response) {
    if kind == EnvironmentKind::Development {
        let mode = HeaderValue::from_static("development");
        response.headers_mut().insert("mpc-mode", mode);
    }
}

/// The protocol is the one agreed on in the handshake; nothing is guessed from the first bytes.
fn builder(limits: &Limits, h2: bool) -> Builder<TokioExecutor> {
    let builder = Builder::new(TokioExecutor::new());
    let mut builder = if h2 {
        builder.http2_only()
    } else {
        builder.http1_only()
    };
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
        .keep_alive_interval(Some(limits.header_timeout))
        .keep_alive_timeout(limits.header_timeout);
    builder
}
