//! Client certificate -> [`ClientIdentity`] (`protocol.md` A34).
//!
//! SECURITY: the subject alternative name decides, never the common name and never a header. An
//! identity is read off a finished TLS session only, whose chain the TLS layer has already verified.

use std::collections::BTreeMap;
use std::fmt;

use rustls::ServerConnection;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::clock::Timestamp;
use crate::domain::TenantId;

/// What the bearer of a client certificate may do at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Passes on the requests of wallets; the only role on the API listener.
    Gateway,
    /// Runs the appliance.
    Operator,
    /// Releases what operators alone may not.
    SecurityOfficer,
    /// Reads the audit trail.
    Auditor,
    /// Scrapes metrics and health, nothing else.
    Metrics,
}

impl Role {
    /// The name used in the configuration, in logs and in audit records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Operator => "operator",
            Self::SecurityOfficer => "security-officer",
            Self::Auditor => "auditor",
            Self::Metrics => "metrics",
        }
    }

    /// The role with this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [
            Self::Gateway,
            Self::Operator,
            Self::SecurityOfficer,
            Self::Auditor,
            Self::Metrics,
        ]
        .into_iter()
        .find(|role| role.as_str() == text)
    }
}

/// A subject alternative name that may stand in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SubjectName {
    /// A SPIFFE id: `spiffe://trust-domain/path`.
    Spiffe(String),
    /// A DNS name, lower-case, without wildcard.
    Dns(String),
}

impl SubjectName {
    /// Parses `spiffe://…` or `dns:…`; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix("dns:") {
            Some(name) => is_dns_name(name).then(|| Self::Dns(name.to_owned())),
            None => is_spiffe_id(text).then(|| Self::Spiffe(text.to_owned())),
        }
    }
}

impl fmt::Display for SubjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spiffe(id) => f.write_str(id),
            Self::Dns(name) => write!(f, "dns:{name}"),
        }
    }
}

/// SPIFFE-ID specification 2: no query, fragment, port, user info, or empty and dot segments.
fn is_spiffe_id(text: &str) -> bool {
    let Some((domain, path)) = text
        .strip_prefix("spiffe://")
        .and_then(|rest| rest.split_once('/'))
    else {
        return false;
    };
    let segment_byte = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let domain_byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    text.len() <= 2048
        && !domain.is_empty()
        && domain.bytes().all(domain_byte)
        && path
            .split('/')
            .all(|segment| !matches!(segment, "" | "." | "..") && segment.bytes().all(segment_byte))
}

fn is_dns_name(text: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// The certificates that may connect: subject name -> role and tenant.
#[derive(Debug, Default)]
pub struct AllowList(BTreeMap<SubjectName, (Role, TenantId)>);

impl AllowList {
    /// An empty list: nobody may connect.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a client; `false` if the name is already listed (nothing changes then).
    pub fn insert(&mut self, name: SubjectName, role: Role, tenant: TenantId) -> bool {
        let free = !self.0.contains_key(&name);
        if free {
            self.0.insert(name, (role, tenant));
        }
        free
    }

    /// The listed clients in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&SubjectName, Role, &TenantId)> {
        self.0
            .iter()
            .map(|(name, (role, tenant))| (name, *role, tenant))
    }
}

/// Why a verified certificate is not a known client.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdentityError {
    /// The session carries no client certificate.
    #[error("the peer sent no client certificate")]
    NoCertificate,
    /// The leaf certificate cannot be parsed.
    #[error("the client certificate cannot be parsed")]
    Malformed,
    /// Neither exactly one SPIFFE URI nor, without URIs, exactly one DNS name.
    #[error(
        "the client certificate must carry exactly one SPIFFE URI or, without any URI, exactly one DNS name"
    )]
    AmbiguousName,
    /// The name is not in the configuration.
    #[error("{0} is not listed as a [[client]]")]
    NotListed(SubjectName),
}

