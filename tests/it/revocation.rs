//! Certificates taken back while their connections are open, and revocation lists that are too old (`protocol.md` A34).

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use countersign::cli::pki::{Authority, Issued, Validity};
use countersign::clock;

use crate::support::outside::{curl, issued};
use crate::support::{Appliance, Node, eventually};

const IDENTITY: &str = "/api/v1/mpc/identity";

/// A connection that `openssl s_client` keeps open after one request has been answered.
struct OpenConnection {
    client: Child,
    _input: ChildStdin,
}

impl OpenConnection {
    fn of(appliance: &Appliance, [certificate, key]: &[String; 2]) -> Self {
        let url = appliance.url("/");
        let address = url.trim_start_matches("https://").trim_end_matches('/');
        let mut client = Command::new("openssl")
            .args(["s_client", "-quiet", "-no_ign_eof", "-verify_return_error"])
            .args(["-connect", address, "-cert", certificate, "-key", key])
            .args(["-CAfile", &appliance.pki("ca.pem")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = client.stdin.take().unwrap();
        let request = format!("GET {IDENTITY} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        input.write_all(request.as_bytes()).unwrap();
        input.flush().unwrap();
        let mut answer = String::new();
        let mut output = BufReader::new(client.stdout.as_mut().unwrap());
        output.read_line(&mut answer).unwrap();
        assert_eq!(answer, "HTTP/1.1 200 OK\r\n");
        Self {
            client,
            _input: input,
        }
    }

    fn is_open(&mut self) -> bool {
        self.client.try_wait().unwrap().is_none()
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        drop(self.client.kill());
        drop(self.client.wait());
    }
}

/// How long it takes until the last of these is closed.
async fn all_closed(mut connections: Vec<OpenConnection>, seconds: u64) -> Duration {
    let started = Instant::now();
    eventually("all connections are closed", seconds, async || {
        connections.retain_mut(OpenConnection::is_open);
        connections.is_empty().then(|| started.elapsed())
    })
    .await
}

fn own(appliance: &Appliance, name: &str) -> [String; 2] {
    [
        appliance.pki(&format!("{name}.pem")),
        appliance.pki(&format!("{name}-key.pem")),
    ]
}

fn status(appliance: &Appliance, [certificate, key]: &[String; 2]) -> u16 {
    let own = ["--cert", certificate, "--key", key];
    curl(appliance, &appliance.url(IDENTITY), &own).status
}

fn pki(appliance: &Appliance, arguments: &[&str]) {
    let output = Command::new(crate::support::appliance::COUNTERSIGND)
        .env_clear()
        .arg("pki")
        .args(arguments)
        .arg("--dir")
        .arg(appliance.environment())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a34_revoking_a_certificate_closes_its_open_connections_within_a_second() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let gateway = own(&appliance, "gateway");
    // Another certificate of the same name, which stays good.
    let spare = issued(&appliance, "URI:spiffe://countersign.test/gateway", 1);
    let open: Vec<_> = (0..5)
        .map(|_| OpenConnection::of(&appliance, &gateway))
        .collect();
    assert_eq!(status(&appliance, &spare), 200);

    pki(&appliance, &["revoke", &gateway[0]]);
    appliance.signal("-HUP");
    let took = all_closed(open, 5).await;
    eprintln!("closed {took:?} after SIGHUP");
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(status(&appliance, &gateway), 0);
    assert_eq!(status(&appliance, &spare), 200);

    let refusals =
        r#"countersign_connections_refused_total{listener="api",reason="REASON"}"#.to_owned();
    for (reason, expected) in [("withdrawn", 5.0), ("revoked", 1.0)] {
        let name = refusals.replace("REASON", reason);
        assert_eq!(appliance.metric(&name).await, expected, "{reason}");
    }
    let log = appliance.log();
    assert!(log.contains("its certificate is no longer accepted"));

    // Without a signal the file is noticed; what was revoked stays so when the list is renewed or added to.
    let open = vec![OpenConnection::of(&appliance, &spare)];
    pki(&appliance, &["crl"]);
    pki(&appliance, &["revoke", &spare[0]]);
    let took = all_closed(open, 10).await;
    eprintln!("closed {took:?} after the file changed");
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(status(&appliance, &gateway), 0);
    assert_eq!(status(&appliance, &spare), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a34_a_stale_or_damaged_revocation_list_is_not_passed_over() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let gateway = own(&appliance, "gateway");
    let list = appliance.pki("ca.crl.pem");
    let good = std::fs::read_to_string(&list).unwrap();
    let reload = async |text: &str, result: &str| {
        let name = format!(r#"countersign_tls_reloads_total{{listener="api",result="{result}"}}"#);
        let before = appliance.metric(&name).await;
        std::fs::write(&list, text).unwrap();
        appliance.signal("-HUP");
        eventually("the reload", 5, async || {
            (appliance.metric(&name).await > before).then_some(())
        })
        .await;
    };
    // Damaged: the old one stays in use, and is asked.
    reload("damaged", "failed").await;
    assert_eq!(status(&appliance, &gateway), 200);
    let expiry = r#"countersign_tls_expiry_timestamp_seconds{file="crl",listener="api"}"#;
    #[expect(clippy::cast_precision_loss, reason = "seconds fit")]
    let tomorrow = clock::now().plus_seconds(86_400).as_seconds() as f64;
    assert!(appliance.metric(expiry).await > tomorrow);

    // A start with it is refused, and with none of ours, and so is the report of the doctor.
    appliance.stop().await;
    let start = |text: &str| {
        std::fs::write(&list, text).unwrap();
        let output = appliance.serve_command().output().unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, said) = start("damaged");
    assert!(code == 1 && said.contains("a revocation list"), "{said}");
    let of_another = Authority::new("other", Validity::days(clock::now(), 1)).unwrap();
    let of_another = of_another.revocation_list(&[], Validity::days(clock::now(), 1));
    let (code, said) = start(&of_another.unwrap());
    assert!(code == 1 && said.contains("is not signed by"), "{said}");

    // Stale: everybody is refused, operators and monitoring too.
    std::fs::write(&list, stale_list(&appliance)).unwrap();
    appliance.spawn();
    eventually("the appliance listens", 20, async || {
        appliance.log().contains("expired: renew it").then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(status(&appliance, &gateway), 0);
    assert!(appliance.operator("/readyz").await.is_none());
    let doctor = appliance.doctor();
    assert!(
        doctor.contains("ca.crl.pem has expired; renew it"),
        "{doctor}"
    );

    // And a good one lets all in again, without a new start.
    std::fs::write(&list, good).unwrap();
    appliance.signal("-HUP");
    eventually("the good list is in use", 5, async || {
        (status(&appliance, &gateway) == 200).then_some(())
    })
    .await;
}

fn stale_list(appliance: &Appliance) -> String {
    let read = |name| std::fs::read_to_string(Path::new(&appliance.pki(name))).unwrap();
    let authority = Authority::open(Issued {
        certificate: read("ca.pem"),
        key: read("ca-key.pem").into(),
    });
    let now = clock::now();
    let validity = Validity {
        from: now.plus_seconds(-7200),
        until: now.plus_seconds(-3600),
    };
    authority.unwrap().revocation_list(&[], validity).unwrap()
}
