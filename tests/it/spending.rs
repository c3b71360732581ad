//! Spending limits: exact over all instances, claimed with the preparation and given back with it (`protocol.md` A26).

use countersign_client::api;
use countersign_client::keystore::Wallet;
use countersign_client::transport::{Reply, Request, SignedRequest};
use countersign_mpc::envelope::MessageType;
use serde_json::{Value, json};

use crate::sessions::join_all;
use crate::support::signing::{deliver, fresh_key, json_of, post, signed, transaction};
use crate::support::wallet::profile;
use crate::support::{Appliance, CHAIN, Node, RECIPIENT, Signing, wallet_of};

/// Rates out of the way, and these spending limits.
pub(crate) fn limits(spends: &[&str]) -> String {
    let far = ["signing", "key-operations", "transactions"]
        .map(|class| format!("{class} = {{ requests = 100000, seconds = 60 }}"));
    format!("[rates]\n{}\n{}", far.join("\n"), spends.concat())
}

/// A limit of the chain's coin.
pub(crate) fn coin(name: &str, per: &str, amount: &str) -> String {
    format!(
        "[[spend]]\nname = \"{name}\"\nchain = {CHAIN}\nasset = \"native\"\nper = \"{per}\"\namount = \"{amount}\"\n\
         seconds = 86400\n"
    )
}

pub(crate) const MILLI: u64 = 1_000_000_000_000_000;
/// One coin, in wei.
pub(crate) const ONE: &str = "1000000000000000000";

fn preparing(appliance: &Appliance, wallet: &Wallet, body: &Value) -> SignedRequest {
    let path = api::transactions_path(&profile(wallet));
    let request = Request::post(path, body).unwrap();
    signed(
        appliance,
        wallet,
        &request.with_idempotency_key(fresh_key()),
    )
}

/// Asks for a transaction of so many thousandths of a coin.
pub(crate) async fn prepare(appliance: &Appliance, wallet: &Wallet, milli: u64) -> Reply {
    deliver(
        appliance,
        &preparing(appliance, wallet, &transaction(milli * MILLI)),
    )
    .await
}

pub(crate) fn denied(reply: &Reply, limit: &str) {
    let expected = json!({
        "error": "POLICY_DENIED", "message": "A spending limit does not allow this",
        "details": format!("limit: {limit}"), "statusCode": 403, "retry": "never",
    });
    assert_eq!(json_of(reply), expected);
    assert_eq!(reply.status, 403);
}

