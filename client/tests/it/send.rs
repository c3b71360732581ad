//! Sending, with every interruption: a payment is signed once or not at all.

use std::time::Duration;

use alloy_primitives::U256;
use countersign_client::{
    ClientError,
    flows::{
        Step,
        payment::{self, Resumed},
        send,
    },
    tx::{Intent, Mismatch},
};

use crate::support::{Bench, appliance::Fault, intent};

#[tokio::test]
async fn a_payment_is_signed_once_over_the_digest_the_client_computed() {
    let bench = Bench::start().await;
    let mut wallet = bench.create().await.unwrap();
    let proposal = send::propose(&mut wallet, &bench.client, intent())
        .await
        .unwrap();
    let digest = proposal.agreed.digest();
    let sent = send::sign(&mut wallet, &bench.client, &proposal, &mut |_| {})
        .await
        .unwrap();
    bench
        .server
        .protocol(|protocol| assert_eq!(protocol.signed, [digest]));
    assert_eq!(
        wallet.payment().unwrap().tx_hash.as_ref(),
        Some(&sent.tx_hash)
    );
    assert!(!wallet.payment().unwrap().is_open());
}

#[tokio::test]
async fn a08_an_offer_that_pays_somebody_else_is_refused_before_any_message() {
    let bench = Bench::start().await;
    let mut wallet = bench.create().await.unwrap();
    bench.server.fault(Fault::OfferOther);
    let error = bench.send(&mut wallet).await.unwrap_err();
    assert!(
        matches!(
            error,
            ClientError::Mismatch(Mismatch::Field { field: "to", .. })
        ),
        "{error}"
    );
    assert_eq!(error.exit_code(), 8);
    assert!(wallet.payment().is_none());
    bench
        .server
        .protocol(|protocol| assert!(!protocol.log.contains(&"sg1".to_owned())));
}

#[tokio::test]
async fn lost_answers_never_pay_twice() {
    let bench = Bench::start().await;
    let mut wallet = bench.create().await.unwrap();
    for kind in ["transaction", "sg1", "sg2"] {
        bench.server.fault(Fault::LoseAnswer(kind));
    }
    bench.send(&mut wallet).await.unwrap();
    bench.server.protocol(|protocol| {
        assert_eq!(protocol.signed.len(), 1);
        assert_eq!(protocol.sessions.len(), 1);
    });
}

#[tokio::test]
async fn a28_a_send_that_lost_the_last_answer_finds_its_transaction_after_a_restart() {
    let bench = Bench::start().await;
    let mut wallet = bench.create().await.unwrap();
    (0..4).for_each(|_| bench.server.fault(Fault::LoseAnswer("sg2")));
    assert!(bench.send(&mut wallet).await.is_err());
    drop(wallet);

    let mut wallet = bench.open();
    let error = send::propose(&mut wallet, &bench.client, intent())
        .await
        .unwrap_err();
    assert!(
        matches!(error, ClientError::PaymentOpen(..)) && error.exit_code() == 10,
        "{error}"
    );
    assert!(matches!(
        payment::abandon(&mut wallet, &bench.client).await,
        Err(ClientError::NotAbandonable(_))
    ));
    let Resumed::Sent(sent) = payment::resume(&mut wallet, &bench.client, &mut |_| {})
        .await
        .unwrap()
    else {
        panic!("it was signed");
    };
    assert_eq!(wallet.payment().unwrap().tx_hash, Some(sent.tx_hash));
    bench
        .server
        .protocol(|protocol| assert_eq!(protocol.signed.len(), 1));
}

#[tokio::test]
async fn a_send_that_was_killed_between_the_rounds_continues_as_the_next_attempt_of_the_same_transaction()
 {
    let bench = Bench::start().await;
    let mut wallet = bench.create().await.unwrap();
    bench
        .server
        .fault(Fault::Refuse("sg2", 503, "STORE_UNAVAILABLE", "never"));
    assert!(bench.send(&mut wallet).await.is_err());
    drop(wallet);

    let mut wallet = bench.open();
    let Resumed::Proposal(proposal) = payment::resume(&mut wallet, &bench.client, &mut |_| {})
        .await
        .unwrap()
    else {
        panic!("it was not signed");
    };
    let digest = proposal.agreed.digest();
    send::sign(&mut wallet, &bench.client, &proposal, &mut |_| {})
        .await
        .unwrap();
    bench.server.protocol(|protocol| {
        assert_eq!(protocol.signed, [digest]);
        assert_eq!(
            protocol
                .sessions
                .values()
                .map(|session| session.attempt)
                .collect::<Vec<_>>(),
            [2]
        );
    });
}

#[tokio::test]
async fn a_resumed_send_waits_until_the_server_gives_the_earlier_attempt_up() {
    let bench = Bench::start().await;
    let mut wallet = bench.create().await.unwrap();
    (0..4).for_each(|_| bench.server.fault(Fault::LoseAnswer("sg1")));
    assert!(bench.send(&mut wallet).await.is_err());
    let mut waited = 0;
    let mut lapse = |step| {
        assert_eq!(step, Step::WaitingForLapse);
        waited += 1;
        bench.server.protocol(|protocol| {
            protocol
                .sessions
                .values_mut()
                .for_each(|session| session.state = "expired");
        });
    };
    let resumed = payment::resume(&mut wallet, &bench.client, &mut lapse).await;
    let Resumed::Proposal(proposal) = resumed.unwrap() else {
        panic!("it was not signed");
    };
    assert_eq!(waited, 1);
    send::sign(&mut wallet, &bench.client, &proposal, &mut |_| {})
        .await
        .unwrap();
    bench
        .server
        .protocol(|protocol| assert_eq!(protocol.signed.len(), 1));
}

