//! Certificates that are taken back, lists that are too old, and files that are replaced (`protocol.md` A34).

use super::*;
use crate::cli::pki::Revoked;
use x509_parser::pem::parse_x509_pem;

fn serial(issued: &Issued) -> Vec<u8> {
    let (_, pem) = parse_x509_pem(issued.certificate.as_bytes()).unwrap();
    pem.parse_x509().unwrap().raw_serial().to_vec()
}

impl Server {
    fn publish(&self, name: &str, text: &str) {
        write(self.directory.path(), name, text);
        self.entrance.reload();
    }

    fn revoke(&self, issued: &[&Issued]) {
        let now = clock::now();
        let revoked: Vec<_> = issued
            .iter()
            .map(|issued| Revoked {
                serial: serial(issued),
                at: now,
            })
            .collect();
        let list = self
            .authority
            .revocation_list(&revoked, Validity::days(now, 10));
        self.publish("ca.crl.pem", &list.unwrap());
    }

    fn reloads(&self, result: &str) -> f64 {
        self.metric(&format!(
            r#"countersign_tls_reloads_total{{listener="api",result="{result}"}}"#
        ))
    }

    fn refusals(&self, reason: &str) -> f64 {
        self.metric(&format!(
            r#"countersign_connections_refused_total{{listener="api",reason="{reason}"}}"#
        ))
    }

    async fn open(&self, client: &Issued) -> TlsStream<TcpStream> {
        let config = Arc::new(self.config(Some(client), TLS13));
        let mut stream = self.connect(config).await.unwrap();
        let request = b"GET /whoami HTTP/1.1\r\nhost: localhost\r\n\r\n";
        stream.write_all(request).await.unwrap();
        assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
        stream
    }
}

/// How long the server takes to close a connection.
async fn closed(stream: &mut TlsStream<TcpStream>) -> Duration {
    let started = Instant::now();
    drop(read_to_end(stream).await);
    started.elapsed()
}

#[tokio::test]
async fn a34_revoking_a_certificate_closes_its_connections_and_lets_others_finish() {
    let server = api().await;
    let (revoked, other) = (server.client(GATEWAY), server.client(OTHER_GATEWAY));
    let mut idle = server.open(&revoked).await;
    let mut busy = server.open(&revoked).await;
    let mut idle_other = server.open(&other).await;
    let mut busy_other = server.open(&other).await;
    let slow = b"GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n";
    for stream in [&mut busy, &mut busy_other] {
        stream.write_all(slow).await.unwrap();
    }
    sleep(Duration::from_millis(100)).await;

    server.revoke(&[&revoked]);
    for stream in [&mut idle, &mut busy, &mut idle_other] {
        let took = closed(stream).await;
        assert!(took < Duration::from_millis(200), "{took:?}");
    }
    let answer = read_to_end(&mut busy_other).await.unwrap();
    assert!(answer.ends_with("finished"), "{answer}");

    let result = server.get_as(&revoked, "/whoami").await;
    refused_in_handshake(result, "CertificateRevoked");
    let answer = server.get_as(&other, "/whoami").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(server.refusals("withdrawn"), 2.0);
    assert_eq!(server.refusals("revoked"), 1.0);
    assert_eq!(server.reloads("done"), 1.0);
    server.stop().await;
}

#[tokio::test]
async fn a34_an_http_2_connection_of_a_revoked_certificate_is_closed_too() {
    let server = api().await;
    let client = server.client(GATEWAY);
    let mut config = server.config(Some(&client), TLS13);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let client_of_h2 = reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .resolve("localhost", server.address)
        .build()
        .unwrap();
    let url = format!("https://localhost:{}/whoami", server.address.port());
    client_of_h2.get(&url).send().await.unwrap();
    let open = r#"countersign_connections{listener="api",stage="established"}"#;
    assert_eq!(server.metric(open), 1.0);
    server.revoke(&[&client]);
    sleep(Duration::from_millis(200)).await;
    assert_eq!(server.metric(open), 0.0);
    assert!(client_of_h2.get(&url).send().await.is_err());
    server.stop().await;
}

#[tokio::test]
async fn a34_a_revocation_list_that_is_too_old_lets_nobody_in() {
    let server = api().await;
    let client = server.client(GATEWAY);
    let mut open = server.open(&client).await;
    let now = clock::now();
    let stale = Validity {
        from: now.plus_seconds(-7200),
        until: now.plus_seconds(-3600),
    };
    let list = server.authority.revocation_list(&[], stale).unwrap();
    server.publish("ca.crl.pem", &list);
    assert!(closed(&mut open).await < Duration::from_millis(200));
    let result = server.get_as(&client, "/whoami").await;
    assert!(result.is_err(), "{result:?}");
    assert_eq!(server.refusals("stale_crl"), 1.0);
    let expiry = r#"countersign_tls_expiry_timestamp_seconds{file="crl",listener="api"}"#;
    #[expect(clippy::cast_precision_loss, reason = "seconds fit")]
    let due = (now.as_seconds() - 3600) as f64;
    assert_eq!(server.metric(expiry), due);
    server.stop().await;
}

