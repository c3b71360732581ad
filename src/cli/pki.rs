//! A small certificate authority for development environments and tests: P-256, separate extended key
//! usages for servers and clients. Production brings its own certificates.

mod verbs;

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber,
};
use x509_parser::pem::parse_x509_pem;
use zeroize::Zeroizing;

use crate::clock::Timestamp;

pub(super) use verbs::{Verb, run};

/// A certificate authority with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A certificate that its authority has taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// Its serial number, big-endian.
    pub serial: Vec<u8>,
    /// When.
    pub at: Timestamp,
}

/// What a certificate is for; the other side checks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// A TLS server.
    Server,
    /// A TLS client.
    Client,
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug)]
pub struct Validity {
    /// First moment.
    pub from: Timestamp,
    /// Last moment.
    pub until: Timestamp,
}

impl Validity {
    /// From an hour before `now`, because clocks differ, for `days`.
    #[must_use]
    pub const fn days(now: Timestamp, days: i64) -> Self {
        Self {
            from: now.plus_seconds(-3600),
            until: now.plus_seconds(days.saturating_mul(86_400)),
        }
    }
}

/// A certificate and its key, PEM.
pub struct Issued {
    /// The certificate alone.
    pub certificate: String,
    /// PKCS#8.
    pub key: Zeroizing<String>,
}

impl Authority {
    /// A new self-signed authority that may sign end-entity certificates only.
    ///
    /// # Errors
    /// When the key cannot be made.
    pub fn new(common_name: &str, validity: Validity) -> Result<Self, rcgen::Error> {
        let params = authority_params(common_name, validity);
        let key = KeyPair::generate()?;
        Ok(Self {
            certificate: params.self_signed(&key)?.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// An authority that [`Authority::new`] made before.
    ///
    /// # Errors
    /// When certificate or key are not of such an authority.
    pub fn open(own: Issued) -> Result<Self, rcgen::Error> {
        let damaged = rcgen::Error::CouldNotParseCertificate;
        let (_, pem) = parse_x509_pem(own.certificate.as_bytes()).map_err(|_| damaged.clone())?;
        let certificate = pem.parse_x509().map_err(|_| damaged.clone())?;
        let name = certificate.subject().iter_common_name().next();
        let name = name.and_then(|name| name.as_str().ok()).ok_or(damaged)?;
        let seconds = |time: i64| Timestamp::from_micros(time.saturating_mul(1_000_000));
        let validity = Validity {
            from: seconds(certificate.validity().not_before.timestamp()),
            until: seconds(certificate.validity().not_after.timestamp()),
        };
        let key = KeyPair::from_pem(&own.key)?;
        Ok(Self {
            issuer: Issuer::new(authority_params(name, validity), key),
            certificate: own.certificate,
        })
    }

    /// Signs a list of what it has revoked, PEM.
    ///
    /// # Errors
    /// When the validity ends before it begins.
    pub fn revocation_list(
        &self,
        revoked: &[Revoked],
        validity: Validity,
    ) -> Result<String, rcgen::Error> {
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let revoked_certs = revoked.iter().map(|revoked| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&revoked.serial),
            revocation_time: epoch + since_epoch(revoked.at),
            reason_code: None,
            invalidity_date: None,
        });
        CertificateRevocationListParams {
            this_update: epoch + since_epoch(validity.from),
            next_update: epoch + since_epoch(validity.until),
            // Grows as long as the clock does not go back.
            crl_number: SerialNumber::from(u64::try_from(validity.from.as_micros()).unwrap_or(0)),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&self.issuer)?
        .pem()
    }

    /// The authority's own certificate and key.
    #[must_use]
    pub fn own(&self) -> Issued {
        Issued {
            certificate: self.certificate.clone(),
            key: Zeroizing::new(self.issuer.key().serialize_pem()),
        }
    }

    /// Signs a certificate for a new key.
    ///
    /// # Errors
    /// When the key cannot be made.
    pub fn issue(
        &self,
        common_name: &str,
        names: Vec<SanType>,
        usage: Usage,
        validity: Validity,
    ) -> Result<Issued, rcgen::Error> {
        let mut params = params(common_name, validity);
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match usage {
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: Zeroizing::new(key.serialize_pem()),
        })
    }
}

fn authority_params(common_name: &str, validity: Validity) -> CertificateParams {
    let mut params = params(common_name, validity);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn params(common_name: &str, validity: Validity) -> CertificateParams {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.not_before = epoch + since_epoch(validity.from);
    params.not_after = epoch + since_epoch(validity.until);
    params
}

fn since_epoch(time: Timestamp) -> Duration {
    Duration::from_secs(u64::try_from(time.as_seconds()).unwrap_or(0))
}
