//! The spine from end to end: a wallet is made, a transaction is signed by both shares and mined.

use serde_json::Value;

use crate::support::node::peer;
use crate::support::wallet::{address, send_and_mine};
use crate::support::{Appliance, Node, wallet_of};

#[tokio::test(flavor = "multi_thread")]
async fn s1_first_light() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let mut wallet = wallet_of(&appliance, &node, "first").await;

    let hash = send_and_mine(&mut wallet, &appliance, 10_000_000_000_000_000).await;

    let receipt = node.receipt(&hash).await;
    assert_eq!(receipt["status"], "0x1", "{receipt}");
    // Two judges that share no code with us; anvil is none, because it takes high-s signatures.
    let raw = node.raw(&hash).await;
    assert_eq!(peer("recover.js", &[&raw]), address(&wallet));
    let second: Value = serde_json::from_str(&peer("second-node.js", &[&raw])).unwrap();
    assert_eq!(second["status"], "0x1", "{second}");
    assert_eq!(second["hash"], hash.as_str());
    assert_eq!(second["from"], address(&wallet).as_str());
}
