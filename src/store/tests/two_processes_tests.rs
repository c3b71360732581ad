//! Two processes with 32 clients each on one PostgreSQL database: every lock and every nonce is exact.
//!
//! The clients drive the store as signing does, as fast as it answers: reserve a nonce, check a first message, check a
//! second one, sign; now and then give up. What a lock promises is watched from outside the database: while a client
//! checks, it holds a file of the key, and never finds it held.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::super::profiles::NewProfile;
use super::super::sessions::SessionRow;
use super::super::transactions::{TransactionRow, TransactionState};
use super::super::{
    AuditEvent, AuditRecord, CommitError, Key, Operation, Reads, Store, StoreError, Tx, profiles,
    sessions, steps, transactions,
};
use super::{Database, session};
use crate::audit::{Verified, catch_up, sequence, verify};
use crate::clock;
use crate::domain::{
    EnvironmentKind, InstanceId, OperationId, OtSetup, OwnerId, ProfileId, SessionId, SessionState,
    Suspicion, TenantId, TransactionId,
};
use crate::service::instances::Membership;
use crate::sessions::conclude::{Conclude, Effect};
use crate::sessions::lifecycle::{Left, Orphan, give_up};
use crate::sessions::{Arrival, Lifetimes, Session};
use crate::telemetry::metrics::Metrics;

const CLIENTS: u64 = 32;
const SECONDS: u64 = 60;
/// Four clients for each.
const PROFILES: usize = 16;
const CHAIN: u64 = 31_337;
const LIFETIMES: Lifetimes = Lifetimes {
    session: 120,
    kept_state: 60,
};
/// What a worker finds in its environment.
const PLAN: &str = "COUNTERSIGN_TEST_WORKER";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute"]
async fn two_processes_with_32_clients_each_are_exact() {
    let report = run(async |_| {}).await;
    assert_eq!(
        report["away"], 0,
        "the database was there all the time: {report}"
    );
}

/// Restarts the server, so it has one of its own.
#[test]
#[ignore = "takes a minute"]
fn two_processes_are_exact_while_the_database_restarts() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/with-postgres.sh");
    let mut command = Command::new(script);
    command.arg(std::env::current_exe().unwrap());
    let test = "store::tests::two_processes_tests::with_a_server_of_its_own";
    command.args(["--exact", test, "--ignored", "--nocapture"]);
    let status = command.env(PLAN, "{}").status().unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "is started by the test above"]
async fn with_a_server_of_its_own() {
    if std::env::var_os(PLAN).is_none() {
        return;
    }
    let report = run(async |seconds| {
        sleep(Duration::from_secs(seconds / 3)).await;
        restart(Duration::ZERO).await;
        sleep(Duration::from_secs(seconds / 3)).await;
        restart(TOO_LONG).await;
    })
    .await;
    assert!(
        report["away"].as_u64().unwrap() > 0,
        "nobody noticed that the server was away: {report}"
    );
}

/// Longer than operations wait for a server that is away, shorter than a lease.
const TOO_LONG: Duration = Duration::from_secs(6);

/// Every connection breaks, and what was not committed is gone. The server is away for so long at least.
async fn restart(away: Duration) {
    control(&["stop", "--mode=immediate"]);
    sleep(away).await;
    let url = std::env::var("COUNTERSIGN_TEST_POSTGRES").unwrap();
    let port = url::Url::parse(&url).unwrap().port().unwrap();
    control(&["start", &format!("--options=-p {port}")]);
}

fn control(arguments: &[&str]) {
    let ca = std::env::var("COUNTERSIGN_TEST_POSTGRES_CA").unwrap();
    let folder = Path::new(&ca).parent().unwrap();
    let bin = std::env::var("COUNTERSIGN_TEST_POSTGRES_BIN").unwrap();
    let owner = Command::new("stat")
        .args(["-c", "%U"])
        .arg(folder.join("data"))
        .output();
    let owner = String::from_utf8(owner.unwrap().stdout).unwrap();
    let us = Command::new("id").arg("-un").output().unwrap();
    let mut command = if owner.as_bytes() == us.stdout {
        Command::new(format!("{bin}/pg_ctl"))
    } else {
        let mut command = Command::new("runuser");
        command.args(["-u", owner.trim(), "--", &format!("{bin}/pg_ctl")]);
        command
    };
    command
        .current_dir(folder)
        .args(arguments)
        .arg("--silent")
        .arg(format!("--pgdata={}", folder.join("data").display()))
        .arg(format!("--log={}", folder.join("log").display()));
    assert!(command.status().unwrap().success());
}

