//! A token and a place for environments, for tests of the command line that serve nothing.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use super::appliance::{COUNTERSIGND, SoftToken};
use super::engine::Storage;

/// A SoftHSM token of its own, a database of its own and a place for environments.
pub(crate) struct Site {
    directory: TempDir,
    token: SoftToken,
    /// The database of an environment here.
    pub(crate) storage: Storage,
}

impl Site {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            token: SoftToken::make(directory.path().join("hsm")),
            storage: Storage::make(directory.path()),
            directory,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `countersignd` with the token and nothing else of our environment.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(COUNTERSIGND);
        command
            .args(arguments)
            .env_clear()
            .env("SOFTHSM2_CONF", self.path("hsm/softhsm2.conf"))
            .stdin(Stdio::null());
        command
    }

    /// `init` of an environment in a directory of this name.
    pub(crate) fn init(&self, kind: &str, environment: &str) -> Command {
        self.init_with(kind, environment, &self.storage.options())
    }

    /// As [`Site::init`], with these options in place of those that name the database.
    pub(crate) fn init_with(&self, kind: &str, environment: &str, database: &[String]) -> Command {
        let mut command = self.command(&["init", "--kind", kind, "--token-label", "countersign"]);
        command
            .args(["--hsm-module", self.token.module()])
            .arg("--pin-file")
            .arg(self.path("hsm/pin"))
            .arg("--dir")
            .arg(self.path(environment))
            .args(database);
        command
    }

    pub(crate) fn with_config(&self, verb: &str, environment: &str) -> Output {
        let config = self.path(environment).join("countersignd.toml");
        self.command(&[verb, "--config", config.to_str().unwrap()])
            .output()
            .unwrap()
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The exit code and the one line, after any log lines, that says why.
pub(crate) fn refusal(output: &Output) -> (i32, String) {
    let said = text(&output.stderr);
    let mut lines = said.lines().filter(|line| !line.starts_with('{'));
    let line = lines.next().unwrap().to_owned();
    assert_eq!(lines.next(), None, "{said}");
    (output.status.code().unwrap(), line)
}
