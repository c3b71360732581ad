//! Bytes of a wallet file. The table in `client/README.md` describes the same layout.
//!
//! ```text
//! magic "CSWALLET" | version u32 | header length u32 | header (JSON) | nonce 24 | ciphertext | tag 16 | SHA-256 of all before
//! ```
//!
//! Everything before the nonce is associated data, so the readable header cannot be changed on its own. The trailing
//! checksum tells a damaged file from a wrong passphrase; it protects against accidents, the tag against people.

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{KeystoreError, Passphrase, WalletName, WalletState};

const MAGIC: &[u8; 8] = b"CSWALLET";
const VERSION: u32 = 1;
const PREFIX: usize = 16;
const NONCE: usize = 24;
const TAG: usize = 16;
const CHECKSUM: usize = 32;
/// A header is a few hundred bytes; a length beyond this is damage.
const MAX_HEADER: usize = 16 * 1024;
/// Two shares of 52 570 bytes and their metadata stay far below this.
const MAX_FILE: usize = 1024 * 1024;

/// The readable part of a wallet file: what `wallet list` shows without a passphrase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Header {
    /// The wallet's name at the time of writing.
    pub name: WalletName,
    /// Environment id, 64 hex digits.
    pub environment_id: String,
    /// Where the wallet stands in its life.
    pub state: WalletState,
    /// The server's profile id, once there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub profile_id: Option<String>,
    /// Checksummed address; only of an active or quarantined wallet, never of a staged one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub address: Option<String>,
    /// Generation of the share in use.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key_generation: Option<u64>,
    /// Fingerprint of that generation, 64 hex digits (`protocol.md` section 2.6).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fingerprint: Option<String>,
    /// How the passphrase becomes the key.
    pub kdf: Kdf,
}

/// Argon2id parameters, salt and passphrase check value as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Kdf {
    /// Always `argon2id`, version 0x13.
    algorithm: KdfAlgorithm,
    /// Cost parameters.
    cost: KdfParams,
    /// 16 random bytes as hex.
    salt: String,
    /// Last 16 of the 48 derived bytes as hex; the first 32 are the key. Tells a wrong passphrase from damage.
    check: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KdfAlgorithm {
    Argon2id,
}

/// Cost of deriving the key from a passphrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct KdfParams {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub iterations: u32,
    /// Lanes.
    pub parallelism: u32,
}

impl KdfParams {
    /// What new files use: 64 MiB, three passes, one lane.
    pub const DEFAULT: Self = Self {
        memory_kib: 64 * 1024,
        iterations: 3,
        parallelism: 1,
    };
    /// The least that is written or read: a file that asks for less was not made by this program.
    pub const FLOOR: Self = Self {
        memory_kib: 19 * 1024,
        iterations: 2,
        parallelism: 1,
    };
    /// The most that is read, so that a hostile file cannot take the machine's memory or time.
    const CEILING: Self = Self {
        memory_kib: 1024 * 1024,
        iterations: 64,
        parallelism: 16,
    };

    fn check(self) -> Result<Self, KeystoreError> {
        let within = |value, floor, ceiling| (floor..=ceiling).contains(&value);
        let acceptable = within(
            self.memory_kib,
            Self::FLOOR.memory_kib,
            Self::CEILING.memory_kib,
        ) && within(
            self.iterations,
            Self::FLOOR.iterations,
            Self::CEILING.iterations,
        ) && within(
            self.parallelism,
            Self::FLOOR.parallelism,
            Self::CEILING.parallelism,
        );
        acceptable.then_some(self).ok_or(KeystoreError::KdfRefused)
    }
}

/// The key of one wallet file: kept while the wallet is open, so that every state change can be written at once.
pub(super) struct FileKey {
    aead: Zeroizing<[u8; 32]>,
    kdf: Kdf,
}

