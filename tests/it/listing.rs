//! A profile's transactions, page by page, for its owner alone.

use countersign_client::api;
use countersign_client::keystore::Wallet;
use serde_json::{Value, json};

use crate::bad_input::state;
use crate::support::signing::{get, json_of, refusal};
use crate::support::wallet::{profile, send_and_mine};
use crate::support::{Appliance, CHAIN, Node, Signing, wallet_of};

async fn page(appliance: &Appliance, wallet: &Wallet, query: &str) -> Value {
    let path = format!("{}?{query}", api::transactions_path(&profile(wallet)));
    let reply = get(appliance, wallet, &path).await;
    assert_eq!(reply.status, 200, "{query} {}", json_of(&reply));
    json_of(&reply)
}

fn nonces(page: &Value) -> Vec<u64> {
    let all = page["transactions"].as_array().unwrap().iter();
    all.map(|one| one["nonce"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_are_listed_from_the_latest_and_page_by_page() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let mut wallet = wallet_of(&appliance, &node, "w").await;
    assert_eq!(
        page(&appliance, &wallet, "chainId=31337").await,
        json!({"transactions": []})
    );

    let hash = send_and_mine(&mut wallet, &appliance, 7).await;
    for wei in 1..5 {
        Signing::prepare(&appliance, &wallet, wei).await;
    }
    let before = state(&appliance);
    let all = page(&appliance, &wallet, "chainId=31337").await;
    assert_eq!(nonces(&all), [4, 3, 2, 1, 0]);
    assert!(all.get("next").is_none());
    let last = &all["transactions"][4];
    assert_eq!(last["txHash"], hash);
    assert_eq!(last["status"], "mined");
    assert_eq!(
        (&last["chainId"], &last["value"]),
        (&json!(CHAIN), &json!("7"))
    );
    assert!(last["blockNumber"].is_u64());
    let first = &all["transactions"][0];
    assert_eq!(
        (&first["status"], &first["value"]),
        (&json!("prepared"), &json!("4"))
    );
    assert!(first.get("txHash").is_none());

    let mut seen = Vec::new();
    let mut query = "chainId=31337&limit=2".to_owned();
    loop {
        let page = page(&appliance, &wallet, &query).await;
        assert!(nonces(&page).len() <= 2);
        seen.extend(nonces(&page));
        let Some(next) = page["next"].as_u64() else {
            break;
        };
        query = format!("chainId=31337&limit=2&before={next}");
    }
    assert_eq!(seen, [4, 3, 2, 1, 0]);
    let exact = page(&appliance, &wallet, "chainId=31337&limit=5").await;
    assert!(exact.get("next").is_none(), "there are no more");
    let below = page(&appliance, &wallet, "chainId=31337&before=0").await;
    assert_eq!(below, json!({"transactions": []}));
    let elsewhere = page(&appliance, &wallet, "chainId=1").await;
    assert_eq!(elsewhere, json!({"transactions": []}));
    assert_eq!(state(&appliance), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a32_transactions_and_profiles_are_shown_to_their_owner_only() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let other = wallet_of(&appliance, &node, "other").await;
    Signing::prepare(&appliance, &other, 1).await;
    let unknown = uuid::Uuid::now_v7().to_string();
    let mut bodies = Vec::new();
    for id in [&*profile(&other), &unknown, "no-id-at-all"] {
        let list = format!("{}?chainId={CHAIN}", api::transactions_path(id));
        for path in [list, format!("/api/v1/profiles/{id}")] {
            let reply = get(&appliance, &wallet, &path).await;
            assert_eq!(
                refusal(&reply),
                (404, "PROFILE_NOT_FOUND".to_owned()),
                "{path}"
            );
            bodies.push(reply.body);
        }
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "the same answer to all");

    let own = profile(&wallet);
    let v1 = get(&appliance, &wallet, &format!("/api/v1/profiles/{own}")).await;
    let v2 = get(&appliance, &wallet, &api::profile_path(&own)).await;
    assert_eq!((v1.status, json_of(&v1)), (200, json_of(&v2)));
    for query in ["", "?chainId=31337&limit=51", "?chainId=31337&offset=1"] {
        let path = format!("{}{query}", api::transactions_path(&own));
        let reply = get(&appliance, &wallet, &path).await;
        assert_eq!(
            refusal(&reply),
            (400, "INVALID_REQUEST".to_owned()),
            "{query}"
        );
    }
}
