//! The front door as strangers find it: `curl` and `openssl`, not our own client (`protocol.md` A34).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{Appliance, Node};

/// What curl got: the HTTP status (0 for none), the head, and the body.
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) head: String,
    body: String,
    error: String,
}

pub(crate) fn curl(appliance: &Appliance, url: &str, options: &[&str]) -> Got {
    let head = appliance.directory().join("head");
    drop(std::fs::remove_file(&head));
    let output = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--max-time",
            "10",
            "--noproxy",
            "*",
        ])
        .args([
            "--cacert",
            &appliance.pki("ca.pem"),
            "--write-out",
            "\n%{http_code}",
        ])
        .arg("--dump-header")
        .arg(&head)
        .args(options)
        .arg(url)
        .output()
        .expect("curl must be installed");
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    Got {
        status: status.parse().unwrap(),
        head: std::fs::read_to_string(head)
            .unwrap_or_default()
            .to_lowercase(),
        body: body.to_owned(),
        error: String::from_utf8(output.stderr).unwrap(),
    }
}

fn openssl(directory: &Path, arguments: &str) -> String {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .expect("openssl must be installed");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// A client certificate of the appliance's own CA with this name, and its key.
pub(crate) fn issued(appliance: &Appliance, san: &str, days: i32) -> [String; 2] {
    let directory = appliance.directory();
    let [ca, ca_key] = ["ca.pem", "ca-key.pem"].map(|name| appliance.pki(name));
    std::fs::write(
        directory.join("client.ext"),
        format!("subjectAltName = {san}\nextendedKeyUsage = clientAuth\n"),
    )
    .unwrap();
    openssl(
        directory,
        "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout client-key.pem -out client.csr -subj /CN=client",
    );
    let said = openssl(
        directory,
        &format!(
            "x509 -req -in client.csr -CA {ca} -CAkey {ca_key} -CAcreateserial -days {days} -extfile client.ext -out client.pem"
        ),
    );
    let certificate: PathBuf = directory.join("client.pem");
    assert!(certificate.exists(), "{said}");
    [certificate, directory.join("client-key.pem")].map(|path| path.to_str().unwrap().to_owned())
}

/// The tag with which an instance names itself.
pub(crate) fn instance_of(appliance: &Appliance) -> String {
    let (certificate, key) = (
        appliance.pki("gateway.pem"),
        appliance.pki("gateway-key.pem"),
    );
    let own = ["--cert", &certificate, "--key", &key];
    let got = curl(appliance, &appliance.url(IDENTITY), &own);
    let mut lines = got.head.lines();
    let tag = lines.find_map(|line| line.strip_prefix("mpc-instance: "));
    tag.unwrap_or_else(|| panic!("no tag: {}", got.head))
        .to_owned()
}

const IDENTITY: &str = "/api/v1/mpc/identity";

#[tokio::test(flavor = "multi_thread")]
async fn a34_who_has_no_good_certificate_does_not_get_in() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let other = Appliance::init(&node.url());
    let url = appliance.url(IDENTITY);
    let gateway = [
        appliance.pki("gateway.pem"),
        appliance.pki("gateway-key.pem"),
    ];
    let with = |[certificate, key]: &[String; 2], more: &[&str]| {
        let own = ["--cert", certificate, "--key", key];
        curl(&appliance, &url, &[&own, more].concat())
    };

    let welcome = with(&gateway, &[]);
    assert_eq!(welcome.status, 200, "{}", welcome.error);
    assert!(
        welcome.head.contains("mpc-mode: development"),
        "{}",
        welcome.head
    );
    let missing = curl(
        &appliance,
        &appliance.url("/nowhere"),
        &["--cert", &gateway[0], "--key", &gateway[1]],
    );
    assert_eq!(missing.status, 404);
    assert!(
        missing.head.contains("mpc-mode: development"),
        "{}",
        missing.head
    );

    // No certificate; a certificate with the right name of another CA; one that has expired.
    let nobody = curl(&appliance, &url, &[]);
    assert_eq!((nobody.status, nobody.head.as_str()), (0, ""));
    let stranger = with(
        &[other.pki("gateway.pem"), other.pki("gateway-key.pem")],
        &[],
    );
    assert_eq!((stranger.status, stranger.head.as_str()), (0, ""));
    let name = "URI:spiffe://countersign.test/gateway";
    let expired = with(&issued(&appliance, name, -1), &[]);
    assert_eq!(
        (expired.status, expired.head.as_str()),
        (0, ""),
        "{}",
        expired.body
    );

    // TLS 1.2, and no TLS at all.
    let old = with(&gateway, &["--tls-max", "1.2"]);
    assert_eq!((old.status, old.head.as_str()), (0, ""));
    let address = url
        .trim_start_matches("https://")
        .split('/')
        .next()
        .unwrap();
    let said = openssl(
        appliance.directory(),
        &format!(
            "s_client -tls1_2 -connect {address} -cert {} -key {}",
            gateway[0], gateway[1]
        ),
    );
    assert!(said.contains("alert protocol version"), "{said}");
    let plain = curl(&appliance, &format!("http://{address}{IDENTITY}"), &[]);
    assert_eq!((plain.status, plain.body.as_str()), (0, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a34_each_listener_takes_its_own_roles_only() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let api = appliance.url(IDENTITY);
    let operator = appliance.operator_url("/metrics");
    let gateway = [
        appliance.pki("gateway.pem"),
        appliance.pki("gateway-key.pem"),
    ];
    let officer = [
        appliance.pki("operator.pem"),
        appliance.pki("operator-key.pem"),
    ];
    let with = |[certificate, key]: &[String; 2], url: &str, more: &[&str]| {
        let own = ["--cert", certificate, "--key", key];
        curl(&appliance, url, &[&own, more].concat())
    };

    assert_eq!(with(&gateway, &api, &[]).status, 200);
    assert_eq!(with(&officer, &operator, &[]).status, 200);
    let unknown = issued(&appliance, "URI:spiffe://countersign.test/somebody", 1);
    let name_in_subject_only = issued(&appliance, "DNS:localhost", 1);
    for (who, url) in [
        (&officer, &api),
        (&gateway, &operator),
        (&unknown, &api),
        (&unknown, &operator),
        (&name_in_subject_only, &api),
    ] {
        // Headers that a proxy might set are nobody's identity.
        let claim = "X-Client-Cert: spiffe://countersign.test/gateway";
        let got = with(
            who,
            url,
            &[
                "--header",
                claim,
                "--header",
                "X-SSL-Client-Verify: SUCCESS",
            ],
        );
        assert_eq!(got.status, 403, "{who:?} {url} {}", got.error);
        assert!(got.body.contains("FORBIDDEN_ROLE"), "{}", got.body);
        assert!(got.head.contains("mpc-mode: development"), "{}", got.head);
    }
}
