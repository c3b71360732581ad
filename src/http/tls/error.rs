//! Why the files of a listener are not usable.

use std::io;
use std::path::PathBuf;

use rustls::server::VerifierBuilderError;
use rustls_pki_types::pem;

use super::revocation::RevocationError;
use crate::config::secret_file::SecretFileError;

/// Why a listener's TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        cause: io::Error,
    },
    /// The key is not its owner's alone, as when it was replaced with another mode.
    #[error("cannot use the key {}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        cause: SecretFileError,
    },
    /// A PEM file holds nothing of the expected kind.
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
    /// A certificate is not X.509.
    #[error("{} holds something that is not a certificate", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
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
    /// The revocation lists do not fit the client CA.
    #[error("the revocation lists of {} cannot be used", client_ca.display())]
    Revocation {
        /// The file of the client CA.
        client_ca: PathBuf,
        /// The reason.
        #[source]
        cause: RevocationError,
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
