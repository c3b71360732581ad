//! Which engine the appliances under test keep their database on.
//!
//! SQLite, unless `COUNTERSIGN_TEST_STORE=postgres`; then each environment has a database and a role of its own on the
//! server of `scripts/with-postgres.sh`. Every test runs on both. What can only be asked of one engine is a branch in
//! the test, with the other's counterpart beside it; what is only about reaching a server is in `tests/it/postgres.rs`
//! and needs the server always.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use url::Url;

use super::appliance::Appliance;
use super::database::Database;
use super::files_below;

/// The engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

impl Engine {
    /// The one that this run was asked for.
    pub(crate) fn of_this_run() -> Self {
        match std::env::var("COUNTERSIGN_TEST_STORE").as_deref() {
            Err(_) | Ok("sqlite") => Self::Sqlite,
            Ok("postgres") => Self::Postgres,
            Ok(other) => panic!("COUNTERSIGN_TEST_STORE={other}: write sqlite or postgres"),
        }
    }
}

/// The server of `scripts/with-postgres.sh`.
#[derive(Clone)]
pub(crate) struct Server {
    url: Url,
    /// CA of its certificate.
    pub(crate) ca: PathBuf,
    /// The folder of its Unix socket.
    pub(crate) socket: PathBuf,
    bin: PathBuf,
}

impl Server {
    pub(crate) fn of_this_run() -> Self {
        let variable = |name: &str| {
            let name = format!("COUNTERSIGN_TEST_POSTGRES{name}");
            let missing = || panic!("{name} is not set: run this under scripts/with-postgres.sh");
            std::env::var(&name).unwrap_or_else(|_| missing())
        };
        Self {
            url: variable("").parse().unwrap(),
            ca: variable("_CA").into(),
            socket: variable("_SOCKET").into(),
            bin: variable("_BIN").into(),
        }
    }

    /// `psql` as a superuser, through the socket; rows are lines, columns are separated by `|`.
    pub(crate) fn psql(&self, database: &str) -> Command {
        let mut command = Command::new(self.bin.join("psql"));
        command
            .args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only"])
            .args(["--set", "ON_ERROR_STOP=1", "--dbname", database])
            .env_clear()
            .env("PGHOST", &self.socket)
            .env("PGPORT", self.port())
            .env("PGUSER", self.url.username())
            .env("PGPASSWORD", self.url.password().unwrap());
        command
    }

    /// Runs statements one by one, each committed by itself; their answer, if it is a line.
    pub(crate) fn run(&self, database: &str, statements: &[&str]) -> String {
        let mut psql = self.psql(database);
        for statement in statements {
            psql.args(["--command", statement]);
        }
        let text = answer(&statements.join("; "), &psql.output().unwrap());
        text.trim_end().to_owned()
    }

    /// Its TCP port.
    pub(crate) fn port(&self) -> String {
        self.url.port().unwrap().to_string()
    }

    /// The end of its write-ahead log, in bytes from the first.
    fn log_end(&self) -> u64 {
        let end = self.run("postgres", &["SELECT pg_current_wal_lsn() - '0/0'"]);
        end.parse().unwrap()
    }
}

