//! Why a connection was not served, as a metric counts it.

use std::io;

use rustls::{CertificateError, Error};

use crate::telemetry::metrics::ConnectionRefusal;

/// The reason behind the failure of a handshake.
pub(super) fn of_handshake(error: &io::Error) -> ConnectionRefusal {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(error) => of_tls(error),
        None => match error.kind() {
            io::ErrorKind::TimedOut => ConnectionRefusal::Timeout,
            _ => ConnectionRefusal::Gone,
        },
    }
}

fn of_tls(error: &Error) -> ConnectionRefusal {
    match error {
        Error::NoCertificatesPresented => ConnectionRefusal::NoCertificate,
        Error::InvalidCertificate(fault) => of_certificate(fault),
        Error::AlertReceived(_) => ConnectionRefusal::RefusedByPeer,
        _ => ConnectionRefusal::Protocol,
    }
}

fn of_certificate(fault: &CertificateError) -> ConnectionRefusal {
    use CertificateError as Fault;
    match fault {
        Fault::UnknownIssuer => ConnectionRefusal::UnknownIssuer,
        Fault::Revoked => ConnectionRefusal::Revoked,
        Fault::Expired
        | Fault::ExpiredContext { .. }
        | Fault::NotValidYet
        | Fault::NotValidYetContext { .. } => ConnectionRefusal::Expired,
        Fault::ExpiredRevocationList | Fault::ExpiredRevocationListContext { .. } => {
            ConnectionRefusal::StaleCrl
        }
        _ => ConnectionRefusal::BadCertificate,
    }
}
