//! A33 as the wallet sees it: answers that somebody between it and the appliance makes, alters, keeps or swaps.

use std::sync::{Arc, Mutex};

use countersign_client::{
    ClientError, api,
    flows::{payment, send},
    transport::{CallError, Request, TransportError},
};
use serde_json::json;

use crate::support::{Bench, protocol::SignedAnswer};

/// A change to an answer.
type Change = fn(&mut SignedAnswer);

fn is_unbelievable(error: &ClientError) -> bool {
    matches!(
        error,
        ClientError::Call(CallError::Transport(TransportError::Unbelievable(_)))
    )
}

fn alter(text: &mut String, at: usize) {
    let other = if text.as_bytes()[at] == b'A' {
        "B"
    } else {
        "A"
    };
    text.replace_range(at..=at, other);
}

#[tokio::test]
async fn a33_an_answer_that_is_not_the_appliances_is_a_transport_failure() {
    let bench = Bench::start().await;
    let wallet = bench.create().await.unwrap();
    let path = api::profile_path(wallet.current().unwrap().0);
    let changes: [(&str, Change); 12] = [
        ("unsigned", |answer| answer.headers.clear()),
        ("no signature", |answer| {
            drop(answer.headers.remove("signature"));
        }),
        ("no input", |answer| {
            drop(answer.headers.remove("signature-input"));
        }),
        ("no digest", |answer| {
            drop(answer.headers.remove("content-digest"));
        }),
        ("no key", |answer| {
            drop(answer.headers.remove("mpc-response-key"));
        }),
        ("signature", |answer| {
            alter(answer.headers.get_mut("signature").unwrap(), 10);
        }),
        ("key", |answer| {
            alter(answer.headers.get_mut("mpc-response-key").unwrap(), 200);
        }),
        ("created", |answer| {
            let input = answer.headers.get_mut("signature-input").unwrap();
            *input = input.replacen(";created=1", ";created=2", 1);
        }),
        ("status", |answer| answer.status = 202),
        ("body", |answer| answer.body.push(b' ')),
        ("body and digest", |answer| {
            answer.body = br#"{"profileId":"p","name":"n","status":"destroyed"}"#.to_vec();
            let digest = countersign_mpc::response_proof::content_digest(&answer.body);
            answer.headers.insert("content-digest", digest);
        }),
        ("forged error", |answer| {
            answer.status = 404;
            answer.body =
                br#"{"error":"PROFILE_NOT_FOUND","message":"no","statusCode":404,"retry":"never"}"#
                    .to_vec();
        }),
    ];
    for (name, change) in changes {
        bench.server.meddle(move |_, answer, _| change(answer));
        let transport = bench.client.transport();
        let request = transport
            .sign(&Request::get(&path), wallet.device())
            .unwrap();
        let error = transport.send(&request).await.err();
        assert!(
            matches!(error, Some(TransportError::Unbelievable(_))),
            "{name}: {error:?}"
        );
    }
    bench.server.behave();
    let transport = bench.client.transport();
    let request = transport
        .sign(&Request::get(&path), wallet.device())
        .unwrap();
    assert_eq!(transport.send(&request).await.unwrap().status, 200);
}

#[tokio::test]
async fn a33_answers_of_other_requests_times_and_appliances_are_refused() {
    let bench = Bench::start().await;
    let wallet = bench.create().await.unwrap();
    let transport = bench.client.transport();
    let path = api::profile_path(wallet.current().unwrap().0);
    let get = || {
        transport
            .sign(&Request::get(&path), wallet.device())
            .unwrap()
    };

    // The answer to the same question, asked a moment ago.
    let kept: Arc<Mutex<Option<SignedAnswer>>> = Arc::default();
    let keep = Arc::clone(&kept);
    bench
        .server
        .meddle(move |_, answer, _| match &mut *keep.lock().unwrap() {
            Some(kept) => *answer = kept.clone(),
            empty => *empty = Some(answer.clone()),
        });
    assert!(transport.send(&get()).await.is_ok());
    let replayed = transport.send(&get()).await.err();
    assert!(matches!(replayed, Some(TransportError::Unbelievable(_))));

    // Signed for no request, as the identity document is.
    bench.server.meddle(|_, answer, protocol| {
        *answer = protocol.sign_answer(answer.status, answer.body.clone(), None, 0);
    });
    let unbound = transport.send(&get()).await.err();
    assert!(matches!(unbound, Some(TransportError::Unbelievable(_))));

    // Genuine, but long ago: first the signature, then its key is too old.
    for ago in [300, 86_400] {
        bench.server.meddle(move |_, answer, protocol| {
            *answer = protocol.sign_answer(answer.status, answer.body.clone(), None, ago);
        });
        let error = bench.client.identity().await.err().unwrap();
        assert!(is_unbelievable(&error), "{error}");
        assert_eq!(error.exit_code(), 13);
    }
}

#[tokio::test]
async fn a33_a_forged_answer_changes_nothing_and_the_same_command_goes_on() {
    let bench = Bench::start().await;
    let mut wallet = bench.create().await.unwrap();

    // The gateway says that the payment was refused, and then that it was lost: both unsigned.
    for (path, code) in [
        (
            api::transactions_path(wallet.current().unwrap().0),
            "POLICY_DENIED",
        ),
        (api::SIGN.to_owned(), "SESSION_LOST"),
    ] {
        bench.server.meddle(move |asked, answer, _| {
            if asked == path {
                answer.status = 409;
                let error =
                    json!({"error": code, "message": "no", "statusCode": 409, "retry": "never"});
                answer.body = serde_json::to_vec(&error).unwrap();
            }
        });
        let proposed = send::propose(&mut wallet, &bench.client, crate::support::intent()).await;
        let failed = match proposed {
            Ok(proposal) => send::sign(&mut wallet, &bench.client, &proposal, &mut |_| {})
                .await
                .err()
                .unwrap(),
            Err(error) => error,
        };
        assert!(is_unbelievable(&failed), "{failed}");
        assert!(failed.to_string().contains("gateway"), "{failed}");
        assert!(wallet.payment().unwrap().is_open(), "{code}");
    }
    bench.server.behave();
    assert!(bench.server.protocol(|protocol| protocol.signed.len()) <= 1);
    let resumed = payment::resume(&mut wallet, &bench.client, &mut |_| {})
        .await
        .unwrap();
    if let payment::Resumed::Proposal(proposal) = resumed {
        send::sign(&mut wallet, &bench.client, &proposal, &mut |_| {})
            .await
            .unwrap();
    }
    assert_eq!(bench.server.protocol(|protocol| protocol.signed.len()), 1);
}

#[tokio::test]
async fn a33_one_forged_answer_is_asked_again_under_the_same_key() {
    let bench = Bench::start().await;
    let mut wallet = bench.create().await.unwrap();
    let before = bench.server.protocol(|protocol| protocol.idempotency.len());
    let mut first = true;
    bench.server.meddle(move |path, answer, _| {
        if path.ends_with("/transactions") && std::mem::take(&mut first) {
            answer.headers.clear();
        }
    });
    bench.send(&mut wallet).await.unwrap();
    let after = bench.server.protocol(|protocol| protocol.idempotency.len());
    assert_eq!(after, before + 1, "the same Idempotency-Key");
}
