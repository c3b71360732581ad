//! What one client may take up, and what is left for the others (`protocol.md` A37).

use super::*;

impl Server {
    fn throttled(&self, reason: &str) -> f64 {
        self.metric(&format!(
            r#"countersign_requests_throttled_total{{listener="api",reason="{reason}"}}"#
        ))
    }

    async fn whoami(&self, client: &Issued) -> String {
        self.get_as(client, "/whoami").await.unwrap()
    }
}

#[tokio::test]
async fn a37_a_client_that_sends_too_fast_is_told_to_wait_and_others_are_served() {
    let server = api_with(Limits {
        requests_per_second: 1,
        request_burst: 3,
        ..some_limits()
    })
    .await;
    let (fast, other) = (server.client(GATEWAY), server.client(OTHER_GATEWAY));
    for _ in 0..3 {
        assert!(server.whoami(&fast).await.starts_with("HTTP/1.1 200"));
    }
    // Neither another connection nor another certificate of the same client gives it a fresh start.
    for client in [&fast, &server.client(GATEWAY)] {
        let answer = server.whoami(client).await;
        assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
        assert!(answer.contains(r#""error":"RATE_LIMIT_EXCEEDED""#));
        assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
    }
    assert!(server.whoami(&other).await.starts_with("HTTP/1.1 200"));
    assert_eq!(server.throttled("rate"), 2.0);
    sleep(Duration::from_millis(1100)).await;
    assert!(server.whoami(&fast).await.starts_with("HTTP/1.1 200"));
    server.stop().await;
}

#[tokio::test]
async fn a37_a_client_with_too_many_requests_at_once_is_told_to_wait_and_others_are_served() {
    let server = api_with(Limits {
        max_requests_per_client: 2,
        ..some_limits()
    })
    .await;
    let (busy, other) = (server.client(GATEWAY), server.client(OTHER_GATEWAY));
    let slow = || server.get_as(&busy, "/slow");
    let third = async {
        sleep(Duration::from_millis(150)).await;
        let refused = server.whoami(&busy).await;
        (refused, server.whoami(&other).await)
    };
    let (first, second, (refused, served)) = tokio::join!(slow(), slow(), third);
    assert!(first.unwrap().ends_with("finished") && second.unwrap().ends_with("finished"));
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(refused.contains(r#""error":"OVERLOADED""#), "{refused}");
    assert!(refused.contains("retry-after: 1\r\n"), "{refused}");
    assert!(served.starts_with("HTTP/1.1 200"), "{served}");
    assert_eq!(server.throttled("concurrency"), 1.0);
    assert!(server.whoami(&busy).await.starts_with("HTTP/1.1 200"));
    server.stop().await;
}

#[tokio::test]
async fn a37_no_client_and_no_stranger_takes_all_connections() {
    let server = api_with(Limits {
        max_connections: 40,
        max_connections_per_client: 3,
        ..some_limits()
    })
    .await;
    let gateway = server.client(GATEWAY);
    let config = Arc::new(server.config(Some(&gateway), TLS13));
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(server.connect(config.clone()).await.unwrap());
    }
    // A certificate of our CA with a name that nobody has listed.
    let stranger = Arc::new(server.config(Some(&server.client("spiffe://x.test/y")), TLS13));
    let mut strangers = Vec::new();
    for _ in 0..20 {
        strangers.push(server.connect(stranger.clone()).await.unwrap());
    }
    let refused = |reason: &str| {
        server.metric(&format!(
            r#"countersign_connections_refused_total{{listener="api",reason="{reason}"}}"#
        ))
    };
    sleep(Duration::from_millis(100)).await;
    assert_eq!(refused("client_limit"), 4.0);
    let answer = server.get_as(&gateway, "/whoami").await;
    assert!(!answer.is_ok_and(|answer| answer.contains("200")));
    assert_eq!(refused("client_limit"), 5.0);
    let answer = server.whoami(&server.client(OTHER_GATEWAY)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    open.pop();
    sleep(Duration::from_millis(100)).await;
    assert!(server.whoami(&gateway).await.starts_with("HTTP/1.1 200"));
    server.stop().await;
}

#[tokio::test]
async fn a37_half_open_connections_are_bounded_and_keep_nobody_out() {
    let server = api_with(Limits {
        max_handshakes: 25,
        ..some_limits()
    })
    .await;
    let mut silent = Vec::new();
    for round in 0..100 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        // Some have begun their handshake, some have not.
        if round % 2 == 0 {
            stream.write_all(&[0x16, 0x03, 0x01, 0x02]).await.unwrap();
        }
        silent.push(stream);
    }
    let started = Instant::now();
    let answer = server.whoami(&server.client(GATEWAY)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // No more than it takes until all that were before it have had their time.
    let took = started.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    let in_handshake = r#"countersign_connections{listener="api",stage="handshake"}"#;
    assert!(server.metric(in_handshake) <= 25.0);
    let crowded_out =
        r#"countersign_connections_refused_total{listener="api",reason="crowded_out"}"#;
    assert!(server.metric(crowded_out) >= 75.0);
    server.stop().await;
}

#[tokio::test]
async fn a37_long_heads_and_many_headers_are_431_over_both_protocols() {
    let server = api().await;
    let gateway = server.client(GATEWAY);
    let long = format!("x-filler: {}\r\n", "a".repeat(20_000));
    let many: String = (0..70).map(|n| format!("x-{n}: 1\r\n")).collect();
    for extra in [long, many] {
        let config = Arc::new(server.config(Some(&gateway), TLS13));
        let mut stream = server.connect(config).await.unwrap();
        let request = format!("GET /whoami HTTP/1.1\r\nhost: localhost\r\n{extra}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 1024];
        let length = stream.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    let mut config = server.config(Some(&gateway), TLS13);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .resolve("localhost", server.address)
        .build()
        .unwrap();
    let url = format!("https://localhost:{}/whoami", server.address.port());
    let long = client.get(&url).header("x-filler", "a".repeat(20_000));
    let refused = match long.send().await {
        Ok(answer) => answer.status().as_u16() == 431,
        Err(_) => true,
    };
    assert!(refused);
    // The connection is none the worse for it.
    assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
    server.stop().await;
}
