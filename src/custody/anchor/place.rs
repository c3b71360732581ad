//! Where an anchor is kept: data objects on the token, or a witness file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use countersign_hsm::{ObjectAad, Token};
use zeroize::Zeroizing;

use super::{Anchor, AnchorError};
use crate::domain::EnvironmentId;

/// Longest witness file that is read.
const WITNESS_MAX: u64 = 4096;

/// The place of an environment's anchor.
///
/// On the token, an anchor is a data object `anchor/<bans>/<audit links>`, and several count as the highest of each: a
/// new one is made before those it dominates are removed, so there is always one, whoever dies in between, and no
/// attribute is ever changed.
#[derive(Clone)]
pub struct Place {
    environment: EnvironmentId,
    token: Token,
    witness: Option<PathBuf>,
}

impl Place {
    /// In the witness file, if there is one, else on the token.
    #[must_use]
    pub const fn new(environment: EnvironmentId, token: Token, witness: Option<PathBuf>) -> Self {
        Self {
            environment,
            token,
            witness,
        }
    }

    /// Where that is, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.witness {
            Some(path) => format!("witness file {}", path.display()),
            None => format!("token, application {}", self.set()),
        }
    }

    fn set(&self) -> String {
        format!("countersign/anchor/{}", self.environment)
    }

    /// The anchor.
    ///
    /// # Errors
    /// [`AnchorError`].
    pub async fn read(&self) -> Result<Anchor, AnchorError> {
        match &self.witness {
            None => self.parse(&self.token.read_set(&self.set()).await?),
            Some(path) => self.parse(&[read_file(path.clone()).await?]),
        }
    }

    /// The anchor, and a sealed object of the token: on the token in one hand-over.
    pub(in crate::custody) async fn read_and_open(
        &self,
        sealed: Vec<u8>,
        aad: ObjectAad,
    ) -> Result<(Anchor, Zeroizing<Vec<u8>>), AnchorError> {
        if self.witness.is_some() {
            let anchor = self.read().await?;
            return Ok((anchor, self.token.open_sealed(sealed, aad).await?));
        }
        let set = self.set();
        let opening = self.token.open_sealed_with_set(&set, sealed, aad);
        let (objects, opened) = opening.await?;
        Ok((self.parse(&objects)?, opened))
    }

    fn parse(&self, texts: &[Vec<u8>]) -> Result<Anchor, AnchorError> {
        Anchor::of(texts.iter().map(Vec::as_slice), &self.environment)
    }

    /// Moves the anchor forward; it never moves back.
    ///
    /// # Errors
    /// [`AnchorError`]; what stands then is at least what stood before.
    pub async fn advance(&self, to: &Anchor) -> Result<(), AnchorError> {
        let Some(path) = self.witness.clone() else {
            return self.advance_on_token(to).await;
        };
        let (environment, to) = (self.environment, *to);
        let write = move || {
            let _turn = lock(&path)?;
            let next = match read_now(&path) {
                Ok(text) => Anchor::of([text.as_slice()], &environment)?.and(&to)?,
                Err(AnchorError::Missing) => to,
                Err(error) => return Err(error),
            };
            replace_file(&path, &next.encode(&environment))
        };
        blocking(write).await
    }

    /// Puts this anchor in the place of whatever stands there.
    ///
    /// # Errors
    /// [`AnchorError`].
    pub async fn danger_replace(&self, by: &Anchor) -> Result<(), AnchorError> {
        let Some(path) = self.witness.clone() else {
            let set = self.set();
            // First what goes: it may have the same label. Without any, every start is refused.
            for text in self.token.read_set(&set).await? {
                let old = Anchor::parse(&text, &self.environment).ok_or(AnchorError::Unreadable)?;
                self.token.remove_from_set(&set, &label(&old)).await?;
            }
            let text = by.encode(&self.environment).into_bytes();
            return Ok(self.token.add_to_set(&set, &label(by), text).await?);
        };
        let text = by.encode(&self.environment);
        blocking(move || {
            let _turn = lock(&path)?;
            replace_file(&path, &text)
        })
        .await
    }

    /// Makes the new object before those go that it dominates. What another process made meanwhile is taken over: in the
    /// end one is left, so that whoever holds the handle of another learns that it is old.
    async fn advance_on_token(&self, to: &Anchor) -> Result<(), AnchorError> {
        let (set, mut next) = (self.set(), *to);
        loop {
            let text = next.encode(&self.environment).into_bytes();
            self.token.add_to_set(&set, &label(&next), text).await?;
            let mut found = Vec::new();
            for text in self.token.read_set(&set).await? {
                let anchor = Anchor::parse(&text, &self.environment);
                found.push(anchor.ok_or(AnchorError::Unreadable)?);
            }
            let all = found.iter().try_fold(next, |all, one| all.and(one))?;
            if all != next {
                next = all;
                continue;
            }
            for old in found.iter().filter(|old| next.dominates(old)) {
                self.token.remove_from_set(&set, &label(old)).await?;
            }
            return Ok(());
        }
    }
}

fn label(anchor: &Anchor) -> String {
    format!("anchor/{}/{}", anchor.bans.count, anchor.audit.count)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AnchorError> + Send + 'static,
) -> Result<T, AnchorError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or(Err(AnchorError::Unreadable))
}

async fn read_file(path: PathBuf) -> Result<Vec<u8>, AnchorError> {
    blocking(move || read_now(&path)).await
}

fn read_now(path: &Path) -> Result<Vec<u8>, AnchorError> {
    use io::Read;
    let witness = |cause| AnchorError::Witness {
        path: path.to_owned(),
        cause,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Err(AnchorError::Missing),
        Err(cause) => return Err(witness(cause)),
    };
    let mut text = Vec::new();
    file.take(WITNESS_MAX)
        .read_to_end(&mut text)
        .map_err(witness)?;
    Ok(text)
}

/// One writer at a time, whichever process it is in.
fn lock(path: &Path) -> Result<File, AnchorError> {
    let path = beside(path, "lock");
    let locked = private(&path).and_then(|file| file.lock().map(|()| file));
    locked.map_err(|cause| AnchorError::Witness { path, cause })
}

/// The whole new file or the whole old one, also after a loss of power.
fn replace_file(path: &Path, text: &str) -> Result<(), AnchorError> {
    let new = beside(path, "new");
    let write = || {
        let mut file = private(&new)?;
        file.set_len(0)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|cause| AnchorError::Witness {
        path: path.to_owned(),
        cause,
    })
}

fn private(path: &Path) -> io::Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}
