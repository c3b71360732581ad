//! Attack A01 from the other side: a server that probes the client's long-lived secrets is banned, durably, at once.

use countersign_client::{
    ClientError,
    flows::{payment, send},
    keystore::{KeystoreError, SUSPECT_LIMIT, WalletState},
};
use countersign_mpc::error::{BanReason, MpcError, RecoverableReason};

use crate::support::{Bench, appliance::Fault, intent, keystore, name, passphrase};

const BAN: MpcError = MpcError::Ban {
    reason: BanReason::Multiplication,
};
const SUSPECT: MpcError = MpcError::Recoverable {
    reason: RecoverableReason::CommitmentMismatch,
    suspect: true,
};
const HARMLESS: MpcError = MpcError::Recoverable {
    reason: RecoverableReason::SessionBindingMismatch,
    suspect: false,
};

#[tokio::test]
async fn a01_client_a_tampered_message_quarantines_the_wallet_for_good() {
    let bench = Bench::start().await;
    let mut wallet = bench.create().await.unwrap();
    // The middle of P2's answer is its oblivious-transfer extension: one flipped bit is a probe of our secret.
    bench.server.fault(Fault::Tamper("sg1", 30));
    let error = bench.send(&mut wallet).await.unwrap_err();
    assert!(error.is_quarantined() && error.exit_code() == 7, "{error}");
    assert!(
        error.to_string().contains("QUARANTINED") && error.to_string().contains("Way out"),
        "{error}"
    );
    bench.server.protocol(|protocol| {
        assert!(protocol.signed.is_empty());
        assert!(
            !protocol.log.contains(&"sg2".to_owned()),
            "a message left after the ban"
        );
    });

    // In this process, in a second one that reads the file, and after a restart.
    let requests = bench.server.protocol(|protocol| protocol.log.len());
    assert!(bench.send(&mut wallet).await.unwrap_err().is_quarantined());
    let (_directory, elsewhere) = bench.snapshot();
    assert_eq!(elsewhere.state(), WalletState::Quarantined);
    drop(wallet);
    let mut wallet = bench.open();
    assert!(wallet.quarantine().unwrap().session.contains("session-"));
    assert!(
        send::propose(&mut wallet, &bench.client, intent())
            .await
            .unwrap_err()
            .is_quarantined()
    );
    assert!(
        payment::resume(&mut wallet, &bench.client, &mut |_| {})
            .await
            .unwrap_err()
            .is_quarantined()
    );
    assert!(matches!(
        wallet.current_share(),
        Err(KeystoreError::Quarantined(_))
    ));
    assert_eq!(
        bench.keystore().header(&name()).unwrap().state,
        WalletState::Quarantined
    );
    assert_eq!(
        bench.server.protocol(|protocol| protocol.log.len()),
        requests,
        "nothing was asked of the server"
    );

    // The way out stays open: the share can be exported, and the ban travels with it.
    let file = bench.directory.path().join("export");
    wallet
        .export(
            &file,
            &passphrase(),
            countersign_client::keystore::KdfParams::FLOOR,
        )
        .unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let copy = keystore(elsewhere.path())
        .import(&file, None, &passphrase(), &passphrase())
        .unwrap();
    assert_eq!(copy.state(), WalletState::Quarantined);
}

#[tokio::test]
async fn a01_client_a_ban_that_cannot_be_stored_is_a_ban_all_the_same() {
    let bench = Bench::start().await;
    let mut wallet = bench.create().await.unwrap();
    let in_the_way = bench
        .keystore()
        .path(&name())
        .with_file_name(".main.wallet.tmp");
    let outcome = wallet.under_suspicion("session", || {
        std::fs::create_dir(&in_the_way).unwrap();
        Err::<(), _>(BAN)
    });
    assert!(matches!(outcome, Err(KeystoreError::Quarantined(_))));
    assert!(bench.send(&mut wallet).await.unwrap_err().is_quarantined());
}

