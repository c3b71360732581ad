//! Certificate revocation lists, checked before they are used.
//!
//! The TLS library verifies the signature of a list only when a client comes. A list that is damaged, or of another
//! CA, shall be refused when it is loaded instead: with it every client would be refused.

use rustls::crypto::aws_lc_rs;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::asn1_rs::Any;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use crate::clock::Timestamp;

/// Why revocation lists are refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RevocationError {
    /// Not a revocation list, or a version that we do not read.
    #[error("a revocation list cannot be parsed")]
    Malformed,
    /// It does not say until when it holds.
    #[error("the revocation list of {0} does not say when the next one is due")]
    NoNextUpdate(String),
    /// None of the client CAs has signed it.
    #[error(
        "the revocation list of {0} is not signed by a CA of this listener; client_ca must hold every CA that signs \
         clients"
    )]
    WrongSignature(String),
    /// A client CA has no revocation list: all its clients would be refused.
    #[error("there is no revocation list of {0}; crl must name one for every CA in client_ca")]
    Missing(String),
}

/// When the first of `lists` becomes too old; each must be signed by one of `authorities`, and each of these must have
/// signed one.
pub(super) fn check(
    lists: &[CertificateRevocationListDer<'_>],
    authorities: &[CertificateDer<'_>],
) -> Result<Option<Timestamp>, RevocationError> {
    let mut covered = vec![false; authorities.len()];
    let mut first: Option<Timestamp> = None;
    for der in lists {
        let (_, list) =
            CertificateRevocationList::from_der(der).map_err(|_| RevocationError::Malformed)?;
        let issuer = list.issuer().to_string();
        let due = list
            .next_update()
            .ok_or_else(|| RevocationError::NoNextUpdate(issuer.clone()))?;
        let due = Timestamp::from_micros(due.timestamp().saturating_mul(1_000_000));
        first = Some(first.map_or(due, |first| first.min(due)));
        let mut signed = false;
        for (authority, covered) in authorities.iter().zip(&mut covered) {
            if is_signed_by(der, &list, authority) {
                (signed, *covered) = (true, true);
            }
        }
        if !signed {
            return Err(RevocationError::WrongSignature(issuer));
        }
    }
    match covered
        .iter()
        .zip(authorities)
        .find(|(covered, _)| !**covered)
    {
        Some((_, authority)) if !lists.is_empty() => {
            let name = X509Certificate::from_der(authority)
                .map(|(_, certificate)| certificate.subject().to_string());
            Err(RevocationError::Missing(name.unwrap_or_default()))
        }
        _ => Ok(first),
    }
}

fn is_signed_by(
    der: &[u8],
    list: &CertificateRevocationList<'_>,
    authority: &CertificateDer<'_>,
) -> bool {
    let Ok((_, authority)) = X509Certificate::from_der(authority) else {
        return false;
    };
    authority.subject().as_raw() == list.issuer().as_raw()
        && signature_holds(der, authority.public_key().raw).is_some()
}

/// Verifies `CertificateList ::= SEQUENCE { tbsCertList, signatureAlgorithm, signatureValue }` with
/// `SubjectPublicKeyInfo ::= SEQUENCE { algorithm, subjectPublicKey }` (RFC 5280 5.1, 4.1), with the algorithms that
/// client certificates may use.
fn signature_holds(list: &[u8], key: &[u8]) -> Option<()> {
    let (_, list) = Any::from_der(list).ok()?;
    let (rest, _) = Any::from_der(list.data).ok()?;
    let signed = list.data.get(..list.data.len() - rest.len())?;
    let (rest, algorithm) = Any::from_der(rest).ok()?;
    let (_, signature) = Any::from_der(rest).ok()?;
    let (_, key) = Any::from_der(key).ok()?;
    let (rest, key_algorithm) = Any::from_der(key.data).ok()?;
    let (_, key) = Any::from_der(rest).ok()?;
    let supported = aws_lc_rs::default_provider().signature_verification_algorithms;
    supported
        .all
        .iter()
        .any(|known| {
            known.signature_alg_id().as_ref() == algorithm.data
                && known.public_key_alg_id().as_ref() == key_algorithm.data
                && known
                    .verify_signature(whole_bytes(key.data), signed, whole_bytes(signature.data))
                    .is_ok()
        })
        .then_some(())
}

/// The content of a BIT STRING without unused bits; nothing if it has some.
fn whole_bytes(bit_string: &[u8]) -> &[u8] {
    match bit_string {
        [0, bytes @ ..] => bytes,
        _ => &[],
    }
}
