//! `countersignd root …`: the offline key that vouches for an appliance's identity key.
//!
//! Wallets pin its public half. These verbs need no configuration, no token and no network: they are for a machine that
//! has none. SECURITY: whoever holds a root key can make an appliance that wallets believe.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::encoding::{AsBigEndian, EcPublicKeyUncompressedBin};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use countersign_mpc::identity::{
    IdentityCertificate, IdentityError, IdentityRequest, MAX_CERTIFICATE_LIFETIME,
};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::{self, PemObject};
use zeroize::Zeroizing;

use super::files::{self, Access};
use super::{Failure, output};
use crate::clock;

const DAY: u64 = 86_400;

/// The verbs.
#[derive(clap::Subcommand)]
pub(super) enum Verb {
    /// Make a root key; keep its file offline. Prints the public key, which wallets and appliances pin
    New {
        /// File to create, mode 600
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Print the public key of a root key
    Show {
        /// The root key's file
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Sign what `countersignd identity request` wrote
    Sign(Sign),
}

/// Options of `countersignd root sign`.
#[derive(clap::Args)]
pub(super) struct Sign {
    /// The root key's file
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The request
    #[arg(long, value_name = "FILE")]
    request: PathBuf,
    /// The certificate to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// How long it is valid, from an hour ago
    #[arg(long, value_name = "DAYS", default_value = "365", value_parser = clap::value_parser!(u64).range(1..=824))]
    days: u64,
}

/// Why a root could not be used.
#[derive(Debug, thiserror::Error)]
enum RootError {
    #[error("{} is there already; a root key is never overwritten", path.display())]
    Exists { path: PathBuf },
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("others than its owner may access {} (mode {mode:03o}); run: chmod 600", path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("{} holds no private key in PEM", path.display())]
    Pem {
        path: PathBuf,
        #[source]
        cause: pem::Error,
    },
    #[error("{} holds no key on the curve P-256", path.display())]
    Curve { path: PathBuf },
    #[error("{} is not a request of this version", path.display())]
    Request {
        path: PathBuf,
        #[source]
        cause: serde_json::Error,
    },
    #[error("the request was not made by the holder of the key it names")]
    Proof(#[source] IdentityError),
    #[error("a key could not be made or used")]
    Crypto,
    #[error("cannot encode")]
    Encode(#[source] serde_json::Error),
}

/// Runs a verb.
///
/// # Errors
/// What could not be read, made or written.
pub(super) fn run(verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::New { out } => {
            if out.exists() {
                return Err(RootError::Exists { path: out.clone() }.into());
            }
            let (root, pem) = Root::generate()?;
            files::write(out, &pem, Access::Private)?;
            output::line(hex::encode(root.public()?));
        }
        Verb::Show { key } => output::line(hex::encode(Root::load(key)?.public()?)),
        Verb::Sign(options) => sign(options)?,
    }
    Ok(())
}

fn sign(options: &Sign) -> Result<(), Failure> {
    let root = Root::load(&options.key)?;
    let path = || options.request.clone();
    let text = fs::read_to_string(&options.request).map_err(|cause| RootError::Read {
        path: path(),
        cause,
    })?;
    let request: IdentityRequest = serde_json::from_str(&text).map_err(|cause| {
        let path = path();
        RootError::Request { path, cause }
    })?;
    request.verify().map_err(RootError::Proof)?;
    let certificate = root.certify(&request, options.days)?;
    files::write(&options.out, &json(&certificate)?, Access::Public)?;
    for (name, value) in [
        ("environment", hex::encode(certificate.environment_id)),
        ("kind", certificate.environment_kind.clone()),
        ("identity key", hex::encode(certificate.key)),
        ("serial", certificate.serial.to_string()),
        ("signed by", hex::encode(root.public()?)),
    ] {
        output::line(format_args!("{name:<14} {value}"));
    }
    output::line(format_args!(
        "Compare the identity key with what `countersignd identity request` printed. Then: countersignd identity install \
         --config FILE --certificate {}",
        options.out.display()
    ));
    Ok(())
}

/// A document as text.
pub(super) fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(RootError::Encode)?;
    Ok(format!("{text}\n"))
}

/// A root key.
pub(super) struct Root(EcdsaKeyPair);

impl Root {
    /// A new one, and its file's content.
    pub(super) fn generate() -> Result<(Self, Zeroizing<String>), Failure> {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let pem = Zeroizing::new(pair.serialize_pem());
        let der = Zeroizing::new(pair.serialize_der());
        Ok((Self::of(&der).ok_or(RootError::Crypto)?, pem))
    }

    fn of(der: &[u8]) -> Option<Self> {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der)
            .ok()
            .map(Self)
    }

    fn load(path: &Path) -> Result<Self, Failure> {
        let path = || path.to_owned();
        let metadata = fs::metadata(path()).map_err(|cause| RootError::Read {
            path: path(),
            cause,
        })?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(RootError::Open { path: path(), mode }.into());
        }
        let der = PrivateKeyDer::from_pem_file(path()).map_err(|cause| RootError::Pem {
            path: path(),
            cause,
        })?;
        Ok(Self::of(der.secret_der()).ok_or(RootError::Curve { path: path() })?)
    }

    /// The public half, uncompressed SEC1.
    pub(super) fn public(&self) -> Result<[u8; 65], Failure> {
        let point: EcPublicKeyUncompressedBin<'_> = self
            .0
            .public_key()
            .as_be_bytes()
            .map_err(|_| RootError::Crypto)?;
        Ok(point.as_ref().try_into().map_err(|_| RootError::Crypto)?)
    }

    /// Vouches for the key in `request`, for `days`.
    pub(super) fn certify(
        &self,
        request: &IdentityRequest,
        days: u64,
    ) -> Result<IdentityCertificate, Failure> {
        let now = u64::try_from(clock::now().as_seconds())?;
        // From an hour ago, because clocks differ.
        let not_before = now.saturating_sub(3600);
        let lifetime = days.saturating_mul(DAY).min(MAX_CERTIFICATE_LIFETIME);
        let mut certificate = IdentityCertificate {
            environment_id: request.environment_id,
            environment_kind: request.environment_kind.clone(),
            key: request.key,
            // Grows by itself, without a file that a root would have to keep.
            serial: now,
            not_before,
            not_after: not_before.saturating_add(lifetime),
            signature: [0; 64],
        };
        let signature = self
            .0
            .sign(&SystemRandom::new(), &certificate.statement().finish())
            .map_err(|_| RootError::Crypto)?;
        certificate.signature = signature
            .as_ref()
            .try_into()
            .map_err(|_| RootError::Crypto)?;
        Ok(certificate)
    }
}
