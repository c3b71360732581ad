//! The accept loop: TLS handshake, peer identity and every limit of a connection in one place.
//!
//! INVARIANT: nothing a client does or fails to do delays another: handshakes run in their own tasks,
//! and every wait for a client is bounded by a [`Limits`] field (`protocol.md` A37).

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tracing::{debug, info, warn};

use crate::clock;
use crate::config::Limits;
use crate::domain::EnvironmentKind;
use crate::http::deadline::Deadline;
use crate::http::error::ApiError;
use crate::http::tls::{Entrance, Refused};
use crate::identity::certificate::ClientIdentity;

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

/// Serves `app` until `shutdown`, then lets running requests finish for at most the drain timeout.
///
/// Returns when no connection is left. Connections beyond `limits.max_connections` wait in the
/// kernel's backlog.
pub async fn run(
    listener: TcpListener,
    entrance: Arc<Entrance>,
    app: Router,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(
        limits.max_connections.min(Semaphore::MAX_PERMITS),
    ));
    let connections = TaskTracker::new();
    while let Some((stream, slot)) = next_connection(&listener, &slots, &shutdown).await {
        let connection = Connection {
            entrance: entrance.clone(),
            app: app.clone(),
            limits,
            shutdown: shutdown.clone(),
        };
        connections.spawn(connection.serve(stream, slot));
    }
    drop(listener);
    connections.close();
    info!(
        open = connections.len(),
        "listener closed, draining connections"
    );
    connections.wait().await;
}

/// The next connection and its slot; `None` once the listener is to close.
async fn next_connection(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    shutdown: &CancellationToken,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let accept = async {
        let slot = slots.clone().acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some((stream, slot)),
                Err(error) => {
                    // Out of file descriptors or a peer that left early: neither may end the loop or
                    // make it spin.
                    warn!(%error, "cannot accept a connection");
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => None,
        connection = accept => connection,
    }
}

struct Connection {
    entrance: Arc<Entrance>,
    app: Router,
    limits: Limits,
    shutdown: CancellationToken,
}

impl Connection {
    async fn serve(self, stream: TcpStream, _slot: OwnedSemaphorePermit) {
        let stream = match self.handshake(stream).await {
            Ok(stream) => stream,
            // Anyone can cause these: no more than a trace of them in the log.
            Err(error) => return debug!(%error, "tls handshake failed"),
        };
        let peer = match self.entrance.identify(stream.get_ref().1) {
            Ok(identity) => Ok(Arc::new(identity)),
            Err(refused) => {
                warn!(reason = %refused, "client refused");
                Err(refused)
            }
        };
        if let Err(error) = self.http(stream, peer).await {
            debug!(%error, "connection ended with an error");
        }
    }

    async fn handshake(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        stream.set_nodelay(true)?;
        let accept = TlsAcceptor::from(self.entrance.tls.clone()).accept(stream);
        let deadline = timeout(self.limits.handshake_timeout, accept);
        tokio::select! {
            stream = deadline => stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
            () = self.shutdown.cancelled() => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    async fn http(
        self,
        stream: TlsStream<TcpStream>,
        peer: Result<Arc<ClientIdentity>, Refused>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let activity = Arc::new(Activity::new());
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let oldest = self.oldest(peer.as_deref().ok());
        let service = service_fn(|request: Request<Incoming>| {
            let busy = activity.begin();
            let answer = self.answer(request, &peer);
            async move {
                let response = answer.await;
                drop(busy);
                response
            }
        });
        let builder = builder(&self.limits, h2);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            done = connection.as_mut() => return done,
            () = self.shutdown.cancelled() => {}
            () = sleep_until(oldest) => {}
            () = activity.idle_for(self.limits.idle_timeout) => {}
        }
        connection.as_mut().graceful_shutdown();
        // Dropping the connection cancels no protocol step: those run in tasks of their own.
        timeout(self.limits.drain_timeout, connection)
            .await
            .unwrap_or_else(|_| Err("cut off after the drain timeout".into()))
    }

    /// When the connection must end: keep-alive does not extend a certificate's life, and who has no
    /// business here stays no longer than one who never finishes a handshake.
    fn oldest(&self, identity: Option<&ClientIdentity>) -> Instant {
        let valid = identity.map_or(self.limits.handshake_timeout, |identity| {
            let left = identity.not_after().as_seconds() - clock::now().as_seconds();
            Duration::from_secs(u64::try_from(left).unwrap_or(0))
        });
        Instant::now() + self.limits.max_connection_age.min(valid)
    }

    fn answer(
        &self,
        request: Request<Incoming>,
        peer: &Result<Arc<ClientIdentity>, Refused>,
    ) -> impl Future<Output = Result<Response, Infallible>> + use<> {
        let admitted = peer.as_ref().ok().map(|identity| {
            let mut request =
                request.map(|body| Body::new(Deadline::new(body, self.limits.body_timeout)));
            request.extensions_mut().insert(identity.clone());
            self.app.clone().oneshot(request)
        });
        let kind = self.entrance.kind;
        async move {
            let mut response = match admitted {
                Some(response) => response.await?,
                None => ApiError::forbidden_role().into_response(),
            };
            mark(kind, &mut response);
            Ok(response)
        }
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

/// Requests in progress on a connection, and when the last one ended.
struct Activity(Mutex<(usize, Instant)>);

impl Activity {
    fn new() -> Self {
        Self(Mutex::new((0, Instant::now())))
    }

    fn begin(self: &Arc<Self>) -> Busy {
        self.change(|running| running.saturating_add(1));
        Busy(self.clone())
    }

    fn change(&self, change: impl FnOnce(usize) -> usize) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = (change(state.0), Instant::now());
    }

    /// Resolves once no request has been in progress for `limit`.
    async fn idle_for(&self, limit: Duration) {
        loop {
            let (running, since) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let idle = if running == 0 {
                since.elapsed()
            } else {
                Duration::ZERO
            };
            match limit.checked_sub(idle) {
                None | Some(Duration::ZERO) => return,
                Some(left) => sleep(left).await,
            }
        }
    }
}

/// One request in progress.
struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.change(|running| running.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests;
