//! A session goes on only with the state that its process has in memory: neither a process that starts again nor a
//! database from the middle of the session can finish it a second time (A07, A39).

use countersign_client::api;
use countersign_mpc::envelope::MessageType;
use serde_json::json;

use crate::support::engine::Saved;
use crate::support::signing::{json_of, refusal};
use crate::support::{Appliance, Node, Signing, eventually, wallet_of};

const SIGNED: &str = "SELECT COUNT(*) FROM transactions WHERE raw IS NOT NULL";
const SECOND_STEPS: &str = r#"countersign_mpc_steps_total{result="done",step="sign_2"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a07_snapshot_of_the_middle_of_a_session_and_a39_rng_a_new_process_finish_none() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    for put_back in [false, true] {
        let before = appliance.database().number(SIGNED);
        let (session, sealed, again, message);
        let saved = {
            let signing = Signing::prepare(&appliance, &wallet, 1).await;
            let (answer, kept) = signing.round_1().await;
            assert_eq!(answer.status, 202);
            eventually("the first step is concluded", 5, async || {
                (signing.state().await == "R1_DONE").then_some(())
            })
            .await;
            let saved = Saved::of(&appliance);
            message = signing.second(kept, &answer);
            (sealed, _) = signing.sealed(MessageType::Sign2, &message).await;
            (again, _) = signing.sealed(MessageType::Sign2, &message).await;
            session = signing.prepared.session_id.clone();
            if put_back {
                // The session is finished, and its nonce share with it; then the database knows nothing of that.
                assert_eq!(signing.post(&sealed).await.status, 200);
            }
            saved
        };
        appliance.kill();
        if put_back {
            saved.put_back(&appliance);
        }
        appliance.serve().await;
        assert_eq!(appliance.database().number(SIGNED), before);
        for share in [&sealed, &again, &sealed] {
            let body = json!({"sessionId": session, "p1SignatureShare": share});
            let path = api::SIGN;
            let reply = crate::support::signing::post(&appliance, &wallet, path, &body, None).await;
            assert_eq!(refusal(&reply).0, 409, "{}", json_of(&reply));
        }
        assert_eq!(appliance.metric(SECOND_STEPS).await, 0.0);
        assert_eq!(appliance.database().number(SIGNED), before);
    }
}
