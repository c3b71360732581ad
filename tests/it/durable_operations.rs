//! What one signature costs the database: an exact number, so that a change of it is a decision.

use crate::support::{Appliance, Node, Signing, eventually, wallet_of};

const DONE: &str = "countersign_durable_operations_total{outcome=\"done\"}";

/// How many operations were committed since there were `before`, once they are `expected` or more.
async fn committed(appliance: &Appliance, before: f64, expected: f64) -> f64 {
    eventually("the operations are committed", 10, async || {
        let done = appliance.metric(DONE).await - before;
        (done >= expected).then_some(done)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_signature_is_five_durable_operations_and_its_settlement_two() {
    let mut node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let before = appliance.metric(DONE).await;

    let signing = Signing::prepare(&appliance, &wallet, 1).await;
    assert_eq!(appliance.metric(DONE).await - before, 1.0, "prepared");
    // The conclusion of the first message follows its answer.
    let (answer, kept) = signing.round_1().await;
    assert_eq!(committed(&appliance, before, 3.0).await, 3.0, "round 1");
    node.stop().await;
    let reply = signing.round_2(kept, &answer).await;
    assert_eq!(reply.status, 200);
    assert_eq!(signing.state().await, "SIGNED");
    assert_eq!(appliance.metric(DONE).await - before, 5.0, "signed");

    node.start_again().await;
    assert_eq!(committed(&appliance, before, 7.0).await, 7.0, "mined");
    let state = appliance.database().value("SELECT state FROM transactions");
    assert_eq!(state, "mined");
    let records = "SELECT r.event FROM audit_records r JOIN sessions s ON r.session_id = s.session_id \
        WHERE s.kind = 'sign' ORDER BY r.operation_id";
    let records = appliance.database().rows(records);
    let of_session = [
        "transaction_prepared",
        "step_permitted",
        "step_concluded",
        "step_permitted",
        "transaction_signed",
    ];
    assert_eq!(records[..5], of_session);
}