impl FileKey {
    /// A key under a fresh salt.
    pub(super) fn create(
        passphrase: &Passphrase,
        params: KdfParams,
    ) -> Result<Self, KeystoreError> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(|_| KeystoreError::Random)?;
        Self::derive(passphrase, params, salt)
    }

    /// The key of an existing file.
    ///
    /// # Errors
    /// [`KeystoreError::WrongPassphrase`] if the check value differs.
    pub(super) fn unlock(header: &Header, passphrase: &Passphrase) -> Result<Self, KeystoreError> {
        let mut salt = [0; 16];
        hex::decode_to_slice(&header.kdf.salt, &mut salt)
            .map_err(|_| KeystoreError::Damaged("its salt is not 16 bytes"))?;
        let key = Self::derive(passphrase, header.kdf.cost, salt)?;
        // The check value is public: an ordinary comparison gives nothing away.
        if key.kdf.check == header.kdf.check {
            Ok(key)
        } else {
            Err(KeystoreError::WrongPassphrase)
        }
    }

    pub(super) fn kdf(&self) -> Kdf {
        self.kdf.clone()
    }

    fn derive(
        passphrase: &Passphrase,
        params: KdfParams,
        salt: [u8; 16],
    ) -> Result<Self, KeystoreError> {
        let KdfParams {
            memory_kib,
            iterations,
            parallelism,
        } = params.check()?;
        let cost = Params::new(memory_kib, iterations, parallelism, Some(48))
            .map_err(|_| KeystoreError::KdfRefused)?;
        let mut derived = Zeroizing::new([0; 48]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, cost)
            .hash_password_into(
                passphrase.expose().as_bytes(),
                &salt,
                derived.as_mut_slice(),
            )
            .map_err(|_| KeystoreError::KdfRefused)?;
        let (key, check) = derived.split_at(32);
        let mut aead = Zeroizing::new([0; 32]);
        aead.copy_from_slice(key);
        let kdf = Kdf {
            algorithm: KdfAlgorithm::Argon2id,
            cost: params,
            salt: hex::encode(salt),
            check: hex::encode(check),
        };
        Ok(Self { aead, kdf })
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&*self.aead).into())
    }
}

/// A whole file from its header and plaintext. `plaintext` is overwritten.
///
/// # Errors
/// [`KeystoreError::TooLarge`] if [`parse`] would refuse the file.
pub(super) fn seal(
    header: &Header,
    key: &FileKey,
    mut plaintext: Zeroizing<Vec<u8>>,
) -> Result<Vec<u8>, KeystoreError> {
    let json = serde_json::to_vec(header).map_err(|_| KeystoreError::Encode)?;
    let total = PREFIX + json.len() + NONCE + plaintext.len() + TAG + CHECKSUM;
    // What parse() would refuse is not written: the file before it stays, and stays readable.
    if json.len() > MAX_HEADER || total > MAX_FILE {
        return Err(KeystoreError::TooLarge);
    }
    let length = u32::try_from(json.len()).map_err(|_| KeystoreError::Encode)?;
    let mut file = Vec::with_capacity(total);
    file.extend_from_slice(MAGIC);
    file.extend_from_slice(&VERSION.to_be_bytes());
    file.extend_from_slice(&length.to_be_bytes());
    file.extend_from_slice(&json);

    let mut nonce = XNonce::default();
    getrandom::fill(&mut nonce).map_err(|_| KeystoreError::Random)?;
    // Reserved first: growing inside the cipher would leave a plaintext copy behind.
    let mut sealed = Zeroizing::new(Vec::with_capacity(plaintext.len() + TAG));
    sealed.append(&mut plaintext);
    key.cipher()
        .encrypt_in_place(&nonce, &file, &mut *sealed)
        .map_err(|_| KeystoreError::Encode)?;

    file.extend_from_slice(&nonce);
    file.extend_from_slice(&sealed);
    let checksum = Sha256::digest(&file);
    file.extend_from_slice(&checksum);
    Ok(file)
}

