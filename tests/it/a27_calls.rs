//! What hides in a transaction: calls in calls, small amounts that add up, operations of other kinds (`protocol.md` A27).

use alloy_primitives::{Address, Bytes, U256, hex};
use alloy_sol_types::SolValue;
use countersign_client::api;
use serde_json::json;

use crate::policy::{denied, last_denial, prepare, prepare_body};
use crate::spending::{coin, denied as limited, limits};
use crate::support::signing::{fresh_key, post, refusal, transaction};
use crate::support::wallet::profile;
use crate::support::{Appliance, Node, RECIPIENT, wallet_of};

fn call(selector: [u8; 4], arguments: &[u8]) -> Bytes {
    [&selector[..], arguments].concat().into()
}

fn recipient() -> Address {
    RECIPIENT.parse().unwrap()
}

fn transfer(amount: U256) -> Bytes {
    call(hex!("a9059cbb"), &(recipient(), amount).abi_encode_params())
}

fn approve(amount: U256) -> Bytes {
    call(hex!("095ea7b3"), &(recipient(), amount).abi_encode_params())
}

fn multicall(calls: &[Bytes]) -> Bytes {
    call(hex!("ac9650d8"), &calls.to_vec().abi_encode())
}

/// A Safe's `execTransaction`.
fn safe(data: &Bytes, delegatecall: bool) -> Bytes {
    let (zero, nobody) = (U256::ZERO, Address::ZERO);
    let operation = U256::from(u8::from(delegatecall));
    let gas = (zero, zero, zero);
    let arguments = (
        recipient(),
        zero,
        data.clone(),
        operation,
        gas.0,
        gas.1,
        gas.2,
        nobody,
        nobody,
        Bytes::from_static(&[1; 65]),
    );
    call(hex!("6a761202"), &arguments.abi_encode_params())
}

fn text(data: &Bytes) -> String {
    format!("{data}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a27_what_hides_in_a_safe_or_a_multicall_is_judged_as_if_it_was_sent_itself() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let (one, everything) = (U256::from(1), U256::MAX);
    for harmless in [
        safe(&transfer(one), false),
        multicall(&[transfer(one), approve(one)]),
        multicall(&[safe(&multicall(&[transfer(one)]), false)]),
    ] {
        let reply = prepare(&appliance, &wallet, &text(&harmless)).await;
        let said = String::from_utf8_lossy(&reply.body);
        assert_eq!(reply.status, 200, "{harmless}: {said}");
    }
    let unknown = Bytes::from_static(&hex!("deadbeef"));
    let (unlimited, nothing) = ("default.no-unlimited-approval", "builtin.default-deny");
    let foreign = "builtin.no-delegatecall";
    for (hidden, rule) in [
        (safe(&approve(everything), false), unlimited),
        (multicall(&[transfer(one), approve(everything)]), unlimited),
        (
            multicall(&[multicall(&[safe(&approve(everything), false)])]),
            unlimited,
        ),
        (safe(&unknown, false), nothing),
        (multicall(&[transfer(one), safe(&unknown, false)]), nothing),
        // Deeper than anybody looks.
        (
            (0..5).fold(transfer(one), |inner, _| multicall(&[inner])),
            nothing,
        ),
        (safe(&transfer(one), true), foreign),
        (multicall(&[safe(&transfer(one), true)]), foreign),
    ] {
        let reply = prepare(&appliance, &wallet, &text(&hidden)).await;
        assert_eq!(refusal(&reply), denied(), "{hidden}");
        let (decision, _) = last_denial(&appliance);
        assert_eq!(decision, format!("prepare-transaction|{rule}"), "{hidden}");
    }
    let prepared = "SELECT COUNT(*) FROM transactions";
    assert_eq!(appliance.database().number(prepared), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a27_batch_of_small_amounts_over_a_limit_is_denied_as_a_whole() {
    let token = "0x5FbDB2315678afecb367f032d93F642f64180aa3";
    let node = Node::start().await;
    let mut appliance = Appliance::init(&node.url());
    appliance.limit(&limits(&[
        &coin("usd", "profile", "100").replace("native", token)
    ]));
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let ask = async |data: Bytes| {
        let mut body = transaction(0);
        body["to"] = json!(token);
        body["data"] = json!(text(&data));
        body["gas"] = json!("300000");
        prepare_body(&appliance, &wallet, &body).await
    };
    let ten = |amount: u64| vec![transfer(U256::from(amount)); 10];
    let claims = "SELECT COUNT(*) FROM spend_claims";
    // Each of them fits; together they do not, however deep they lie, and none of them is claimed.
    for batch in [
        multicall(&ten(11)),
        multicall(&[multicall(&ten(9)), multicall(&ten(2))]),
        multicall(&[transfer(U256::from(1)), transfer(U256::MAX)]),
    ] {
        limited(&ask(batch).await, "usd");
        assert_eq!(appliance.database().number(claims), 0);
    }
    let reply = ask(multicall(&ten(10))).await;
    let said = String::from_utf8_lossy(&reply.body);
    assert_eq!(reply.status, 200, "{said}");
    limited(&ask(transfer(U256::from(1))).await, "usd");
    assert_eq!(appliance.database().number(claims), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a27_operations_of_other_types_are_refused_before_anybody_judges_them() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let path = api::transactions_path(&profile(&wallet));
    let decisions = || {
        let sql = "SELECT COUNT(*) FROM decisions WHERE action = 'prepare-transaction'";
        appliance.database().number(sql)
    };
    let with = |name: &str, value: serde_json::Value| {
        let mut body = transaction(1);
        body[name] = value;
        body
    };
    let mut creation = transaction(1);
    creation.as_object_mut().unwrap().remove("to");
    for body in [
        creation,
        with("to", json!(null)),
        with("type", json!("0x3")),
        with("authorizationList", json!([])),
        with("blobVersionedHashes", json!([])),
        with("accessList", json!([])),
        with("raw", json!("0x02")),
        with("userOperation", json!({})),
        with("operations", json!([transaction(1)])),
        json!([transaction(1), transaction(2)]),
    ] {
        let reply = post(&appliance, &wallet, &path, &body, Some(&fresh_key())).await;
        assert_eq!(
            refusal(&reply),
            (400, "INVALID_REQUEST".to_owned()),
            "{body}"
        );
    }
    assert_eq!(decisions(), 0);
}
