//! Rules that operators sign for: when a command is good, and for how long what it named may be loaded.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use countersign_mpc::owner_proof::{Algorithm, DeviceKey};

use super::super::Store;
use super::Database;
use crate::clock::{self, Timestamp};
use crate::domain::{EnvironmentId, Reason};
use crate::operators::{Approval, Command, Deed, NotNow, OperatorName, Operators, Paper};
use crate::policy::Bundle;
use crate::service::activation::{Activation, NotActivated};
use crate::service::policy_files::APPROVED;

on_both_engines![
    a26_what_took_effect_in_time_may_be_loaded_for_ever,
    a26_of_two_commands_the_last_one_counts,
];

const WHO: [(&str, u8); 2] = [("alice", 1), ("bob", 2)];

fn key(seed: u8) -> DeviceKey {
    DeviceKey::from_bytes(Algorithm::Ed25519, &[seed; 32]).unwrap()
}

fn operators() -> Arc<Operators> {
    let keys = WHO.map(|(who, seed)| {
        let public = key(seed).public_key().as_bytes().try_into().unwrap();
        (OperatorName::parse(who).unwrap(), public)
    });
    Arc::new(Operators::new(2, keys).unwrap())
}

fn whole(seconds_from_now: i64) -> Timestamp {
    let now = clock::now().as_seconds() * 1_000_000;
    Timestamp::from_micros(now).plus_seconds(seconds_from_now)
}

/// Puts a command for these rules beside them, good from and until these seconds from now.
fn sign(directory: &Path, bundle: &Bundle, nonce: u8, (from, until): (i64, i64)) {
    let command = Command {
        environment: EnvironmentId([7; 32]),
        deed: Deed::Activate {
            rules: *bundle.hash(),
        },
        reason: Reason::parse("reviewed").unwrap(),
        nonce: [nonce; 16],
        issued: whole(from),
        expires: whole(until),
    };
    let text = command.text();
    let approvals = WHO.map(|(who, seed)| Approval {
        by: OperatorName::parse(who).unwrap(),
        signature: key(seed).sign(text.as_bytes()),
    });
    let paper = Paper {
        command,
        text,
        approvals: approvals.to_vec(),
    };
    std::fs::write(directory.join(APPROVED), paper.content()).unwrap();
}

fn activation(store: &Store, directory: &Path) -> Activation {
    Activation::new(store.clone(), (operators(), directory.to_owned()))
}

async fn a26_what_took_effect_in_time_may_be_loaded_for_ever(database: Database) {
    let store = database.store().await;
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let bundle = Bundle::compile("1", &[]).unwrap();
    let activation = activation(&store, directory);
    for (from, until, expected) in [(-100, -1, NotNow::Expired), (60, 100, NotNow::Early)] {
        sign(directory, &bundle, 1, (from, until));
        let refused = activation.activate(&bundle, "here").await.unwrap_err();
        let right = matches!(refused, NotActivated::NotNow(reason) if reason == expected);
        assert!(right, "{refused:?}");
    }
    sign(directory, &bundle, 1, (-100, 2));
    activation.activate(&bundle, "here").await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    activation.activate(&bundle, "there").await.unwrap();
    // By that very command: another one for the same rules must be good by itself.
    sign(directory, &bundle, 2, (-100, -1));
    assert!(activation.activate(&bundle, "here").await.is_err());
}

async fn a26_of_two_commands_the_last_one_counts(database: Database) {
    let store = database.store().await;
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (first, second) = (
        Bundle::compile("1", &[]).unwrap(),
        Bundle::compile("2", &[]).unwrap(),
    );
    sign(one.path(), &first, 1, (0, 3600));
    sign(two.path(), &second, 2, (0, 3600));
    let (here, there) = (
        activation(&store, one.path()),
        activation(&store, two.path()),
    );
    here.activate(&first, "here").await.unwrap();
    // The same at two instances at once is the same.
    let (a, b) = tokio::join!(
        there.activate(&second, "here"),
        there.activate(&second, "there")
    );
    assert!(a.is_ok() && b.is_ok(), "{a:?} {b:?}");
    let replaced = here.activate(&first, "here").await.unwrap_err();
    assert!(matches!(replaced, NotActivated::Replaced), "{replaced:?}");
    there.activate(&second, "here").await.unwrap();
}
