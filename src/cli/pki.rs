//! A small certificate authority for development environments and tests: P-256, separate extended key
//! usages for servers and clients. Production brings its own certificates.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use zeroize::Zeroizing;

use crate::clock::Timestamp;

/// A certificate authority with its key.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

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
        let mut params = params(common_name, validity);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self(CertifiedIssuer::self_signed(
            params,
            KeyPair::generate()?,
        )?))
    }

    /// The authority's own certificate and key.
    #[must_use]
    pub fn own(&self) -> Issued {
        Issued {
            certificate: self.0.pem(),
            key: Zeroizing::new(self.0.key().serialize_pem()),
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
        let certificate = params.signed_by(&key, &self.0)?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: Zeroizing::new(key.serialize_pem()),
        })
    }
}

fn params(common_name: &str, validity: Validity) -> CertificateParams {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let at = |time: Timestamp| {
        epoch + Duration::from_secs(u64::try_from(time.as_seconds()).unwrap_or(0))
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.not_before = at(validity.from);
    params.not_after = at(validity.until);
    params
}
