//! The keystore: a directory with one encrypted file per wallet.
//!
//! INVARIANT: what a wallet must not forget (its share, the suspect mark, a ban, the idempotency key of a payment) is on
//! disk before the message that depends on it leaves. INVARIANT: one process at a time has a wallet open.

mod disk;
mod format;
mod record;
mod wallet;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use countersign_mpc::{error::MpcError, owner_proof::Algorithm};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use self::{format::FileKey, record::Record};
pub use self::{
    format::{Header, Kdf, KdfParams},
    record::{Draft, Offered, Payment, Quarantine, Slot},
    wallet::{SUSPECT_LIMIT, Wallet},
};

const EXTENSION: &str = "wallet";

/// Why a keystore operation failed. A wrong passphrase and a damaged file are different errors.
#[derive(Debug, Error)]
pub enum KeystoreError {
    /// No wallet of that name.
    #[error("there is no wallet named {0}")]
    NotFound(WalletName),
    /// Something of that name exists and is not overwritten.
    #[error("{0} exists already and is not overwritten")]
    Exists(PathBuf),
    /// Another process has the wallet open.
    #[error("another process is using this wallet: let it finish first")]
    Busy,
    /// The passphrase does not fit.
    #[error("wrong passphrase")]
    WrongPassphrase,
    /// The file is not what this program wrote. The text completes "the wallet file is damaged: …".
    #[error("the wallet file is damaged: {0}; use your export of this wallet")]
    Damaged(&'static str),
    /// Written by a later version.
    #[error("the wallet file has format version {0}, which this version does not know")]
    UnknownVersion(u32),
    /// Argon2 cost outside the accepted range.
    #[error("the passphrase hashing parameters are outside the accepted range")]
    KdfRefused,
    /// The file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file could not be written durably; nothing that depends on it was sent.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The operating system gave no randomness.
    #[error("the system gives no randomness")]
    Random,
    /// The file would be longer than what is read back; the one before it was not touched.
    #[error("the wallet would become too large to be read again: nothing was written")]
    TooLarge,
    /// The content could not be encoded.
    #[error("the wallet could not be encoded")]
    Encode,
    /// The wallet has no usable share: its creation was not finished.
    #[error("this wallet is not finished: run `countersign wallet create` with its name again")]
    NotActive,
    /// The server failed a check on long-lived secrets: nothing is ever signed with this share again.
    #[error("{0}")]
    Quarantined(Quarantine),
    /// A protocol step failed; the wallet's state already says what follows from it.
    #[error("protocol step failed")]
    Protocol(#[source] MpcError),
}

/// A wallet's name: 1 to 64 of `a-z A-Z 0-9 - _`, not starting with `-`. It is also the file's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WalletName(String);

/// The text is not a wallet name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a wallet name is 1 to 64 letters, digits, - or _, and does not start with -")]
pub struct InvalidName;

impl FromStr for WalletName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let valid =
            (1..=64).contains(&text.len()) && text.bytes().all(allowed) && !text.starts_with('-');
        valid.then(|| Self(text.to_owned())).ok_or(InvalidName)
    }
}

impl TryFrom<String> for WalletName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<WalletName> for String {
    fn from(name: WalletName) -> Self {
        name.0
    }
}

impl fmt::Display for WalletName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl WalletName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What unlocks a wallet file. Wiped on drop, never printed.
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// Wraps a passphrase; every text is accepted here, the command line asks for at least 8 characters.
    #[must_use]
    pub fn new(text: Zeroizing<String>) -> Self {
        Self(text)
    }

    /// The text, for the key derivation and for comparing two entries.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Where a wallet stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WalletState {
    /// Creation was started; there is no share yet.
    Draft,
    /// The share is stored, the proof that it works is outstanding; the address is not shown.
    Staged,
    /// Ready.
    Active,
    /// Banned: no operation with this share any more.
    Quarantined,
}

impl fmt::Display for WalletState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Draft => "draft",
            Self::Staged => "staged",
            Self::Active => "active",
            Self::Quarantined => "QUARANTINED",
        })
    }
}

/// A wallet's name with its header, or with what is wrong with its file.
pub type Listed = (WalletName, Result<Header, KeystoreError>);

/// A directory of wallets.
#[derive(Debug, Clone)]
pub struct Keystore {
    directory: PathBuf,
    cost: KdfParams,
}

