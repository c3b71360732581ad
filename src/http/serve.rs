//! The accept loop: TLS handshake, peer identity and every limit of a connection in one place.
//!
//! INVARIANT: nothing a client does or fails to do delays another: handshakes run in their own tasks,
//! and every wait for a client is bounded by a [`Limits`](crate::config::Limits) field (`protocol.md` A37).

mod activity;
mod connection;
mod handshakes;
mod refusal;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::http::sign_response::App;
use crate::http::tls::Entrance;
use connection::Connection;
use handshakes::{Handshake, Handshakes};

/// Serves `app` until `shutdown`, then lets running requests finish for at most the drain timeout.
///
/// Returns when no connection is left.
pub async fn run(
    listener: TcpListener,
    entrance: Arc<Entrance>,
    app: impl Into<App>,
    shutdown: CancellationToken,
) {
    let app = app.into();
    let limits = entrance.limits;
    let slots = limits.max_connections.min(Semaphore::MAX_PERMITS);
    let slots = Arc::new(Semaphore::new(slots));
    let handshakes = Handshakes::new(limits.max_handshakes);
    let connections = TaskTracker::new();
    while let Some((stream, handshake)) = next(&listener, &handshakes, &shutdown).await {
        let connection = Connection {
            entrance: entrance.clone(),
            app: app.clone(),
            slots: Arc::clone(&slots),
            shutdown: shutdown.clone(),
        };
        connections.spawn(connection.serve(stream, handshake));
    }
    drop(listener);
    connections.close();
    info!(
        open = connections.len(),
        "listener closed, draining connections"
    );
    connections.wait().await;
}

/// The next connection and a place for its handshake; `None` once the listener is to close.
async fn next(
    listener: &TcpListener,
    handshakes: &Arc<Handshakes>,
    shutdown: &CancellationToken,
) -> Option<(TcpStream, Handshake)> {
    let accept = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return (stream, handshakes.begin().await),
                Err(error) => {
                    // Out of file descriptors or a peer that left early: neither may end the loop or
                    // make it spin.
                    warn!(%error, "cannot accept a connection");
                    handshakes.end_oldest();
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => None,
        next = accept => Some(next),
    }
}

#[cfg(test)]
mod tests;
