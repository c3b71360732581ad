//! A step takes one message. The same one again has the same answer; another one ends the session, whether the step is
//! done or still runs, because nobody can say which of the two the wallet means (`protocol.md` 2.1).

use countersign_client::api::{self, ContinueProfile, CreateProfile};
use countersign_client::flows::create::client_share;
use countersign_client::flows::{MessageBinding, seal};
use countersign_client::keystore::Wallet;
use countersign_client::transport::Reply;
use countersign_mpc::binding::KeygenBinding;
use countersign_mpc::envelope::{MessageType, ResponseOpener};
use countersign_mpc::keygen::P1Keygen;
use serde_json::json;

use crate::sessions::{UNTOUCHED, standing};
use crate::support::fault::Hang;
use crate::support::signing::{fresh_key, json_of, post, refusal};
use crate::support::wallet::{address, passphrase, profile};
use crate::support::{Appliance, Node, Signing, eventually, wallet_of};

/// 409, and to be started again.
fn assert_contradicted(reply: &Reply) {
    assert_eq!(refusal(reply), (409, "SESSION_STATE_CONFLICT".to_owned()));
    let body = json_of(reply);
    assert_eq!(body["retry"], "restart", "{body}");
    let message = body["message"].as_str().unwrap();
    assert!(message.starts_with("Another message was sent"), "{body}");
}

