//! The disk under the database is full, fails or takes no writes; the server is away; a page is damaged. Nothing is
//! torn, the log says so once, and when the cause is gone it goes on by itself.
//!
//! What happens to a file is asked on `SQLite` only: with a server the disk is the server's.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use countersign_client::api;

use crate::support::appliance::output_within;
use crate::support::engine::{Engine, OwnDatabase, Storage};
use crate::support::fault::{Fault, Hang};
use crate::support::signing::{fresh_key, json_of, post, refusal, transaction};
use crate::support::wallet::profile;
use crate::support::{Appliance, Node, Signing, eventually, wallet_of};

/// Longest wait for an answer that says no.
const PROMPT: Duration = Duration::from_secs(8);
const WRITES: &str = "write,pwrite64,ftruncate,fallocate";
const UNAVAILABLE: &str = "\"message\":\"the database is unavailable\"";

async fn ready(appliance: &Appliance, status: u16) {
    eventually("readiness follows", 20, async || {
        let reply = appliance.operator("/readyz").await?;
        (reply.status == status).then_some(())
    })
    .await;
}

fn files(appliance: &Appliance) -> Vec<PathBuf> {
    let database = appliance.environment().join("countersign.db");
    let wal = appliance.environment().join("countersign.db-wal");
    vec![database, wal]
}

/// How many lines of the log, from `from` on, are errors; each of them must be about the store.
fn errors(appliance: &Appliance, from: usize) -> usize {
    let log = appliance.log();
    let lines = log[from..].lines();
    let errors: Vec<&str> = lines.filter(|line| line.contains("\"ERROR\"")).collect();
    for line in &errors {
        assert!(line.contains(UNAVAILABLE), "{line}");
    }
    assert!(!log.contains("panicked"), "a panic");
    errors.len()
}

/// Nothing is half done, and all that is recorded is in the chain.
async fn sound(appliance: &Appliance) {
    let database = appliance.database();
    if Engine::of_this_run() == Engine::Sqlite {
        assert_eq!(database.value("PRAGMA integrity_check"), "ok");
    }
    for query in [
        "SELECT session_id FROM sessions WHERE state LIKE '%checking'",
        "SELECT profile_id FROM profiles WHERE checking IS NOT NULL OR suspect_events > 0",
        "SELECT permit_id FROM steps WHERE outcome <> 'done'",
    ] {
        assert_eq!(database.rows(query), Vec::<String>::new(), "{query}");
    }
    eventually("all records are chained", 10, async || {
        let open = "SELECT COUNT(*) FROM audit_records WHERE chained = 0";
        (database.number(open) == 0).then_some(())
    })
    .await;
}

/// Why the database is unavailable.
enum Cause {
    /// These system calls on its files end with this error.
    Disk(&'static str, &'static str),
    /// The server takes no connections and has closed those that there were.
    Server,
}

/// An outage that lasts until it is dropped.
enum Outage<'a> {
    Disk(#[expect(dead_code, reason = "dropped")] Fault),
    Server(&'a OwnDatabase),
}

impl<'a> Outage<'a> {
    fn begin(appliance: &'a Appliance, cause: &Cause) -> Self {
        match (cause, &*appliance.storage) {
            (Cause::Disk(calls, error), _) => {
                let how = format!("error={error}");
                let files = files(appliance);
                Self::Disk(Fault::inject(appliance.pid(), &files, calls, &how))
            }
            (Cause::Server, Storage::Postgres(database)) => {
                let name = &database.name;
                let close = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false");
                let kill = format!(
                    "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{name}'"
                );
                database.server.run("postgres", &[&close, &kill]);
                Self::Server(database)
            }
            (Cause::Server, Storage::Sqlite) => panic!("no server"),
        }
    }
}

impl Drop for Outage<'_> {
    fn drop(&mut self) {
        if let Self::Server(database) = self {
            let open = format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", database.name);
            database.server.run("postgres", &[&open]);
        }
    }
}

