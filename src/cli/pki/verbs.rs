//! `countersignd pki`: takes back certificates of a development environment.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use x509_parser::pem::{Pem, parse_x509_pem};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::{Authority, Issued, Revoked, Validity};
use crate::cli::files::{self, Access};
use crate::cli::init::CRL_DAYS;
use crate::cli::{Failure, output};
use crate::clock::{self, Timestamp};

/// What to do.
#[derive(clap::Subcommand)]
pub(in crate::cli) enum Verb {
    /// Revoke a certificate: a running appliance closes its connections within two seconds, or at once on SIGHUP
    Revoke {
        #[command(flatten)]
        environment: EnvironmentOption,
        /// The certificate, PEM
        #[arg(value_name = "CERTIFICATE")]
        certificate: PathBuf,
    },
    /// Renew the revocation list: when it expires, all clients are refused
    Crl {
        #[command(flatten)]
        environment: EnvironmentOption,
    },
}

#[derive(clap::Args)]
pub(in crate::cli) struct EnvironmentOption {
    /// The directory that `countersignd init` filled
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
enum PkiError {
    #[error(
        "cannot read {}; only a development environment has a CA of its own", path.display()
    )]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("{} holds no {what} in PEM", path.display())]
    Damaged { path: PathBuf, what: &'static str },
    #[error("{} was not issued by the CA of this environment", path.display())]
    Foreign { path: PathBuf },
}

/// Does it.
///
/// # Errors
/// When the environment has no CA of its own or a file is damaged.
pub(in crate::cli) fn run(verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::Crl { environment } => {
            let pki = Pki::of(environment);
            pki.write(&pki.revoked()?)?;
            output::line(format_args!(
                "Renewed {}: valid for {CRL_DAYS} days.",
                pki.list.display()
            ));
        }
        Verb::Revoke {
            environment,
            certificate,
        } => {
            let pki = Pki::of(environment);
            let mut revoked = pki.revoked()?;
            let serial = pki.serial(certificate)?;
            if !revoked.iter().any(|one| one.serial == serial) {
                let at = clock::now();
                revoked.push(Revoked { serial, at });
            }
            pki.write(&revoked)?;
            output::line(format_args!(
                "Revoked {}: {} lists it.",
                certificate.display(),
                pki.list.display()
            ));
        }
    }
    Ok(())
}

/// The files that `init` made.
struct Pki {
    ca: PathBuf,
    ca_key: PathBuf,
    list: PathBuf,
}

impl Pki {
    fn of(environment: &EnvironmentOption) -> Self {
        let directory = environment.dir.join("pki");
        Self {
            ca: directory.join("ca.pem"),
            ca_key: directory.join("ca-key.pem"),
            list: directory.join("ca.crl.pem"),
        }
    }

    /// What is revoked so far; nothing without a list, as in an environment of an older version.
    fn revoked(&self) -> Result<Vec<Revoked>, PkiError> {
        let text = match fs::read_to_string(&self.list) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.map_err(|cause| unreadable(&self.list, cause))?,
        };
        let damaged = || PkiError::Damaged {
            path: self.list.clone(),
            what: "revocation list",
        };
        let (_, pem) = parse_x509_pem(text.as_bytes()).map_err(|_| damaged())?;
        let (_, list) =
            CertificateRevocationList::from_der(&pem.contents).map_err(|_| damaged())?;
        let revoked = list.iter_revoked_certificates().map(|one| Revoked {
            serial: one.raw_serial().to_vec(),
            at: Timestamp::from_micros(one.revocation_date.timestamp().saturating_mul(1_000_000)),
        });
        Ok(revoked.collect())
    }

    /// The serial number of a certificate of our CA.
    fn serial(&self, certificate: &Path) -> Result<Vec<u8>, PkiError> {
        let (of_ca, of_leaf) = (pem(&self.ca)?, pem(certificate)?);
        let ca = x509(&of_ca, &self.ca)?;
        let leaf = x509(&of_leaf, certificate)?;
        if leaf.issuer().as_raw() != ca.subject().as_raw() {
            return Err(PkiError::Foreign {
                path: certificate.to_owned(),
            });
        }
        Ok(leaf.raw_serial().to_vec())
    }

    fn write(&self, revoked: &[Revoked]) -> Result<(), Failure> {
        let authority = Authority::open(Issued {
            certificate: read(&self.ca)?.to_string(),
            key: read(&self.ca_key)?,
        })?;
        let validity = Validity::days(clock::now(), CRL_DAYS);
        let list = authority.revocation_list(revoked, validity)?;
        Ok(files::write(&self.list, &list, Access::Public)?)
    }
}

fn read(path: &Path) -> Result<Zeroizing<String>, PkiError> {
    fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|cause| unreadable(path, cause))
}

fn unreadable(path: &Path, cause: io::Error) -> PkiError {
    PkiError::Read {
        path: path.to_owned(),
        cause,
    }
}

fn pem(path: &Path) -> Result<Pem, PkiError> {
    parse_x509_pem(read(path)?.as_bytes())
        .map(|(_, pem)| pem)
        .map_err(|_| not_a_certificate(path))
}

fn x509<'a>(pem: &'a Pem, path: &Path) -> Result<X509Certificate<'a>, PkiError> {
    pem.parse_x509().map_err(|_| not_a_certificate(path))
}

fn not_a_certificate(path: &Path) -> PkiError {
    PkiError::Damaged {
        path: path.to_owned(),
        what: "certificate",
    }
}
