#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::middleware;
use axum::routing::{get, post};
use rcgen::SanType;
use rustls::client::Resumption;
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::run;
use crate::cli::pki::{Authority, Issued, Usage, Validity};
use crate::clock;
use crate::config::{Limits, Listener, TlsFiles};
use crate::domain::{EnvironmentId, EnvironmentKind, TenantId};
use crate::http::tls::{Entrance, Peer};
use crate::http::{operator, quota};
use crate::identity::certificate::{AllowList, Role, SubjectName};
use crate::service::freeze::Freezing;
use crate::store::{EnvironmentRecord, Location, Store};
use crate::telemetry::metrics::{ListenerName, Metrics};
use crate::telemetry::readiness::{Check, Readiness};

mod limits;
mod revocation;

const GATEWAY: &str = "spiffe://countersign.test/gateway";
const OTHER_GATEWAY: &str = "spiffe://countersign.test/other-gateway";
const OPERATOR: &str = "spiffe://countersign.test/operator";
const METRICS: &str = "spiffe://countersign.test/metrics";
const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
const TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];

struct Server {
    address: SocketAddr,
    authority: Authority,
    entrance: Arc<Entrance>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
    directory: tempfile::TempDir,
}

fn authority(name: &str) -> Authority {
    Authority::new(name, Validity::days(clock::now(), 10)).unwrap()
}

fn uri(name: &str) -> Vec<SanType> {
    vec![SanType::URI(name.try_into().unwrap())]
}

