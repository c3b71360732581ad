//! What fails under a running appliance: system calls, by `strace`, which works for root and for an ordinary user; the
//! token and the database, by their locks.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Appliance;
use super::database::Database;
use super::engine::Storage;

/// A fault that lasts until it is dropped.
pub(crate) struct Fault(Child);

impl Fault {
    /// Makes `calls` of a process that concern `files` end `how` strace(1) says, for example `error=ENOSPC`.
    pub(crate) fn inject(pid: u32, files: &[PathBuf], calls: &str, how: &str) -> Self {
        let mut strace = Command::new("strace");
        strace
            .args(["-f", "-o", "/dev/null", "-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={calls}:{how}")]);
        for file in files {
            strace.arg("-P").arg(file);
        }
        let mut strace = strace
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace must be installed: run scripts/setup.sh");
        let mut said = BufReader::new(strace.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("attached") {
            line.clear();
            let read = said.read_line(&mut line).unwrap();
            assert!(read > 0, "strace cannot watch the appliance");
        }
        // It must be able to go on talking.
        std::thread::spawn(move || drop(std::io::copy(&mut said, &mut std::io::sink())));
        Self(strace)
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        // Not SIGKILL at once: it must let go of a process that goes on. For one that is dead it waits for ever.
        let process = self.0.id().to_string();
        drop(Command::new("kill").args(["-INT", &process]).status());
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end && matches!(self.0.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Holds the locks of the token's files, so that every call of the module hangs, until it is dropped.
pub(crate) struct Hang(Child);

impl Hang {
    pub(crate) fn of(appliance: &Appliance) -> Self {
        let script = "import fcntl, os, sys\n\
            held = []\n\
            for folder, _, names in os.walk(sys.argv[1]):\n \
             for name in names:\n  \
              held.append(open(os.path.join(folder, name), 'r+b'))\n  \
              fcntl.lockf(held[-1], fcntl.LOCK_EX)\n\
            print('held', flush=True)\n\
            sys.stdin.read()";
        let mut process = Command::new("python3")
            .args(["-c", script])
            .arg(appliance.token.tokens())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "held\n");
        Self(process)
    }
}

impl Drop for Hang {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Somebody else's lock on the database, so that nothing is committed, until it is dropped.
pub(crate) struct Locked(Child);

impl Locked {
    pub(crate) fn database_of(appliance: &Appliance) -> Self {
        let (mut shell, lock) = match (&*appliance.storage, appliance.database()) {
            (Storage::Postgres(database), _) => {
                let shell = database.server.psql(&database.name);
                // What begins and what ends a check is written here.
                (
                    shell,
                    "BEGIN;\nLOCK TABLE steps IN EXCLUSIVE MODE;\n\\echo locked\n",
                )
            }
            (Storage::Sqlite, Database::Sqlite(path)) => {
                let mut shell = Command::new("sqlite3");
                shell.args(["-cmd", ".timeout 5000"]).arg(path);
                (shell, "BEGIN IMMEDIATE;\n.print locked\n")
            }
            _ => panic!("the database is of another engine"),
        };
        let mut process = shell
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        process
            .stdin
            .as_mut()
            .unwrap()
            .write_all(lock.as_bytes())
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "locked\n");
        Self(process)
    }
}

impl Locked {
    /// What somebody who can write to the database does to it at this moment; then the lock is given back.
    pub(crate) fn commit(mut self, statements: &str) {
        let mut shell = self.0.stdin.take().unwrap();
        writeln!(shell, "{statements};\nCOMMIT;").unwrap();
        // The end of its input ends the shell.
        drop(shell);
        assert!(self.0.wait().unwrap().success(), "{statements}");
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // The end of the shell is the end of its transaction.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