#[tokio::test]
async fn a34_a_connection_outlives_neither_certificate_nor_revocation_list() {
    let now = clock::now();
    let soon = Validity {
        from: now.plus_seconds(-60),
        until: now.plus_seconds(2),
    };
    let server = api().await;
    let mut of_certificate = server
        .open(&server.issue(GATEWAY, Usage::Client, soon))
        .await;
    assert!(closed(&mut of_certificate).await < Duration::from_secs(3));

    let soon = Validity {
        from: now.plus_seconds(-60),
        until: clock::now().plus_seconds(2),
    };
    let list = server.authority.revocation_list(&[], soon).unwrap();
    server.publish("ca.crl.pem", &list);
    let mut of_list = server.open(&server.client(GATEWAY)).await;
    assert!(closed(&mut of_list).await < Duration::from_secs(3));
    server.stop().await;
}

#[tokio::test]
async fn a34_files_that_are_not_usable_change_nothing() {
    let server = api().await;
    let client = server.client(GATEWAY);
    let mut open = server.open(&client).await;
    let days = Validity::days(clock::now(), 10);
    let file = |name| std::fs::read_to_string(server.directory.path().join(name)).unwrap();
    let good = file("ca.crl.pem");
    let of_a_namesake = authority("test ca").revocation_list(&[], days).unwrap();
    let of_another = authority("other ca").revocation_list(&[], days).unwrap();
    let mut failed = 0.0;
    for (name, wrong, right) in [
        ("ca.crl.pem", "", good.as_str()),
        ("ca.crl.pem", "-----BEGIN X509 CRL-----\nAAAA\n", &good),
        ("ca.crl.pem", &of_a_namesake, &good),
        ("ca.crl.pem", &of_another, &good),
        (
            "server-key.pem",
            &server.authority.own().key,
            &file("server-key.pem"),
        ),
        (
            "ca.pem",
            &authority("other ca").own().certificate,
            &server.authority.own().certificate,
        ),
    ] {
        server.publish(name, wrong);
        failed += 1.0;
        assert_eq!(server.reloads("failed"), failed, "{name}: {wrong}");
        let answer = server.get_as(&client, "/whoami").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        server.publish(name, right);
    }
    // Nor does a good key that others may read.
    let key = server.directory.path().join("server-key.pem");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    server.entrance.reload();
    assert_eq!(server.reloads("failed"), failed + 1.0);
    // What is back as it was is no change: the connection has lived through all this.
    assert_eq!(server.reloads("done"), 0.0);
    let request = b"GET /whoami HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    open.write_all(request).await.unwrap();
    let answer = read_to_end(&mut open).await.unwrap();
    assert!(answer.contains(GATEWAY), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a_new_server_certificate_and_a_new_client_ca_are_used_at_once() {
    let server = api().await;
    let old = server.client(GATEWAY);
    let mut open = server.open(&old).await;
    let names = vec![SanType::DnsName("localhost".try_into().unwrap())];
    let days = Validity::days(clock::now(), 5);
    let own = server
        .authority
        .issue("new server", names, Usage::Server, days)
        .unwrap();
    write(server.directory.path(), "server-key.pem", &own.key);
    server.publish("server.pem", &own.certificate);
    assert!(closed(&mut open).await < Duration::from_millis(200));
    let config = Arc::new(server.config(Some(&old), TLS13));
    let stream = server.connect(config).await.unwrap();
    let seen = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    let (_, expected) = parse_x509_pem(own.certificate.as_bytes()).unwrap();
    assert_eq!(seen.as_ref(), expected.contents);

    // Clients of the old CA are out as soon as it is gone; its list would be of no CA that we know.
    let next = authority("next ca");
    let list = next.revocation_list(&[], days).unwrap();
    write(server.directory.path(), "ca.crl.pem", &list);
    server.publish("ca.pem", &next.own().certificate);
    assert_eq!(server.reloads("done"), 2.0);
    let client = next
        .issue("client", uri(GATEWAY), Usage::Client, days)
        .unwrap();
    let answer = server.get_as(&client, "/whoami").await.unwrap();
    assert!(answer.contains(GATEWAY), "{answer}");
    refused_in_handshake(server.get_as(&old, "/whoami").await, "UnknownCA");
    server.stop().await;
}