fn write(directory: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn some_limits() -> Limits {
    Limits {
        max_connections: 64,
        ..Limits::default()
    }
}

async fn serve(app: Router, name: ListenerName, limits: Limits) -> Server {
    let authority = authority("test ca");
    let directory = tempfile::tempdir().unwrap();
    let names = vec![SanType::DnsName("localhost".try_into().unwrap())];
    let days = Validity::days(clock::now(), 10);
    let own = authority
        .issue("server", names, Usage::Server, days)
        .unwrap();
    let list = authority.revocation_list(&[], days).unwrap();
    let tls = TlsFiles {
        certificate: write(directory.path(), "server.pem", &own.certificate),
        key: write(directory.path(), "server-key.pem", &own.key),
        client_ca: write(directory.path(), "ca.pem", &authority.own().certificate),
        crls: vec![write(directory.path(), "ca.crl.pem", &list)],
    };
    let mut clients = AllowList::new();
    for (name, role) in [
        (GATEWAY, Role::Gateway),
        (OTHER_GATEWAY, Role::Gateway),
        (OPERATOR, Role::Operator),
        (METRICS, Role::Metrics),
    ] {
        let name = SubjectName::parse(name).unwrap();
        assert!(clients.insert(name, role, TenantId::parse("default").unwrap()));
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let metrics = Arc::new(Metrics::new(EnvironmentKind::Development).unwrap());
    let entrance = Entrance::new(
        name,
        &Listener {
            listen: address,
            tls,
            limits,
        },
        Arc::new(clients),
        EnvironmentKind::Development,
        Arc::clone(&metrics),
    );
    let entrance = Arc::new(entrance.unwrap());
    let served = run(listener, Arc::clone(&entrance), app, shutdown.clone());
    Server {
        address,
        authority,
        entrance,
        metrics,
        shutdown,
        task: tokio::spawn(served),
        directory,
    }
}

async fn api() -> Server {
    api_with(some_limits()).await
}

async fn api_with(limits: Limits) -> Server {
    let app = Router::new()
        .route(
            "/whoami",
            get(|Peer(peer): Peer| async move { format!("{} {}", peer.san(), peer.tenant()) }),
        )
        .route(
            "/slow",
            get(|| async {
                sleep(Duration::from_millis(400)).await;
                "finished"
            }),
        )
        .route("/echo", post(|body: Bytes| async move { body }))
        .layer(middleware::from_fn(quota::admit));
    serve(app, ListenerName::Api, limits).await
}

impl Server {
    fn client(&self, name: &str) -> Issued {
        self.issue(name, Usage::Client, Validity::days(clock::now(), 1))
    }

    fn issue(&self, name: &str, usage: Usage, validity: Validity) -> Issued {
        self.authority
            .issue("client", uri(name), usage, validity)
            .unwrap()
    }

    fn config(
        &self,
        client: Option<&Issued>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        let ca = self.authority.own().certificate;
        roots
            .add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap())
            .unwrap();
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match client {
            Some(issued) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap(),
                )
                .unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::in_memory_sessions(8);
        config
    }

    async fn connect(&self, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(config).connect(name, stream).await
    }

    /// One request on one connection; the whole answer as text.
    async fn request(&self, config: Arc<ClientConfig>, request: &str) -> io::Result<String> {
        let mut stream = self.connect(config).await?;
        stream.write_all(request.as_bytes()).await?;
        read_to_end(&mut stream).await
    }

    async fn get_as(&self, client: &Issued, path: &str) -> io::Result<String> {
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        self.request(Arc::new(self.config(Some(client), TLS13)), &request)
            .await
    }

    /// A metric of this listener, as written in the exposition; 0 when it is absent.
    fn metric(&self, name: &str) -> f64 {
        let text = self.metrics.encode().unwrap();
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .map_or(0.0, |value| value.parse().unwrap())
    }

    async fn stop(self) {
        self.shutdown.cancel();
        timeout(Duration::from_secs(5), self.task)
            .await
            .expect("drained")
            .unwrap();
    }
}

async fn read_to_end(stream: &mut TlsStream<TcpStream>) -> io::Result<String> {
    let mut bytes = Vec::new();
    timeout(Duration::from_secs(5), stream.read_to_end(&mut bytes))
        .await
        .expect("an answer in time")?;
    Ok(String::from_utf8(bytes).unwrap())
}

fn refused_in_handshake(result: io::Result<String>, alert: &str) {
    match result {
        Ok(text) => panic!("served: {text}"),
        Err(error) => assert!(error.to_string().contains(alert), "{error}"),
    }
}

#[tokio::test]
async fn a34_a_listed_client_is_known_by_its_certificate_and_never_by_headers() {
    let server = api().await;
    let gateway = server.client(GATEWAY);
    let request = format!(
        "GET /whoami HTTP/1.1\r\nhost: localhost\r\nx-client-cert: {OPERATOR}\r\n\
         x-forwarded-client-cert: URI={OPERATOR}\r\nconnection: close\r\n\r\n"
    );
    let config = Arc::new(server.config(Some(&gateway), TLS13));
    let answer = server.request(config, &request).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with(&format!("{GATEWAY} default")), "{answer}");
    assert!(answer.contains("mpc-mode: development"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a34_no_certificate_other_ca_expired_and_server_certificate_fail_the_handshake() {
    let server = api().await;
    let request = "GET /whoami HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let config = Arc::new(server.config(None, TLS13));
    refused_in_handshake(server.request(config, request).await, "CertificateRequired");

    let now = clock::now();
    for (name, alert) in [("other ca", "UnknownCA"), ("test ca", "DecryptError")] {
        let foreign = authority(name)
            .issue(
                "client",
                uri(GATEWAY),
                Usage::Client,
                Validity::days(now, 1),
            )
            .unwrap();
        refused_in_handshake(server.get_as(&foreign, "/whoami").await, alert);
    }

    let expired = Validity {
        from: now.plus_seconds(-7200),
        until: now.plus_seconds(-3600),
    };
    let expired = server.issue(GATEWAY, Usage::Client, expired);
    refused_in_handshake(
        server.get_as(&expired, "/whoami").await,
        "CertificateExpired",
    );

    let wrong_use = server.issue(GATEWAY, Usage::Server, Validity::days(now, 1));
    let result = server.get_as(&wrong_use, "/whoami").await;
    refused_in_handshake(result, "received fatal alert");
    server.stop().await;
}

#[tokio::test]
async fn a34_tls_1_2_and_plain_http_are_refused() {
    let server = api().await;
    let config = Arc::new(server.config(Some(&server.client(GATEWAY)), TLS12));
    let request = "GET /whoami HTTP/1.1\r\nhost: localhost\r\n\r\n";
    refused_in_handshake(server.request(config, request).await, "ProtocolVersion");

    let mut plain = TcpStream::connect(server.address).await.unwrap();
    plain.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).await.unwrap();
    assert!(!answer.starts_with(b"HTTP"));
    server.stop().await;
}

#[tokio::test]
async fn a34_a_name_that_is_not_listed_or_has_another_role_is_forbidden() {
    let server = api().await;
    for name in ["spiffe://countersign.test/other", OPERATOR, METRICS] {
        let answer = server
            .get_as(&server.client(name), "/whoami")
            .await
            .unwrap();
        assert!(answer.starts_with("HTTP/1.1 403"), "{name}: {answer}");
        assert!(answer.contains(r#""error":"FORBIDDEN_ROLE""#), "{answer}");
        assert!(answer.contains(r#""statusCode":403"#), "{answer}");
    }
    server.stop().await;
}

/// Over a database of its own, in which nothing is frozen.
async fn freezing(directory: &Path, metrics: Arc<Metrics>) -> Arc<Freezing> {
    let file = directory.join("countersign.db");
    let environment = EnvironmentRecord {
        id: EnvironmentId([7; 32]),
        kind: EnvironmentKind::Development,
        created_at: clock::now(),
    };
    let store = Store::create(Location::Sqlite(file), &environment)
        .await
        .unwrap();
    Arc::new(Freezing::new(store, metrics, |_| (), (Vec::new(), None)))
}

#[tokio::test]
async fn a34_operator_listener_serves_operators_and_lets_monitoring_read_health_only() {
    let metrics = Arc::new(Metrics::new(EnvironmentKind::Development).unwrap());
    let readiness = Readiness::new([Check::Store, Check::Hsm], Duration::from_secs(60));
    let directory = tempfile::tempdir().unwrap();
    let freezing = freezing(directory.path(), Arc::clone(&metrics)).await;
    let server = serve(
        operator::router(Arc::clone(&metrics), readiness.clone(), freezing),
        ListenerName::Operator,
        some_limits(),
    )
    .await;
    let (operator, monitor) = (server.client(OPERATOR), server.client(METRICS));

    let answer = server
        .get_as(&server.client(GATEWAY), "/healthz")
        .await
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    for client in [&operator, &monitor] {
        let answer = server.get_as(client, "/healthz").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let answer = server.get_as(&monitor, "/readyz").await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("unknown"),
        "{answer}"
    );
    readiness.record(Check::Store, Ok(()));
    readiness.record(Check::Hsm, Ok(()));
    let answer = server.get_as(&monitor, "/readyz").await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains(r#""ready":true"#),
        "{answer}"
    );

    let other = |client| server.get_as(client, "/anything");
    assert!(other(&operator).await.unwrap().starts_with("HTTP/1.1 404"));
    assert!(other(&monitor).await.unwrap().starts_with("HTTP/1.1 403"));
    let answer = server.get_as(&monitor, "/metrics").await.unwrap();
    let counted = r#"countersign_http_requests_total{class="2xx",route="/healthz"} 2"#;
    assert!(answer.contains(counted), "{answer}");
    assert!(answer.contains(r#"route="unmatched""#), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a34_every_handshake_is_full_and_hybrid() {
    let server = api().await;
    let config = Arc::new(server.config(Some(&server.client(GATEWAY)), TLS13));
    for _ in 0..3 {
        let mut stream = server.connect(config.clone()).await.unwrap();
        let request = b"GET /whoami HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        assert!(
            read_to_end(&mut stream)
                .await
                .unwrap()
                .starts_with("HTTP/1.1 200")
        );
        let session = stream.get_ref().1;
        assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full));
        let group = session.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    }
    server.stop().await;
}

#[tokio::test]
async fn http_2_is_served_when_negotiated() {
    let server = api().await;
    let mut config = server.config(Some(&server.client(GATEWAY)), TLS13);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .resolve("localhost", server.address)
        .build()
        .unwrap();
    let url = format!("https://localhost:{}/whoami", server.address.port());
    let answer = client.get(url).send().await.unwrap();
    assert_eq!(answer.version(), reqwest::Version::HTTP_2);
    assert_eq!(answer.text().await.unwrap(), format!("{GATEWAY} default"));
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn a37_silent_clients_delay_nobody_and_are_cut_off() {
    let limits = Limits {
        handshake_timeout: Duration::from_millis(500),
        ..some_limits()
    };
    let app = Router::new().route("/whoami", get(|| async { "here" }));
    let server = serve(app, ListenerName::Api, limits).await;
    let mut silent = Vec::new();
    for _ in 0..32 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    let started = Instant::now();
    let answer = server
        .get_as(&server.client(GATEWAY), "/whoami")
        .await
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        started.elapsed() < Duration::from_millis(400),
        "{:?}",
        started.elapsed()
    );
    for mut stream in silent {
        let read = timeout(Duration::from_secs(5), stream.read(&mut [0; 1]))
            .await
            .expect("cut off");
        assert!(matches!(read, Ok(0) | Err(_)));
    }
    server.stop().await;
}

#[tokio::test]
async fn a37_idle_connections_slow_heads_and_slow_bodies_are_cut_off() {
    let short = Duration::from_millis(200);
    let app = Router::new().route("/echo", post(|body: Bytes| async move { body }));
    let short = Limits {
        idle_timeout: short,
        header_timeout: short,
        body_timeout: short,
        ..some_limits()
    };
    let server = serve(app, ListenerName::Api, short).await;
    let config = Arc::new(server.config(Some(&server.client(GATEWAY)), TLS13));

    let mut idle = server.connect(config.clone()).await.unwrap();
    assert_eq!(read_to_end(&mut idle).await.unwrap_or_default(), "");

    let mut slow_head = server.connect(config.clone()).await.unwrap();
    slow_head.write_all(b"GET /echo HT").await.unwrap();
    assert_eq!(read_to_end(&mut slow_head).await.unwrap_or_default(), "");

    let request = "POST /echo HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 10\r\n\r\nx";
    let answer = server.request(config, request).await.unwrap_or_default();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn shutdown_finishes_running_requests_and_accepts_no_more() {
    let server = api().await;
    let gateway = server.client(GATEWAY);
    let config = Arc::new(server.config(Some(&gateway), TLS13));
    let mut stream = server.connect(config).await.unwrap();
    stream
        .write_all(b"GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    sleep(Duration::from_millis(100)).await;
    server.shutdown.cancel();
    assert!(
        read_to_end(&mut stream)
            .await
            .unwrap()
            .ends_with("finished")
    );
    let address = server.address;
    server.stop().await;
    assert!(TcpStream::connect(address).await.is_err());
}
