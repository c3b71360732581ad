//! Creating a wallet, with every interruption.

use alloy_primitives::Address;
use countersign_client::{
    ClientError,
    keystore::{KeystoreError, WalletState},
};

use crate::support::{Bench, appliance::Fault};

#[tokio::test]
async fn a_wallet_is_created_and_both_sides_agree_on_its_address() {
    let bench = Bench::start().await;
    let wallet = bench.create().await.unwrap();
    assert_eq!(wallet.state(), WalletState::Active);
    assert!(wallet.draft().is_none() && wallet.staged().is_none());
    let (profile_id, slot) = wallet.current().unwrap();
    bench.server.protocol(|protocol| {
        let theirs = protocol.profiles[profile_id]
            .share
            .as_ref()
            .unwrap()
            .public();
        assert_eq!(slot.public, *theirs);
        assert_eq!(slot.fingerprint, hex::encode(theirs.fingerprint()));
    });
    let header = bench.keystore().header(wallet.name()).unwrap();
    assert_eq!(
        header.address,
        Some(Address::from(slot.public.address).to_string())
    );
    assert!(matches!(
        bench.create().await,
        Err(ClientError::Keystore(KeystoreError::Busy))
    ));
    drop(wallet);
    assert!(matches!(
        bench.create().await,
        Err(ClientError::Keystore(KeystoreError::Exists(_)))
    ));
}

#[tokio::test]
async fn lost_answers_are_fetched_again_with_the_same_bytes() {
    let bench = Bench::start().await;
    for kind in ["kg1", "kg2", "kg3"] {
        bench.server.fault(Fault::LoseAnswer(kind));
    }
    assert_eq!(bench.create().await.unwrap().state(), WalletState::Active);
    bench.server.protocol(|protocol| {
        assert_eq!(protocol.log, ["kg1", "kg1", "kg2", "kg2", "kg3", "kg3"]);
        assert_eq!(protocol.profiles.len(), 1);
    });
}

#[tokio::test]
async fn a17_a_share_is_staged_before_kg3_and_shown_by_nobody() {
    let bench = Bench::start().await;
    // Whatever happens to request 3, the share is on disk by then.
    bench
        .server
        .fault(Fault::Refuse("kg3", 503, "STORE_UNAVAILABLE", "never"));
    assert!(bench.create().await.is_err());
    let wallet = bench.open();
    assert_eq!(wallet.state(), WalletState::Staged);
    assert_eq!(wallet.staged().unwrap().generation, 1);
    assert!(matches!(
        wallet.current_share(),
        Err(KeystoreError::NotActive)
    ));
    assert_eq!(wallet.header().address, None);
}

#[tokio::test]
async fn a17_after_a_lost_answer_3_the_unproven_share_is_dropped_whatever_the_server_says() {
    let bench = Bench::start().await;
    (0..4).for_each(|_| bench.server.fault(Fault::LoseAnswer("kg3")));
    assert!(matches!(bench.create().await, Err(ClientError::Call(_))));
    let unproven = bench.open().staged().unwrap().fingerprint.clone();
    bench.server.protocol(|protocol| {
        assert_eq!(
            protocol.profiles["profile-1"].status, "active",
            "the server would say so"
        );
    });
    let mut wallet = bench.create().await.unwrap();
    assert_ne!(wallet.current().unwrap().1.fingerprint, unproven);
    bench.send(&mut wallet).await.unwrap();
}

#[tokio::test]
async fn a17_an_activation_whose_answer_the_server_forgot_is_not_believed() {
    let bench = Bench::start().await;
    bench.server.fault(Fault::LoseAnswer("kg3"));
    bench.server.fault(Fault::Refuse(
        "kg3",
        409,
        "SESSION_STATE_CONFLICT",
        "restart",
    ));
    let mut wallet = bench.create().await.unwrap();
    bench.server.protocol(|protocol| {
        assert_eq!(
            protocol.log,
            ["kg1", "kg2", "kg3", "kg3", "kg1", "kg2", "kg3"]
        );
        let unproven = protocol.profiles["profile-1"].share.as_ref().unwrap();
        let (profile_id, slot) = wallet.current().unwrap();
        assert_eq!(profile_id, "profile-3");
        assert_ne!(slot.public, *unproven.public());
    });
    bench.send(&mut wallet).await.unwrap();
}

#[tokio::test]
async fn a17_a_staged_share_that_the_server_never_activated_is_dropped_for_a_new_key() {
    let bench = Bench::start().await;
    bench
        .server
        .fault(Fault::Refuse("kg3", 503, "STORE_UNAVAILABLE", "never"));
    assert!(bench.create().await.is_err());
    let dropped = bench.open().staged().unwrap().fingerprint.clone();
    let wallet = bench.create().await.unwrap();
    assert_ne!(wallet.current().unwrap().1.fingerprint, dropped);
}

#[tokio::test]
async fn a_creation_that_was_killed_after_request_1_starts_cleanly_anew() {
    let bench = Bench::start().await;
    bench
        .server
        .fault(Fault::Refuse("kg2", 503, "STORE_UNAVAILABLE", "never"));
    assert!(bench.create().await.is_err());
    let key = bench.open().draft().unwrap().idempotency_key.clone();
    // The same key with other bytes would be refused by the server, so it is not even tried.
    let wallet = bench.create().await.unwrap();
    assert_eq!(wallet.state(), WalletState::Active);
    bench.server.protocol(|protocol| {
        assert_eq!(protocol.log, ["kg1", "kg2", "kg1", "kg2", "kg3"]);
        assert!(protocol.idempotency.contains_key(&key) && protocol.idempotency.len() == 2);
    });
}

#[tokio::test]
async fn a_lost_session_is_started_anew_without_asking() {
    let bench = Bench::start().await;
    bench
        .server
        .fault(Fault::Refuse("kg2", 409, "SESSION_LOST", "restart"));
    bench
        .server
        .fault(Fault::Refuse("kg3", 409, "SESSION_LOST", "restart"));
    assert_eq!(bench.create().await.unwrap().state(), WalletState::Active);
    bench.server.protocol(|protocol| {
        assert_eq!(
            protocol.log,
            ["kg1", "kg2", "kg1", "kg2", "kg3", "kg1", "kg2", "kg3"]
        );
        assert_eq!(
            protocol.idempotency.len(),
            3,
            "another first message needs another idempotency key"
        );
    });
}

#[tokio::test]
async fn a_canary_that_proves_nothing_is_never_promoted_later() {
    let bench = Bench::start().await;
    // The last byte of answer 3 belongs to the final scalar: the signature does not verify, which is no ban.
    bench.server.fault(Fault::Tamper("kg3", 100));
    assert!(bench.create().await.is_err());
    let wallet = bench.open();
    assert_eq!(wallet.state(), WalletState::Draft);
    assert!(wallet.staged().is_none());
}
