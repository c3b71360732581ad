#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::too_many_lines,
    reason = "tests"
)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::Config;
use crate::domain::EnvironmentKind;
use crate::identity::certificate::Role;
use crate::store::{Location, PostgresOptions};

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
        for name in [
            "server.pem",
            "ca.pem",
            "ca.crl.pem",
            "module.so",
            "server-key.pem",
            "pin",
        ] {
            directory.write(name, "x");
        }
        directory.write("pg-password", "correct horse\n");
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
    let Location::Sqlite(path) = &*config.store else {
        panic!("{}", config.store);
    };
    assert_eq!(*path, directory.0.path().join("countersign.db"));
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
fn the_anchor_is_on_the_token_unless_a_witness_file_is_named() {
    let directory = Directory::new();
    let anchor = directory.load(GOOD).unwrap().anchor;
    assert_eq!(anchor.interval, Duration::from_secs(60));
    assert_eq!(anchor.witness_file, None);
    let table = "[anchor]\ninterval_seconds = 5\nwitness_file = \"witness\"\n[store]";
    let anchor = directory.load(&GOOD.replace("[store]", table));
    let anchor = anchor.unwrap().anchor;
    assert_eq!(anchor.interval, Duration::from_secs(5));
    assert_eq!(
        anchor.witness_file,
        Some(directory.0.path().join("witness"))
    );
    assert!(refused("[store]", "[anchor]\ninterval_seconds = 0\n[store]").contains("nonzero"));
}

#[test]
fn limits_of_a_listener_fit_together_and_lists_are_one_or_many() {
    let directory = Directory::new();
    let config = directory
        .load(&GOOD.replace(
            "idle_timeout_seconds = 7",
            "crl = [\"ca.crl.pem\", \"ca.crl.pem\"]\nmax_connections = 10\nrequests_per_second = 7",
        ))
        .unwrap();
    let limits = config.operator.limits;
    assert_eq!(limits.max_connections_per_client, 3);
    assert_eq!((limits.requests_per_second, limits.request_burst), (7, 14));
    assert_eq!(config.operator.tls.crls.len(), 2);
    assert_eq!(config.api.tls.crls.len(), 0);
    let one = "idle_timeout_seconds = 7";
    let config = directory.load(&GOOD.replace(one, "crl = \"ca.crl.pem\""));
    let expected = [directory.0.path().join("ca.crl.pem")];
    assert_eq!(config.unwrap().operator.tls.crls, expected);
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
            "idle_timeout_seconds = 7",
            "crl = \"absent.pem\"",
            "operator.crl: cannot read",
        ),
        (
            "kind = \"development\"",
            "kind = \"production\"",
            "api.crl: a production environment must be able to revoke client certificates; write crl = ",
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
        (
            "[store]",
            "[retention]\nidempotency_hours = 23\n[store]",
            "retention.idempotency_hours: a request that is repeated within a day would be carried out twice; write at least 24",
        ),
        (
            "[store]",
            "[retention]\nsessions_days = 1\n[store]",
            "retention.sessions_days: a repeated request would find its key but no longer its answer",
        ),
    ] {
        let error = refused(old, new);
        assert!(error.contains(expected), "{new}: {error}");
        assert!(error.contains("countersignd.toml"), "{error}");
    }
}

const POSTGRES: &str = r#"[store.postgres]
host = "db.example"
database = "countersign"
user = "signer"
password_file = "pg-password"
ca_file = "ca.pem"
"#;

const SQLITE: &str = "[store]\npath = \"countersign.db\"\n";

fn postgres(directory: &Directory, old: &str, new: &str) -> Result<PostgresOptions, String> {
    assert!(POSTGRES.contains(old), "{old}");
    let store = POSTGRES.replacen(old, new, 1);
    let config = directory.load(&GOOD.replacen(SQLITE, &store, 1))?;
    match Arc::into_inner(config.store) {
        Some(Location::Postgres(options)) => Ok(options),
        _ => panic!("not PostgreSQL"),
    }
}