#[tokio::test]
async fn a01_client_a_probe_in_the_canary_ends_the_creation() {
    let bench = Bench::start().await;
    bench.server.fault(Fault::Tamper("kg3", 30));
    let error = bench.create().await.err().unwrap();
    assert!(error.is_quarantined(), "{error}");
    let again = bench.create().await.err().unwrap();
    assert!(again.is_quarantined(), "{again}");
    assert_eq!(bench.open().header().address, None);
}

#[tokio::test]
async fn a01_client_the_mark_is_on_disk_during_the_check_and_the_verdict_after_it() {
    let bench = Bench::start().await;
    let mut wallet = bench.create().await.unwrap();
    let mut marked = false;
    let outcome = wallet.under_suspicion("session, attempt 1", || {
        // Opening what is on disk now is what a process finds that starts after a crash in the middle of the check.
        let (_directory, found) = bench.snapshot();
        marked = found.suspect_events() == 1 && found.state() == WalletState::Active;
        Err::<(), _>(BAN)
    });
    assert!(marked, "the suspect mark was not durable before the check");
    assert!(matches!(outcome, Err(KeystoreError::Quarantined(_))));
    let (_directory, found) = bench.snapshot();
    assert_eq!(
        (found.state(), found.suspect_events()),
        (WalletState::Quarantined, 0)
    );
    let mut ran = false;
    let refused = wallet.under_suspicion("later", || {
        ran = true;
        Ok(())
    });
    assert!(matches!(refused, Err(KeystoreError::Quarantined(_))) && !ran);
}

#[tokio::test]
async fn a01_client_three_interrupted_checks_quarantine() {
    let bench = Bench::start().await;
    drop(bench.create().await.unwrap());
    for crash in 1..=SUSPECT_LIMIT {
        let mut wallet = bench.open();
        assert_eq!(wallet.suspect_events(), crash - 1);
        // What a power cut in the middle of the check leaves behind: the file with the mark.
        let mut interrupted = Vec::new();
        let path = bench.keystore().path(&name());
        wallet
            .under_suspicion("session", || {
                interrupted = std::fs::read(&path).unwrap();
                Ok(())
            })
            .unwrap();
        drop(wallet);
        std::fs::write(&path, interrupted).unwrap();
    }
    assert_eq!(bench.open().state(), WalletState::Quarantined);
}

#[tokio::test]
async fn a01_client_suspect_failures_are_counted_and_harmless_ones_are_not() {
    let bench = Bench::start().await;
    let mut wallet = bench.create().await.unwrap();
    for _ in 0..10 {
        let outcome = wallet.under_suspicion("session", || Err::<(), _>(HARMLESS));
        assert!(matches!(outcome, Err(KeystoreError::Protocol(HARMLESS))));
    }
    assert_eq!(wallet.suspect_events(), 0);
    for _ in 1..SUSPECT_LIMIT {
        assert!(matches!(
            wallet.under_suspicion("session", || Err::<(), _>(SUSPECT)),
            Err(KeystoreError::Protocol(_))
        ));
    }
    assert_eq!(wallet.state(), WalletState::Active);
    let third = wallet.under_suspicion("session", || Err::<(), _>(MpcError::Panicked));
    assert!(matches!(third, Err(KeystoreError::Quarantined(_))));
    assert_eq!(bench.snapshot().1.state(), WalletState::Quarantined);
}

#[tokio::test]
async fn a01_client_a_message_that_does_not_open_is_no_ban() {
    let bench = Bench::start().await;
    let mut wallet = bench.create().await.unwrap();
    // The first byte is the protocol version: refused before the engine works on it.
    bench.server.fault(Fault::Tamper("sg1", 0));
    let error = bench.send(&mut wallet).await.unwrap_err();
    assert!(
        matches!(
            error,
            ClientError::Keystore(KeystoreError::Protocol(MpcError::Refused(_)))
        ),
        "{error:?}"
    );
    assert_eq!(
        (wallet.state(), wallet.suspect_events()),
        (WalletState::Active, 0)
    );
}