/// Gives a session up: its first message is refused.
async fn give_up(signing: &Signing<'_>) {
    let (sealed, _) = signing.sealed(MessageType::Sign1, &[7; 40]).await;
    assert_eq!(signing.post(&sealed).await.status, 400);
    assert_eq!(signing.state().await, "ABORTED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a26_toctou() {
    let node = Node::start().await;
    let mut appliance = Appliance::init(&node.url());
    appliance.limit(&limits(&[&coin("day", "profile", ONE)]));
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    // Reserved when it is prepared, not when it is signed.
    let before = Signing::prepare(&appliance, &wallet, 100 * MILLI).await;
    let mut first = Signing::prepare(&appliance, &wallet, 600 * MILLI).await;
    denied(&prepare(&appliance, &wallet, 600).await, "day");
    let other = wallet_of(&appliance, &node, "other").await;
    assert_eq!(prepare(&appliance, &other, 600).await.status, 200);
    let decisions = "SELECT rules FROM decisions WHERE outcome = 'denied'";
    assert_eq!(appliance.database().rows(decisions), ["limit:day"]);
    let records = "SELECT detail FROM audit_records WHERE event = 'transaction_denied'";
    assert_eq!(appliance.database().rows(records), ["limit:day"]);

    // Given up, it is free again; the next attempt, whose nonce nobody took, claims it anew and finds it taken.
    give_up(&before).await;
    give_up(&first).await;
    let second = Signing::prepare(&appliance, &wallet, 600 * MILLI).await;
    denied(&first.restart().await, "day");
    give_up(&second).await;
    assert_eq!(first.restart().await.status, 200);
    denied(&prepare(&appliance, &wallet, 600).await, "day");
    // Signed, it stays taken.
    first.complete().await;
    denied(&prepare(&appliance, &wallet, 600).await, "day");
    let third = Signing::prepare(&appliance, &wallet, 400 * MILLI).await;
    denied(&prepare(&appliance, &wallet, 1).await, "day");
    give_up(&third).await;

    // It is still known after a crash.
    appliance.crash_and_restart().await;
    denied(&prepare(&appliance, &wallet, 401).await, "day");
    assert_eq!(prepare(&appliance, &wallet, 400).await.status, 200);
}

/// Two at once, again and again, at all instances in turn.
pub(crate) async fn two_at_once(instances: &[&Appliance], wallets: &[&Wallet], limit: &str) {
    for round in 0..10 {
        let requests: Vec<_> = wallets
            .iter()
            .map(|wallet| preparing(instances[0], wallet, &transaction(600 * MILLI)))
            .collect();
        let posts = requests.iter().enumerate().map(|(index, request)| {
            let transport = instances[(index + round) % instances.len()]
                .client
                .transport();
            async move { transport.send(request).await.unwrap() }
        });
        let replies = join_all(posts).await;
        let passed: Vec<_> = replies.iter().filter(|reply| reply.status == 200).collect();
        assert_eq!(passed.len(), 1, "round {round}: {replies:?}");
        for reply in replies.iter().filter(|reply| reply.status != 200) {
            denied(reply, limit);
        }
        // Free for the next round, as it would be after its time.
        let release = "UPDATE spend_claims SET state = 'released' WHERE state = 'reserved'";
        instances[0]
            .storage
            .tamper(&instances[0].environment(), release);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a26_of_two_transactions_at_once_exactly_one_passes() {
    let node = Node::start().await;
    let mut appliance = Appliance::init(&node.url());
    appliance.limit(&limits(&[
        &coin("day", "profile", ONE),
        &coin("all", "environment", "1100000000000000000"),
    ]));
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let other = wallet_of(&appliance, &node, "other").await;
    two_at_once(&[&appliance], &[&wallet, &wallet], "day").await;
    two_at_once(&[&appliance], &[&wallet, &other], "all").await;
}

/// Call data of a function that takes an address and an amount.
fn call(selector: &str, address: &str, amount: u64) -> Value {
    json!(format!(
        "0x{selector}{:0>64}{amount:064x}",
        address.trim_start_matches("0x").to_lowercase()
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn a27_tokens_that_are_sent_and_approved_count_by_their_contract() {
    const TOKEN: &str = "0x5FbDB2315678afecb367f032d93F642f64180aa3";
    let node = Node::start().await;
    let mut appliance = Appliance::init(&node.url());
    let token = coin("usd", "profile", "100").replace("native", TOKEN);
    let each = coin("usd-to", "recipient", "60").replace("native", TOKEN);
    appliance.limit(&limits(&[&token, &each]));
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let path = api::transactions_path(&profile(&wallet));
    let ask = async |to: &str, data: Value| {
        let body = json!({"to": to, "value": "0", "chainId": CHAIN, "data": data, "gas": "100000"});
        post(&appliance, &wallet, &path, &body, Some(&fresh_key())).await
    };
    let someone = "0x00000000000000000000000000000000000000aa";
    let (transfer, approve) = ("a9059cbb", "095ea7b3");
    assert_eq!(ask(TOKEN, call(transfer, RECIPIENT, 60)).await.status, 200);
    denied(&ask(TOKEN, call(transfer, RECIPIENT, 1)).await, "usd-to");
    assert_eq!(ask(TOKEN, call(approve, someone, 40)).await.status, 200);
    denied(&ask(TOKEN, call(approve, someone, 1)).await, "usd");
    // Another contract is another asset.
    let reply = ask(someone, call(transfer, RECIPIENT, 1000)).await;
    assert_eq!(reply.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a26_limits_are_shown_with_what_is_left() {
    let node = Node::start().await;
    let mut appliance = Appliance::init(&node.url());
    appliance.limit(&limits(&[
        &coin("day", "profile", ONE),
        &coin("all", "environment", "5000000000000000000"),
    ]));
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    assert_eq!(prepare(&appliance, &wallet, 600).await.status, 200);
    let shown = appliance.limits_shown(&["--profile", &profile(&wallet)]);
    let line = |name: &str| {
        let mut lines = shown.lines();
        lines
            .find(|line| line.contains(name))
            .unwrap_or_else(|| panic!("{shown}"))
    };
    assert!(
        line("transactions").ends_with("1 used, 99999 left"),
        "{shown}"
    );
    assert!(
        line(" day ").ends_with("600000000000000000 claimed, 400000000000000000 left"),
        "{shown}"
    );
    assert!(
        line(" all ").ends_with("600000000000000000 claimed, 4400000000000000000 left"),
        "{shown}"
    );
    let shown = appliance.limits_shown(&[]);
    assert!(!shown.contains("used"), "{shown}");
    assert!(shown.contains("4400000000000000000 left"), "{shown}");
}