#[test]
fn a_postgresql_server_is_described_completely_and_nothing_comes_from_elsewhere() {
    let directory = Directory::new();
    let options = postgres(&directory, "", "").unwrap();
    assert_eq!((options.host.as_str(), options.port), ("db.example", 5432));
    assert_eq!(options.connections, 8);
    assert_eq!(options.password.unwrap().expose(), "correct horse");
    assert_eq!(options.ca_file, Some(directory.0.path().join("ca.pem")));

    let socket = postgres(
        &directory,
        "host = \"db.example\"\n",
        "host = \"/run/postgresql\"\nconnections = 64\nport = 5433\n",
    );
    let error = socket.err().unwrap();
    assert!(
        error.contains("store.postgres.ca_file: /run/postgresql is a socket, which is not encrypted; leave it out"),
        "{error}"
    );
    let socket = POSTGRES
        .replacen("db.example", "/run/postgresql", 1)
        .replacen("ca_file = \"ca.pem\"", "connections = 64", 1)
        .replacen("password_file = \"pg-password\"", "port = 5433", 1);
    let config = directory.load(&GOOD.replacen(SQLITE, &socket, 1)).unwrap();
    let Location::Postgres(options) = &*config.store else {
        panic!("{}", config.store);
    };
    assert!(options.is_socket() && options.password.is_none() && options.ca_file.is_none());
    assert_eq!((options.port, options.connections), (5433, 64));
}

#[test]
fn every_error_about_the_database_names_key_and_remedy() {
    let directory = Directory::new();
    for (store, expected) in [
        (
            format!("{SQLITE}{POSTGRES}"),
            "store: both path and [store.postgres] are given; remove one",
        ),
        (
            String::new(),
            "store: no database is given; write path = \"countersign.db\" for SQLite, or a table [store.postgres]",
        ),
        (
            "[store]\n".to_owned(),
            "store: no database is given; write path",
        ),
    ] {
        let error = directory.load(&GOOD.replacen(SQLITE, &store, 1));
        let error = error.err().unwrap();
        assert!(error.contains(expected), "{error}");
    }
    for (old, new, expected) in [
        (
            "ca_file = \"ca.pem\"",
            "",
            "store.postgres.ca_file: db.example is reached over TCP, which is always encrypted; name the CA",
        ),
        (
            "\"ca.pem\"",
            "\"absent.pem\"",
            "store.postgres.ca_file: cannot read",
        ),
        (
            "\"pg-password\"",
            "\"absent\"",
            "store.postgres.password_file: cannot read",
        ),
        (
            "\"signer\"",
            "\"signer\"\npassword = \"t0p\"",
            "unknown field `password`",
        ),
        (
            "\"signer\"",
            "\"\"",
            "store.postgres.user: \"\" is no name; write the name that CREATE DATABASE or CREATE ROLE was given",
        ),
        (
            "\"countersign\"",
            "\"a\\u0000b\"",
            "store.postgres.database: \"a\\0b\" is no name",
        ),
        (
            "db.example",
            "postgres://db.example",
            "store.postgres.host: \"postgres://db.example\" is no host; write a host name or an address alone",
        ),
        (
            "db.example",
            "db.example:5432",
            "store.postgres.host: \"db.example:5432\" is no host",
        ),
        (
            "\"signer\"",
            "\"signer\"\nport = 0",
            "store.postgres.port: 0 is no port; leave it out for 5432",
        ),
        (
            "\"signer\"",
            "\"signer\"\nconnections = 0",
            "store.postgres.connections: 0 connections; write 1 to 64",
        ),
        (
            "\"signer\"",
            "\"signer\"\nconnections = 65",
            "store.postgres.connections: 65 connections; write 1 to 64",
        ),
    ] {
        let error = postgres(&directory, old, new).err().unwrap();
        assert!(error.contains(expected), "{new}: {error}");
        assert!(!error.contains("t0p"), "{error}");
    }
    for text in ["", "\n", "one\ntwo\n", "one\0"] {
        directory.write("pg-password", text);
        let error = postgres(&directory, "", "").err().unwrap();
        assert!(
            error.contains(
                "pg-password holds no password; write the password on its first and only line"
            ),
            "{error}"
        );
    }
}

#[test]
fn secret_files_open_to_others_are_refused() {
    let on_postgres = GOOD.replacen(SQLITE, POSTGRES, 1);
    for (name, key) in [
        ("pin", "hsm.pin_file"),
        ("server-key.pem", "api.key"),
        ("sepolia.url", "chain.rpc_url_file"),
        ("pg-password", "store.postgres.password_file"),
    ] {
        for mode in [0o640, 0o604, 0o620] {
            let directory = Directory::new();
            let path = directory.0.path().join(name);
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = directory.load(&on_postgres).err().unwrap();
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