async fn stands(signing: &Signing<'_>, state: &str) {
    eventually(state, 10, async || {
        (signing.state().await == state).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a07_another_first_message_ends_a_session_that_has_its_answer() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let mut signing = Signing::prepare(&appliance, &wallet, 1).await;
    let neighbour = Signing::prepare(&appliance, &wallet, 2).await;
    let (_, message) = signing.first();
    let (sealed, _) = signing.sealed(MessageType::Sign1, &message).await;
    let answer = signing.post(&sealed).await;
    assert_eq!(answer.status, 202);
    stands(&signing, "R1_DONE").await;

    // What does not open is nobody's word: it changes nothing (A04).
    let (foreign, _) = neighbour.sealed(MessageType::Sign1, &message).await;
    let mut damaged = sealed.clone();
    damaged.truncate(damaged.len() - 8);
    for text in [foreign, damaged, "mw1.sg1.nobody.x".to_owned()] {
        let reply = signing.post(&text).await;
        assert_eq!(refusal(&reply), (400, "INVALID_KEY_SHARE".to_owned()));
    }
    let again = signing.post(&sealed).await;
    assert_eq!((again.status, &again.body), (202, &answer.body));
    assert_eq!(signing.state().await, "R1_DONE");

    // The very message, sealed once more, is another body.
    let (other, _) = signing.sealed(MessageType::Sign1, &message).await;
    assert_contradicted(&signing.post(&other).await);
    assert_eq!(signing.state().await, "ABORTED");
    // The first one still has its answer, which is of no use any more.
    assert_eq!(signing.post(&sealed).await.body, answer.body);
    assert_eq!(refusal(&signing.post(&other).await).0, 409);
    assert_eq!(signing.state().await, "ABORTED");
    let steps = r#"countersign_mpc_steps_total{result="done",step="sign_1"}"#;
    assert_eq!(appliance.metric(steps).await, 1.0);
    assert_eq!(standing(&appliance, &profile(&wallet)), UNTOUCHED);
    let record = "SELECT outcome FROM audit_records WHERE event = 'session_contradicted'";
    assert_eq!(appliance.database().rows(record), ["denied"]);

    assert_eq!(signing.restart().await.status, 200);
    signing.complete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a07_another_message_ends_a_session_whose_check_is_running() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let mut signing = Signing::prepare(&appliance, &wallet, 1).await;
    let (_, message) = signing.first();
    let (one, _) = signing.sealed(MessageType::Sign1, &message).await;
    let (other, _) = signing.sealed(MessageType::Sign1, &message).await;

    // The check waits for its share.
    let hang = Hang::of(&appliance);
    let second = async {
        stands(&signing, "R1_CHECKING").await;
        // The same message is no contradiction.
        let same = signing.post(&one).await;
        assert_eq!(json_of(&same)["retry"], "same");
        signing.post(&other).await
    };
    let (first, second) = tokio::join!(signing.post(&one), second);
    drop(hang);
    assert_contradicted(&second);
    assert_contradicted(&first);
    stands(&signing, "ABORTED").await;
    assert_eq!(standing(&appliance, &profile(&wallet)), UNTOUCHED);

    let (answer, kept) = eventually("the token is used again", 20, async || {
        assert!([200, 409].contains(&signing.restart().await.status));
        let (answer, kept) = signing.round_1().await;
        (answer.status == 202).then_some((answer, kept))
    })
    .await;
    assert_eq!(signing.round_2(kept, &answer).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a07_of_two_second_messages_sent_at_once_at_most_one_signs() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let steps = r#"countersign_mpc_steps_total{result="done",step="sign_2"}"#;
    for wei in 1..=5 {
        let signing = Signing::prepare(&appliance, &wallet, wei).await;
        let (answer, kept) = signing.round_1().await;
        let message = signing.second(kept, &answer);
        let (one, _) = signing.sealed(MessageType::Sign2, &message).await;
        let (two, _) = signing.sealed(MessageType::Sign2, &message).await;
        let before = appliance.metric(steps).await;
        let (first, second) = tokio::join!(signing.post(&one), signing.post(&two));
        let signed = [&first, &second].map(|reply| reply.status == 200);
        assert!(!(signed[0] && signed[1]));
        for reply in [&first, &second] {
            assert!(reply.status == 200 || refusal(reply).0 == 409);
        }
        assert!(appliance.metric(steps).await <= before + 1.0, "run once");
        let over = signed[0] || signed[1];
        assert_eq!(
            signing.state().await,
            if over { "SIGNED" } else { "ABORTED" }
        );
    }
    assert_eq!(standing(&appliance, &profile(&wallet)), UNTOUCHED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sixth_attempt_is_refused_for_good() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let mut signing = Signing::prepare(&appliance, &wallet, 1).await;
    for attempt in 1..=5 {
        if attempt > 1 {
            let reply = signing.restart().await;
            assert_eq!(json_of(&reply)["attempt"], attempt);
        }
        let (sealed, _) = signing.sealed(MessageType::Sign1, b"no message").await;
        assert!(signing.post(&sealed).await.status >= 400);
        assert_eq!(signing.state().await, "ABORTED");
    }
    for _ in 0..2 {
        let reply = signing.restart().await;
        assert_eq!(refusal(&reply), (409, "SESSION_STATE_CONFLICT".to_owned()));
        assert_eq!(json_of(&reply)["retry"], "never");
        assert_eq!(reply.retry_after, None);
    }
    // Its nonce is free for the next transaction.
    Signing::prepare(&appliance, &wallet, 2)
        .await
        .complete()
        .await;
    assert_eq!(node.nonce(&address(&wallet)).await, 1);
}

/// A key generation by hand, up to the answer to its second message.
struct Generation<'a> {
    appliance: &'a Appliance,
    wallet: &'a Wallet,
    profile: String,
    session: String,
    second: Vec<u8>,
}

impl<'a> Generation<'a> {
    async fn begin(appliance: &'a Appliance, wallet: &'a Wallet) -> Self {
        let (state, kg1) = P1Keygen::start().unwrap();
        let key = fresh_key();
        let (sealed, opener) =
            sealed(appliance, wallet, MessageType::Keygen1, [&key, &key], &kg1).await;
        let body = CreateProfile {
            name: "by hand".to_owned(),
            client_share: client_share(wallet, sealed),
        };
        let reply = post(appliance, wallet, api::PROFILES, &json!(body), Some(&key)).await;
        let answer = json_of(&reply);
        assert_eq!(reply.status, 202, "{answer}");
        let text = |field: &str| answer[field].as_str().unwrap().to_owned();
        let (profile, session) = (text("profileId"), text("keygenSessionId"));
        let binding = KeygenBinding {
            environment_id: appliance.client.config().environment_id,
            profile_id: profile.clone(),
            keygen_session_id: session.clone(),
            device_thumbprint: wallet.device().thumbprint(),
        };
        let theirs = opener.open(&text("mpcMessage")).unwrap();
        let (_, second) = state.round_2(&binding, &theirs).unwrap();
        Self {
            appliance,
            wallet,
            profile,
            session,
            second: second.to_vec(),
        }
    }

    /// The second message, sealed anew.
    async fn seal_second(&self) -> String {
        let place = [&self.profile, &self.session];
        let kind = MessageType::Keygen2;
        sealed(self.appliance, self.wallet, kind, place, &self.second)
            .await
            .0
    }

    async fn post(&self, sealed: &str) -> Reply {
        let body = ContinueProfile {
            profile_id: self.profile.clone(),
            keygen_session_id: self.session.clone(),
            client_share: client_share(self.wallet, sealed.to_owned()),
        };
        post(
            self.appliance,
            self.wallet,
            api::PROFILES,
            &json!(body),
            None,
        )
        .await
    }

    /// The states of the session and of the profile, and how many shares there are of it.
    fn states(&self) -> String {
        self.appliance.database().value(&format!(
            "SELECT s.state || ' ' || p.state || ' ' || (SELECT COUNT(*) FROM key_shares k \
             WHERE k.profile_id = p.profile_id) FROM sessions s JOIN profiles p USING (profile_id) \
             WHERE s.session_id = '{}'",
            self.session
        ))
    }
}

async fn sealed(
    appliance: &Appliance,
    wallet: &Wallet,
    kind: MessageType,
    [profile_id, session_id]: [&String; 2],
    message: &[u8],
) -> (String, ResponseOpener) {
    let client = &appliance.client;
    let identity = client.identity().await.unwrap();
    let place = MessageBinding {
        profile_id,
        session_id,
        key_generation: 1,
        attempt: 1,
    };
    seal(client, &identity, wallet, kind, place, message).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a07_another_message_ends_a_key_generation_and_its_share_is_destroyed() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let environment = appliance.client.config().environment_id;
    let name = "w".parse().unwrap();
    let wallet = appliance
        .keystore()
        .create(&name, &environment, &passphrase());
    let wallet = wallet.unwrap();

    // After its answer.
    let done = Generation::begin(&appliance, &wallet).await;
    let one = done.seal_second().await;
    let answer = done.post(&one).await;
    assert_eq!(answer.status, 202);
    assert_eq!(done.states(), "r2_done pending 1");
    assert_eq!(done.post(&one).await.body, answer.body, "the same answer");
    assert_contradicted(&done.post(&done.seal_second().await).await);
    assert_eq!(done.states(), "aborted destroyed 0");
    // The first one still has its answer, which is of no use any more.
    assert_eq!(done.post(&one).await.body, answer.body);
    assert_eq!(done.states(), "aborted destroyed 0");

    // While it is being checked.
    let running = Generation::begin(&appliance, &wallet).await;
    let (one, two) = (running.seal_second().await, running.seal_second().await);
    let second = async {
        eventually("it is being checked", 10, async || {
            running.states().starts_with("r2_checking").then_some(())
        })
        .await;
        // Between its verdict and its conclusion a check is just busy.
        eventually("it is contradicted", 10, async || {
            let reply = running.post(&two).await;
            (json_of(&reply)["retry"] != "same").then_some(reply)
        })
        .await
    };
    let (first, second) = tokio::join!(running.post(&one), second);
    assert_contradicted(&second);
    // The check may have been judged just before.
    assert!(first.status == 202 || refusal(&first).0 == 409);
    assert_eq!(running.states(), "aborted destroyed 0");
    let suspects = "SELECT COALESCE(SUM(suspect_events + failed_signatures), 0) FROM profiles";
    assert_eq!(appliance.database().number(suspects), 0);
}
