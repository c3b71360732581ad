//! The audit trail as somebody sees it who verifies it.

use std::process::{Command, Output};
use std::time::Duration;

use crate::support::appliance::output_within;
use crate::support::{Appliance, Node, eventually, wallet_of};

fn verify(appliance: &Appliance, option: Option<&str>) -> (Option<i32>, String) {
    let serve = appliance.serve_command();
    let mut command = Command::new(serve.get_program());
    command.env_clear();
    for (name, value) in serve.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command.args(["audit", "verify", "--config"]);
    command.arg(appliance.environment().join("countersignd.toml"));
    command.args(option);
    let Output {
        status,
        stdout,
        stderr,
    } = output_within(command, Duration::from_secs(60));
    let said = [stdout, stderr].concat();
    (status.code(), String::from_utf8(said).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a36_the_trail_is_verified_beside_the_appliance_and_a_break_is_named() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let _wallet = wallet_of(&appliance, &node, "w").await;
    let database = appliance.database();
    eventually("every record is chained", 10, async || {
        let waiting = "SELECT COUNT(*) FROM audit_records WHERE chained = 0";
        (database.number(waiting) == 0).then_some(())
    })
    .await;
    let (code, said) = verify(&appliance, None);
    assert!(said.contains("the audit chain is intact"), "{said}");
    assert_eq!(code, Some(0));
    let (code, said) = verify(&appliance, Some("--from-checkpoint"));
    assert_eq!(code, Some(0), "{said}");
    appliance.stop().await;
    let (code, said) = verify(&appliance, None);
    assert_eq!(code, Some(0), "{said}");

    // What the store's own tests do on both engines.
    let file = appliance.environment().join("countersign.db");
    if file.exists() {
        let edit = "UPDATE audit_records SET detail = 'x' WHERE operation_id = \
                    (SELECT operation_id FROM audit_chain WHERE position = 2)";
        let edited = Command::new("sqlite3").arg(file).arg(edit).status();
        assert!(edited.unwrap().success());
        let (code, said) = verify(&appliance, None);
        assert!(
            said.contains("the audit chain is broken at position 2: record "),
            "{said}"
        );
        assert!(said.contains(" or its link was altered"), "{said}");
        assert_eq!(code, Some(1));
    }
}
