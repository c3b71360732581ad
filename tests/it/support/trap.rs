//! SIGKILL at a commit: what it writes is durable then, and nobody has been told.
//!
//! Which commit is said by a query and its answer: the first commit that makes it so. A transaction that is not committed
//! is seen by nobody, so the process is stopped at each one and the query is asked of what it is about to commit. On
//! `SQLite` a commit is a sync of the file: `strace` stops the process as it leaves each one, and the query is asked of a
//! copy of the files, where the transaction is whole already. On PostgreSQL a trigger asks it at the COMMIT of each
//! transaction with an audit record, and waits for a lock that the test holds until it has killed the process; then the
//! server goes on and commits.

use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use tempfile::TempDir;

use super::Appliance;
use super::database::{Database, in_postgres};
use super::engine::{OwnDatabase, Storage};

/// Kills an appliance at a commit, unless it is dropped before.
pub(crate) enum Trap<'a> {
    Sync(#[expect(dead_code, reason = "dropped")] AtSync),
    Commit(#[expect(dead_code, reason = "dropped")] AtCommit<'a>),
}

impl<'a> Trap<'a> {
    /// Sets it for the running process: it dies at the first commit after which the first row of `query` is `row`.
    pub(crate) fn arm(appliance: &'a Appliance, query: &str, row: &str) -> Self {
        match (&*appliance.storage, appliance.database()) {
            (Storage::Sqlite, Database::Sqlite(path)) => {
                Self::Sync(AtSync::arm(appliance.pid(), path, query, row))
            }
            (Storage::Postgres(database), _) => {
                Self::Commit(AtCommit::arm(database, appliance.pid(), query, row))
            }
            _ => panic!("the database is of another engine"),
        }
    }
}

pub(crate) struct AtSync {
    pid: u32,
    strace: Child,
}

impl AtSync {
    fn arm(pid: u32, database: PathBuf, query: &str, row: &str) -> Self {
        let mut strace = Command::new("strace")
            .args(["-f", "-e", "trace=fsync,fdatasync"])
            .args(["-e", "inject=fsync,fdatasync:signal=STOP"])
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace must be installed: run scripts/setup.sh programs");
        let mut said = BufReader::new(strace.stderr.take().unwrap()).lines();
        // It also tells of threads that end while it attaches.
        let mut before = Vec::new();
        loop {
            match said.next() {
                Some(Ok(line)) if line.contains("attached") => break,
                Some(Ok(line)) => before.push(line),
                _ => panic!("strace cannot watch the appliance: {before:?}"),
            }
        }
        let (query, row) = (query.to_owned(), row.to_owned());
        std::thread::spawn(move || {
            // Each signal is told of once, when the thread that synced has it. Going on more often than stopping would
            // take the next stop back.
            for line in said.map_while(Result::ok) {
                if !line.contains("--- SIGSTOP {") {
                    continue;
                }
                if about_to_commit(&database, &query).as_ref() == Some(&row) {
                    kill(pid);
                } else {
                    signal("CONT", pid);
                }
            }
        });
        Self { pid, strace }
    }
}

/// The first row of the query when what is in the files is committed. Its reader has no part in the index that the
/// process shares with others, so it takes each whole transaction in the log for committed.
fn about_to_commit(database: &Path, query: &str) -> Option<String> {
    let copy = TempDir::new().unwrap();
    let path = copy.path().join("copy.db");
    let log = |database: &Path| PathBuf::from(format!("{}-wal", database.display()));
    // They are gone when the test is over.
    fs::copy(database, &path).ok()?;
    fs::copy(log(database), log(&path)).ok()?;
    Database::Sqlite(path).rows(query).into_iter().next()
}

impl Drop for AtSync {
    fn drop(&mut self) {
        drop(self.strace.kill());
        drop(self.strace.wait());
        // It may have been stopped meanwhile.
        signal("CONT", self.pid);
    }
}

pub(crate) struct AtCommit<'a> {
    database: &'a OwnDatabase,
    shell: Child,
}

impl<'a> AtCommit<'a> {
    fn arm(database: &'a OwnDatabase, pid: u32, query: &str, row: &str) -> Self {
        let name = &database.name;
        let query = in_postgres(query);
        let stop = format!(
            "CREATE FUNCTION trap.stop() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN \
             IF '{row}' = ({query} LIMIT 1) THEN PERFORM pg_advisory_xact_lock_shared(7, 7); END IF; \
             RETURN NULL; END $$"
        );
        let statements = [
            "CREATE SCHEMA trap",
            &stop,
            "CREATE CONSTRAINT TRIGGER trap AFTER INSERT ON audit_records DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION trap.stop()",
            &format!("GRANT USAGE ON SCHEMA trap TO {name}"),
        ];
        let mut shell = database
            .server
            .psql(name)
            .env("PGAPPNAME", "trap")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut says = shell.stdin.take().unwrap();
        let mut hears = BufReader::new(shell.stdout.take().unwrap()).lines();
        ask(&mut says, "SELECT 'held' FROM pg_advisory_lock(7, 7);");
        heard(&mut hears, "held").unwrap();
        // Only now, so that nobody runs into the trigger before the lock is held.
        database.server.run(name, &statements);
        std::thread::spawn(move || {
            ask(&mut says, UNTIL_STOPPED);
            // Nothing is heard when the trap is taken away.
            if heard(&mut hears, "stopped").is_some() {
                kill(pid);
            }
            // The end of its input ends the shell, and that gives the lock back.
            drop(says);
        });
        Self { database, shell }
    }
}

/// Answers when somebody waits for the lock.
const UNTIL_STOPPED: &str = "DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' \
     AND (classid, objid, objsubid) = (7, 7, 2) AND NOT granted \
     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) \
     LOOP PERFORM pg_sleep(0.002); END LOOP; END $$;\n\\echo stopped";

fn ask(says: &mut ChildStdin, text: &str) {
    writeln!(says, "{text}").unwrap();
}

fn heard(hears: &mut Lines<BufReader<ChildStdout>>, expected: &str) -> Option<()> {
    hears
        .find_map(Result::ok)
        .filter(|line| line == expected)
        .map(drop)
}

/// SIGKILL, and until all its threads have ended.
fn kill(pid: u32) {
    signal("KILL", pid);
    let state = || std::fs::read_to_string(format!("/proc/{pid}/stat"));
    // The state follows the name, which is in parentheses; Z is dead and not waited for.
    while state().is_ok_and(|stat| !stat.rsplit(')').next().unwrap().starts_with(" Z")) {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// Sends a signal; a process that has ended meanwhile is as it should be.
fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .stderr(Stdio::null())
        .status();
    assert!(sent.is_ok(), "kill can be run");
}

impl Drop for AtCommit<'_> {
    fn drop(&mut self) {
        let OwnDatabase { server, name, .. } = self.database;
        // When it has stopped somebody, it ends by itself soon; and the last statement waits for what was stopped.
        let waiting = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                       WHERE application_name = 'trap' AND datname = current_database() AND wait_event = 'PgSleep'";
        server.run(name, &[waiting]);
        drop(self.shell.wait());
        server.run(name, &["DROP SCHEMA trap CASCADE"]);
    }
}
