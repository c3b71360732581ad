//! Reaching a PostgreSQL server: only the one that was meant, only encrypted, only with what the configuration says.
//! These need the server of `scripts/with-postgres.sh`, whatever engine the other tests run on.

use std::fs;
use std::io::copy;
use std::net::{TcpListener, TcpStream};
use std::thread;

use crate::support::engine::OwnDatabase;
use crate::support::site::{Site, refusal, text};

/// A place, and a database for it.
fn site() -> (Site, OwnDatabase) {
    let site = Site::new();
    let database = OwnDatabase::make(&site.path(""));
    (site, database)
}

/// The options that name the database, with another value for one of them.
fn with(database: &OwnDatabase, option: &str, value: &str) -> Vec<String> {
    let mut options = database.options();
    let at = options.iter().position(|found| found == option).unwrap();
    options[at + 1] = value.to_owned();
    options
}

#[test]
fn a_database_is_reached_over_tls_and_through_a_socket() {
    let (site, database) = site();
    let mut init = site.init_with("development", "env", &database.options());
    let made = init.output().unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
    let report = site.with_config("doctor", "env");
    assert!(report.status.success(), "{}", text(&report.stdout));

    let file = site.path("env/countersignd.toml");
    let written = fs::read_to_string(&file).unwrap();
    let socket = format!("host = \"{}\"", database.server.socket.display());
    let lines = written.lines().filter_map(|line| {
        let key = line.split(" = ").next().unwrap();
        match key {
            "ca_file" => None,
            "host" => Some(socket.as_str()),
            _ => Some(line),
        }
    });
    fs::write(&file, lines.collect::<Vec<_>>().join("\n")).unwrap();
    let report = site.with_config("doctor", "env");
    assert!(report.status.success(), "{}", text(&report.stdout));
    assert!(text(&report.stdout).contains(database.server.socket.to_str().unwrap()));
}

/// Passes connections to the server on: it has our address then, and a certificate for another.
fn impostor(port: &str) -> TcpListener {
    let listener = TcpListener::bind("127.0.0.2:0").unwrap();
    let (accepting, port) = (listener.try_clone().unwrap(), port.to_owned());
    thread::spawn(move || {
        for from in accepting.incoming() {
            let (from, to) = (
                from.unwrap(),
                TcpStream::connect(format!("127.0.0.1:{port}")).unwrap(),
            );
            let (mut back, mut answers) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            thread::spawn(move || drop(copy(&mut answers, &mut back)));
            thread::spawn(move || drop(copy(&mut &from, &mut &to)));
        }
    });
    listener
}

#[test]
fn a_server_that_is_not_the_one_that_was_meant_is_refused() {
    let (site, database) = site();
    let wrong = site.path("wrong-password");
    fs::copy(&database.password_file, &wrong).unwrap();
    fs::write(&wrong, "battery staple").unwrap();
    let other_ca = site.path("other-ca.pem");
    let made = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let made = made
        .self_signed(&rcgen::KeyPair::generate().unwrap())
        .unwrap();
    fs::write(&other_ca, made.pem()).unwrap();
    let impostor = impostor(&database.server.port()).local_addr().unwrap();
    let mut elsewhere = with(&database, "--postgres-host", &impostor.ip().to_string());
    elsewhere[3] = impostor.port().to_string();

    for (options, expected) in [
        (
            with(
                &database,
                "--postgres-password-file",
                wrong.to_str().unwrap(),
            ),
            "password authentication failed",
        ),
        (
            with(&database, "--postgres-database", "absent"),
            "database \"absent\" does not exist",
        ),
        (
            with(&database, "--postgres-ca", other_ca.to_str().unwrap()),
            "UnknownIssuer",
        ),
        (elsewhere, "not valid for name"),
        (with(&database, "--postgres-port", "1"), "onnection refused"),
    ] {
        let output = site
            .init_with("development", "env", &options)
            .output()
            .unwrap();
        let (code, said) = refusal(&output);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(expected), "{expected}: {said}");
        assert!(
            !said.contains("correct horse") && !said.contains("battery staple"),
            "{said}"
        );
        assert!(!site.path("env/countersignd.toml").exists());
    }
    let made = site
        .init_with("development", "env", &database.options())
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
}

#[test]
fn a40_the_environment_does_not_reach_the_database_driver() {
    let (site, database) = site();
    let init = || site.init_with("development", "env", &database.options());
    for name in ["PGOPTIONS", "PGPASSWORD", "PGSSLCERT", "PGSSLKEY"] {
        let (code, said) = refusal(&init().env(name, "x").output().unwrap());
        assert_eq!(code, 2);
        assert!(
            said.contains(&format!("unset {name} and use the configuration file")),
            "{said}"
        );
    }
    // Names that the configuration always overrides do no harm.
    let harmless = [
        "PGHOST",
        "PGPORT",
        "PGUSER",
        "PGDATABASE",
        "PGSSLMODE",
        "PGSSLROOTCERT",
    ];
    let made = init()
        .envs(harmless.map(|name| (name, "disable")))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
    let config = site.path("env/countersignd.toml");
    let mut doctor = site.command(&["doctor", "--config", config.to_str().unwrap()]);
    let (code, _) = refusal(
        &doctor
            .env("PGOPTIONS", "-c synchronous_commit=off")
            .output()
            .unwrap(),
    );
    assert_eq!(code, 2);
}
