//! Sending, with every interruption: a payment is signed once or not at all.

use std::time::Duration;

use alloy_primitives::U256;
use countersign_client::{
    Appliance, ClientError,
    flows::{
        Step,
        payment::{self, Abandoned, Resumed},
        send,
    },
    keystore::Wallet,
    tx::{Intent, Mismatch},
};
use serde_json::{Value, json};

use crate::support::{Bench, appliance::Fault, intent, protocol::refusal};

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
    set_state(&bench, "r1_checking");
    let mut waited = 0;
    let mut lapse = |step| {
        assert_eq!(step, Step::WaitingForLapse);
        waited += 1;
        set_state(&bench, "expired");
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
async fn a_resumed_send_between_the_rounds_does_not_wait() {
    let bench = Bench::start().await;
    let mut wallet = bench.create().await.unwrap();
    (0..4).for_each(|_| bench.server.fault(Fault::LoseAnswer("sg1")));
    assert!(bench.send(&mut wallet).await.is_err());
    let mut no_wait = |step| panic!("{step:?}");
    let resumed = payment::resume(&mut wallet, &bench.client, &mut no_wait).await;
    let Resumed::Proposal(proposal) = resumed.unwrap() else {
        panic!("it was not signed");
    };
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

/// These come before the owner is known: also, genuinely signed, when somebody on the way altered the request or sent it
/// with another certificate. The payment may have been prepared all the same.
#[tokio::test]
async fn a33_a_refusal_that_others_can_bring_about_does_not_make_the_wallet_forget_its_payment() {
    let bench = Bench::start().await;
    let mut wallet = bench.create().await.unwrap();
    let mut keys = std::collections::BTreeSet::new();
    for (status, code) in [
        (403, "FORBIDDEN_ROLE"),
        (401, "SIGNATURE_INVALID"),
        (400, "INVALID_REQUEST"),
        (404, "PROFILE_NOT_FOUND"),
        (405, "METHOD_NOT_ALLOWED"),
        (413, "BODY_TOO_LARGE"),
    ] {
        bench
            .server
            .fault(Fault::Refuse("transaction", status, code, "never"));
        let error = bench.send(&mut wallet).await.unwrap_err();
        assert_eq!(error.server_code(), Some(code));
        let Some(kept) = wallet.payment().filter(|payment| payment.is_open()) else {
            panic!("{code}: the payment is forgotten");
        };
        keys.insert(kept.idempotency_key.clone());
    }
    assert_eq!(keys.len(), 1, "one payment under one key");
    bench.send(&mut wallet).await.unwrap();
    assert!(keys.contains(&wallet.payment().unwrap().idempotency_key));
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

/// A wallet whose last message left; the server says that the session was aborted.
async fn released(bench: &Bench) -> Wallet {
    let mut wallet = bench.create().await.unwrap();
    bench
        .server
        .fault(Fault::Refuse("sg2", 503, "STORE_UNAVAILABLE", "never"));
    assert!(bench.send(&mut wallet).await.is_err());
    wallet
}

#[tokio::test]
async fn a_payment_given_up_before_the_last_message_leaves_nothing_behind() {
    let bench = Bench::start().await;
    let mut wallet = bench.create().await.unwrap();
    bench
        .server
        .fault(Fault::Refuse("sg1", 503, "STORE_UNAVAILABLE", "never"));
    assert!(bench.send(&mut wallet).await.is_err());
    let abandoned = payment::abandon(&mut wallet, &bench.client).await.unwrap();
    assert_eq!(abandoned, Abandoned::Unsigned);
    assert_eq!(wallet.given_up(31337), None);
}

#[tokio::test]
async fn a_payment_given_up_after_the_last_message_is_followed_by_its_own_nonce_only() {
    let bench = Bench::start().await;
    let mut wallet = released(&bench).await;
    let abandoned = payment::abandon(&mut wallet, &bench.client).await.unwrap();
    assert_eq!(abandoned, Abandoned::SaidUnsigned);
    drop(wallet);

    let mut wallet = bench.open();
    bench.server.protocol(|protocol| protocol.nonce = 8);
    let error = bench.send(&mut wallet).await.unwrap_err();
    assert!(
        matches!(
            error,
            ClientError::OtherNonce {
                given_up: 7,
                offered: 8,
                ..
            }
        ),
        "{error}"
    );
    assert!(wallet.payment().is_none());
    bench.server.protocol(|protocol| protocol.nonce = 7);
    bench.send(&mut wallet).await.unwrap();
    bench.server.protocol(|protocol| protocol.nonce = 8);
    bench.send(&mut wallet).await.unwrap();
    bench
        .server
        .protocol(|protocol| assert_eq!(protocol.signed.len(), 2));
}

#[tokio::test]
async fn the_user_may_accept_another_nonce_than_that_of_a_payment_given_up() {
    let bench = Bench::start().await;
    let mut wallet = released(&bench).await;
    payment::abandon(&mut wallet, &bench.client).await.unwrap();
    bench.server.protocol(|protocol| protocol.nonce = 8);
    wallet.forget_given_up(31337).unwrap();
    bench.send(&mut wallet).await.unwrap();
}

#[tokio::test]
async fn only_the_appliance_of_the_wallet_saying_that_it_knows_no_such_session_counts() {
    let bench = Bench::start().await;
    let mut wallet = released(&bench).await;
    let mut elsewhere = bench.server.config(bench.directory.path());
    elsewhere.environment_id[0] ^= 1;
    let elsewhere = Appliance::new(elsewhere).unwrap();
    assert!(matches!(
        payment::abandon(&mut wallet, &elsewhere).await,
        Err(ClientError::OtherEnvironment(_))
    ));

    for code in ["PROFILE_NOT_FOUND", "ROUTE_NOT_FOUND"] {
        look(&bench, refusal(404, code, "never"));
        let error = payment::abandon(&mut wallet, &bench.client)
            .await
            .unwrap_err();
        assert_eq!(error.server_code(), Some(code));
    }
    bench.server.protocol(|protocol| protocol.sessions.clear());
    payment::abandon(&mut wallet, &bench.client).await.unwrap();
    assert_eq!(wallet.given_up(31337), Some(7));
}

#[tokio::test]
async fn the_state_of_another_session_is_not_believed() {
    let bench = Bench::start().await;
    let mut wallet = released(&bench).await;
    let other =
        json!({"sessionId": "session-0", "state": "aborted", "attempt": 1, "txHash": "0xab"});
    look(&bench, (200, other.clone()));
    assert!(matches!(
        payment::abandon(&mut wallet, &bench.client).await,
        Err(ClientError::Answer(_))
    ));
    look(&bench, (200, other));
    assert!(matches!(
        payment::resume(&mut wallet, &bench.client, &mut |_| {}).await,
        Err(ClientError::Answer(_))
    ));
    assert!(wallet.payment().unwrap().is_open());
}

#[tokio::test]
async fn a28_the_same_payment_is_not_made_again_before_the_first_was_reported() {
    let bench = Bench::start().await;
    let mut wallet = bench.create().await.unwrap();
    let sent = bench.send(&mut wallet).await.unwrap();
    // The process was killed here: the hash is stored, and nobody has seen it.
    drop(wallet);
    let mut wallet = bench.open();
    let error = bench.send(&mut wallet).await.unwrap_err();
    assert!(
        matches!(error, ClientError::Unreported(..)) && error.exit_code() == 10,
        "{error}"
    );

    // Even an appliance that has forgotten it, or is away, does not hide it.
    look(&bench, refusal(404, "NOT_FOUND", "never"));
    let resumed = payment::resume(&mut wallet, &bench.client, &mut |_| {}).await;
    let Resumed::Sent(found) = resumed.unwrap() else {
        panic!("it is signed");
    };
    assert_eq!(found.tx_hash, sent.tx_hash);
    payment::reported(&mut wallet).unwrap();
    drop(wallet);
    bench.send(&mut bench.open()).await.unwrap();
    bench
        .server
        .protocol(|protocol| assert_eq!(protocol.signed.len(), 2));
}

#[tokio::test]
async fn a28_failing_looks_at_a_signed_payment_are_no_failure_to_pay() {
    let bench = Bench::start().await;
    let mut wallet = bench.create().await.unwrap();
    let sent = bench.send(&mut wallet).await.unwrap();
    let wait =
        |timeout| payment::wait_until_mined(&wallet, &bench.client, &sent, timeout, |_, _| {});
    let failures = || {
        look(&bench, refusal(500, "INTERNAL", "never"));
        look(&bench, (200, json!({"sessionId": "../"})));
        look(&bench, (502, json!("bad gateway")));
    };
    look(&bench, refusal(403, "FORBIDDEN_ROLE", "never"));
    assert!(matches!(
        wait(Duration::ZERO).await,
        Err(ClientError::NotMinedYet(hash)) if hash == sent.tx_hash
    ));
    failures();
    set_status(&bench, "mined");
    let seen = wait(Duration::from_secs(20)).await.unwrap();
    assert_eq!(seen.status.as_deref(), Some("mined"));
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

fn look(bench: &Bench, answer: (u16, Value)) {
    bench
        .server
        .protocol(|protocol| protocol.looks.push(answer));
}

fn set_state(bench: &Bench, state: &'static str) {
    bench.server.protocol(|protocol| {
        protocol
            .sessions
            .values_mut()
            .for_each(|session| session.state = state);
    });
}

fn set_status(bench: &Bench, status: &'static str) {
    bench.server.protocol(|protocol| {
        protocol
            .sessions
            .values_mut()
            .for_each(|session| session.status = Some(status));
    });
}
