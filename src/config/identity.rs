//! `[identity]`: who vouches for the identity key, and where that is written.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// `[identity]` as written.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct IdentityTable {
    certificate: Option<PathBuf>,
    #[serde(default)]
    roots: Vec<String>,
}

/// The identity certificate, and the offline roots of which one has to have signed it.
#[derive(Debug)]
pub struct Identity {
    /// The certificate; it need not be there before `serve`.
    pub certificate: PathBuf,
    /// Public keys, P-256, uncompressed SEC1: the root and perhaps a spare one.
    pub roots: Vec<[u8; 65]>,
}

/// Checks `[identity]`; the error is what is wrong with a root.
pub(super) fn identity(table: IdentityTable, directory: &Path) -> Result<Identity, String> {
    let certificate = table
        .certificate
        .unwrap_or_else(|| PathBuf::from("identity/certificate.json"));
    let roots = table.roots.iter().map(|text| {
        root_key(text).ok_or_else(|| format!("{text:?} is no public key on the curve P-256"))
    });
    Ok(Identity {
        certificate: directory.join(certificate),
        roots: roots.collect::<Result<_, _>>()?,
    })
}

/// Reads a root's public key: 130 hex digits.
#[must_use]
pub fn root_key(text: &str) -> Option<[u8; 65]> {
    let mut key = [0; 65];
    hex::decode_to_slice(text, &mut key).ok()?;
    p256::ecdsa::VerifyingKey::from_sec1_bytes(&key)
        .is_ok()
        .then_some(key)
}
