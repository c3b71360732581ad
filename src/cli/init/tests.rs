#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use clap::Parser;

use super::Options;
use super::plan::{Pki, Plan};
use crate::store::Location;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

/// Public key of the private key 1.
const ROOT: &str = "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c2964fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";

fn plan(more: &str) -> Result<Plan, String> {
    let base = "init --dir env --hsm-module m.so --token-label t --pin-file pin";
    let words = base.split(' ').chain(more.split(' '));
    let arguments = Arguments::try_parse_from(words).map_err(|error| error.to_string())?;
    Plan::new(&arguments.options).map_err(|error| error.to_string())
}

#[test]
fn development_makes_its_certificates_and_production_brings_them() {
    let development = plan("--kind development --rpc 31337=http://127.0.0.1:8545").unwrap();
    assert!(matches!(development.pki, Pki::Made));
    assert_eq!(development.audience, "countersign.test");
    assert!(development.directory.is_absolute() && development.hsm.module.is_absolute());
    let production = plan(&format!(
        "--kind production --audience signer.example --certificate Cargo.toml --key Cargo.toml \
         --client-ca Cargo.toml --crl Cargo.toml --client spiffe://a.example/gw=gateway --root {ROOT} \
         --rpc 1=https://rpc.example/token",
    ));
    assert!(matches!(production.unwrap().pki, Pki::Brought { .. }));
}

#[test]
fn options_that_do_not_fit_together_are_refused() {
    for (options, expected) in [
        ("--kind staging", "write development or production"),
        ("--kind production", "also give --audience"),
        (
            "--kind production --audience a --certificate Cargo.toml --key Cargo.toml --client-ca Cargo.toml",
            "also give --crl",
        ),
        (
            "--kind production --audience a --certificate Cargo.toml --key Cargo.toml --client-ca Cargo.toml \
             --crl Cargo.toml",
            "also give --client",
        ),
        ("--kind development --crl l", "leave out --crl"),
        (
            "--kind production --audience a --certificate Cargo.toml --key Cargo.toml --client-ca Cargo.toml \
             --crl Cargo.toml --client dns:gw=gateway",
            "also give --root",
        ),
        ("--kind production --root 04", "write the 130 hex digits"),
        (
            "--kind production --audience a --certificate absent.pem",
            "absent.pem is not a usable path",
        ),
        ("--kind development --key k", "leave out --key"),
        (
            "--kind development --rpc 1=http://127.0.0.1:8545",
            "does not sign for chain 1",
        ),
        (
            "--kind development --rpc 31337=http://a --rpc 31337=http://b",
            "chain 31337 is given twice",
        ),
        (
            "--kind development --rpc http://a",
            "write the chain's id and its node's URL",
        ),
        (
            "--kind development --client gw=gateway",
            "write spiffe://domain/path=role",
        ),
        (
            "--kind development --client dns:gw=admin",
            "the role is gateway, operator",
        ),
        ("--kind development --dev", "unexpected argument '--dev'"),
    ] {
        let error = plan(options).err().unwrap();
        assert!(error.contains(expected), "{options}: {error}");
    }
}

#[test]
fn a_database_is_a_file_in_the_directory_or_the_postgresql_that_was_named() {
    let plan = |more: &str| plan(format!("--kind development {more}").trim_end());
    let file = plan("").unwrap().location.to_string();
    assert!(file.ends_with("/env/countersign.db"), "{file}");

    let socket = plan("--postgres-host /run/postgresql").unwrap();
    let expected = "PostgreSQL database countersign at /run/postgresql:5432 as countersign";
    assert_eq!(socket.location.to_string(), expected);
    let tcp = plan(
        "--postgres-host db.example --postgres-port 5433 --postgres-database d --postgres-user u --postgres-ca Cargo.toml",
    );
    let Location::Postgres(options) = &*tcp.unwrap().location else {
        panic!("not PostgreSQL");
    };
    assert!(options.ca_file.as_ref().unwrap().is_absolute());

    for (options, expected) in [
        (
            "--postgres-user u",
            "required arguments were not provided:\n  --postgres-host <HOST>",
        ),
        (
            "--postgres-host db.example",
            "--postgres-ca: db.example is reached over TCP, which is always encrypted; name the CA",
        ),
        (
            "--postgres-host db.example:5432 --postgres-ca Cargo.toml",
            "--postgres-host: \"db.example:5432\" is no host",
        ),
        (
            "--postgres-host db.example --postgres-ca absent.pem",
            "absent.pem is not a usable path",
        ),
        (
            "--postgres-host /run/postgresql --postgres-password-file Cargo.toml",
            "--postgres-password-file: others than its owner may access",
        ),
    ] {
        let error = plan(options).err().unwrap();
        assert!(error.contains(expected), "{options}: {error}");
    }
}