/// The verified bearer of a client certificate.
///
/// INVARIANT: made only by [`ClientIdentity::from_session`]; no `Clone`, `Default` or `Deserialize`.
#[must_use]
pub struct ClientIdentity {
    role: Role,
    tenant: TenantId,
    san: SubjectName,
    spki_sha256: [u8; 32],
    fingerprint: String,
    not_after: Timestamp,
}

impl ClientIdentity {
    /// The identity behind a TLS session whose handshake is complete.
    ///
    /// # Errors
    /// [`IdentityError`] when the certificate names nobody on the list.
    pub fn from_session(
        session: &ServerConnection,
        clients: &AllowList,
    ) -> Result<Self, IdentityError> {
        let chain = session.peer_certificates().unwrap_or_default();
        // INVARIANT: during the handshake rustls shows the chain before it is verified.
        if session.is_handshaking() {
            return Err(IdentityError::NoCertificate);
        }
        Self::from_verified_leaf(chain.first().ok_or(IdentityError::NoCertificate)?, clients)
    }

    fn from_verified_leaf(
        leaf: &CertificateDer<'_>,
        clients: &AllowList,
    ) -> Result<Self, IdentityError> {
        let (_, certificate) =
            X509Certificate::from_der(leaf).map_err(|_| IdentityError::Malformed)?;
        let san = subject_name(&certificate)?;
        let Some((role, tenant)) = clients.0.get(&san) else {
            return Err(IdentityError::NotListed(san));
        };
        Ok(Self {
            role: *role,
            tenant: tenant.clone(),
            san,
            spki_sha256: Sha256::digest(certificate.public_key().raw).into(),
            fingerprint: hex::encode(Sha256::digest(leaf)),
            not_after: Timestamp::from_micros(
                certificate
                    .validity()
                    .not_after
                    .timestamp()
                    .saturating_mul(1_000_000),
            ),
        })
    }

    /// What the bearer may do.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The tenant whose profiles the bearer speaks for.
    #[must_use]
    pub const fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The name in the certificate.
    #[must_use]
    pub const fn san(&self) -> &SubjectName {
        &self.san
    }

    /// SHA-256 of the DER SubjectPublicKeyInfo: names the key across renewals of the certificate.
    #[must_use]
    pub const fn spki_sha256(&self) -> &[u8; 32] {
        &self.spki_sha256
    }

    /// SHA-256 of the DER certificate, 64 lower-case hex digits.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// When the certificate expires: a connection must not outlive it.
    #[must_use]
    pub const fn not_after(&self) -> Timestamp {
        self.not_after
    }
}

fn subject_name(certificate: &X509Certificate<'_>) -> Result<SubjectName, IdentityError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| IdentityError::Malformed)?
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    one_name(names).ok_or(IdentityError::AmbiguousName)
}

