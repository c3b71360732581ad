//! Rules that take effect only when several operators have signed for them: at a start, at a reload, and against what was
//! replaced.

use std::fs;
use std::time::Duration;

use crate::support::appliance::output_within;
use crate::support::operators::{done, refused, sign, with_operators};
use crate::support::{Appliance, Node, eventually};

const EVERYTHING: &str = "@id(\"test.everything\")\npermit (principal, action, resource);\n";
const NOTHING: &str = "@id(\"test.nothing\")\nforbid (principal, action, resource);\n";

/// Puts these rules where the configuration points to.
fn write_rules(appliance: &Appliance, version: &str, rules: &str) {
    let directory = appliance.environment().join("rules");
    fs::create_dir_all(&directory).unwrap();
    let manifest = format!("version = \"{version}\"\n");
    fs::write(directory.join("bundle.toml"), manifest).unwrap();
    fs::write(directory.join("rules.cedar"), rules).unwrap();
}

fn with_dual_control(node: &Node) -> Appliance {
    let appliance = with_operators(node);
    write_rules(&appliance, "1", EVERYTHING);
    let table = "[policy]\ndirectory = \"rules\"\nactivation = \"operators\"\n";
    appliance.configure(|config| config.replace("[policy]\n", table));
    appliance
}

/// The id of its environment, as its configuration has it.
fn environment_id(appliance: &Appliance) -> String {
    let configs = fs::read_dir(appliance.environment()).unwrap();
    let configs = configs.map(|file| fs::read_to_string(file.unwrap().path()).unwrap_or_default());
    let line = |config: String| {
        let id = config.split("[environment]\n").nth(1)?;
        let id = id.lines().find_map(|line| line.strip_prefix("id = \""))?;
        Some(id.trim_end_matches('"').to_owned())
    };
    configs.filter_map(line).next().unwrap()
}

/// Drafts a command for the rules as they are.
fn draft(appliance: &Appliance, file: &str) {
    let environment = environment_id(appliance);
    let options = [
        "approve",
        "draft",
        "--activate",
        "rules",
        "--environment",
        &environment,
        "--reason",
        "reviewed",
        "--out",
        file,
    ];
    let said = done(appliance, &options);
    assert!(said.contains("rules version "), "{said}");
}

/// Puts a command beside the rules.
fn deliver(appliance: &Appliance, file: &str) {
    let (from, to) = (file, "rules/bundle.approved");
    let path = |name: &str| appliance.environment().join(name);
    fs::copy(path(from), path(to)).unwrap();
}

/// Two operators sign for the rules as they are.
fn approve(appliance: &Appliance, file: &str) {
    draft(appliance, file);
    sign(appliance, "alice", file);
    sign(appliance, "bob", file);
    deliver(appliance, file);
}

/// A start that is refused, and what it must say.
fn does_not_start(appliance: &Appliance, expected: &str) {
    let output = output_within(appliance.serve_command(), Duration::from_secs(30));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(expected), "{said}");
}

/// Reloads the rules; `result` is how that must end.
async fn reload(appliance: &Appliance, result: &str) {
    let name = format!(r#"countersign_policy_loads_total{{result="{result}"}}"#);
    let before = appliance.metric(&name).await;
    appliance.signal("-HUP");
    eventually("the rules are loaded", 5, async || {
        (appliance.metric(&name).await > before).then_some(())
    })
    .await;
}

/// The version of the rules in force, as the last thing that the log said of it.
fn in_force(appliance: &Appliance) -> String {
    let rows = appliance.database().rows(
        "SELECT detail FROM audit_records WHERE event = 'rules_activated' ORDER BY at DESC LIMIT 1",
    );
    let version = rows[0].strip_prefix("version ").unwrap();
    version.split(' ').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a26_a_start_with_rules_that_two_operators_did_not_sign_is_refused() {
    let node = Node::start().await;
    let mut appliance = with_dual_control(&node);
    does_not_start(&appliance, "bundle.approved is missing or cannot be read");
    draft(&appliance, "one");
    deliver(&appliance, "one");
    does_not_start(&appliance, "0 different operators have signed, 2 must");
    sign(&appliance, "alice", "one");
    deliver(&appliance, "one");
    does_not_start(&appliance, "1 different operators have signed, 2 must");
    let doctor = appliance.doctor();
    assert!(doctor.contains("FAIL  policy: "), "{doctor}");

    sign(&appliance, "bob", "one");
    deliver(&appliance, "one");
    // What is signed are these rules.
    write_rules(&appliance, "1", NOTHING);
    does_not_start(&appliance, "the command does not name these rules");
    let check = done(&appliance, &["policy", "check", "rules"]);
    assert!(
        check.contains("bundle.approved does not name these rules"),
        "{check}"
    );
    write_rules(&appliance, "1", EVERYTHING);
    let check = done(&appliance, &["policy", "check", "rules"]);
    assert!(
        check.contains("claims to be signed by alice, bob"),
        "{check}"
    );
    appliance.serve().await;
    let doctor = appliance.doctor();
    assert!(doctor.contains("approved by alice,bob"), "{doctor}");
    // It took effect once, and goes on to at every start.
    appliance.crash_and_restart().await;
    let activated = "SELECT COUNT(*) FROM audit_records WHERE event = 'rules_activated'";
    assert_eq!(appliance.database().number(activated), 2);
    let commands = "SELECT COUNT(*) FROM operator_commands";
    assert_eq!(appliance.database().number(commands), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a26_rules_take_effect_when_two_operators_have_signed_and_never_come_back() {
    let node = Node::start().await;
    let mut appliance = with_dual_control(&node);
    approve(&appliance, "first");
    appliance.serve().await;
    assert_eq!(in_force(&appliance), "1");

    // Whoever writes the files alone, with the command for others.
    write_rules(&appliance, "2", NOTHING);
    reload(&appliance, "failed").await;
    let log = appliance.log();
    assert!(log.contains("the rules are not activated"), "{log}");
    assert!(log.contains("does not name these rules"), "{log}");
    assert_eq!(in_force(&appliance), "1");
    // Those who sign see which rules they sign.
    draft(&appliance, "second");
    write_rules(&appliance, "2", EVERYTHING);
    let others = [
        "approve", "sign", "--key", "bob.pem", "--name", "bob", "--yes", "--rules", "rules",
        "second",
    ];
    refused(&appliance, &others, "does not name the rules in rules");
    write_rules(&appliance, "2", NOTHING);
    done(&appliance, &others);
    deliver(&appliance, "second");
    reload(&appliance, "failed").await;
    sign(&appliance, "carol", "second");
    deliver(&appliance, "second");
    reload(&appliance, "done").await;
    assert_eq!(in_force(&appliance), "2");

    // The rules before, with what was signed for them.
    write_rules(&appliance, "1", EVERYTHING);
    deliver(&appliance, "first");
    reload(&appliance, "failed").await;
    assert!(appliance.log().contains("others took its place"));
    appliance.stop().await;
    does_not_start(&appliance, "others took its place");
    // Signed for again they are as good as any.
    approve(&appliance, "third");
    appliance.serve().await;
    assert_eq!(in_force(&appliance), "1");

    // A command for rules is no other command, and is not brought elsewhere.
    let run = ["approve", "run", "third", "--connect", "operator.toml"];
    refused(&appliance, &run, "bundle.approved beside them");
}
