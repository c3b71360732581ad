//! The connection: who is talked to, and what happens to a request somebody changes.

use std::sync::Arc;

use countersign_client::{
    Appliance, ClientError, Config,
    api::{self, Profile},
    keystore::Wallet,
    transport::{CallError, Request, SignedRequest, TransportError},
};
use rustls::{NamedGroup, version::TLS12};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::{Bench, pki};

/// A change to a configuration.
type Change = fn(&mut Config);

async fn reply(bench: &Bench, request: &SignedRequest) -> u16 {
    bench.client.transport().send(request).await.unwrap().status
}

fn signed(bench: &Bench, wallet: &Wallet) -> SignedRequest {
    let profile_id = wallet.current().unwrap().0;
    bench
        .client
        .transport()
        .sign(
            &Request::get(api::profile_path(profile_id)),
            wallet.device(),
        )
        .unwrap()
}

#[tokio::test]
async fn a_changed_request_no_longer_carries_the_owners_signature() {
    let bench = Bench::start().await;
    let wallet = bench.create().await.unwrap();
    assert_eq!(reply(&bench, &signed(&bench, &wallet)).await, 200);

    let mut other_path = signed(&bench, &wallet);
    other_path.path.push('x');
    assert_eq!(reply(&bench, &other_path).await, 401);
    let mut unsigned = signed(&bench, &wallet);
    unsigned.headers.clear();
    assert_eq!(reply(&bench, &unsigned).await, 401);

    let round = Request::post(
        api::SIGN,
        &serde_json::json!({"sessionId": "s", "restart": true}),
    )
    .unwrap();
    let mut other_body = bench
        .client
        .transport()
        .sign(&round, wallet.device())
        .unwrap();
    other_body.body.as_mut().unwrap().push(b' ');
    assert_eq!(reply(&bench, &other_body).await, 401);
}

#[tokio::test]
async fn all_requests_of_a_session_are_routed_alike() {
    let bench = Bench::start().await;
    let mut wallet = bench.create().await.unwrap();
    let keygen = bench.server.routes(api::PROFILES);
    assert_eq!(keygen.len(), 3);
    assert!(keygen[0].is_some());
    assert!(keygen.iter().all(|session| *session == keygen[0]));

    let sent = bench.send(&mut wallet).await.unwrap();
    let session = Some(sent.session_id);
    assert_eq!(bench.server.routes(api::SIGN), [session.clone(), session]);
    assert_eq!(bench.server.routes(api::IDENTITY)[0], None);
}

#[tokio::test]
async fn only_the_pinned_appliance_is_sealed_to() {
    let bench = Bench::start().await;
    let genuine = bench.server.config(bench.directory.path());
    let cases: [(Change, u8, &str); 3] = [
        (
            |config| config.environment_id[0] ^= 1,
            13,
            "not the appliance's",
        ),
        (
            |config| config.root_keys[0][40] ^= 1,
            13,
            "not the appliance's",
        ),
        (|config| config.audience.push('x'), 8, "audience"),
    ];
    for (change, code, expected) in cases {
        let mut config = genuine.clone();
        change(&mut config);
        let error = Appliance::new(config)
            .unwrap()
            .identity()
            .await
            .err()
            .unwrap();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.exit_code(), code);
    }
    let mut config = genuine;
    config.environment_kind = countersign_client::config::EnvironmentKind::Production;
    let error = Appliance::new(config)
        .unwrap()
        .identity()
        .await
        .err()
        .unwrap();
    assert_eq!(error.exit_code(), 13, "{error}");
}

#[tokio::test]
async fn a_spare_root_is_as_good_as_the_first() {
    let bench = Bench::start().await;
    let mut config = bench.server.config(bench.directory.path());
    let unused = p256::ecdsa::SigningKey::from_slice(&[4; 32]).unwrap();
    let unused = unused.verifying_key().to_sec1_point(false);
    config
        .root_keys
        .insert(0, unused.as_bytes().try_into().unwrap());
    assert!(Appliance::new(config).unwrap().identity().await.is_ok());
}

#[tokio::test]
async fn a34_another_authority_tls_1_2_and_a_missing_server_are_connection_errors() {
    let bench = Bench::start().await;
    let elsewhere = tempfile::tempdir().unwrap();
    pki::write(elsewhere.path());
    let genuine = bench.server.config(bench.directory.path());

    let mut distrustful = genuine.clone();
    distrustful.ca = elsewhere.path().join("ca.pem");
    let mut stranger = genuine.clone();
    (stranger.certificate, stranger.key) = (
        elsewhere.path().join("gateway.pem"),
        elsewhere.path().join("gateway-key.pem"),
    );
    let mut nobody = genuine.clone();
    nobody.url = "https://127.0.0.1:1".parse().unwrap();
    let mut old = genuine;
    old.url = tls_1_2_server(bench.directory.path()).await;
    for config in [distrustful, stranger, nobody, old] {
        let error = Appliance::new(config)
            .unwrap()
            .identity()
            .await
            .err()
            .unwrap();
        assert!(
            matches!(error, ClientError::Call(CallError::Transport(_))),
            "{error:?}"
        );
        assert_eq!(error.exit_code(), 5);
    }
}

#[tokio::test]
async fn the_key_exchange_is_hybrid_post_quantum() {
    let bench = Bench::start().await;
    bench.client.identity().await.unwrap();
    assert_eq!(
        bench.server.key_exchange(),
        Some(NamedGroup::X25519MLKEM768)
    );
}

#[tokio::test]
async fn certificates_that_are_not_there_are_named() {
    let bench = Bench::start().await;
    let mut config = bench.server.config(bench.directory.path());
    config.key = "/nowhere/key.pem".into();
    let error = Appliance::new(config).err().unwrap();
    assert!(matches!(
        &error,
        ClientError::Call(CallError::Transport(TransportError::Credentials { .. }))
    ));
    assert!(error.to_string().contains("/nowhere/key.pem") && error.exit_code() == 2);
}

#[tokio::test]
async fn a_server_that_comes_back_is_found_by_the_same_call() {
    let bench = Bench::start().await;
    let wallet = bench.create().await.unwrap();
    bench.server.set_offline(true);
    let path = api::profile_path(wallet.current().unwrap().0);
    let call = tokio::spawn({
        let client = bench.client.clone();
        let device = countersign_mpc::owner_proof::DeviceKey::from_bytes(
            wallet.device().algorithm(),
            wallet.device().to_bytes().as_slice(),
        )
        .unwrap();
        async move {
            client
                .transport()
                .call::<Profile>(&Request::get(path), &device)
                .await
        }
    });
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    bench.server.set_offline(false);
    assert_eq!(call.await.unwrap().unwrap().status, "active");
}

async fn tls_1_2_server(directory: &std::path::Path) -> url::Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::clone(&pki::server(directory, &[&TLS12])));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(acceptor.accept(stream).await);
        }
    });
    url
}
