//! Making an environment: `countersignd init`, `doctor`, and the refusals of a start (`protocol.md` 6).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use tempfile::TempDir;

/// A SoftHSM token of its own and a place for environments.
struct Site {
    directory: TempDir,
    module: String,
}

impl Site {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let setup = Path::new(env!("CARGO_MANIFEST_DIR")).join("softhsm/setup.sh");
        let output = Command::new(setup)
            .arg(directory.path().join("hsm"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let exports = text(&output.stdout);
        let module = exports
            .lines()
            .find_map(|line| line.strip_prefix("export HSM_MODULE="))
            .unwrap();
        let module = module.trim_matches(['\'', '"']).to_owned();
        Self { directory, module }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_countersignd"));
        command
            .args(arguments)
            .env_clear()
            .env("SOFTHSM2_CONF", self.path("hsm/softhsm2.conf"))
            .stdin(Stdio::null());
        command
    }

    fn init(&self, kind: &str, environment: &str) -> Command {
        let mut command = self.command(&["init", "--kind", kind, "--token-label", "countersign"]);
        command
            .args(["--hsm-module", &self.module])
            .arg("--pin-file")
            .arg(self.path("hsm/pin"))
            .arg("--dir")
            .arg(self.path(environment));
        command
    }

    fn with_config(&self, verb: &str, environment: &str) -> Output {
        let config = self.path(environment).join("countersignd.toml");
        self.command(&[verb, "--config", config.to_str().unwrap()])
            .output()
            .unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The exit code and the one line, after any log lines, that says why.
fn refusal(output: &Output) -> (i32, String) {
    let said = text(&output.stderr);
    let mut lines = said.lines().filter(|line| !line.starts_with('{'));
    let line = lines.next().unwrap().to_owned();
    assert_eq!(lines.next(), None, "{said}");
    (output.status.code().unwrap(), line)
}

#[test]
fn init_makes_what_doctor_and_the_client_accept() {
    let site = Site::new();
    let output = site
        .init("development", "env")
        .args([
            "--rpc",
            "31337=http://127.0.0.1:1",
            "--rpc",
            "11155111=https://rpc.example/v3/t0ken",
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(said.contains("Next: countersignd serve --config"), "{said}");
    for name in [
        "countersignd.toml",
        "client.toml",
        "countersign.db",
        "chain-11155111.url",
        "pki/ca-key.pem",
        "pki/server-key.pem",
        "pki/gateway-key.pem",
        "pki/operator-key.pem",
    ] {
        let mode = fs::metadata(site.path("env").join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let written = fs::read_to_string(site.path("env/countersignd.toml")).unwrap();
    assert!(!written.contains("t0ken"), "{written}");

    let client = countersign_client::config::Config::load(&site.path("env/client.toml")).unwrap();
    assert_eq!(client.url.as_str(), "https://127.0.0.1:8443/");
    assert!(written.contains(&hex::encode(client.environment_id)));

    let report = text(&site.with_config("doctor", "env").stdout);
    let failed: Vec<_> = report
        .lines()
        .filter(|line| !line.starts_with("ok "))
        .collect();
    assert!(
        failed.iter().all(|line| line.starts_with("FAIL  chain ")),
        "{report}"
    );
    assert_eq!(failed.len(), 2, "{report}");
}

#[test]
fn a40_production_refuses_a_software_token_and_leaves_nothing() {
    let site = Site::new();
    let ca = site.path("ca.pem");
    fs::write(&ca, "").unwrap();
    let ca = ca.to_str().unwrap();
    let output = site
        .init("production", "env")
        .args([
            "--audience",
            "signer.example",
            "--client",
            "dns:gateway.example=gateway",
        ])
        .args(["--certificate", ca, "--key", ca, "--client-ca", ca])
        .output()
        .unwrap();
    let (code, said) = refusal(&output);
    assert_eq!(code, 3);
    assert!(
        said.contains("a production environment refuses the software token \"countersign\""),
        "{said}"
    );
    assert!(!site.path("env").exists());
    assert!(
        site.init("development", "env")
            .output()
            .unwrap()
            .status
            .success()
    );
}

#[test]
fn an_environment_is_never_overwritten_and_a_token_carries_one() {
    let site = Site::new();
    assert!(
        site.init("development", "env")
            .output()
            .unwrap()
            .status
            .success()
    );
    let before = fs::read(site.path("env/countersignd.toml")).unwrap();
    let (code, said) = refusal(&site.init("development", "env").output().unwrap());
    assert_eq!(code, 3);
    assert!(
        said.contains("already holds an environment; choose another --dir"),
        "{said}"
    );
    assert_eq!(
        fs::read(site.path("env/countersignd.toml")).unwrap(),
        before
    );

    let (code, said) = refusal(&site.init("development", "other").output().unwrap());
    assert_eq!(code, 3);
    assert!(
        said.contains("the token already carries environment"),
        "{said}"
    );
    assert!(!site.path("other").exists());
}

#[test]
fn a40_a_configuration_that_disagrees_stops_the_start() {
    let site = Site::new();
    assert!(
        site.init("development", "env")
            .output()
            .unwrap()
            .status
            .success()
    );
    let path = site.path("env/countersignd.toml");
    let good = fs::read_to_string(&path).unwrap();

    let id = good
        .split("id = \"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap()
        .to_owned();
    for (old, new, code, expected) in [
        (
            "kind = \"development\"",
            "kind = \"production\"",
            3,
            "refuses the software token",
        ),
        (
            id.as_str(),
            &"0".repeat(64),
            3,
            "the token belongs to environment",
        ),
        ("[hsm]", "mode = \"dev\"\n[hsm]", 2, "unknown field `mode`"),
        ("server-key.pem", "absent.pem", 2, "api.key: cannot read"),
    ] {
        fs::write(&path, good.replacen(old, new, 1)).unwrap();
        let (found, said) = refusal(&site.with_config("serve", "env"));
        assert!(said.contains(expected), "{said}");
        assert_eq!(found, code, "{said}");
    }
    let (code, said) = refusal(
        &site
            .command(&["doctor", "--config", "x"])
            .env("COUNTERSIGN_DEV", "1")
            .output()
            .unwrap(),
    );
    assert_eq!(code, 2);
    assert!(said.contains("unset COUNTERSIGN_DEV"), "{said}");
}

#[test]
fn init_killed_at_any_time_is_completed_by_running_it_again() {
    let first = Site::new();
    let started = Instant::now();
    let output = first.init("development", "env").output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let whole = started.elapsed();
    let mut cut_off = 0;
    for part in 1..10 {
        let site = Site::new();
        let mut child = site
            .init("development", "env")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(whole * part / 10);
        child.kill().unwrap();
        cut_off += u32::from(!child.wait().unwrap().success());
        if !site.path("env/countersignd.toml").exists() || site.path("env/init.pending").exists() {
            let again = site.init("development", "env").output().unwrap();
            let said = text(&again.stderr);
            // SoftHSM writes the attributes of a new key one after another. Killed in between, it leaves a key that
            // nobody may ever use: init names it instead of using or deleting it.
            if said.contains("is unsafe") {
                assert!(
                    said.contains("key cs/") && said.contains("remove it"),
                    "{said}"
                );
                assert_eq!(again.status.code(), Some(1));
                continue;
            }
            assert!(again.status.success(), "part {part}: {said}");
        }
        let report = site.with_config("doctor", "env");
        assert!(
            report.status.success(),
            "part {part}: {}",
            text(&report.stdout)
        );
    }
    assert!(cut_off > 2, "only {cut_off} of the kills came in time");
}
