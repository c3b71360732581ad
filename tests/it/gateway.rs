//! Wallets behind `deploy/gateway/nginx.conf`, as it is shipped but for names and ports.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use countersign::clock;
use countersign_client::api;
use countersign_client::keystore::Wallet;
use countersign_client::transport::{Request, SignedRequest, TransportError};
use countersign_mpc::owner_proof::{self, BodyHash, RequestParts};
use reqwest::Method;

use crate::front_door::instance_of;
use crate::support::outside::issued;
use crate::support::signing::{signed, transaction};
use crate::support::wallet::{profile, send_and_mine};
use crate::support::{Appliance, Node, eventually, free_port, root, wallet_of};

/// nginx with the shipped configuration, in front of these instances.
struct Gateway {
    process: Child,
    directory: PathBuf,
    port: u16,
}

impl Gateway {
    async fn start(instances: [&Appliance; 2]) -> Self {
        let appliance = instances[0];
        let directory = appliance.directory().join("gateway");
        std::fs::create_dir_all(directory.join("tmp")).unwrap();
        let port = free_port();
        let shipped = root().join("deploy/gateway/nginx.conf");
        let mut config = std::fs::read_to_string(shipped).unwrap();
        let address = |appliance: &Appliance| {
            let url = appliance.client.config().url.clone();
            format!("127.0.0.1:{}", url.port().unwrap())
        };
        for (shipped, ours) in [
            ("listen 443 ssl", format!("listen 127.0.0.1:{port} ssl")),
            ("signer-1.internal:8443", address(instances[0])),
            ("signer-2.internal:8443", address(instances[1])),
            ("wallet.example.pem", appliance.pki("server.pem")),
            ("wallet.example-key.pem", appliance.pki("server-key.pem")),
            ("gateway.pem", appliance.pki("gateway.pem")),
            ("gateway-key.pem", appliance.pki("gateway-key.pem")),
            ("countersign-ca.pem", appliance.pki("ca.pem")),
            ("countersign.internal", "localhost".to_owned()),
        ] {
            assert!(config.contains(&format!(" {shipped}")), "{shipped}");
            config = config.replace(&format!(" {shipped}"), &format!(" {ours}"));
        }
        std::fs::write(directory.join("nginx.conf"), config).unwrap();
        // Debian keeps it off the path of ordinary users.
        let debian = Path::new("/usr/sbin/nginx");
        let nginx = if debian.exists() {
            debian
        } else {
            Path::new("nginx")
        };
        let process = Command::new(nginx)
            .args(["-g", "daemon off;", "-c", "nginx.conf", "-p"])
            .arg(&directory)
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(directory.join("error.log")).unwrap())
            .spawn()
            .expect("nginx must be installed");
        let mut gateway = Self {
            process,
            directory,
            port,
        };
        eventually("the gateway listens", 10, async || {
            if let Some(status) = gateway.process.try_wait().unwrap() {
                panic!("nginx ended with {status}: {}", gateway.errors());
            }
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        })
        .await;
        gateway
    }

    /// A wallet's way through the gateway. The certificate it holds is one that the appliance would not let in.
    fn client(&self, appliance: &Appliance) -> countersign_client::Appliance {
        let [certificate, key] = issued(appliance, "URI:spiffe://countersign.test/wallet", 1);
        let mut config = appliance.client.config().clone();
        config.url = format!("https://127.0.0.1:{}/", self.port).parse().unwrap();
        (config.certificate, config.key) = (certificate.into(), key.into());
        countersign_client::Appliance::new(config).unwrap()
    }

    fn errors(&self) -> String {
        std::fs::read_to_string(self.directory.join("error.log")).unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // SIGTERM: its workers end with it.
        let process = self.process.id().to_string();
        drop(Command::new("kill").arg(process).status());
        drop(self.process.wait());
        if std::thread::panicking() {
            eprintln!("nginx says:\n{}", self.errors());
        }
    }
}

async fn get(
    client: &countersign_client::Appliance,
    path: &str,
    session: Option<&str>,
) -> reqwest::Response {
    // Its own client: ours does not show the headers of an answer.
    let config = client.config();
    let ca = std::fs::read(&config.ca).unwrap();
    let http = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&ca).unwrap()])
        .no_proxy()
        .build()
        .unwrap();
    let mut request = http.get(config.url.join(path).unwrap());
    if let Some(session) = session {
        request = request.header("mpc-session", session);
    }
    request.send().await.unwrap()
}

