//! unwraps <= records <= permits, as the running appliance counts and proves it.

use crate::support::engine::Storage;
use crate::support::signing::refusal;
use crate::support::{Appliance, Node, Signing, eventually, wallet_of};

const UNWRAPS: &str = "countersign_share_unwraps_total";
const PROVEN: &str = "countersign_share_unwraps_proven_total";
const RECORDS: &str = "countersign_step_records_total";
const PERMITS: &str = "countersign_permits_total";

#[tokio::test(flavor = "multi_thread")]
async fn every_unwrap_has_its_record_and_every_record_its_permit() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "counted").await;
    Signing::prepare(&appliance, &wallet, 1)
        .await
        .complete()
        .await;
    let refused = Signing::prepare(&appliance, &wallet, 1).await;
    refused.round_1().await;
    // One for the canary of the new key, two for the signature, one for the session that goes no further.
    for (counter, expected) in [(UNWRAPS, "4"), (RECORDS, "6"), (PERMITS, "6")] {
        assert_eq!(
            appliance.metric(counter).await.to_string(),
            expected,
            "{counter}"
        );
    }
    eventually("all of them are proven", 10, async || {
        (appliance.metric(PROVEN).await.to_string() == "4").then_some(())
    })
    .await;
    let rows = "SELECT COUNT(*) FROM steps JOIN audit_records ON operation_id = permit_id";
    assert_eq!(appliance.database().number(rows), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unwrap_without_its_record_stops_the_appliance() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "unrecorded").await;
    let honest = wallet_of(&appliance, &node, "honest").await;
    let signing = Signing::prepare(&appliance, &wallet, 1).await;
    let waiting = Signing::prepare(&appliance, &honest, 1).await;
    // Somebody who may write to the database wants a signature that nobody sees.
    for sql in match &*appliance.storage {
        Storage::Sqlite => vec![
            "CREATE TRIGGER swallow AFTER INSERT ON audit_records WHEN NEW.session_id IS NOT NULL \
             BEGIN DELETE FROM audit_records WHERE operation_id = NEW.operation_id; END",
        ],
        Storage::Postgres(_) => vec![
            "CREATE RULE swallow AS ON INSERT TO audit_records WHERE NEW.session_id IS NOT NULL DO INSTEAD NOTHING",
        ],
    } {
        appliance.storage.tamper(&appliance.environment(), sql);
    }
    signing.round_1().await;
    eventually("it is not ready any more", 20, async || {
        let reply = appliance.operator("/readyz").await.unwrap();
        (reply.status == 503).then_some(())
    })
    .await;
    let (reply, _) = waiting.round_1().await;
    assert_eq!(refusal(&reply), (503, "DUO_NODE_UNAVAILABLE".to_owned()));
    assert!(
        appliance
            .log()
            .contains("a share was unwrapped, and there is no record of it")
    );
    assert!(appliance.metric(PROVEN).await < appliance.metric(UNWRAPS).await);
    let signed = "SELECT COUNT(*) FROM transactions WHERE state = 'signed'";
    assert_eq!(appliance.database().number(signed), 0);
}
