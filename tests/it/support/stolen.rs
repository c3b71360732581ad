//! The appliance's own share, opened as only the appliance can: with its token and the PIN.
//!
//! SECURITY: what a test may know and an attacker may not: the secret bits that the attacks are about, so that a test
//! can count how many of them were learned.

use std::process::Command;

use countersign_attacker::share::Share;
use countersign_hsm::{ObjectAad, Pin, Profile, Purpose, Token, TokenConfig};
use serde_json::{Value, json};

use super::Appliance;

/// What the child is to open; SoftHSM reads its configuration from the environment, and a test cannot set its own.
const VARIABLE: &str = "COUNTERSIGN_TEST_OPEN_SHARE";
const CHILD: &str = "support::stolen::the_child_that_opens_a_share";

/// The appliance's share of the active generation of a profile.
pub(crate) fn share_of(appliance: &Appliance, profile: &str) -> Share {
    let row = appliance.database().value(&format!(
        "SELECT p.tenant || '|' || p.owner_id || '|' || s.generation || '|' || s.object_version || '|' || \
         hex(s.public_key) || '|' || hex(s.sealed) FROM profiles p JOIN key_shares s USING (profile_id) \
         WHERE profile_id = '{profile}' AND s.state = 'active'"
    ));
    let environment = appliance.client.config().environment_id;
    let directory = appliance.directory().join("softhsm");
    let wanted = json!({
        "environment": hex::encode(environment), "profile": profile, "row": row,
        "module": appliance.token.module(), "pin": directory.join("pin"),
    });
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", CHILD, "--ignored", "--nocapture"])
        .env("SOFTHSM2_CONF", directory.join("softhsm2.conf"))
        .env(VARIABLE, wanted.to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let opened = said.lines().find_map(|line| line.split("opened ").nth(1));
    let digits = opened.unwrap_or_else(|| panic!("{output:?}"));
    Share::of_stored(&hex::decode(digits).unwrap())
}

#[tokio::test]
#[ignore = "a part of other tests, which start it"]
#[expect(clippy::print_stdout, reason = "what the parent reads")]
async fn the_child_that_opens_a_share() {
    let Ok(wanted) = std::env::var(VARIABLE) else {
        return;
    };
    let wanted: Value = serde_json::from_str(&wanted).unwrap();
    let text = |name: &str| wanted[name].as_str().unwrap().to_owned();
    let row = text("row");
    let columns: Vec<&str> = row.split('|').collect();
    let mut environment_id = [0; 32];
    hex::decode_to_slice(text("environment"), &mut environment_id).unwrap();
    let token = Token::open(TokenConfig {
        module: text("module").into(),
        token_label: "countersign".to_owned(),
        pin: Pin::from_file(text("pin").as_ref()).unwrap(),
        profile: Profile::builtin("softhsm2").unwrap(),
        workers: 1,
        queue: 1,
        deadline: std::time::Duration::from_secs(5),
    })
    .unwrap();
    let aad = ObjectAad {
        environment_id,
        tenant: columns[0].to_owned(),
        purpose: Purpose::Share,
        profile_id: text("profile"),
        owner_id: columns[1].to_owned(),
        key_generation: columns[2].parse().unwrap(),
        object_version: columns[3].parse().unwrap(),
        role: "P2",
        public_key: hex::decode(columns[4]).unwrap(),
    };
    let sealed = hex::decode(columns[5]).unwrap();
    let opened = token.open_sealed(sealed, aad).await.unwrap();
    println!("opened {}", hex::encode(&*opened));
}
