//! Making an environment: `countersignd init`, `doctor`, and the refusals of a start (`protocol.md` 6).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Instant;

use crate::support::engine::Engine;
use crate::support::site::{Site, refusal, text};

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
        "operator.toml",
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
    match Engine::of_this_run() {
        Engine::Sqlite => {
            let database = fs::metadata(site.path("env/countersign.db")).unwrap();
            assert_eq!(database.permissions().mode() & 0o777, 0o600);
        }
        Engine::Postgres => {
            assert!(written.contains("[store.postgres]"), "{written}");
            assert!(!written.contains("correct horse"), "{written}");
            assert!(!site.path("env/countersign.db").exists());
        }
    }

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
    let root = site.command(&["root", "new", "--out"]);
    let root = { root }.arg(site.path("root.pem")).output().unwrap();
    let root = text(&root.stdout);
    let output = site
        .init("production", "env")
        .args(["--root", root.trim()])
        .args([
            "--audience",
            "signer.example",
            "--client",
            "dns:gateway.example=gateway",
        ])
        .args(["--certificate", ca, "--key", ca])
        .args(["--client-ca", ca, "--crl", ca])
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
fn a_database_that_carries_another_environment_is_refused_and_the_token_stays_untouched() {
    let (first, second) = (Site::new(), Site::new());
    let made = first.init("development", "env").output().unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));

    let file = second.path("env/countersign.db");
    if Engine::of_this_run() == Engine::Sqlite {
        fs::create_dir(second.path("env")).unwrap();
        fs::copy(first.path("env/countersign.db"), &file).unwrap();
    }
    let theirs = first.storage.options();
    let mut init = second.init_with("development", "env", &theirs);
    let (code, said) = refusal(&init.output().unwrap());
    assert_eq!(code, 3);
    assert!(
        said.contains("the database already holds environment"),
        "{said}"
    );
    assert!(!second.path("env/countersignd.toml").exists());

    // The directory and the token go on with a database that is free.
    if Engine::of_this_run() == Engine::Sqlite {
        fs::remove_file(&file).unwrap();
    }
    let again = second.init("development", "env").output().unwrap();
    assert!(again.status.success(), "{}", text(&again.stderr));
    let report = second.with_config("doctor", "env");
    assert!(report.status.success(), "{}", text(&report.stdout));
    let report = first.with_config("doctor", "env");
    assert!(report.status.success(), "{}", text(&report.stdout));
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
    // What production would refuse by itself.
    let good = good
        .replace("cooling_off_hours = 0", "cooling_off_hours = 24")
        .replace("\"0s\"", "\"24h\"");

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

/// The length of the file that makes a directory a token.
fn token_file(site: &Site) -> u64 {
    let tokens = fs::read_dir(site.path("hsm/tokens")).unwrap();
    let of_token = |token: fs::DirEntry| token.path().join("token.object");
    let file = tokens.map(|token| of_token(token.unwrap())).next().unwrap();
    fs::metadata(file).unwrap().len()
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
            // At each login it empties the token's own file and writes it anew. Killed in between, the token is gone, and
            // only a copy of it helps.
            if said.contains("no token is labelled") {
                assert_eq!(token_file(&site), 0, "part {part}: {said}");
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