/// Two workers and, meanwhile, `disturb`; then looks at what they left. Their counts, added up.
async fn run(disturb: impl AsyncFnOnce(u64)) -> Value {
    let seconds = std::env::var("COUNTERSIGN_TEST_SECONDS")
        .map_or(SECONDS, |seconds| seconds.parse().unwrap());
    let database = Database::postgres().await;
    let folder = tempfile::tempdir().unwrap();
    let store = database.store().await;
    let mut ids = Vec::new();
    for _ in 0..PROFILES {
        let id = ProfileId::generate();
        assert!(store.commit(AddProfile(id)).await.is_ok());
        ids.push(id.to_string());
    }
    let plan = |number: usize| {
        json!({
            "database": database.name(),
            "folder": folder.path(),
            "report": folder.path().join(format!("report-{number}")),
            "seconds": seconds,
            "profiles": ids,
        })
    };
    let workers: Vec<Child> = (0..2).map(|number| start_worker(&plan(number))).collect();
    disturb(seconds).await;
    for worker in workers {
        let ended = tokio::task::spawn_blocking(move || worker.wait_with_output());
        let ended = ended.await.unwrap().unwrap();
        assert!(ended.status.success(), "a worker failed");
    }
    let mut total = serde_json::Map::new();
    for number in 0..2 {
        let text = std::fs::read_to_string(folder.path().join(format!("report-{number}")));
        let report: Value = serde_json::from_str(&text.unwrap()).unwrap();
        eprintln!("process {number}: {report}");
        assert!(report["signed"].as_u64().unwrap() > 0, "{report}");
        for (name, count) in report.as_object().unwrap() {
            let sum = total.entry(name.clone()).or_insert(json!(0));
            *sum = json!(sum.as_u64().unwrap() + count.as_u64().unwrap());
        }
    }
    let total = Value::Object(total);
    inspect(&store, &total).await;
    total
}

