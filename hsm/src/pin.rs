//! The user PIN of the token.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use secrecy::SecretString;
use zeroize::Zeroizing;

use crate::error::HsmError;

/// A user PIN. Zeroized on drop; has no `Debug`, `Clone` or `Serialize`.
///
/// There is no constructor from an argument or environment variable on purpose: both leak.
pub struct Pin(SecretString);

impl Pin {
    /// Reads a PIN file, or a systemd credential (`$CREDENTIALS_DIRECTORY/hsm-pin`). One trailing newline
    /// is ignored.
    ///
    /// # Errors
    /// [`HsmError::ReadPin`] when it cannot be read; [`HsmError::UnfitPinFile`] when others than its
    /// owner may access it, or when it is empty, longer than 255 bytes or not UTF-8.
    pub fn from_file(path: &Path) -> Result<Self, HsmError> {
        let unfit = |reason| HsmError::UnfitPinFile {
            path: path.to_owned(),
            reason,
        };
        let unreadable = |cause| HsmError::ReadPin {
            path: path.to_owned(),
            cause,
        };
        let file = File::open(path).map_err(unreadable)?;
        // Checked on the open file, so that the file cannot be exchanged in between.
        if file.metadata().map_err(unreadable)?.mode() & forbidden_bits(path) != 0 {
            return Err(unfit("only its owner may have access; run chmod 600 on it"));
        }
        let mut text = Zeroizing::new(String::with_capacity(512));
        file.take(257)
            .read_to_string(&mut text)
            .map_err(unreadable)?;
        let pin = text.strip_suffix('\n').unwrap_or(&text);
        match pin.len() {
            0 => Err(unfit("it is empty")),
            1..=255 => Ok(Self(SecretString::from(pin))),
            _ => Err(unfit("it is longer than 255 bytes")),
        }
    }

    /// The one place that hands the PIN out: the login call.
    pub(crate) const fn expose(&self) -> &SecretString {
        &self.0
    }
}

/// systemd grants a service its credential by ACL, which shows as the group's read bit.
fn forbidden_bits(path: &Path) -> u32 {
    match std::env::var_os("CREDENTIALS_DIRECTORY") {
        Some(directory) if path.starts_with(&directory) => 0o037,
        _ => 0o077,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use secrecy::ExposeSecret;

    use super::Pin;
    use crate::error::ErrorClass;

    fn read(content: &[u8], mode: u32) -> Result<String, ErrorClass> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pin");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        Pin::from_file(&path)
            .map(|pin| pin.expose().expose_secret().to_owned())
            .map_err(|error| error.kind())
    }

    #[test]
    fn one_trailing_newline_is_ignored() {
        assert_eq!(read(b"1234\n", 0o600), Ok("1234".to_owned()));
        assert_eq!(read(b"1234", 0o400), Ok("1234".to_owned()));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        for mode in [0o644, 0o640, 0o604, 0o620] {
            assert_eq!(read(b"1234\n", mode), Err(ErrorClass::Operator), "{mode:o}");
        }
    }

    #[test]
    fn empty_overlong_and_binary_files_are_refused() {
        for content in [
            b"".as_slice(),
            b"\n",
            &[b'1'; 256],
            &[b'1'; 4000],
            &[0xff, 0xfe],
        ] {
            assert_eq!(read(content, 0o600), Err(ErrorClass::Operator));
        }
    }
}
