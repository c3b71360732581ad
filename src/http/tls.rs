//! TLS of both listeners, and the peer as handlers see it (design `stack.md` 3, `protocol.md` A34).
//!
//! TLS 1.3 only, client certificate required, hybrid post-quantum key exchange first.
//! SECURITY: no session resumption, because a resumed session skips the check of the client
//! certificate; no early data, because it can be replayed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem};

use crate::config::TlsFiles;
use crate::domain::EnvironmentKind;
use crate::http::error::ApiError;
use crate::identity::certificate::{AllowList, ClientIdentity, IdentityError, Role};

/// Why a listener's TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file cannot be read or holds nothing of the expected kind.
    #[error("cannot read {what} from {}", path.display())]
    Pem {
        /// What was expected in the file.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The parser's answer.
        #[source]
        cause: pem::Error,
    },
    /// The client CA is not usable as a trust anchor.
    #[error("{} is not a CA certificate", path.display())]
    ClientCa {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        cause: rustls::Error,
    },
    /// The verifier cannot be built.
    #[error("cannot verify client certificates with {}", path.display())]
    Verifier {
        /// The file of the client CA.
        path: PathBuf,
        /// The reason.
        #[source]
        cause: VerifierBuilderError,
    },
    /// Certificate and key do not belong together, or are of an unsupported kind.
    #[error("certificate {} and key {} cannot be used together", certificate.display(), key.display())]
    KeyPair {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
        /// The reason.
        #[source]
        cause: rustls::Error,
    },
    /// The crypto provider lacks TLS 1.3.
    #[error("the crypto provider cannot do TLS 1.3")]
    Version(#[source] rustls::Error),
}

/// The TLS configuration of a listener.
///
/// # Errors
/// [`TlsError`] names the file that is unusable.
pub fn server_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(CryptoProvider {
        kx_groups: vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
        ],
        ..aws_lc_rs::default_provider()
    });
    let verifier = WebPkiClientVerifier::builder_with_provider(
        client_roots(&files.client_ca)?,
        provider.clone(),
    )
    // The names of our CAs are nobody's business before authentication.
    .clear_root_hint_subjects()
    .build()
    .map_err(|cause| TlsError::Verifier {
        path: files.client_ca.clone(),
        cause,
    })?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|cause| TlsError::Pem {
        what: "a private key",
        path: files.key.clone(),
        cause,
    })?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Version)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&files.certificate)?, key)
        .map_err(|cause| TlsError::KeyPair {
            certificate: files.certificate.clone(),
            key: files.key.clone(),
            cause,
        })?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn client_roots(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|cause| TlsError::ClientCa {
            path: path.to_owned(),
            cause,
        })?;
    }
    Ok(Arc::new(roots))
}

/// Every certificate in a PEM file, at least one.
///
/// # Errors
/// [`TlsError::Pem`] when there is none or one is damaged.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |cause| TlsError::Pem {
        what: "certificates",
        path: path.to_owned(),
        cause,
    };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(unreadable)?;
    if certificates.is_empty() {
        return Err(unreadable(pem::Error::NoItemsFound));
    }
    Ok(certificates)
}

/// Who may come in through a listener, and what every answer says about the environment.
pub struct Entrance {
    pub(super) tls: Arc<ServerConfig>,
    clients: Arc<AllowList>,
    roles: &'static [Role],
    pub(super) kind: EnvironmentKind,
}

/// Roles on the API listener.
pub const API_ROLES: &[Role] = &[Role::Gateway];

/// Roles on the operator listener.
pub const OPERATOR_ROLES: &[Role] = &[
    Role::Operator,
    Role::SecurityOfficer,
    Role::Auditor,
    Role::Metrics,
];

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
    /// The entrance of one listener, for the `roles` of [`API_ROLES`] or [`OPERATOR_ROLES`].
    ///
    /// # Errors
    /// [`TlsError`] names the file that is unusable.
    pub fn new(
        files: &TlsFiles,
        clients: Arc<AllowList>,
        roles: &'static [Role],
        kind: EnvironmentKind,
    ) -> Result<Self, TlsError> {
        Ok(Self {
            tls: server_config(files)?,
            clients,
            roles,
            kind,
        })
    }

    /// The identity behind a session whose handshake is complete, if this listener serves it.
    ///
    /// # Errors
    /// [`Refused`] says why not; the client learns `FORBIDDEN_ROLE` only.
    pub fn identify(&self, session: &ServerConnection) -> Result<ClientIdentity, Refused> {
        let identity = ClientIdentity::from_session(session, &self.clients)?;
        if self.roles.contains(&identity.role()) {
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