fn start_worker(plan: &Value) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::two_processes_tests::worker"])
        .args(["--ignored", "--nocapture"])
        .env(PLAN, plan.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// What must hold when all is quiet.
async fn inspect(store: &Store, total: &Value) {
    assert_eq!(total["overlaps"], 0, "two checks of one key at a time");
    assert_eq!(
        total["refused_conclusions"], 0,
        "a living process was taken for dead"
    );
    let count = async |sql| number(store, sql).await;
    for nothing in [
        "SELECT COUNT(*) FROM profiles WHERE checking IS NOT NULL",
        "SELECT COUNT(*) FROM sessions WHERE state LIKE '%checking'",
        "SELECT COUNT(*) FROM steps WHERE outcome = 'open'",
        // Signed without both checks.
        "SELECT COUNT(*) FROM (SELECT sessions.session_id FROM sessions LEFT JOIN steps \
         ON steps.session_id = sessions.session_id AND outcome = 'done' WHERE state = 'signed' \
         GROUP BY sessions.session_id HAVING COUNT(steps.permit_id) <> 2) AS wrong",
        "SELECT COUNT(*) FROM sessions JOIN transactions ON transactions.session_id = sessions.session_id \
         WHERE (sessions.state = 'signed') <> (transactions.state = 'broadcasting')",
        // A nonce that was never given out.
        "SELECT COUNT(*) FROM (SELECT sender FROM transactions GROUP BY sender \
         HAVING MAX(nonce) + 1 <> COUNT(DISTINCT nonce) OR MIN(nonce) <> 0) AS wrong",
    ] {
        assert_eq!(count(nothing).await, 0, "{nothing}");
    }
    no_free_nonce_was_passed_over(store).await;
    let signed = count("SELECT COUNT(*) FROM sessions WHERE state = 'signed'").await;
    assert_eq!(total["signed"], signed);
    let suspect =
        count("SELECT CAST(COALESCE(SUM(suspect_events), 0) AS BIGINT) FROM profiles").await;
    assert_eq!(total["forgotten"], suspect);
    catch_up(store).await.unwrap();
    let records = count("SELECT COUNT(*) FROM audit_records").await;
    assert_eq!(verify(store).await.unwrap(), Verified::Intact(records));
    eprintln!("both: {total}; {records} records, all chained");
}

/// Whoever took a higher nonce did so while the lower one was taken.
async fn no_free_nonce_was_passed_over(store: &Store) {
    let mut reader = store.reader().await.unwrap();
    let sql = "SELECT profile_id, nonce, state, created_at, updated_at FROM transactions";
    let mut wallets: BTreeMap<String, Vec<(i64, bool, i64, i64)>> = BTreeMap::new();
    for row in reader.query(sql, &[]).await.unwrap() {
        let mut row = row.of("transactions");
        let wallet = row.text("profile_id").unwrap();
        let nonce = row.int("nonce").unwrap();
        let held = row.text("state").unwrap() != "released";
        let (taken, changed) = (
            row.int("created_at").unwrap(),
            row.int("updated_at").unwrap(),
        );
        wallets
            .entry(wallet)
            .or_default()
            .push((nonce, held, taken, changed));
    }
    for rows in wallets.into_values() {
        let mut free: BTreeMap<i64, i64> = BTreeMap::new();
        for (nonce, _, _, changed) in &rows {
            let since = free.entry(*nonce).or_default();
            *since = (*since).max(*changed);
        }
        for (nonce, held, ..) in &rows {
            if *held {
                free.remove(nonce);
            }
        }
        for (nonce, _, taken, _) in rows {
            let passed = free.range(..nonce).find(|(_, since)| **since < taken);
            assert_eq!(passed, None, "nonce {nonce} was taken before a lower one");
        }
    }
}

async fn number(store: &Store, sql: &'static str) -> i64 {
    // After a restart the idle connections are dead; reading again replaces them.
    let mut reader = store.reader().await.unwrap();
    let row = reader.query_one(sql, &[]).await.unwrap().unwrap();
    row.of("count").int("count").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "is started by the tests above"]
async fn worker() {
    let Ok(plan) = std::env::var(PLAN) else {
        return;
    };
    let plan: Value = serde_json::from_str(&plan).unwrap();
    let store = Store::open(Database::postgres_named(plan["database"].as_str().unwrap()))
        .await
        .unwrap();
    let metrics = Arc::new(Metrics::new(EnvironmentKind::Development).unwrap());
    let membership = Membership::join(store.clone(), "boot".to_owned(), Arc::clone(&metrics));
    let membership = Arc::new(membership.await.unwrap());
    let stop = CancellationToken::new();
    let background = [
        tokio::spawn(Arc::clone(&membership).run(stop.clone())),
        tokio::spawn(sequence(
            store.clone(),
            metrics,
            membership.instance(),
            stop.clone(),
        )),
        tokio::spawn(reaper(Arc::clone(&membership), stop.clone())),
    ];
    let ids = plan["profiles"].as_array().unwrap();
    let worker = Arc::new(Worker {
        store,
        instance: membership.instance(),
        profiles: ids
            .iter()
            .map(|id| ProfileId::parse(id.as_str().unwrap()).unwrap())
            .collect(),
        folder: plan["folder"].as_str().unwrap().into(),
        tally: Tally::default(),
    });
    let end = Instant::now() + Duration::from_secs(plan["seconds"].as_u64().unwrap());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| tokio::spawn(Arc::clone(&worker).client(number, end)))
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    stop.cancel();
    for task in background {
        task.await.unwrap();
    }
    membership.leave().await;
    let report = worker.tally.report().to_string();
    std::fs::write(plan["report"].as_str().unwrap(), report).unwrap();
}

/// As housekeeping does.
async fn reaper(membership: Arc<Membership>, stop: CancellationToken) {
    while tokio::time::timeout(Duration::from_secs(2), stop.cancelled())
        .await
        .is_err()
    {
        // It fails while the database is away.
        drop(membership.reap().await);
    }
}

