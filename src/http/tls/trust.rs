//! What a listener believes: made from its files as a whole, never changed, replaced as a whole.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::error::TlsError;
use super::revocation;
use crate::clock::{self, Timestamp};
use crate::config::{TlsFiles, secret_file};

/// Our certificate and key, whose certificates we accept, and what has been revoked.
pub struct Trust {
    pub(in crate::http) config: Arc<ServerConfig>,
    verifier: Arc<dyn ClientCertVerifier>,
    expiry: Expiry,
    /// Of all files: tells whether a reload changes anything.
    digest: [u8; 32],
}

/// When the first of the certificates or lists in each file ceases to be valid.
#[derive(Clone, Copy, Debug)]
pub struct Expiry {
    /// Our own certificate chain.
    pub certificate: Timestamp,
    /// The client CAs.
    pub client_ca: Timestamp,
    /// Their revocation lists: all clients are refused afterwards.
    pub crl: Option<Timestamp>,
}

impl Trust {
    /// Reads and checks the files of a listener.
    ///
    /// A revocation list that is too old is no error: with it all clients are refused.
    ///
    /// # Errors
    /// [`TlsError`] names the file that is unusable.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        secret_file::check(&files.key).map_err(|cause| TlsError::KeyFile {
            path: files.key.clone(),
            cause,
        })?;
        let own = File::read(&files.certificate)?;
        let key = File::read(&files.key)?;
        let authorities = File::read(&files.client_ca)?;
        let lists = files.crls.iter().map(|path| File::read(path));
        let lists = lists.collect::<Result<Vec<_>, _>>()?;
        let mut digest = Sha256::new();
        for file in [&own, &key, &authorities].into_iter().chain(&lists) {
            digest.update(Sha256::digest(&*file.content));
        }
        let chain = own.certificates()?;
        let authority_certificates = authorities.certificates()?;
        let mut crls = Vec::new();
        for list in &lists {
            crls.extend(list.revocation_lists()?);
        }
        let expiry = Expiry {
            certificate: own.first_expiry(&chain)?,
            client_ca: authorities.first_expiry(&authority_certificates)?,
            crl: revocation::check(&crls, &authority_certificates).map_err(|cause| {
                TlsError::Revocation {
                    client_ca: files.client_ca.clone(),
                    cause,
                }
            })?,
        };
        let provider = Arc::new(provider());
        let verifier = verifier(files, authority_certificates, crls, &provider)?;
        Ok(Self {
            config: server_config(files, provider, verifier.clone(), chain, key.private_key()?)?,
            verifier,
            expiry,
            digest: digest.finalize().into(),
        })
    }

    /// When something of this expires.
    #[must_use]
    pub const fn expiry(&self) -> Expiry {
        self.expiry
    }

    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        self.digest == other.digest
    }

    /// Whether a client with this certificate chain would be let in now.
    pub(in crate::http) fn accepts(
        &self,
        chain: &[CertificateDer<'_>],
    ) -> Result<(), rustls::Error> {
        let (leaf, intermediates) = chain
            .split_first()
            .ok_or(rustls::Error::NoCertificatesPresented)?;
        let seconds = u64::try_from(clock::now().as_seconds()).unwrap_or(0);
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        self.verifier
            .verify_client_cert(leaf, intermediates, now)
            .map(drop)
    }
}

/// Hybrid post-quantum key exchange first.
fn provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
        ],
        ..aws_lc_rs::default_provider()
    }
}

/// SECURITY: every certificate of a chain must be covered by a list that is not too old, or the client is refused.
fn verifier(
    files: &TlsFiles,
    authorities: Vec<CertificateDer<'static>>,
    crls: Vec<CertificateRevocationListDer<'static>>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in authorities {
        roots.add(certificate).map_err(|cause| TlsError::ClientCa {
            path: files.client_ca.clone(),
            cause,
        })?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .with_crls(crls)
        .enforce_revocation_expiration()
        // The names of our CAs are nobody's business before authentication.
        .clear_root_hint_subjects()
        .build()
        .map_err(|cause| TlsError::Verifier {
            path: files.client_ca.clone(),
            cause,
        })
}

fn server_config(
    files: &TlsFiles,
    provider: Arc<CryptoProvider>,
    verifier: Arc<dyn ClientCertVerifier>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Version)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
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

/// A file, read once: what is checked is what is used.
struct File<'a> {
    path: &'a Path,
    content: Zeroizing<Vec<u8>>,
}

impl<'a> File<'a> {
    fn read(path: &'a Path) -> Result<Self, TlsError> {
        match fs::read(path) {
            Ok(content) => Ok(Self {
                path,
                content: Zeroizing::new(content),
            }),
            Err(cause) => Err(TlsError::Read {
                path: path.to_owned(),
                cause,
            }),
        }
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        self.all(
            "certificates",
            CertificateDer::pem_slice_iter(&self.content),
        )
    }

    fn revocation_lists(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
        self.all(
            "a revocation list",
            CertificateRevocationListDer::pem_slice_iter(&self.content),
        )
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.content)
            .map_err(|cause| self.unreadable("a private key", cause))
    }

    /// Every item of a kind, at least one.
    fn all<T>(
        &self,
        what: &'static str,
        items: impl Iterator<Item = Result<T, pem::Error>>,
    ) -> Result<Vec<T>, TlsError> {
        let items = items
            .collect::<Result<Vec<T>, _>>()
            .map_err(|cause| self.unreadable(what, cause))?;
        if items.is_empty() {
            return Err(self.unreadable(what, pem::Error::NoItemsFound));
        }
        Ok(items)
    }

    fn unreadable(&self, what: &'static str, cause: pem::Error) -> TlsError {
        TlsError::Pem {
            what,
            path: self.path.to_owned(),
            cause,
        }
    }

    fn first_expiry(&self, certificates: &[CertificateDer<'_>]) -> Result<Timestamp, TlsError> {
        let mut first = i64::MAX;
        for der in certificates {
            let (_, certificate) =
                X509Certificate::from_der(der).map_err(|_| TlsError::Certificate {
                    path: self.path.to_owned(),
                })?;
            first = first.min(certificate.validity().not_after.timestamp());
        }
        Ok(Timestamp::from_micros(first.saturating_mul(1_000_000)))
    }
}