/// SPIFFE X.509-SVID 2: exactly one URI. Only a certificate without any URI may be known by DNS name.
fn one_name(names: &[GeneralName<'_>]) -> Option<SubjectName> {
    if names
        .iter()
        .any(|name| matches!(name, GeneralName::Invalid(..)))
    {
        return None;
    }
    let uris: Vec<_> = names
        .iter()
        .filter_map(|name| {
            if let GeneralName::URI(uri) = name {
                Some(*uri)
            } else {
                None
            }
        })
        .collect();
    let hosts: Vec<_> = names
        .iter()
        .filter_map(|name| {
            if let GeneralName::DNSName(host) = name {
                Some(*host)
            } else {
                None
            }
        })
        .collect();
    match (uris.as_slice(), hosts.as_slice()) {
        ([uri], _) => is_spiffe_id(uri).then(|| SubjectName::Spiffe((*uri).to_owned())),
        ([], [host]) => {
            let host = host.to_ascii_lowercase();
            is_dns_name(&host).then_some(SubjectName::Dns(host))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::{
        AllowList, ClientIdentity, GeneralName, IdentityError, Role, SubjectName, one_name,
    };
    use crate::domain::TenantId;

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn dns(text: &str) -> SanType {
        SanType::DnsName(text.try_into().unwrap())
    }

    fn identify(names: Vec<SanType>) -> Result<ClientIdentity, IdentityError> {
        let mut clients = AllowList::new();
        let tenant = TenantId::parse("default").unwrap();
        for name in ["spiffe://acme.test/gateway", "dns:gateway.acme.test"] {
            let name = SubjectName::parse(name).unwrap();
            assert!(clients.insert(name, Role::Gateway, tenant.clone()));
        }
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        ClientIdentity::from_verified_leaf(certificate.der(), &clients)
    }

    #[test]
    fn a34_one_listed_name_is_an_identity() {
        let by_uri = identify(vec![uri("spiffe://acme.test/gateway")])
            .map_err(|_| ())
            .unwrap();
        assert_eq!(by_uri.role(), Role::Gateway);
        assert_eq!(by_uri.san().to_string(), "spiffe://acme.test/gateway");
        assert_eq!(by_uri.fingerprint().len(), 64);
        let by_dns = identify(vec![dns("Gateway.acme.test")])
            .map_err(|_| ())
            .unwrap();
        assert_eq!(by_dns.san().to_string(), "dns:gateway.acme.test");
        // A SPIFFE id may be accompanied by DNS names; the id decides.
        assert!(identify(vec![uri("spiffe://acme.test/gateway"), dns("other.test")]).is_ok());
    }

    #[test]
    fn a34_ambiguous_and_unlisted_names_are_refused() {
        let refused = |names| identify(names).err().unwrap();
        let gateway = "spiffe://acme.test/gateway";
        for names in [
            vec![],
            vec![uri(gateway), uri("spiffe://acme.test/operator")],
            vec![uri(gateway), uri(gateway)],
            vec![uri("https://acme.test/gateway")],
            // A URI that is not SPIFFE does not fall back to the DNS name.
            vec![uri("https://acme.test/"), dns("gateway.acme.test")],
            vec![dns("gateway.acme.test"), dns("b.acme.test")],
            vec![SanType::IpAddress([127, 0, 0, 1].into())],
        ] {
            assert_eq!(refused(names), IdentityError::AmbiguousName);
        }
        assert!(matches!(
            refused(vec![uri("spiffe://acme.test/gateway2")]),
            IdentityError::NotListed(_)
        ));
    }

    #[test]
    fn a34_a_name_that_is_not_utf8_is_refused() {
        let broken = GeneralName::Invalid(x509_parser::der_parser::der::Tag(6), &[0xff]);
        let good = GeneralName::URI("spiffe://acme.test/gateway");
        assert_eq!(one_name(&[good, broken]), None);
    }

    #[test]
    fn configured_names_are_spiffe_ids_or_dns_names() {
        for good in [
            "spiffe://a.test/x",
            "spiffe://a/b/c-d_E.f",
            "dns:a",
            "dns:gw-1.example.com",
        ] {
            assert_eq!(SubjectName::parse(good).unwrap().to_string(), good);
        }
        for bad in [
            "",
            "gateway",
            "spiffe://",
            "spiffe://a",
            "spiffe://a/",
            "spiffe://A/b",
            "spiffe://a/b/",
            "spiffe://a//b",
            "spiffe://a/../b",
            "spiffe://a:1/b",
            "spiffe://u@a/b",
            "spiffe://a/b?c",
            "spiffe://a/b#c",
            "spiffe://a/b c",
            "SPIFFE://a/b",
            "dns:",
            "dns:A.test",
            "dns:*.test",
            "dns:a..b",
            "dns:-a.test",
            "https://a/b",
            "a.test",
        ] {
            assert_eq!(SubjectName::parse(bad), None, "{bad}");
        }
    }
}
