//! Sets of data objects: what an anchor outside the database is made of.

use std::process::Command;

use zeroize::Zeroizing;

use crate::support::{LABEL, PIN, share_aad, share_kek, softhsm, with_token};

const SET: &str = "countersign/anchor/test";

/// Changes the set from another process.
fn tool(arguments: &[&str]) {
    let mut tool = Command::new("pkcs11-tool");
    tool.arg("--module").arg(softhsm());
    tool.args(["--token-label", LABEL, "--login", "--pin", PIN])
        .args(["--type", "data", "--application-label", SET])
        .args(arguments);
    let output = tool.output().expect("install opensc");
    assert!(output.status.success(), "{output:?}");
}

fn sorted(mut values: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    values.sort();
    values
}

#[test]
fn members_of_a_set_come_and_go_and_other_sets_and_objects_are_not_touched() {
    with_token(|bench| async move {
        let token = bench.open();
        assert!(token.read_set(SET).await.unwrap().is_empty());
        let add = async |set: &str, label: &str, value: &[u8]| {
            token.add_to_set(set, label, value.to_vec()).await.unwrap();
        };
        token.store_data("anchor/1", vec![9]).await.unwrap();
        add("another", "anchor/1", b"foreign").await;
        add(SET, "anchor/1", b"first").await;
        add(SET, "anchor/1", b"first").await;
        add(SET, "anchor/1", b"first of another process").await;
        add(SET, "anchor/2", b"second").await;
        assert_eq!(
            sorted(token.read_set(SET).await.unwrap()),
            [&b"first"[..], b"first of another process", b"second"]
        );

        token.remove_from_set(SET, "anchor/1").await.unwrap();
        token.remove_from_set(SET, "anchor/1").await.unwrap();
        assert_eq!(token.read_set(SET).await.unwrap(), [b"second"]);
        assert_eq!(token.read_set("another").await.unwrap(), [b"foreign"]);
        assert_eq!(token.read_data("anchor/1").await.unwrap(), Some(vec![9]));
        // Private: the token's files do not show it.
        let files = bench.token_files();
        assert!(!files.windows(6).any(|window| window == b"second"));
        assert_eq!(bench.open().read_set(SET).await.unwrap(), [b"second"]);
        assert!(token.read_set("with space").await.is_err());
    });
}

#[test]
fn a_set_is_read_while_its_members_are_replaced_and_is_never_empty() {
    with_token(|bench| async move {
        let token = bench.open();
        token.add_to_set(SET, "anchor/0", vec![0]).await.unwrap();
        let other = token.clone();
        let replacing = tokio::spawn(async move {
            for number in 1..60_u8 {
                let label = format!("anchor/{number}");
                other.add_to_set(SET, &label, vec![number]).await.unwrap();
                let before = format!("anchor/{}", number - 1);
                other.remove_from_set(SET, &before).await.unwrap();
            }
        });
        let mut highest = 0;
        while !replacing.is_finished() {
            let values = token.read_set(SET).await.unwrap();
            let seen = values.iter().map(|value| value[0]).max();
            let seen = seen.expect("a new member is there before the old one goes");
            assert!(seen >= highest, "{seen} after {highest}");
            highest = seen;
        }
        replacing.await.unwrap();
        assert_eq!(token.read_set(SET).await.unwrap(), [[59]]);
    });
}

#[test]
fn a_set_is_read_while_another_process_replaces_its_members() {
    with_token(|bench| async move {
        let token = bench.open();
        let value = bench.directory.join("value");
        std::fs::write(&value, [7]).unwrap();
        let write = move |label: &str| {
            let file = value.to_str().unwrap();
            tool(&["--label", label, "--private", "--write-object", file]);
        };
        write("anchor/0");
        let replacing = std::thread::spawn(move || {
            for number in 1..12 {
                write(&format!("anchor/{number}"));
            }
        });
        let mut highest = 0;
        while !replacing.is_finished() {
            let values = token.read_set(SET).await.unwrap();
            assert!(values.iter().all(|value| value == &[7]));
            assert!(values.len() >= highest, "{} after {highest}", values.len());
            highest = values.len();
            // As the appliance does beside it.
            for number in 0..highest.saturating_sub(4) {
                let label = format!("anchor/{number}");
                token.remove_from_set(SET, &label).await.unwrap();
            }
            highest = token.read_set(SET).await.unwrap().len();
            assert!(highest > 0);
        }
        replacing.join().unwrap();
        token.remove_from_set(SET, "anchor/11").await.unwrap();
    });
}

#[test]
fn a_sealed_object_is_opened_and_a_set_read_in_one_hand_over() {
    with_token(|bench| async move {
        let token = bench.open();
        let kek = token.create_kek(&share_kek()).await.unwrap();
        let payload = || Zeroizing::new(vec![7; 500]);
        let sealed = token.seal(kek, share_aad(), payload()).await.unwrap();
        token.add_to_set(SET, "anchor/1", vec![1]).await.unwrap();
        let open = |sealed: Vec<u8>| token.open_sealed_with_set(SET, sealed, share_aad());

        let (objects, opened) = open(sealed.clone()).await.unwrap();
        assert_eq!((objects, opened.as_slice()), (vec![vec![1]], &[7; 500][..]));
        // Replaced here, and then by another process: no handle outlives its object.
        token.add_to_set(SET, "anchor/2", vec![2]).await.unwrap();
        token.remove_from_set(SET, "anchor/1").await.unwrap();
        for _ in 0..8 {
            assert_eq!(open(sealed.clone()).await.unwrap().0, [[2]]);
        }
        let value = bench.directory.join("value");
        std::fs::write(&value, [3]).unwrap();
        let file = value.to_str().unwrap();
        tool(&["--label", "anchor/3", "--private", "--write-object", file]);
        tool(&["--label", "anchor/2", "--delete-object"]);
        for _ in 0..8 {
            assert_eq!(open(sealed.clone()).await.unwrap().0, [[3]]);
        }
        let mut damaged = sealed;
        *damaged.last_mut().unwrap() ^= 1;
        assert!(open(damaged).await.is_err());
    });
}