macro_rules! tally {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        #[derive(Default)]
        struct Tally { $($(#[$doc])* $name: AtomicU64),+ }

        impl Tally {
            fn report(&self) -> Value {
                json!({ $(stringify!($name): self.$name.load(Ordering::Relaxed)),+ })
            }
        }
    };
}

tally! {
    /// Transactions that reserved a nonce.
    prepared,
    signed,
    /// Given up after a check, or because the key was never free.
    aborted,
    /// Checks that did not begin because another one of the key was running.
    busy,
    /// Operations that did not happen because the database was away.
    away,
    /// Operations of which nobody can say.
    unknown,
    /// Checks that began though their admission failed, ended as suspect.
    forgotten,
    /// Conclusions that found their check ended by somebody else.
    refused_conclusions,
    /// Checks of one key at the same time.
    overlaps,
}

struct Worker {
    store: Store,
    instance: InstanceId,
    profiles: Vec<ProfileId>,
    folder: PathBuf,
    tally: Tally,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Worker {
    async fn client(self: Arc<Self>, number: u64, end: Instant) {
        let mut random = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        while Instant::now() < end {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let profile = self.profiles[usize::try_from(random >> 33).unwrap() % PROFILES];
            let give_up = (random >> 20).is_multiple_of(10);
            self.payment(profile, give_up).await;
        }
    }

    async fn payment(&self, profile: ProfileId, give_up: bool) {
        let session = SessionId::generate();
        let instance = self.instance;
        let reserve = Reserve {
            profile,
            session,
            instance,
        };
        if !self.happened(self.store.commit(reserve).await).await {
            return;
        }
        add(&self.tally.prepared);
        for step in [1, 2] {
            let Some((row, permit)) = self.begin(profile, session, step).await else {
                return self.abandon(profile, session).await;
            };
            self.check(profile).await;
            let effect = match step {
                1 if give_up => Effect::Abort {
                    reason: "given up".to_owned(),
                    suspicion: Suspicion::None,
                },
                1 => Effect::Advance,
                _ => Effect::Sign {
                    raw: session.to_string().into_bytes(),
                    tx_hash: [7; 32],
                },
            };
            if !self.conclude(row, permit, effect).await {
                return;
            }
            if give_up {
                return add(&self.tally.aborted);
            }
        }
        add(&self.tally.signed);
    }

    /// Whether an admission happened; a failure is counted and takes a while.
    async fn happened<T, R>(&self, answer: Result<T, CommitError<R>>) -> bool {
        match answer {
            Ok(_) => return true,
            Err(CommitError::Refused(_)) => add(&self.tally.busy),
            Err(CommitError::Store(StoreError::OutcomeUnknown(_))) => add(&self.tally.unknown),
            Err(CommitError::Store(_)) => add(&self.tally.away),
        }
        sleep(Duration::from_millis(10)).await;
        false
    }

    async fn begin(
        &self,
        profile: ProfileId,
        session: SessionId,
        step: u8,
    ) -> Option<(SessionRow, OperationId)> {
        for _ in 0..200 {
            let instance = self.instance;
            let begin = Begin {
                profile,
                session,
                step,
                instance,
            };
            match self.store.commit(begin).await {
                Ok(begun) => return Some(begun.into_inner()),
                Err(CommitError::Store(error)) => {
                    self.happened::<(), ()>(Err(error.into())).await;
                    // It may have begun all the same: then nobody runs it.
                    if self.end_forgotten(session).await {
                        return None;
                    }
                }
                refused => drop(self.happened(refused).await),
            }
        }
        None
    }

    /// Ends a check that this process began and does not know of; whether there was one.
    async fn end_forgotten(&self, id: SessionId) -> bool {
        let row = loop {
            let found = async {
                let mut reader = self.store.reader().await?;
                sessions::find(&mut reader, id).await
            };
            match found.await {
                Ok(row) => break row.unwrap(),
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        };
        if !row.state.is_checking() {
            return false;
        }
        loop {
            let (session, left) = (row.clone(), Left::Forgotten);
            match self.store.conclude(Orphan { session, left }).await {
                // Refused: an earlier try was committed after all.
                Ok(_) | Err(CommitError::Refused(_)) => break,
                Err(CommitError::Store(_)) => sleep(Duration::from_millis(100)).await,
            }
        }
        add(&self.tally.forgotten);
        true
    }

    /// The witness.
    async fn check(&self, profile: ProfileId) {
        let file = self.held(profile);
        let alone = file.try_lock().is_ok();
        if !alone {
            add(&self.tally.overlaps);
        }
        sleep(Duration::from_millis(1)).await;
    }

    fn held(&self, profile: ProfileId) -> File {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join(profile.to_string()))
            .unwrap()
    }

    /// As a step insists on its verdict.
    async fn conclude(&self, session: SessionRow, permit_id: OperationId, effect: Effect) -> bool {
        let conclusion = Conclude {
            ot_setup: OtSetup([7; 32]),
            session,
            permit_id,
            effect,
            lifetimes: LIFETIMES,
        };
        let mut maybe_done = false;
        loop {
            match self.store.conclude(conclusion.clone()).await {
                Ok(done) => {
                    done.into_inner();
                    return true;
                }
                Err(CommitError::Refused(_)) if maybe_done => return true,
                Err(CommitError::Refused(_)) => {
                    add(&self.tally.refused_conclusions);
                    return false;
                }
                Err(CommitError::Store(error)) => {
                    maybe_done |= matches!(error, StoreError::OutcomeUnknown(_));
                    self.happened::<(), ()>(Err(error.into())).await;
                }
            }
        }
    }

    /// Gives a session up that never got its turn.
    async fn abandon(&self, profile: ProfileId, session: SessionId) {
        while let Err(CommitError::Store(error)) =
            self.store.conclude(Abandon { profile, session }).await
        {
            self.happened::<(), ()>(Err(error.into())).await;
        }
        add(&self.tally.aborted);
    }
}

struct AddProfile(ProfileId);

impl Operation for AddProfile {
    type Output = ();
    type Refusal = ();

    fn key(&self) -> Key {
        Key::profile(self.0)
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<()>> {
        let profile = NewProfile {
            profile_id: self.0,
            tenant: &TenantId::parse("default").unwrap(),
            owner_id: OwnerId::generate(),
            name: "test",
        };
        profiles::insert(tx, &profile).await?;
        Ok(((), AuditRecord::done(AuditEvent::KeygenRequested)))
    }
}

/// Opens a session with the lowest nonce that is free, as the preparation of a transaction does.
struct Reserve {
    profile: ProfileId,
    session: SessionId,
    instance: InstanceId,
}

impl Operation for Reserve {
    type Output = ();
    type Refusal = ();

    fn key(&self) -> Key {
        Key::profile(self.profile)
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<()>> {
        let mut sender = [0; 20];
        hex::decode_to_slice(self.profile.to_string().replace('-', ""), &mut sender[..16]).unwrap();
        let held = transactions::held_nonces(tx, CHAIN, &sender, 0).await?;
        let free = held.iter().zip(0..).find(|(taken, next)| **taken != *next);
        let nonce = free.map_or(held.len() as u64, |(_, next)| next);
        let row = SessionRow {
            instance_id: self.instance,
            expires_at: clock::now().plus_seconds(3600),
            ..session(self.profile, self.session)
        };
        sessions::insert(tx, &row).await?;
        let transaction = TransactionRow {
            transaction_id: TransactionId::generate(),
            session_id: self.session,
            profile_id: self.profile,
            chain_id: CHAIN,
            sender,
            nonce,
            payload: vec![2],
            digest: [3; 32],
            state: TransactionState::Prepared,
            raw: None,
            tx_hash: None,
            block_number: None,
            broadcast_attempts: 0,
        };
        transactions::insert(tx, &transaction).await?;
        Ok(((), AuditRecord::done(AuditEvent::TransactionPrepared)))
    }
}

/// Begins a check, as an admission does.
struct Begin {
    profile: ProfileId,
    session: SessionId,
    step: u8,
    instance: InstanceId,
}

impl Operation for Begin {
    type Output = (SessionRow, OperationId);
    type Refusal = ();

    fn key(&self) -> Key {
        Key::profile(self.profile)
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<(Self::Output, AuditRecord), CommitError<()>> {
        let row = sessions::find(tx, self.session).await?.unwrap();
        let arrival = Arrival {
            step: self.step,
            request_hash: [self.step; 32],
            instance: self.instance,
            now: tx.now(),
        };
        let active = sessions::active_of(tx, self.profile).await?;
        if active.iter().any(|other| other.session_id != self.session) {
            return Err(CommitError::Refused(()));
        }
        let attempt = row.attempt;
        let checking = Session::of(row).check(&arrival);
        let checking = checking.map_err(|_| CommitError::Refused(()))?;
        if !profiles::lock(tx, self.profile, self.session, self.instance).await? {
            return Err(CommitError::Refused(()));
        }
        let checking = checking.write(tx).await?.unwrap();
        steps::open(tx, self.session, attempt, self.step).await?;
        let begun = (checking.into_row(), tx.operation_id());
        Ok((begun, AuditRecord::done(AuditEvent::StepPermitted)))
    }
}

struct Abandon {
    profile: ProfileId,
    session: SessionId,
}

impl Operation for Abandon {
    type Output = ();
    type Refusal = ();

    fn key(&self) -> Key {
        Key::profile(self.profile)
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<()>> {
        let row = sessions::find(tx, self.session).await?.unwrap();
        if row.state == SessionState::Aborted {
            return Err(CommitError::Refused(()));
        }
        assert!(give_up(tx, &row).await?);
        Ok(((), AuditRecord::done(AuditEvent::SessionExpired)))
    }
}
