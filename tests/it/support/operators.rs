//! Operators who act together, as they do: with `countersignd`, on a machine without token and configuration.

use std::fmt::Write as _;
use std::process::{Command, Output};

use super::appliance::COUNTERSIGND;
use super::site::text;
use super::{Appliance, Node};

/// `countersignd` as an operator runs it, on a machine without token and configuration.
fn operator(appliance: &Appliance, arguments: &[&str]) -> Output {
    Command::new(COUNTERSIGND)
        .args(arguments)
        .current_dir(appliance.environment())
        .env_clear()
        .output()
        .unwrap()
}

/// What it says when it succeeds.
pub(crate) fn done(appliance: &Appliance, arguments: &[&str]) -> String {
    let output = operator(appliance, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    text(&output.stdout)
}

/// What it says when it does not.
pub(crate) fn refused(appliance: &Appliance, arguments: &[&str], expected: &str) {
    let output = operator(appliance, arguments);
    let said = text(&output.stderr);
    assert!(!output.status.success(), "{arguments:?}: {output:?}");
    assert!(said.contains(expected), "{arguments:?}: {said}");
}

/// How they reach the appliance.
pub(crate) const CONNECT: [&str; 2] = ["--connect", "operator.toml"];

/// An appliance that knows three operators, whose keys are in its directory. Serves nothing yet.
pub(crate) fn with_operators(node: &Node) -> Appliance {
    let appliance = Appliance::init(&node.url());
    let mut table = "\n[operators]\nrequired = 2\n[operators.keys]\n".to_owned();
    for name in ["alice", "bob", "carol"] {
        let file = format!("{name}.pem");
        let key = done(&appliance, &["approve", "new-key", "--out", &file]);
        writeln!(table, "{name} = \"{}\"", key.trim_end()).unwrap();
    }
    appliance.configure(|config| config + &table);
    appliance
}

/// Signs a command without reading it.
pub(crate) fn sign(appliance: &Appliance, name: &str, file: &str) -> String {
    let key = format!("{name}.pem");
    let arguments = [
        "approve", "sign", "--key", &key, "--name", name, "--yes", file,
    ];
    done(appliance, &arguments)
}
