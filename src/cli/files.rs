//! Writing files so that a crash leaves either the old state or the new one, never half of one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Its owner only.
    Private,
    /// Everybody.
    Public,
}

/// A file or directory could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub(crate) struct WriteError {
    path: PathBuf,
    #[source]
    cause: io::Error,
}

/// Creates a directory for its owner only; an existing one stays as it is.
pub(crate) fn directory(path: &Path) -> Result<(), WriteError> {
    DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(path)
        .map_err(|cause| WriteError {
            path: path.to_owned(),
            cause,
        })
}

/// Writes a whole file durably, replacing an older one at once.
pub(crate) fn write(path: &Path, text: &str, access: Access) -> Result<(), WriteError> {
    replace(path, text, access).map_err(|cause| WriteError {
        path: path.to_owned(),
        cause,
    })
}

/// Removes a file durably.
pub(crate) fn remove(path: &Path) -> Result<(), WriteError> {
    fs::remove_file(path)
        .and_then(|()| sync_parent(path))
        .map_err(|cause| WriteError {
            path: path.to_owned(),
            cause,
        })
}

fn replace(path: &Path, text: &str, access: Access) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let temporary = PathBuf::from(name);
    // A leftover of a crash may have other permissions: `mode` only acts on a new file.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mode = match access {
        Access::Private => 0o600,
        Access::Public => 0o644,
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_parent(path)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    // That of a bare file name is empty, and means the current directory.
    let parent = match parent.as_os_str().is_empty() {
        true => Path::new("."),
        false => parent,
    };
    File::open(parent)?.sync_all()
}