/// A POST of exactly these bytes.
fn signed_bytes(
    appliance: &Appliance,
    wallet: &Wallet,
    (path, key): (&str, &str),
    body: Vec<u8>,
) -> SignedRequest {
    let audience = &appliance.client.config().audience;
    let json = "application/json";
    let parts = RequestParts {
        method: "POST",
        path,
        query: "",
        content_type: Some(json),
        audience,
        idempotency_key: Some(key),
        authorization: None,
        body: Some(BodyHash::of(&body)),
    };
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).unwrap();
    let now = clock::now().as_seconds();
    let proof = owner_proof::sign(wallet.device(), &parts, now, nonce).unwrap();
    SignedRequest {
        method: Method::POST,
        path: path.to_owned(),
        headers: vec![
            ("content-type", json.to_owned()),
            ("content-digest", proof.content_digest.unwrap()),
            ("idempotency-key", key.to_owned()),
            ("mpc-audience", audience.clone()),
            ("signature-input", proof.signature_input),
            ("signature", proof.signature),
        ],
        body: Some(body),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wallets_are_made_and_sign_through_the_nginx_that_we_ship() {
    let node = Node::start().await;
    let one = Appliance::start_on_postgres(&node).await;
    let two = one.another().await;
    let gateway = Gateway::start([&one, &two]).await;
    let direct = one.client.config().clone();
    let mut one = one;
    one.client = gateway.client(&one);

    // All requests of a session reach the instance that holds its state: nothing is refused or started again.
    let mut wallet = wallet_of(&one, &node, "behind").await;
    for wei in 1..=3 {
        send_and_mine(&mut wallet, &one, wei).await;
    }
    let refused = r#"countersign_http_requests_total{class="4xx",route="/api/v1/mpc/sign"}"#;
    assert_eq!(one.metric(refused).await + two.metric(refused).await, 0.0);

    // Bytes are passed on as they came: the digest of these, which no program would write like this, is signed.
    let (id, key) = (profile(&wallet), "0b0e7a54-75d1-4f4c-9fb5-0e3a4f4e8d11");
    let path = api::transactions_path(&id);
    let ordinary = transaction(7).to_string();
    let strange = ordinary.replace("\"to\"", " \t\r\n\"\\u0074o\" ");
    assert_ne!(strange, ordinary);
    let request = signed_bytes(&one, &wallet, (&path, key), strange.into_bytes());
    let reply = one.client.transport().send(&request).await.unwrap();
    assert_eq!(reply.status, 200, "{reply:?}");
    let mut altered = request.clone();
    altered.body.as_mut().unwrap().push(b' ');
    let reply = one.client.transport().send(&altered).await.unwrap();
    assert_eq!(reply.status, 401, "{reply:?}");

    // Each session has its instance; without one, requests are spread.
    let identity = "api/v1/mpc/identity";
    let instance = async |session: Option<&str>| {
        let answer = get(&one.client, identity, session).await;
        assert_eq!(answer.status(), 200);
        answer.headers()["mpc-instance"]
            .to_str()
            .unwrap()
            .to_owned()
    };
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for n in 0..16 {
        let session = format!("session-{n}");
        let chosen = instance(Some(&session)).await;
        assert_eq!(instance(Some(&session)).await, chosen);
        with.push(chosen);
        without.push(instance(None).await);
        // Politely: one user is limited.
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
    }
    one.client = countersign_client::Appliance::new(direct).unwrap();
    for tag in [instance_of(&one), instance_of(&two)] {
        assert!(
            with.contains(&tag) && without.contains(&tag),
            "{with:?} {without:?}"
        );
    }
    one.client = gateway.client(&one);

    // Nothing else is reached, and nothing was kept on the disk.
    for path in ["metrics", "healthz", "openapi.json"] {
        assert_eq!(get(&one.client, path, None).await.status(), 404);
    }
    // What the gateway says by itself is not signed, so the wallet believes none of it.
    let too_long = Request::post(&path, &"a".repeat(40_000)).unwrap();
    let too_long = signed(&one, &wallet, &too_long);
    let answer = one.client.transport().send(&too_long).await;
    assert!(
        matches!(answer, Err(TransportError::Unbelievable(_))),
        "{answer:?}"
    );
    let kept = crate::support::files_below(&gateway.directory.join("tmp"));
    assert!(kept.is_empty(), "{kept:?}");
    assert_eq!(
        gateway
            .errors()
            .matches("buffered to a temporary file")
            .count(),
        0
    );
}
