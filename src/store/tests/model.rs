//! Random interleavings of operations, against a model that holds the same facts in memory.
//!
//! Each profile's operations are handed over in one order, by a task of its own, and many are not awaited: so the
//! store has to keep that order, and nothing else, among what it runs together and side by side. Some operations
//! compete for keys that all profiles share: the model takes from the answers who won, and checks that one did.

mod act;
mod facts;

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Runtime;

use act::{Act, Action, Names, SESSIONS, instance};
use facts::{Model, read, recorded};

use super::super::instances::Lease;
use super::super::{CommitError, Reads, Store, StoreError};
use super::AddProfile;
use super::database::Database;
use crate::audit::{Verified, catch_up, verify};
use crate::domain::{KeyState, OperationId};

const PROFILES: usize = 3;
/// Runs of one engine, unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 24;
/// Operations in one transaction, at most.
const GROUPS: [usize; 3] = [1, 3, 64];

fn action() -> impl Strategy<Value = Action> {
    let session = 0..SESSIONS;
    let state = prop_oneof![
        Just(KeyState::Stable),
        Just(KeyState::RefreshRequired),
        Just(KeyState::Quarantined)
    ];
    prop_oneof![
        5 => (session.clone(), 0..2_u64)
            .prop_map(|(session, nonce)| Action::Reserve { session, nonce }),
        3 => session.clone().prop_map(Action::Release),
        3 => session.clone().prop_map(Action::Reclaim),
        4 => session.clone().prop_map(Action::Lock),
        3 => session.clone().prop_map(Action::Unlock),
        2 => session.prop_map(Action::Conclude),
        2 => state.prop_map(Action::SetKey),
        2 => (0..4_u8).prop_map(Action::Remember),
        2 => (0..2_u8).prop_map(Action::Compete),
        1 => Just(Action::Refuse),
    ]
}

/// For each profile what happens to it, and after what its task waits.
type Script = Vec<(usize, Action, bool)>;

fn script() -> impl Strategy<Value = Script> {
    let wait = prop::bool::weighted(0.2);
    prop::collection::vec((0..PROFILES, action(), wait), 1..120)
}
type Answers = Vec<(Action, Result<OperationId, bool>)>;

/// Hands the operations of a profile over in their order; `Err(true)` is a refusal, `Err(false)` a failure.
async fn perform(store: Store, names: Names, actions: Vec<(Action, bool)>) -> Answers {
    let mut pending = Vec::new();
    for (action, wait) in actions {
        let operation = Act { names, action };
        let answer = store.conclude_reserved(operation, store.reserve().unwrap());
        let answer = async move {
            match answer.await {
                Ok(committed) => Ok(committed.into_inner()),
                Err(CommitError::Refused(())) => Err(true),
                Err(CommitError::Store(StoreError::Unavailable(_))) => Err(false),
                Err(CommitError::Store(error)) => panic!("{error:?}"),
            }
        };
        let answer = tokio::spawn(answer);
        if wait {
            while !answer.is_finished() {
                tokio::task::yield_now().await;
            }
        }
        pending.push((action, answer));
    }
    let mut answers = Vec::new();
    for (action, answer) in pending {
        answers.push((action, answer.await.unwrap()));
    }
    answers
}

/// One run, and the comparison of what it left behind.
async fn run(store: &Store, run: u32, script: Script) {
    let lease = Lease {
        instance: instance(),
        boot_id: "boot".to_owned(),
        seconds: 10,
    };
    store.renew_lease(lease).await.unwrap();
    let mut profiles = Vec::new();
    for number in 0..PROFILES {
        let names = Names::new(run);
        let id = names.profile;
        assert!(store.commit(AddProfile { id, refuse: false }).await.is_ok());
        let actions = script.iter().filter(|(profile, ..)| *profile == number);
        let actions = actions.map(|(_, action, wait)| (*action, *wait)).collect();
        profiles.push((names, actions));
    }
    let tasks: Vec<_> = profiles
        .into_iter()
        .map(|(names, actions)| (names, tokio::spawn(perform(store.clone(), names, actions))))
        .collect();
    let mut winners = BTreeMap::new();
    let mut reader = store.reader().await.unwrap();
    for (names, task) in tasks {
        let mut model = Model::new();
        let mut done = Vec::new();
        for (at, (action, answer)) in task.await.unwrap().into_iter().enumerate() {
            let expected = model.apply(action, answer.is_ok());
            assert_eq!(answer.is_ok(), expected, "operation {at}: {action:?}");
            let failed = answer == Err(false);
            match action {
                Action::Compete(number) => {
                    *winners.entry(number).or_insert(0) += usize::from(expected);
                }
                _ => assert!(!failed, "operation {at} failed: {action:?}"),
            }
            done.extend(answer.ok().map(|id| id.to_string()));
        }
        done.sort_unstable();
        assert_eq!(read(&mut reader, &names).await, model);
        assert_eq!(recorded(&mut reader, names.profile).await, done);
    }
    assert!(winners.values().all(|winners| *winners == 1), "{winners:?}");
}

/// Every record of the database has its link.
async fn check_chain(store: &Store) {
    catch_up(store).await.unwrap();
    let mut reader = store.reader().await.unwrap();
    let sql = "SELECT COUNT(*) FROM audit_records";
    let row = reader.query_one(sql, &[]).await.unwrap().unwrap();
    let records = row.of("audit_records").int("count").unwrap();
    assert_eq!(verify(store).await.unwrap(), Verified::Intact(records));
}

fn random_interleavings(runtime: &Runtime, database: impl Fn() -> Database) {
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok());
    let cases: u32 = cases.unwrap_or(CASES);
    let config = Config {
        cases: cases.div_ceil(3),
        max_shrink_iters: 200,
        failure_persistence: None,
        ..Config::default()
    };
    for group in GROUPS {
        let database = database();
        let store = runtime.block_on(async {
            drop(database.store().await);
            database.reopened(group).await
        });
        let runs = std::cell::Cell::new(0);
        let mut runner = TestRunner::new(config.clone());
        let checked = runner.run(&script(), |script| {
            runs.set(runs.get() + 1);
            runtime.block_on(async {
                run(&store, runs.get(), script).await;
                check_chain(&store).await;
            });
            Ok(())
        });
        checked.unwrap_or_else(|error| panic!("{group} operations in a transaction: {error}"));
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(3)
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn random_interleavings_end_as_the_model_says_on_sqlite() {
    random_interleavings(&runtime(), Database::sqlite);
}

#[test]
fn random_interleavings_end_as_the_model_says_on_postgres() {
    let runtime = runtime();
    random_interleavings(&runtime, || runtime.block_on(Database::postgres()));
}
