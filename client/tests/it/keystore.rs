//! The wallet file: what it survives, what it refuses, who may read it.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use countersign_client::keystore::{
    KdfParams, Keystore, KeystoreError, Passphrase, Wallet, WalletName, WalletState,
};
use sha2::{Digest, Sha256};
use static_assertions::assert_not_impl_any;

use crate::support::{Bench, keystore, name, passphrase, phrase};

assert_not_impl_any!(Wallet: std::fmt::Debug, Clone, serde::Serialize);
assert_not_impl_any!(Passphrase: std::fmt::Debug, Clone, std::fmt::Display);

fn draft(directory: &Path) -> (Keystore, std::path::PathBuf) {
    let keystore = keystore(directory);
    let wallet = keystore
        .create(&name(), &[0xab; 32], &passphrase())
        .unwrap();
    drop(wallet);
    let path = keystore.path(&name());
    (keystore, path)
}

/// Puts a correct checksum under changed bytes, as somebody who knows the format would.
fn with_checksum(mut file: Vec<u8>) -> Vec<u8> {
    let end = file.len() - 32;
    let checksum = Sha256::digest(&file[..end]);
    file[end..].copy_from_slice(&checksum);
    file
}

#[test]
fn what_was_stored_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let keystore = keystore(directory.path());
    let wallet = keystore
        .create(&name(), &[0xab; 32], &passphrase())
        .unwrap();
    let (device, draft) = (wallet.device().thumbprint(), wallet.draft().cloned());
    drop(wallet);
    let wallet = keystore.open(&name(), &passphrase()).unwrap();
    assert_eq!(
        (wallet.device().thumbprint(), wallet.draft().cloned()),
        (device, draft)
    );
    assert_eq!(wallet.state(), WalletState::Draft);
    let listed = keystore.list().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].1.as_ref().unwrap(), &wallet.header());
}

#[test]
fn the_device_key_is_nowhere_in_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let (keystore, path) = draft(directory.path());
    let key = keystore
        .open(&name(), &passphrase())
        .unwrap()
        .device()
        .to_bytes();
    let file = fs::read(path).unwrap();
    assert!(!file.windows(32).any(|window| window == key.as_slice()));
    assert!(!String::from_utf8_lossy(&file).contains(&hex::encode(key.as_slice())));
}

#[test]
fn a_wrong_passphrase_is_not_a_damaged_file() {
    let directory = tempfile::tempdir().unwrap();
    let (keystore, path) = draft(directory.path());
    assert!(matches!(
        keystore.open(&name(), &phrase("wrong horse")),
        Err(KeystoreError::WrongPassphrase)
    ));

    let good = fs::read(&path).unwrap();
    for length in [
        0,
        7,
        8,
        12,
        15,
        16,
        100,
        good.len() / 2,
        good.len() - 33,
        good.len() - 1,
    ] {
        fs::write(&path, &good[..length]).unwrap();
        assert!(
            matches!(
                keystore.open(&name(), &passphrase()),
                Err(KeystoreError::Damaged(_))
            ),
            "cut to {length}"
        );
    }
    for position in (0..good.len()).step_by(good.len() / 60) {
        let mut changed = good.clone();
        changed[position] ^= 0x20;
        fs::write(&path, changed).unwrap();
        let error = keystore.open(&name(), &passphrase()).err().unwrap();
        assert!(
            matches!(
                error,
                KeystoreError::Damaged(_) | KeystoreError::UnknownVersion(_)
            ),
            "{position}: {error}"
        );
    }
    fs::write(&path, &good).unwrap();
    assert!(keystore.open(&name(), &passphrase()).is_ok());
}

#[test]
fn a_forged_header_or_content_is_refused_even_with_a_correct_checksum() {
    let directory = tempfile::tempdir().unwrap();
    let (keystore, path) = draft(directory.path());
    let good = fs::read(&path).unwrap();
    let forge = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = good
            .windows(from.len())
            .position(|window| window == from.as_bytes())
            .unwrap();
        let mut forged = good.clone();
        forged[at..at + to.len()].copy_from_slice(to.as_bytes());
        fs::write(&path, with_checksum(forged)).unwrap();
        keystore.open(&name(), &passphrase()).err().unwrap()
    };
    assert!(matches!(
        forge("\"name\":\"main\"", "\"name\":\"evil\""),
        KeystoreError::Damaged(_)
    ));
    assert!(matches!(
        forge("abababab", "cdcdcdcd"),
        KeystoreError::Damaged(_)
    ));
    assert!(matches!(
        forge("\"memoryKib\":19456", "\"memoryKib\":00008"),
        KeystoreError::Damaged(_)
    ));
    assert!(matches!(
        forge("\"memoryKib\":19456", "\"memoryKib\":10000"),
        KeystoreError::KdfRefused
    ));
    assert!(matches!(
        forge("\"iterations\":2", "\"iterations\":1"),
        KeystoreError::KdfRefused
    ));
    assert!(matches!(
        forge("\"iterations\":2", "\"iterations\":9"),
        KeystoreError::WrongPassphrase
    ));

    let mut content = good.clone();
    let last = content.len() - 40;
    content[last] ^= 1;
    fs::write(&path, with_checksum(content)).unwrap();
    assert!(matches!(
        keystore.open(&name(), &passphrase()),
        Err(KeystoreError::Damaged(_))
    ));

    let mut later = good.clone();
    later[11] = 2;
    fs::write(&path, with_checksum(later)).unwrap();
    assert!(matches!(
        keystore.open(&name(), &passphrase()),
        Err(KeystoreError::UnknownVersion(2))
    ));
}