impl Keystore {
    /// The keystore in `directory`, which is created with mode 0700 when the first wallet is written.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            cost: KdfParams::DEFAULT,
        }
    }

    /// The same keystore with another passphrase cost for files created from now on.
    #[must_use]
    pub fn with_cost(mut self, cost: KdfParams) -> Self {
        self.cost = cost;
        self
    }

    /// Where the file of `name` is.
    #[must_use]
    pub fn path(&self, name: &WalletName) -> PathBuf {
        self.directory.join(format!("{name}.{EXTENSION}"))
    }

    /// Whether there is a file of that name.
    #[must_use]
    pub fn contains(&self, name: &WalletName) -> bool {
        self.path(name).exists()
    }

    /// Starts a wallet: a fresh device key on P-256 and a draft, durably stored.
    ///
    /// # Errors
    /// [`KeystoreError::Exists`] and the usual file errors.
    pub fn create(
        &self,
        name: &WalletName,
        environment_id: &[u8; 32],
        passphrase: &Passphrase,
    ) -> Result<Wallet, KeystoreError> {
        self.create_for(name, environment_id, Algorithm::P256, passphrase)
    }

    /// As [`Keystore::create`], with a device key of this kind.
    ///
    /// # Errors
    /// As [`Keystore::create`].
    pub fn create_for(
        &self,
        name: &WalletName,
        environment_id: &[u8; 32],
        device: Algorithm,
        passphrase: &Passphrase,
    ) -> Result<Wallet, KeystoreError> {
        let record = Record::draft(environment_id, device)?;
        self.insert(name, record, FileKey::create(passphrase, self.cost)?)
    }

    /// Opens a wallet and takes its lock. A suspect mark left by a crash is counted here, once.
    ///
    /// # Errors
    /// [`KeystoreError::NotFound`], [`KeystoreError::Busy`], [`KeystoreError::WrongPassphrase`],
    /// [`KeystoreError::Damaged`] and the usual file errors.
    pub fn open(
        &self,
        name: &WalletName,
        passphrase: &Passphrase,
    ) -> Result<Wallet, KeystoreError> {
        let path = self.path(name);
        if !self.contains(name) {
            return Err(KeystoreError::NotFound(name.clone()));
        }
        let lock = disk::lock(&self.lock_path(name))?;
        let bytes = disk::read(&path)?.ok_or_else(|| KeystoreError::NotFound(name.clone()))?;
        let (record, key) = unlock(&bytes, passphrase)?;
        Wallet::opened(name.clone(), path, lock, record, key)
    }

    /// The readable header of `name`, without a passphrase. Not authenticated: only for showing.
    ///
    /// # Errors
    /// As [`Keystore::open`], without the passphrase's.
    pub fn header(&self, name: &WalletName) -> Result<Header, KeystoreError> {
        let bytes =
            disk::read(&self.path(name))?.ok_or_else(|| KeystoreError::NotFound(name.clone()))?;
        Ok(format::parse(&bytes)?.header)
    }

    /// All wallets by name, each with its header or with what is wrong with its file.
    ///
    /// # Errors
    /// [`KeystoreError::Read`] if the directory exists and cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>, KeystoreError> {
        let failed = |source| KeystoreError::Read {
            path: self.directory.clone(),
            source,
        };
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut wallets = Vec::new();
        for entry in entries {
            if let Some(name) = name_of(&entry.map_err(failed)?.path()) {
                let header = self.header(&name);
                wallets.push((name, header));
            }
        }
        wallets.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(wallets)
    }

    /// Takes over an exported wallet under `name` (default: the name it was exported with). `passphrase` opens the file,
    /// `new_passphrase` protects the copy in this keystore. The share is checked against its public values and
    /// fingerprint before anything is written.
    ///
    /// SECURITY: one file per share: a second copy beside the first would have a suspect count and a ban of its own (A01).
    ///
    /// # Errors
    /// [`KeystoreError::Exists`] if there is a wallet of that name or of that profile; [`KeystoreError::Damaged`] if anything disagrees.
    pub fn import(
        &self,
        file: &Path,
        name: Option<WalletName>,
        passphrase: &Passphrase,
        new_passphrase: &Passphrase,
    ) -> Result<Wallet, KeystoreError> {
        let missing = || KeystoreError::Read {
            path: file.to_owned(),
            source: io::ErrorKind::NotFound.into(),
        };
        let bytes = disk::read(file)?.ok_or_else(missing)?;
        let exported = format::parse(&bytes)?.header;
        let name = name.unwrap_or(exported.name);
        if self.contains(&name) {
            return Err(KeystoreError::Exists(self.path(&name)));
        }
        if let Some(profile_id) = &exported.profile_id {
            self.refuse_second_copy(profile_id)?;
        }
        let (record, _) = unlock(&bytes, passphrase)?;
        record.verify()?;
        self.insert(&name, record, FileKey::create(new_passphrase, self.cost)?)
    }

    /// Fails if a wallet of this keystore belongs to `profile_id`.
    fn refuse_second_copy(&self, profile_id: &str) -> Result<(), KeystoreError> {
        for (name, header) in self.list()? {
            if header.is_ok_and(|header| header.profile_id.as_deref() == Some(profile_id)) {
                return Err(KeystoreError::Exists(self.path(&name)));
            }
        }
        Ok(())
    }

    fn insert(
        &self,
        name: &WalletName,
        record: Record,
        key: FileKey,
    ) -> Result<Wallet, KeystoreError> {
        disk::create_directory(&self.directory)?;
        let lock = disk::lock(&self.lock_path(name))?;
        if self.contains(name) {
            return Err(KeystoreError::Exists(self.path(name)));
        }
        let mut wallet = Wallet::opened(name.clone(), self.path(name), lock, record, key)?;
        wallet.save()?;
        Ok(wallet)
    }

    fn lock_path(&self, name: &WalletName) -> PathBuf {
        self.directory.join(format!("{name}.lock"))
    }
}

/// Decrypts a file.
fn unlock(bytes: &[u8], passphrase: &Passphrase) -> Result<(Record, FileKey), KeystoreError> {
    let parsed = format::parse(bytes)?;
    let key = FileKey::unlock(&parsed.header, passphrase)?;
    let record = Record::decode(&parsed.open(&key)?)?;
    Ok((record, key))
}

/// The wallet name of a path, or `None` for locks, temporary files and strangers.
fn name_of(path: &Path) -> Option<WalletName> {
    let stem = path.file_stem()?.to_str()?;
    (path.extension()? == EXTENSION)
        .then(|| stem.parse().ok())
        .flatten()
}
