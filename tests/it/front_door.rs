//! The front door as strangers find it: `curl` and `openssl`, not our own client (`protocol.md` A34).

use crate::support::outside::{curl, issued, openssl};
use crate::support::{Appliance, Node};

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
    let mut appliance = Appliance::init(&node.url());
    let name = |role: &str| format!("spiffe://countersign.test/{role}");
    let roles = [
        "gateway",
        "operator",
        "security-officer",
        "auditor",
        "metrics",
    ];
    // `init` has listed the first two.
    appliance.configure(|config| {
        let client = |role: &&str| {
            let name = name(role);
            format!("\n[[client]]\nsan = \"{name}\"\nrole = \"{role}\"\n")
        };
        config + &roles[2..].iter().map(client).collect::<String>()
    });
    appliance.serve().await;
    let api = appliance.url(IDENTITY);
    let operator = appliance.operator_url("/metrics");
    // Headers that a proxy might set are nobody's identity.
    let claims = [
        "--header",
        "X-Client-Cert: spiffe://countersign.test/gateway",
        "--header",
        "X-Forwarded-Client-Cert: URI=spiffe://countersign.test/operator",
        "--header",
        "X-SSL-Client-Verify: SUCCESS",
    ];
    let status = |san: &str, url: &str| {
        let [certificate, key] = issued(&appliance, san, 1);
        let own = ["--cert", &certificate, "--key", &key];
        let got = curl(&appliance, url, &[&own[..], &claims].concat());
        assert!(got.head.contains("mpc-mode: development"), "{}", got.head);
        assert_eq!(
            got.status == 403,
            got.body.contains("FORBIDDEN_ROLE"),
            "{san} {url}: {} {}",
            got.body,
            got.error
        );
        got.status
    };

    for role in roles {
        let (on_api, on_operator) = if role == "gateway" {
            (200, 403)
        } else {
            (403, 200)
        };
        let san = format!("URI:{}", name(role));
        assert_eq!(status(&san, &api), on_api, "{role}");
        assert_eq!(status(&san, &operator), on_operator, "{role}");
    }
    for stranger in [
        "URI:spiffe://countersign.test/somebody",
        "URI:spiffe://countersign.test/gateway/more",
        "URI:spiffe://other.test/gateway",
        // Its common name is what `issued` writes: nobody asks for it.
        "DNS:localhost",
        "DNS:countersign.test",
        "email:gateway@countersign.test",
    ] {
        assert_eq!(status(stranger, &api), 403, "{stranger}");
        assert_eq!(status(stranger, &operator), 403, "{stranger}");
    }
}
