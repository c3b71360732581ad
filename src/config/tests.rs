#![expect(clippy::unwrap_used, clippy::too_many_lines, reason = "tests")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tempfile::TempDir;

use super::Config;
use crate::domain::EnvironmentKind;
use crate::identity::certificate::Role;

const GOOD: &str = r#"
audience = "signer.example"
[environment]
id = "abababababababababababababababababababababababababababababababab"
kind = "development"
[api]
listen = "127.0.0.1:8443"
certificate = "server.pem"
key = "server-key.pem"
client_ca = "ca.pem"
[operator]
listen = "127.0.0.1:9443"
certificate = "server.pem"
key = "server-key.pem"
client_ca = "ca.pem"
idle_timeout_seconds = 7
[[client]]
san = "spiffe://countersign.test/gateway"
role = "gateway"
[[client]]
san = "dns:officer.example"
role = "security-officer"
[hsm]
module = "module.so"
token_label = "countersign"
pin_file = "pin"
profile = "softhsm2"
[store]
path = "countersign.db"
[[chain]]
id = 31337
rpc_url = "http://127.0.0.1:8545"
[[chain]]
id = 11155111
rpc_url_file = "sepolia.url"
"#;

struct Directory(TempDir);

impl Directory {
    fn new() -> Self {
        let directory = Self(tempfile::tempdir().unwrap());
        for name in ["server.pem", "ca.pem", "module.so", "server-key.pem", "pin"] {
            directory.write(name, "x");
        }
        directory.write("sepolia.url", "https://rpc.example/v3/token\n");
        directory
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }

    fn load(&self, text: &str) -> Result<Config, String> {
        self.write("countersignd.toml", text);
        Config::load(&self.0.path().join("countersignd.toml")).map_err(|error| error.to_string())
    }
}

fn refused(old: &str, new: &str) -> String {
    assert!(GOOD.contains(old), "{old}");
    Directory::new()
        .load(&GOOD.replacen(old, new, 1))
        .err()
        .unwrap()
}

#[test]
fn a_complete_file_becomes_typed_values_with_defaults() {
    let directory = Directory::new();
    let config = directory.load(GOOD).unwrap();
    assert_eq!(config.environment_kind, EnvironmentKind::Development);
    assert_eq!(config.store, directory.0.path().join("countersign.db"));
    assert_eq!(config.hsm.pin_file, directory.0.path().join("pin"));
    assert_eq!(config.mpc.session_ttl, Duration::from_secs(120));
    assert_eq!(config.mpc.kept_state_ttl, Duration::from_secs(60));
    assert_eq!(config.operator.limits.idle_timeout, Duration::from_secs(7));
    let clients: Vec<_> = config
        .clients
        .iter()
        .map(|(_, role, tenant)| (role, tenant.as_str()))
        .collect();
    assert_eq!(
        clients,
        [
            (Role::Gateway, "default"),
            (Role::SecurityOfficer, "default")
        ]
    );
    let ids: Vec<_> = config.chains.iter().map(|chain| chain.id).collect();
    assert_eq!(ids, [31_337, 11_155_111]);
}

#[test]
fn every_error_names_key_and_remedy() {
    for (old, new, expected) in [
        (
            "audience = \"signer.example\"",
            "audience = \"a b\"",
            "audience: not a name that clients can sign; write the host name",
        ),
        (
            "id = \"ab",
            "id = \"AB",
            "environment.id: not an environment id; write the 64 lower-case hex digits",
        ),
        (
            "\"development\"",
            "\"staging\"",
            ":5: unknown variant `staging`, expected `production` or `development`",
        ),
        (
            "audience =",
            "mode = \"dev\"\naudience =",
            ":2: unknown field `mode`",
        ),
        (
            "[store]",
            "[store]\ncolour = 1",
            "unknown field `colour`, expected `path`",
        ),
        (
            "listen = \"127.0.0.1:8443\"",
            "listen = \"8443\"",
            "invalid socket address",
        ),
        (
            "idle_timeout_seconds = 7",
            "idle_timeout_seconds = 0",
            "expected a nonzero u32",
        ),
        (
            "role = \"gateway\"",
            "role = \"admin\"",
            "unknown variant `admin`, expected one of `gateway`, `operator`",
        ),
        (
            "role = \"gateway\"",
            "role = \"gateway\"\ntenant = \"other\"",
            "client.tenant: there is no tenant other; add a [[tenant]]",
        ),
        (
            "spiffe://countersign.test/gateway",
            "gateway",
            "client.san: \"gateway\" names no certificate; write \"spiffe://",
        ),
        (
            "dns:officer.example",
            "spiffe://countersign.test/gateway",
            "client.san: spiffe://countersign.test/gateway is listed twice",
        ),
        (
            "id = 31337",
            "id = 1",
            "chain.id: a development environment does not sign for chain 1; use a test chain",
        ),
        (
            "id = 31337",
            "id = 11155111",
            "chain.id: 11155111 is listed twice; remove one",
        ),
        (
            "http://127.0.0.1:8545",
            "ftp://127.0.0.1",
            "chain.rpc_url: chain 31337 has no usable URL; write an http://",
        ),
        (
            "rpc_url_file = \"sepolia.url\"",
            "",
            "chain: chain 11155111 needs its JSON-RPC node; write either rpc_url or rpc_url_file",
        ),
        ("module.so", "absent.so", "hsm.module: cannot read"),
        (
            "pin_file = \"pin\"",
            "",
            "hsm.pin_file: no PIN is configured",
        ),
        (
            "[store]",
            "[mpc]\nsession_ttl_seconds = 30\n[store]",
            "mpc.kept_state_ttl_seconds: kept state would outlive its session",
        ),
    ] {
        let error = refused(old, new);
        assert!(error.contains(expected), "{new}: {error}");
        assert!(error.contains("countersignd.toml"), "{error}");
    }
}

#[test]
fn secret_files_open_to_others_are_refused() {
    for (name, key) in [
        ("pin", "hsm.pin_file"),
        ("server-key.pem", "api.key"),
        ("sepolia.url", "chain.rpc_url_file"),
    ] {
        for mode in [0o640, 0o604, 0o620] {
            let directory = Directory::new();
            let path = directory.0.path().join(name);
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = directory.load(GOOD).err().unwrap();
            assert!(
                error.contains(&format!("{key}: others than its owner may access")),
                "{error}"
            );
            assert!(error.contains("run: chmod 600"), "{error}");
        }
    }
}

#[test]
fn an_access_token_is_neither_accepted_inline_nor_shown() {
    for url in [
        "https://rpc.example/v3/t0ken",
        "https://u:t0ken@rpc.example",
        "https://rpc.example/?key=t0ken",
    ] {
        let error = refused("http://127.0.0.1:8545", url);
        assert!(
            error.contains("put it into a file with mode 600 and write rpc_url_file"),
            "{error}"
        );
        assert!(!error.contains("t0ken"), "{error}");
    }
    assert!(!refused("rpc_url = \"http://127.0.0.1:8545\"", "rpc_url = \"t0ken").contains("t0ken"));
}
