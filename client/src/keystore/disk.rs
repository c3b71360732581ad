//! Files of the keystore: private, locked and replaced atomically.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::KeystoreError;

/// Larger than any wallet file; what comes after it is not read.
const READ_LIMIT: u64 = 1024 * 1024 + 1;

/// Creates `directory` and its parents with mode 0700.
pub(super) fn create_directory(directory: &Path) -> Result<(), KeystoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| KeystoreError::Write {
            path: directory.to_owned(),
            source,
        })
}

/// Takes the exclusive lock that is held while a wallet is open; the system releases it when the process ends.
///
/// # Errors
/// [`KeystoreError::Busy`] if another process has the wallet open. SECURITY: two processes on one wallet would check two
/// messages of the server at once, which is what the ban rule forbids (A02).
pub(super) fn lock(path: &Path) -> Result<File, KeystoreError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| KeystoreError::Write {
            path: path.to_owned(),
            source,
        })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(KeystoreError::Busy),
        Err(TryLockError::Error(source)) => Err(KeystoreError::Write {
            path: path.to_owned(),
            source,
        }),
    }
}

/// The file's bytes, or `None` if it does not exist.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, KeystoreError> {
    let failed = |source| KeystoreError::Read {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(READ_LIMIT)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(Some(bytes))
}

/// Replaces `path` so that after a crash at any moment either the old or the new content is there, whole, and after
/// `Ok` it is the new one: temporary file in the same directory, sync, rename, sync of the directory.
///
/// A temporary file left over by a crash is never read and is replaced by the next write.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), KeystoreError> {
    let temporary = temporary_of(path);
    replace(path, &temporary, bytes).map_err(|source| KeystoreError::Write {
        path: path.to_owned(),
        source,
    })
}

/// Writes a file that must not exist yet, and syncs it. Not atomic: `path` may be on a medium that can neither rename nor
/// link safely (a memory stick), so the caller reads it back.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), KeystoreError> {
    let failed = |source| KeystoreError::Write {
        path: path.to_owned(),
        source,
    };
    let file = match create_new(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(KeystoreError::Exists(path.to_owned()));
        }
        file => file.map_err(failed)?,
    };
    if let Err(error) = write_synced(file, bytes) {
        // Half a file, and surely ours: we have just created it.
        fs::remove_file(path).map_err(failed)?;
        return Err(failed(error));
    }
    sync_parent(path).map_err(failed)
}

fn replace(path: &Path, temporary: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => write_synced(create_new(temporary)?, bytes)?,
    }
    fs::rename(temporary, path)?;
    sync_parent(path)
}

fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

fn write_synced(mut file: File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

fn temporary_of(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".tmp");
    path.with_file_name(name)
}
