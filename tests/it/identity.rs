//! The identity key and its roots, as operators handle them on the command line; and what wallets make of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use countersign_client::flows::create::create_wallet;
use serde_json::Value;

use crate::support::site::{Site, refusal, text};
use crate::support::wallet::{passphrase, send};
use crate::support::{Appliance, Node, wallet_of};

/// Runs `countersignd` with `arguments`, paths within the site marked by `@`.
fn run(site: &Site, arguments: &str) -> std::process::Output {
    let arguments: Vec<String> = arguments
        .split(' ')
        .map(|word| match word.strip_prefix('@') {
            Some(name) => site.path(name).to_str().unwrap().to_owned(),
            None => word.to_owned(),
        })
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    site.command(&arguments).output().unwrap()
}

/// As [`run`]; it must succeed. Its standard output.
fn done(site: &Site, arguments: &str) -> String {
    let output = run(site, arguments);
    assert!(output.status.success(), "{arguments}: {output:?}");
    text(&output.stdout)
}

fn refused(site: &Site, arguments: &str) -> String {
    let output = run(site, arguments);
    assert!(!output.status.success(), "{arguments}");
    refusal(&output).1
}

/// Replaces the roots in a configuration.
fn pin(site: &Site, roots: &[&str]) {
    let file = site.path("env/countersignd.toml");
    let config = fs::read_to_string(&file).unwrap();
    let line = config
        .lines()
        .find(|line| line.starts_with("roots = "))
        .unwrap();
    let config = config.replace(line, &format!("roots = {roots:?}"));
    fs::write(file, config).unwrap();
}

#[test]
fn a_root_is_a_private_file_that_is_never_overwritten() {
    let site = Site::new();
    let key = done(&site, "root new --out @root.pem");
    let mode = fs::metadata(site.path("root.pem"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(key.trim().len(), 130);
    assert_eq!(done(&site, "root show --key @root.pem"), key);
    assert!(refused(&site, "root new --out @root.pem").contains("never overwritten"));
    fs::set_permissions(site.path("root.pem"), fs::Permissions::from_mode(0o640)).unwrap();
    assert!(refused(&site, "root show --key @root.pem").contains("chmod 600"));
}

#[test]
fn an_appliance_serves_only_under_a_certificate_of_its_roots() {
    let site = Site::new();
    assert!(
        site.init("development", "env")
            .output()
            .unwrap()
            .status
            .success()
    );
    let (serve, config) = (
        "serve --config @env/countersignd.toml",
        "--config @env/countersignd.toml",
    );
    let first = done(&site, "root new --out @first.pem");
    let spare = done(&site, "root new --out @spare.pem");
    pin(&site, &[first.trim(), spare.trim()]);

    // The certificate that init made is by another root.
    let said = refused(&site, serve);
    assert!(
        said.contains("no pinned root key signed its identity key"),
        "{said}"
    );
    fs::remove_file(site.path("env/identity/certificate.json")).unwrap();
    let said = refused(&site, serve);
    assert!(
        said.contains("run `countersignd identity request`"),
        "{said}"
    );
    pin(&site, &[]);
    done(
        &site,
        &format!("identity request {config} --out @request.json"),
    );
    done(
        &site,
        "root sign --key @spare.pem --request @request.json --out @signed.json",
    );
    let said = refused(
        &site,
        &format!("identity install {config} --certificate @signed.json"),
    );
    assert!(said.contains("names no root"), "{said}");

    // Any of the roots will do; a certificate that was altered, or of another key, will not.
    pin(&site, &[first.trim(), spare.trim()]);
    let signed = fs::read_to_string(site.path("signed.json")).unwrap();
    let mut altered: Value = serde_json::from_str(&signed).unwrap();
    altered["notAfter"] = (altered["notAfter"].as_u64().unwrap() + 1).into();
    fs::write(site.path("altered.json"), altered.to_string()).unwrap();
    let said = refused(
        &site,
        &format!("identity install {config} --certificate @altered.json"),
    );
    assert!(said.contains("no pinned root key"), "{said}");
    let mut request: Value =
        serde_json::from_str(&fs::read_to_string(site.path("request.json")).unwrap()).unwrap();
    request["environmentKind"] = "production".into();
    fs::write(site.path("other.json"), request.to_string()).unwrap();
    let said = refused(
        &site,
        "root sign --key @spare.pem --request @other.json --out @x.json",
    );
    assert!(said.contains("not made by the holder of the key"), "{said}");

    done(
        &site,
        &format!("identity install {config} --certificate @signed.json"),
    );
    let shown = done(&site, &format!("identity show {config}"));
    assert!(
        shown.contains(first.trim()) && shown.contains("in 364 days"),
        "{shown}"
    );
    let report = site.with_config("doctor", "env");
    assert!(report.status.success(), "{}", text(&report.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn a33_a_wallet_that_pins_another_root_believes_nothing() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let mut config = appliance.client.config().clone();
    let other = p256::ecdsa::SigningKey::from_slice(&[4; 32]).unwrap();
    let other = other.verifying_key().to_sec1_point(false);
    config.root_keys = vec![other.as_bytes().try_into().unwrap()];
    let stranger = countersign_client::Appliance::new(config).unwrap();
    let name = "main".parse().unwrap();
    let (keystore, passphrase) = (appliance.keystore(), passphrase());
    let created = create_wallet(&keystore, &stranger, &name, &passphrase, &mut |_| ()).await;
    let error = created.err().unwrap();
    assert_eq!(error.exit_code(), 13, "{error}");
    assert!(appliance.metric("countersign_hsm_unwraps_total").await < 1.0);
}
#[tokio::test(flavor = "multi_thread")]
async fn an_identity_key_is_replaced_and_wallets_that_pin_the_root_do_not_notice() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let mut wallet = wallet_of(&appliance, &node, "main").await;
    let before = appliance.client.identity_document().await.unwrap();

    let environment = appliance.environment();
    let path = |name: &str| environment.join(name).to_str().unwrap().to_owned();
    let command = |arguments: &[&str]| {
        let output = crate::support::appliance::countersignd(&appliance.token)
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    };
    let config = path("countersignd.toml");
    let (request, signed) = (path("request.json"), path("signed.json"));
    command(&[
        "identity",
        "request",
        "--config",
        &config,
        "--out",
        &request,
        "--new-key",
    ]);
    let root = path("identity/root-key.pem");
    command(&[
        "root",
        "sign",
        "--key",
        &root,
        "--request",
        &request,
        "--out",
        &signed,
    ]);
    command(&[
        "identity",
        "install",
        "--config",
        &config,
        "--certificate",
        &signed,
    ]);
    appliance.stop().await;
    appliance.serve().await;

    // The same client goes on: it has pinned the root, and the key of before.
    let after = appliance.client.identity_document().await.unwrap();
    assert_ne!(after.identity.key, before.identity.key);
    assert!(after.identity.serial > before.identity.serial);
    send(&mut wallet, &appliance, 1000).await.unwrap();
}