/// A file that is structurally whole: right magic, version, lengths and checksum.
pub(super) struct Parsed<'a> {
    pub(super) header: Header,
    associated: &'a [u8],
    nonce: &'a [u8],
    ciphertext: &'a [u8],
}

/// Splits a file into its parts without a passphrase.
///
/// # Errors
/// [`KeystoreError::Damaged`] or [`KeystoreError::UnknownVersion`].
pub(super) fn parse(file: &[u8]) -> Result<Parsed<'_>, KeystoreError> {
    if file.len() > MAX_FILE {
        return Err(KeystoreError::Damaged("it is too long"));
    }
    let short = KeystoreError::Damaged("it is cut short");
    let Some((magic, rest)) = file.split_first_chunk::<8>() else {
        return Err(short);
    };
    if magic != MAGIC {
        return Err(KeystoreError::Damaged("it is not a wallet file"));
    }
    let Some((version, rest)) = rest.split_first_chunk::<4>() else {
        return Err(short);
    };
    let version = u32::from_be_bytes(*version);
    if version != VERSION {
        return Err(KeystoreError::UnknownVersion(version));
    }
    let Some((covered, checksum)) = file.split_last_chunk::<CHECKSUM>() else {
        return Err(short);
    };
    if Sha256::digest(covered).as_slice() != checksum {
        return Err(KeystoreError::Damaged("its checksum does not match"));
    }
    let Some((length, _)) = rest.split_first_chunk::<4>() else {
        return Err(short);
    };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length > MAX_HEADER {
        return Err(KeystoreError::Damaged("its header is too long"));
    }
    let Some((associated, rest)) = covered.split_at_checked(PREFIX + length) else {
        return Err(short);
    };
    let Some((nonce, ciphertext)) = rest.split_at_checked(NONCE) else {
        return Err(short);
    };
    let header = associated
        .get(PREFIX..)
        .and_then(|json| serde_json::from_slice(json).ok())
        .ok_or(KeystoreError::Damaged("its header is not readable"))?;
    Ok(Parsed {
        header,
        associated,
        nonce,
        ciphertext,
    })
}

impl Parsed<'_> {
    /// Decrypts.
    ///
    /// # Errors
    /// [`KeystoreError::Damaged`]: the passphrase was right (its check value matched), so somebody changed the file.
    pub(super) fn open(&self, key: &FileKey) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
        let nonce = XNonce::try_from(self.nonce)
            .map_err(|_| KeystoreError::Damaged("its nonce is not 24 bytes"))?;
        let mut plaintext = Zeroizing::new(self.ciphertext.to_vec());
        key.cipher()
            .decrypt_in_place(&nonce, self.associated, &mut *plaintext)
            .map_err(|_| {
                KeystoreError::Damaged("it was changed by something other than this program")
            })?;
        Ok(plaintext)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn sealed(profile_id: usize, plaintext: usize) -> Result<Vec<u8>, KeystoreError> {
        let passphrase = Passphrase::new(Zeroizing::new("correct horse".to_owned()));
        let key = FileKey::create(&passphrase, KdfParams::FLOOR).unwrap();
        let header = Header {
            name: "main".parse().unwrap(),
            environment_id: "ab".repeat(32),
            state: WalletState::Draft,
            profile_id: Some("x".repeat(profile_id)),
            address: None,
            key_generation: None,
            fingerprint: None,
            kdf: key.kdf(),
        };
        seal(&header, &key, Zeroizing::new(vec![0; plaintext]))
    }

    #[test]
    fn what_is_written_can_be_read() {
        assert!(parse(&sealed(15_000, 900_000).unwrap()).is_ok());
        for (profile_id, plaintext) in [(MAX_HEADER, 0), (0, MAX_FILE)] {
            let refused = sealed(profile_id, plaintext);
            assert!(matches!(refused, Err(KeystoreError::TooLarge)));
        }
    }
}
