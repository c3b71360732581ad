//! Payments for which a rule asks for a second factor (`protocol.md` 5.2, A24).

use countersign_client::api;
use countersign_client::keystore::Wallet;
use countersign_client::transport::Reply;
use serde_json::{Value, json};

use crate::policy::{denied, prepare_body, with_rules};
use crate::support::authenticator::with_factor;
use crate::support::signing::{fresh_key, json_of, post, refusal, transaction};
use crate::support::wallet::profile;
use crate::support::{Appliance, Node, Signing, root, wallet_of};

/// 0.1 ether, which the example lets through as it is, and one wei more.
const SMALL: u64 = 100_000_000_000_000_000;
const LARGE: u64 = SMALL + 1;

/// The example that operators copy, without what it says about the time of the day and the age of the device.
fn rules() -> String {
    let file = root().join("policies/examples/step-up/rules.cedar");
    let text = std::fs::read_to_string(file).unwrap();
    let kept: Vec<&str> = text
        .lines()
        .filter(|line| !line.contains("context.time.") && !line.contains("principal.ageSeconds"))
        .collect();
    let text = kept
        .join("\n")
        .replace("context.secondFactor &&", "context.secondFactor");
    assert!(text.contains("payments.large"));
    text
}

async fn started(node: &Node) -> Appliance {
    let mut appliance = with_rules(node, &rules());
    appliance.serve().await;
    appliance
}

fn large(code: &str) -> Value {
    let mut body = transaction(LARGE);
    body["twoFactorCode"] = json!(code);
    body
}

async fn restart(appliance: &Appliance, wallet: &Wallet, body: &Value) -> Reply {
    post(appliance, wallet, api::SIGN, body, None).await
}

fn invalid() -> (u16, String) {
    (401, "TWO_FACTOR_INVALID".to_owned())
}

fn required() -> (u16, String) {
    (401, "TWO_FACTOR_REQUIRED".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a24_a_large_payment_takes_a_code_and_a_small_one_none() {
    let node = Node::start().await;
    let appliance = started(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    assert_eq!(
        prepare_body(&appliance, &wallet, &transaction(SMALL))
            .await
            .status,
        200
    );
    let without = prepare_body(&appliance, &wallet, &transaction(LARGE)).await;
    let not_enrolled = (403, "TWO_FACTOR_NOT_ENROLLED".to_owned());
    assert_eq!(refusal(&without), not_enrolled);
    let without = prepare_body(&appliance, &wallet, &large("123456")).await;
    assert_eq!(refusal(&without), not_enrolled);

    let authenticator = with_factor(&appliance, &wallet).await;
    let prepared = "SELECT COUNT(*) FROM transactions";
    let before = appliance.database().number(prepared);
    let missing = prepare_body(&appliance, &wallet, &transaction(LARGE)).await;
    assert_eq!(refusal(&missing), required());
    let wrong = prepare_body(&appliance, &wallet, &large(&authenticator.wrong())).await;
    assert_eq!(refusal(&wrong), invalid());
    let malformed = prepare_body(&appliance, &wallet, &large("12345")).await;
    assert_eq!(refusal(&malformed), (400, "INVALID_REQUEST".to_owned()));
    assert_eq!(
        appliance.database().number(prepared),
        before,
        "nothing was prepared"
    );
    let with = "SELECT COUNT(*) FROM decisions WHERE second_factor_at IS NOT NULL";
    assert_eq!(appliance.database().number(with), 0);

    // A code that no rule asks for is not looked at, and stays good.
    let code = authenticator.code(0);
    let mut small = transaction(SMALL);
    small["twoFactorCode"] = json!(code);
    assert_eq!(prepare_body(&appliance, &wallet, &small).await.status, 200);
    let (to, key) = (api::transactions_path(&profile(&wallet)), fresh_key());
    let first = post(&appliance, &wallet, &to, &large(&code), Some(&key)).await;
    assert_eq!(first.status, 200, "{}", json_of(&first));
    for code in [&code, &authenticator.wrong()] {
        let again = post(&appliance, &wallet, &to, &large(code), Some(&key)).await;
        assert_eq!((again.status, json_of(&again)), (200, json_of(&first)));
    }
    let second = prepare_body(&appliance, &wallet, &large(&code)).await;
    assert_eq!(refusal(&second), invalid(), "one code is one transaction");
    assert_eq!(appliance.database().number(with), 1);

    Signing::of(&appliance, &wallet, &first, LARGE)
        .complete()
        .await;
    // What the rules deny, they deny with a code too, and it stays good.
    let mut call = large(&authenticator.code(1));
    call["data"] = json!("0x12345678");
    let refused = prepare_body(&appliance, &wallet, &call).await;
    assert_eq!(refusal(&refused), denied());
    let next = prepare_body(&appliance, &wallet, &large(&authenticator.code(1))).await;
    assert_eq!(next.status, 200, "{}", json_of(&next));
}

#[tokio::test(flavor = "multi_thread")]
async fn a24_an_attempt_takes_another_code_when_the_first_is_ten_minutes_old() {
    let node = Node::start().await;
    let appliance = started(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let authenticator = with_factor(&appliance, &wallet).await;
    let reply = prepare_body(&appliance, &wallet, &large(&authenticator.code(0))).await;
    let mut signing = Signing::of(&appliance, &wallet, &reply, LARGE);
    let id = signing.prepared.session_id.clone();
    let spoil = async |signing: &Signing<'_>| {
        assert_eq!(signing.post_first(&[7; 40]).await.0.status, 400);
    };
    spoil(&signing).await;
    assert_eq!(signing.restart().await.status, 200);
    spoil(&signing).await;

    let aged = "UPDATE decisions SET second_factor_at = second_factor_at - 601000000";
    let environment = appliance.environment();
    appliance.storage.tamper(&environment, aged);
    assert_eq!(refusal(&signing.restart().await), required());
    let with = |code: &str| json!({"sessionId": id, "restart": true, "twoFactorCode": code});
    let wrong = restart(&appliance, &wallet, &with(&authenticator.wrong())).await;
    assert_eq!(refusal(&wrong), invalid());
    let used = restart(&appliance, &wallet, &with(&authenticator.code(0))).await;
    assert_eq!(refusal(&used), invalid());
    assert_eq!(signing.state().await, "ABORTED");
    let right = restart(&appliance, &wallet, &with(&authenticator.code(1))).await;
    assert_eq!(right.status, 200, "{}", json_of(&right));
    signing.go_on(&right);
    spoil(&signing).await;
    // It is good for ten minutes more.
    assert_eq!(signing.restart().await.status, 200);
    signing.complete().await;
}