/// What a database shell said; it must have ended well.
pub(crate) fn answer(query: &str, output: &Output) -> String {
    assert!(
        output.status.success(),
        "{query}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// An empty database that a role of its own owns. Both are gone when it is dropped.
pub(crate) struct OwnDatabase {
    pub(crate) server: Server,
    /// The name of the database and of its owner.
    pub(crate) name: String,
    /// The file with the owner's password.
    pub(crate) password_file: PathBuf,
    /// The end of the server's write-ahead log when it was made.
    log_start: u64,
}

impl OwnDatabase {
    /// Makes one; its password file goes into `directory`.
    pub(crate) fn make(directory: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let server = Server::of_this_run();
        let name = format!("it_{}_{number}", std::process::id());
        let password = format!("correct horse of {name}");
        server.run(
            "postgres",
            &[
                &format!("CREATE ROLE {name} LOGIN PASSWORD '{password}'"),
                &format!("CREATE DATABASE {name} OWNER {name}"),
            ],
        );
        let password_file = directory.join(format!("{name}-password"));
        fs::write(&password_file, password).unwrap();
        fs::set_permissions(&password_file, fs::Permissions::from_mode(0o600)).unwrap();
        Self {
            log_start: server.log_end(),
            server,
            name,
            password_file,
        }
    }

    /// The options of `countersignd init` that name it.
    pub(crate) fn options(&self) -> Vec<String> {
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let options = [
            ("--postgres-host", "127.0.0.1".to_owned()),
            ("--postgres-port", self.server.port()),
            ("--postgres-database", self.name.clone()),
            ("--postgres-user", self.name.clone()),
            ("--postgres-password-file", path(&self.password_file)),
            ("--postgres-ca", path(&self.server.ca)),
        ];
        options
            .into_iter()
            .flat_map(|(option, value)| [option.to_owned(), value])
            .collect()
    }
}

/// The server's default, and what its files are named by.
const SEGMENT: u64 = 16 << 20;

impl OwnDatabase {
    /// What the server keeps of it: the files of its tables and indexes, what was added to the write-ahead log since it
    /// was made, and the server's own log.
    pub(crate) fn at_rest(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let folder = "SELECT current_setting('data_directory') || '/base/' || oid FROM pg_database \
                      WHERE datname = current_database()";
        // Without this, the files may be older than the last commit.
        self.server.run(&self.name, &["CHECKPOINT"]);
        let folder = PathBuf::from(self.server.run(&self.name, &[folder]));
        let mut files = files_below(&folder);
        files.retain(|file| is_ours(file));
        files.push(self.server.socket.with_file_name("log"));
        let mut kept: Vec<_> = files
            .into_iter()
            .map(|file| (file.clone(), fs::read(&file).unwrap()))
            .collect();
        let data = folder.parent().unwrap().parent().unwrap();
        kept.push(self.added_to_log(&data.join("pg_wal")));
        kept
    }

    /// The part of the write-ahead log in which it may stand, under the name of the log's folder.
    fn added_to_log(&self, folder: &Path) -> (PathBuf, Vec<u8>) {
        let end = self.server.log_end();
        let mut added = Vec::new();
        for segment in self.log_start / SEGMENT..=end / SEGMENT {
            let start = segment * SEGMENT;
            let name = format!("SELECT pg_walfile_name('0/0'::pg_lsn + {start} + 1)");
            let segment = fs::read(folder.join(self.server.run("postgres", &[&name]))).unwrap();
            let within =
                |at: u64| usize::try_from(at.clamp(start, start + SEGMENT) - start).unwrap();
            added.extend_from_slice(&segment[within(self.log_start)..within(end)]);
        }
        (folder.to_owned(), added)
    }
}

/// Files are named by numbers; below 16384 are the server's own catalogs, which each database starts with.
fn is_ours(file: &Path) -> bool {
    let name = file.file_name().unwrap().to_str().unwrap();
    let number = name.split(|c: char| !c.is_ascii_digit()).next().unwrap();
    number.parse().is_ok_and(|number: u32| number >= 16_384)
}

impl Drop for OwnDatabase {
    fn drop(&mut self) {
        let Self { server, name, .. } = self;
        let mut psql = server.psql("postgres");
        psql.args(["--command", &format!("DROP DATABASE {name} WITH (FORCE)")])
            .args(["--command", &format!("DROP ROLE {name}")]);
        // The server goes anyway; a test that has failed already says why by itself.
        let dropped = psql.output().is_ok_and(|output| output.status.success());
        if !dropped && !std::thread::panicking() {
            panic!("database {name} could not be dropped");
        }
    }
}

/// Where an environment under test keeps its database.
pub(crate) enum Storage {
    /// A file that `init` makes.
    Sqlite,
    /// A database that is there.
    Postgres(Box<OwnDatabase>),
}

impl Storage {
    /// For one environment; `directory` is the test's.
    pub(crate) fn make(directory: &Path) -> Self {
        match Engine::of_this_run() {
            Engine::Sqlite => Self::Sqlite,
            Engine::Postgres => Self::Postgres(Box::new(OwnDatabase::make(directory))),
        }
    }

    /// The options with which `countersignd init` uses it.
    pub(crate) fn options(&self) -> Vec<String> {
        match self {
            Self::Sqlite => Vec::new(),
            Self::Postgres(database) => database.options(),
        }
    }

    /// Lets the time pass after which the instances that were killed are known to be dead: for tests that are not about
    /// waiting for it.
    pub(crate) fn let_leases_lapse(&self) {
        if let Self::Postgres(database) = self {
            let sql = "UPDATE instances SET ended_at = lease_until WHERE ended_at IS NULL";
            database.server.run(&database.name, &[sql]);
        }
    }

    /// Changes rows behind the appliance's back.
    pub(crate) fn tamper(&self, environment: &Path, sql: &str) {
        match self {
            Self::Sqlite => {
                let file = environment.join("countersign.db");
                let mut shell = Command::new("sqlite3");
                shell.args(["-cmd", ".timeout 5000"]).arg(file).arg(sql);
                assert!(shell.status().unwrap().success(), "{sql}");
            }
            Self::Postgres(database) => drop(database.server.run(&database.name, &[sql])),
        }
    }

    /// What is kept of it outside the environment's directory.
    pub(crate) fn at_rest(&self) -> Vec<(PathBuf, Vec<u8>)> {
        match self {
            Self::Sqlite => Vec::new(),
            Self::Postgres(database) => database.at_rest(),
        }
    }

    /// The database as another program sees it; `environment` is the directory that `init` filled.
    pub(crate) fn database(&self, environment: &Path) -> Database {
        match self {
            Self::Sqlite => Database::Sqlite(environment.join("countersign.db")),
            Self::Postgres(database) => Database::of(database),
        }
    }
}

/// All of a database, as a backup keeps it.
pub(crate) struct Saved(PathBuf);

impl Saved {
    /// Saves the database of an appliance; of a file, while nobody serves it.
    pub(crate) fn of(appliance: &Appliance) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let saved = appliance.directory().join(format!("saved-{number}"));
        let environment = appliance.environment();
        let output = match &*appliance.storage {
            Storage::Sqlite => Command::new("sqlite3")
                .arg(environment.join("countersign.db"))
                .arg(format!(".backup '{}'", saved.display()))
                .output(),
            Storage::Postgres(database) => {
                let Server { bin, .. } = &database.server;
                let mut dump = database.server.psql(&database.name);
                dump = as_program(&dump, &bin.join("pg_dump"));
                dump.args(["--clean", "--if-exists", "--dbname", &database.name])
                    .arg("--file")
                    .arg(&saved)
                    .output()
            }
        };
        answer("save", &output.unwrap());
        Self(saved)
    }

    /// Puts it back: on a server in one transaction, under whoever uses it.
    pub(crate) fn put_back(&self, appliance: &Appliance) {
        match &*appliance.storage {
            Storage::Sqlite => {
                let file = appliance.environment().join("countersign.db");
                for journal in ["-wal", "-shm"] {
                    let mut name = file.clone().into_os_string();
                    name.push(journal);
                    drop(fs::remove_file(name));
                }
                fs::copy(&self.0, file).unwrap();
            }
            Storage::Postgres(database) => {
                let put_back = || {
                    let mut psql = database.server.psql(&database.name);
                    psql.args(["--single-transaction", "--output", "/dev/null", "--file"])
                        .arg(&self.0);
                    psql.output().unwrap()
                };
                // It takes every table for itself, in an order that those who use them do not know.
                let nobody_in_the_way = |tried: &Output| {
                    let said = String::from_utf8_lossy(&tried.stderr);
                    !said.contains("deadlock detected")
                };
                let mut tries = std::iter::repeat_with(put_back).take(10);
                let last = tries.find(nobody_in_the_way);
                answer("put back", &last.expect("no ten deadlocks"));
            }
        }
    }
}

/// Another program of the server, in the environment of `command`.
fn as_program(command: &Command, program: &Path) -> Command {
    let mut other = Command::new(program);
    other.env_clear();
    for (name, value) in command.get_envs() {
        other.env(name, value.unwrap());
    }
    other
}
