//! SIGKILL at a commit: what it writes is durable then, and nobody has been told.
//!
//! Which commit is counted differently. On `SQLite` it is a sync of the file: `strace` kills the process as it enters the
//! n-th one, and the bytes are in the file by then. On PostgreSQL it is a transaction with an audit record: a trigger
//! stops the n-th one at its COMMIT, by waiting for a lock that the test holds until it has killed the process; then the
//! server goes on and commits.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::Appliance;
use super::engine::{OwnDatabase, Storage};

/// Kills an appliance at its n-th commit from now on, unless it is dropped before.
pub(crate) enum Trap<'a> {
    Sync(#[expect(dead_code, reason = "dropped")] AtSync),
    Commit(#[expect(dead_code, reason = "dropped")] AtCommit<'a>),
}

impl<'a> Trap<'a> {
    /// Sets it for the running process; `n` counts from 1.
    pub(crate) fn arm(appliance: &'a Appliance, n: u32) -> Self {
        match &*appliance.storage {
            Storage::Sqlite => Self::Sync(AtSync::arm(appliance.pid(), n)),
            Storage::Postgres(database) => {
                Self::Commit(AtCommit::arm(database, appliance.pid(), n))
            }
        }
    }
}

pub(crate) struct AtSync(Child);

impl AtSync {
    fn arm(pid: u32, n: u32) -> Self {
        let mut strace = Command::new("strace")
            .args(["-f", "-o", "/dev/null", "-e", "trace=fsync,fdatasync"])
            .args([
                "-e",
                &format!("inject=fsync,fdatasync:signal=KILL:when={n}"),
            ])
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
        // It must be able to go on talking.
        std::thread::spawn(move || said.for_each(drop));
        Self(strace)
    }
}

impl Drop for AtSync {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

pub(crate) struct AtCommit<'a> {
    database: &'a OwnDatabase,
    shell: Child,
}

impl<'a> AtCommit<'a> {
    fn arm(database: &'a OwnDatabase, pid: u32, n: u32) -> Self {
        let name = &database.name;
        let stop = format!(
            "CREATE FUNCTION trap.stop() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN \
             IF nextval('trap.commits') = {n} THEN PERFORM pg_advisory_xact_lock_shared(7, 7); END IF; \
             RETURN NULL; END $$"
        );
        let statements = [
            "CREATE SCHEMA trap",
            "CREATE SEQUENCE trap.commits",
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
    let pid = pid.to_string();
    let killed = Command::new("kill").args(["-KILL", &pid]).status();
    assert!(killed.unwrap().success());
    let state = || std::fs::read_to_string(format!("/proc/{pid}/stat"));
    // The state follows the name, which is in parentheses; Z is dead and not waited for.
    while state().is_ok_and(|stat| !stat.rsplit(')').next().unwrap().starts_with(" Z")) {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
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