#[tokio::test]
async fn a_lost_session_is_restarted_at_most_twice() {
    let bench = Bench::start().await;
    let mut wallet = bench.create().await.unwrap();
    bench
        .server
        .fault(Fault::Refuse("sg1", 409, "SESSION_LOST", "restart"));
    bench
        .server
        .fault(Fault::Refuse("sg2", 409, "SESSION_LOST", "restart"));
    bench.send(&mut wallet).await.unwrap();
    bench
        .server
        .protocol(|protocol| assert_eq!(protocol.signed.len(), 1));

    for _ in 0..3 {
        bench
            .server
            .fault(Fault::Refuse("sg1", 409, "SESSION_LOST", "restart"));
    }
    let error = bench.send(&mut wallet).await.unwrap_err();
    assert_eq!(error.server_code(), Some("SESSION_LOST"));
}

#[tokio::test]
async fn other_refusals_are_not_retried() {
    let bench = Bench::start().await;
    let mut wallet = bench.create().await.unwrap();
    bench
        .server
        .fault(Fault::Refuse("sg1", 500, "MPC_SIGNING_FAILED", "restart"));
    let error = bench.send(&mut wallet).await.unwrap_err();
    assert_eq!(
        (error.server_code(), error.exit_code()),
        (Some("MPC_SIGNING_FAILED"), 6)
    );
    bench
        .server
        .protocol(|protocol| assert!(!protocol.log.contains(&"restart".to_owned())));
}

#[tokio::test]
async fn a_refused_transaction_leaves_nothing_to_continue() {
    let bench = Bench::start().await;
    let mut wallet = bench.create().await.unwrap();
    bench
        .server
        .fault(Fault::Refuse("transaction", 403, "POLICY_DENIED", "never"));
    assert_eq!(
        bench.send(&mut wallet).await.unwrap_err().server_code(),
        Some("POLICY_DENIED")
    );
    assert!(wallet.payment().is_none());
}

#[tokio::test]
async fn an_unstarted_payment_is_continued_under_its_key_or_replaced() {
    let bench = Bench::start().await;
    let mut wallet = bench.create().await.unwrap();
    (0..4).for_each(|_| bench.server.fault(Fault::LoseAnswer("transaction")));
    assert!(bench.send(&mut wallet).await.is_err());
    let key = wallet.payment().unwrap().idempotency_key.clone();
    send::propose(&mut wallet, &bench.client, intent())
        .await
        .unwrap();
    assert_eq!(wallet.payment().unwrap().idempotency_key, key);
    bench
        .server
        .protocol(|protocol| assert_eq!(protocol.sessions.len(), 1));

    let other = Intent {
        value: U256::from(1),
        ..intent()
    };
    let proposal = send::propose(&mut wallet, &bench.client, other)
        .await
        .unwrap();
    assert_ne!(wallet.payment().unwrap().idempotency_key, key);
    send::sign(&mut wallet, &bench.client, &proposal, &mut |_| {})
        .await
        .unwrap();
    bench
        .server
        .protocol(|protocol| assert_eq!(protocol.signed, [proposal.agreed.digest()]));
}

#[tokio::test]
async fn an_aborted_payment_can_be_given_up() {
    let bench = Bench::start().await;
    let mut wallet = bench.create().await.unwrap();
    bench
        .server
        .fault(Fault::Refuse("sg2", 503, "STORE_UNAVAILABLE", "never"));
    assert!(bench.send(&mut wallet).await.is_err());
    payment::abandon(&mut wallet, &bench.client).await.unwrap();
    bench.send(&mut wallet).await.unwrap();
    bench
        .server
        .protocol(|protocol| assert_eq!(protocol.signed.len(), 1));
}

#[tokio::test]
async fn waiting_ends_with_what_the_chain_says() {
    let bench = Bench::start().await;
    let mut wallet = bench.create().await.unwrap();
    let sent = bench.send(&mut wallet).await.unwrap();
    let wait =
        |timeout| payment::wait_until_mined(&wallet, &bench.client, &sent, timeout, |_, _| {});
    assert!(matches!(
        wait(Duration::ZERO).await,
        Err(ClientError::NotMinedYet(_))
    ));
    for (status, code) in [("reverted", 11), ("replaced", 11)] {
        set_status(&bench, status);
        assert_eq!(wait(Duration::ZERO).await.unwrap_err().exit_code(), code);
    }
    set_status(&bench, "mined");
    assert_eq!(
        wait(Duration::ZERO).await.unwrap().status.as_deref(),
        Some("mined")
    );
}

#[tokio::test]
async fn a_chain_or_environment_that_is_not_configured_is_refused() {
    let bench = Bench::start().await;
    let mut wallet = bench.create().await.unwrap();
    let elsewhere = Intent {
        chain_id: 1,
        ..intent()
    };
    let error = send::propose(&mut wallet, &bench.client, elsewhere)
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::UnknownChain(1)));
}

fn set_status(bench: &Bench, status: &'static str) {
    bench.server.protocol(|protocol| {
        protocol
            .sessions
            .values_mut()
            .for_each(|session| session.status = Some(status));
    });
}
