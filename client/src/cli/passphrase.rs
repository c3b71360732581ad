//! Where passphrases come from: a file, or a prompt that does not echo.

use std::{fs, path::Path};

use zeroize::Zeroizing;

use crate::{ClientError, keystore::Passphrase};

/// Fewest characters of a passphrase that protects a new file.
const SHORTEST: usize = 8;

/// The passphrase of an existing file.
pub(super) fn existing(file: Option<&Path>, prompt: &str) -> Result<Passphrase, ClientError> {
    file.map_or_else(|| ask(prompt), read)
}

/// A passphrase for a new file; asked for twice at a prompt.
pub(super) fn fresh(file: Option<&Path>, prompt: &str) -> Result<Passphrase, ClientError> {
    let passphrase = existing(file, prompt)?;
    if passphrase.expose().chars().count() < SHORTEST {
        return Err(ClientError::Usage(format!(
            "a passphrase needs at least {SHORTEST} characters"
        )));
    }
    if file.is_none() && ask("The same again: ")?.expose() != passphrase.expose() {
        return Err(ClientError::Usage("the two passphrases differ".to_owned()));
    }
    Ok(passphrase)
}

fn read(file: &Path) -> Result<Passphrase, ClientError> {
    let failed = |what: &str| {
        ClientError::Usage(format!(
            "cannot read the passphrase file {}: {what}",
            file.display()
        ))
    };
    let bytes = Zeroizing::new(fs::read(file).map_err(|error| failed(&error.to_string()))?);
    let text = std::str::from_utf8(&bytes).map_err(|_| failed("it is not UTF-8"))?;
    // An editor's newline at the end is not part of the passphrase.
    let line = text.strip_suffix('\n').unwrap_or(text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() {
        return Err(failed("it is empty"));
    }
    Ok(Passphrase::new(Zeroizing::new(line.to_owned())))
}

fn ask(prompt: &str) -> Result<Passphrase, ClientError> {
    let typed = rpassword::prompt_password(prompt).map_err(|error| {
        ClientError::Usage(format!(
            "cannot ask for a passphrase ({error}): use --passphrase-file"
        ))
    })?;
    Ok(Passphrase::new(Zeroizing::new(typed)))
}