/// The database is unavailable while a transaction is prepared, admitted and concluded.
async fn outage(cause: Cause) {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let path = api::transactions_path(&profile(&wallet));
    let (body, key) = (transaction(1), fresh_key());
    let start = appliance.log().len();
    let fault = || Outage::begin(&appliance, &cause);

    // Nothing is begun, and asking again does no harm.
    let broken = fault();
    for _ in 0..3 {
        let asked = Instant::now();
        let reply = post(&appliance, &wallet, &path, &body, Some(&key)).await;
        assert_eq!(refusal(&reply), (503, "STORE_UNAVAILABLE".to_owned()));
        assert_eq!(json_of(&reply)["retry"], "same");
        assert!(asked.elapsed() < PROMPT, "{:?}", asked.elapsed());
    }
    ready(&appliance, 503).await;
    assert_eq!(errors(&appliance, start), 1, "one line for one outage");
    drop(broken);
    ready(&appliance, 200).await;
    let reply = post(&appliance, &wallet, &path, &body, Some(&key)).await;
    assert_eq!(reply.status, 200);
    let prepared = "SELECT COUNT(*) FROM transactions";
    assert_eq!(appliance.database().number(prepared), 1);

    // A message is not admitted; the same one is, later.
    let signing = Signing::prepare(&appliance, &wallet, 2).await;
    let (state, message) = signing.first();
    drop(state);
    let broken = fault();
    let (reply, _) = signing.post_first(&message).await;
    assert_eq!(refusal(&reply), (503, "STORE_UNAVAILABLE".to_owned()));
    drop(broken);
    ready(&appliance, 200).await;
    assert_eq!(signing.state().await, "CREATED");
    let (answer, kept) = signing.round_1().await;
    assert_eq!(answer.status, 202);
    eventually("round 1 is concluded", 10, async || {
        (signing.state().await == "R1_DONE").then_some(())
    })
    .await;

    // The disk fails between the admission and the conclusion: the verdict waits for it.
    let hang = Hang::of(&appliance);
    let answered = signing.round_2(kept, &answer);
    let repaired = async {
        eventually("the check has begun", 10, async || {
            let checking = "SELECT COUNT(*) FROM sessions WHERE state = 'r2_checking'";
            (appliance.database().number(checking) == 1).then_some(())
        })
        .await;
        let broken = fault();
        drop(hang);
        tokio::time::sleep(Duration::from_secs(2)).await;
        drop(broken);
    };
    let (reply, ()) = tokio::join!(answered, repaired);
    assert_eq!(reply.status, 200);
    assert_eq!(signing.state().await, "SIGNED");
    ready(&appliance, 200).await;
    assert!(errors(&appliance, start) <= 3, "one line for one outage");
    sound(&appliance).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_503_and_nothing_is_torn() {
    if Engine::of_this_run() == Engine::Sqlite {
        outage(Cause::Disk(WRITES, "ENOSPC")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_takes_no_writes_is_503_and_nothing_is_torn() {
    if Engine::of_this_run() == Engine::Sqlite {
        outage(Cause::Disk(WRITES, "EROFS")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_to_sync_is_503_and_nothing_is_torn() {
    if Engine::of_this_run() == Engine::Sqlite {
        outage(Cause::Disk("fsync,fdatasync", "EIO")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_503_and_nothing_is_torn() {
    if Engine::of_this_run() == Engine::Postgres {
        outage(Cause::Server).await;
    }
}

/// Overwrites the root page of a table or an index, as a disk that forgot it would. Nothing may be running.
fn damage(appliance: &Appliance, table: &str) {
    let file = appliance.environment().join("countersign.db");
    // The log may hold a good copy of the page.
    let emptied = Command::new("sqlite3")
        .arg(&file)
        .arg("PRAGMA wal_checkpoint(TRUNCATE)")
        .output();
    assert!(emptied.unwrap().status.success());
    let database = appliance.database();
    let root = database.number(&format!(
        "SELECT rootpage FROM sqlite_schema WHERE name = '{table}'"
    ));
    let size = database.number("PRAGMA page_size");
    let file = OpenOptions::new().write(true).open(file).unwrap();
    let page = vec![0xa5; usize::try_from(size).unwrap()];
    let offset = u64::try_from((root - 1) * size).unwrap();
    file.write_all_at(&page, offset).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_makes_the_appliance_unready_until_it_is_restored() {
    if Engine::of_this_run() != Engine::Sqlite {
        return;
    }
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    appliance.stop().await;
    damage(&appliance, "decisions");
    appliance.serve().await;
    let path = api::transactions_path(&profile(&wallet));
    for _ in 0..3 {
        let reply = post(
            &appliance,
            &wallet,
            &path,
            &transaction(1),
            Some(&fresh_key()),
        )
        .await;
        assert_eq!(refusal(&reply), (503, "STORE_UNAVAILABLE".to_owned()));
    }
    ready(&appliance, 503).await;
    let log = appliance.log();
    let damaged = "the database is damaged: restore it from a backup";
    assert_eq!(log.matches(damaged).count(), 1, "one line");
    assert!(appliance.is_running() && !log.contains("panicked"));
    let prepared = "SELECT COUNT(*) FROM transactions";
    assert_eq!(appliance.database().number(prepared), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_damaged_where_every_start_looks_is_not_served() {
    if Engine::of_this_run() != Engine::Sqlite {
        return;
    }
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    appliance.stop().await;
    damage(&appliance, "environment");
    let output = output_within(appliance.serve_command(), Duration::from_secs(20));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("malformed"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}