#[test]
fn files_and_directories_are_private() {
    let directory = tempfile::tempdir().unwrap();
    let (_, path) = draft(directory.path());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
}

#[test]
fn a_temporary_file_of_a_crash_is_ignored_and_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let (keystore, path) = draft(directory.path());
    let leftover = path.with_file_name(".main.wallet.tmp");
    fs::write(&leftover, b"half a file").unwrap();
    assert_eq!(keystore.list().unwrap().len(), 1);
    let mut wallet = keystore.open(&name(), &passphrase()).unwrap();
    wallet.under_suspicion("session", || Ok(())).unwrap();
    assert!(!leftover.exists());
    drop(wallet);
    assert!(keystore.open(&name(), &passphrase()).is_ok());
}

#[test]
fn one_process_at_a_time_and_no_name_twice() {
    let directory = tempfile::tempdir().unwrap();
    let keystore = keystore(directory.path());
    let held = keystore
        .create(&name(), &[0xab; 32], &passphrase())
        .unwrap();
    assert!(matches!(
        keystore.open(&name(), &passphrase()),
        Err(KeystoreError::Busy)
    ));
    drop(held);
    let again = keystore.create(&name(), &[0xab; 32], &passphrase());
    assert!(matches!(again, Err(KeystoreError::Exists(_))));
    let missing = keystore.open(&"other".parse().unwrap(), &passphrase());
    assert!(matches!(missing, Err(KeystoreError::NotFound(_))));
}

#[test]
fn names_cannot_leave_the_directory() {
    for text in [
        "",
        "../main",
        "a/b",
        ".hidden",
        "-x",
        "a b",
        "ä",
        &"x".repeat(65),
    ] {
        assert!(text.parse::<WalletName>().is_err(), "{text}");
    }
}

#[test]
fn new_files_cost_64_mib() {
    let directory = tempfile::tempdir().unwrap();
    let keystore = Keystore::new(directory.path());
    let wallet = keystore
        .create(&name(), &[0xab; 32], &passphrase())
        .unwrap();
    assert_eq!(
        KdfParams::DEFAULT,
        KdfParams {
            memory_kib: 65_536,
            iterations: 3,
            parallelism: 1
        }
    );
    let header = serde_json::to_value(wallet.header()).unwrap();
    assert_eq!(header["kdf"]["cost"]["memoryKib"], 65_536);
}

#[tokio::test]
async fn an_export_can_be_imported_under_another_passphrase_and_signs() {
    let bench = Bench::start().await;
    let wallet = bench.create().await.unwrap();
    let file = bench.directory.path().join("stick");
    let export_phrase = phrase("another horse");
    let header = wallet
        .export(&file, &export_phrase, KdfParams::FLOOR)
        .unwrap();
    assert_eq!(
        (header.key_generation, header.fingerprint.is_some()),
        (Some(1), true)
    );
    let overwritten = wallet.export(&file, &export_phrase, KdfParams::FLOOR);
    assert!(matches!(overwritten, Err(KeystoreError::Exists(_))));
    drop(wallet);

    let other_device = tempfile::tempdir().unwrap();
    let imports = keystore(other_device.path());
    let wrong = imports.import(&file, None, &passphrase(), &passphrase());
    assert!(matches!(wrong, Err(KeystoreError::WrongPassphrase)));
    let mut imported = imports
        .import(&file, None, &export_phrase, &passphrase())
        .unwrap();
    assert_eq!(imported.header().fingerprint, header.fingerprint);
    let taken = imports.import(&file, None, &export_phrase, &passphrase());
    assert!(matches!(taken, Err(KeystoreError::Exists(_))));
    assert!(bench.send(&mut imported).await.is_ok());
}

#[tokio::test]
async fn a01_client_a_second_copy_beside_the_wallet_is_refused() {
    let bench = Bench::start().await;
    let wallet = bench.create().await.unwrap();
    let file = bench.directory.path().join("stick");
    wallet
        .export(&file, &passphrase(), KdfParams::FLOOR)
        .unwrap();
    drop(wallet);
    let copy = bench.keystore().import(
        &file,
        Some("copy".parse().unwrap()),
        &passphrase(),
        &passphrase(),
    );
    let Err(KeystoreError::Exists(path)) = copy else {
        panic!("the copy would have a ban of its own");
    };
    assert_eq!(path, bench.keystore().path(&name()));
}

#[test]
fn a_file_that_could_not_be_read_again_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let (keystore, path) = draft(directory.path());
    let before = fs::read(&path).unwrap();
    let mut wallet = keystore.open(&name(), &passphrase()).unwrap();
    let too_long = wallet.under_suspicion(&"x".repeat(1024 * 1024), || Ok(()));
    assert!(matches!(too_long, Err(KeystoreError::TooLarge)));
    drop(wallet);
    assert!(fs::read(&path).unwrap() == before, "the old file stays");
    assert!(keystore.open(&name(), &passphrase()).is_ok());
}

#[test]
fn an_unfinished_wallet_has_nothing_to_export() {
    let directory = tempfile::tempdir().unwrap();
    let keystore = keystore(directory.path());
    let wallet = keystore
        .create(&name(), &[0xab; 32], &passphrase())
        .unwrap();
    let file = directory.path().join("export");
    assert!(matches!(
        wallet.export(&file, &passphrase(), KdfParams::FLOOR),
        Err(KeystoreError::NotActive)
    ));
    assert!(!file.exists());
}
