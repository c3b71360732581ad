//! TLS of both listeners, and the peer as handlers see it (design `stack.md` 3, `protocol.md` A34).
//!
//! TLS 1.3 only, client certificate required, hybrid post-quantum key exchange first.
//! SECURITY: no session resumption, because a resumed session skips the check of the client
//! certificate; no early data, because it can be replayed.

mod error;
mod revocation;
mod trust;
mod watch;

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use rustls::ServerConnection;
use tokio::sync::watch as cell;
use tracing::{debug, error, info};

use crate::clock;
use crate::config::{Limits, Listener, TlsFiles};
use crate::domain::EnvironmentKind;
use crate::http::error::ApiError;
use crate::http::quota::Quotas;
use crate::identity::certificate::{AllowList, ClientIdentity, IdentityError, Role};
use crate::telemetry::metrics::{ExpiringFile, ListenerName, Metrics, Reload};

pub use error::TlsError;
pub use revocation::RevocationError;
pub use trust::{Expiry, Trust};
pub use watch::watch;

/// Who may come in through a listener, and what every answer says about the environment.
pub struct Entrance {
    pub(super) name: ListenerName,
    files: TlsFiles,
    trust: cell::Sender<Arc<Trust>>,
    clients: Arc<AllowList>,
    pub(super) kind: EnvironmentKind,
    pub(super) limits: Limits,
    pub(super) quotas: Quotas,
    pub(super) metrics: Arc<Metrics>,
}

/// Roles on a listener.
const fn roles(listener: ListenerName) -> &'static [Role] {
    match listener {
        ListenerName::Api => &[Role::Gateway],
        ListenerName::Operator => &[
            Role::Operator,
            Role::SecurityOfficer,
            Role::Auditor,
            Role::Metrics,
        ],
    }
}

/// Why a peer with a valid certificate is turned away: `FORBIDDEN_ROLE`.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The certificate names no known client.
    #[error(transparent)]
    Unknown(#[from] IdentityError),
    /// The client is known but has no business on this listener.
    #[error("role {} does not use this listener", .0.as_str())]
    Role(Role),
}

impl Entrance {
    /// The entrance of one listener.
    ///
    /// # Errors
    /// [`TlsError`] names the file that is unusable.
    pub fn new(
        name: ListenerName,
        listener: &Listener,
        clients: Arc<AllowList>,
        kind: EnvironmentKind,
        metrics: Arc<Metrics>,
    ) -> Result<Self, TlsError> {
        let trust = Arc::new(Trust::load(&listener.tls)?);
        let entrance = Self {
            name,
            files: listener.tls.clone(),
            trust: cell::Sender::new(Arc::clone(&trust)),
            quotas: Quotas::new(name, &clients, &listener.limits, &metrics),
            clients,
            kind,
            limits: listener.limits,
            metrics,
        };
        entrance.tell_expiry(&trust);
        Ok(entrance)
    }

    /// Reads the files again and, if they have changed and are usable, replaces the trust in them at once. Every
    /// connection learns of it: see `serve`.
    pub fn reload(&self) {
        let listener = self.name.as_str();
        match Trust::load(&self.files).map(Arc::new) {
            Ok(new) if new.is_same_as(&self.trust.borrow()) => {
                debug!(listener, "certificates are unchanged");
            }
            Ok(new) => {
                self.trust.send_replace(Arc::clone(&new));
                self.metrics.tls_reload(self.name, Reload::Done);
                info!(listener, "certificates reloaded");
                self.tell_expiry(&new);
            }
            Err(error) => {
                self.metrics.tls_reload(self.name, Reload::Failed);
                let error: &dyn std::error::Error = &error;
                error!(
                    listener,
                    error, "certificates not reloaded: the old ones stay in use"
                );
            }
        }
    }

    fn tell_expiry(&self, trust: &Trust) {
        let expiry = trust.expiry();
        for (file, at) in [
            (ExpiringFile::Certificate, Some(expiry.certificate)),
            (ExpiringFile::ClientCa, Some(expiry.client_ca)),
            (ExpiringFile::Crl, expiry.crl),
        ] {
            if let Some(at) = at {
                self.metrics.tls_expiry(self.name, file, at);
                if at <= clock::now() {
                    let (listener, file) = (self.name.as_str(), file.as_str());
                    error!(listener, file, "expired: renew it");
                }
            }
        }
    }

    /// What is believed now, and news of every change.
    pub(super) fn trust(&self) -> cell::Receiver<Arc<Trust>> {
        self.trust.subscribe()
    }

    /// The identity behind a session whose handshake is complete, if this listener serves it.
    ///
    /// # Errors
    /// [`Refused`] says why not; the client learns `FORBIDDEN_ROLE` only.
    pub fn identify(&self, session: &ServerConnection) -> Result<ClientIdentity, Refused> {
        let identity = ClientIdentity::from_session(session, &self.clients)?;
        if roles(self.name).contains(&identity.role()) {
            Ok(identity)
        } else {
            Err(Refused::Role(identity.role()))
        }
    }
}

/// The client that sent a request, as an extractor.
///
/// The accept loop puts it into the request; headers have no say. A request without it did not come
/// through TLS and is answered 401.
pub struct Peer(pub Arc<ClientIdentity>);

impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let identity = parts.extensions.get::<Arc<ClientIdentity>>();
        identity
            .cloned()
            .map(Self)
            .ok_or_else(ApiError::no_certificate)
    }
}
