//! A wallet that asks for bits of our long-lived secret, one by one (A01, A02), and a test that knows the secret and
//! counts what was learned.
//!
//! A question is a first message with a cheat in one row, whose check values fit: it passes exactly if that row's bit is
//! 0. So an honest answer tells that the bit is 0, and a ban that it is 1; who gets no verdict learns nothing.

use countersign_attacker::share::Share;
use countersign_client::api;
use countersign_client::transport::Reply;
use serde_json::json;

use crate::sessions::join_all;
use crate::support::attacker::{Attack, Attacker, SIGN_1};
use crate::support::engine::{Engine, Saved};
use crate::support::signing::{fresh_key, json_of, post, refusal, transaction};
use crate::support::stolen;
use crate::support::wallet::profile;
use crate::support::{Appliance, Node, Signing, eventually, wallet_of};

const UNWRAPS: &str = "countersign_share_unwraps_total";
pub(crate) const BANS: &str = r#"countersign_mpc_steps_total{result="ban",step="sign_1"}"#;

/// What the attacker knows of the secret, by row.
#[derive(Default)]
struct Learned(Vec<(usize, bool)>);

impl Learned {
    /// The answer to a question.
    fn hear(&mut self, row: usize, reply: &Reply) {
        match reply.status {
            202 => self.0.push((row, false)),
            500 => self.0.push((row, true)),
            // No verdict.
            403 | 409 | 503 => {}
            other => panic!("row {row}: {other} {}", json_of(reply)),
        }
    }

    /// How many bits, all of which must be true: the harness itself is tested by that.
    fn count(&self, secret: &Share) -> usize {
        for &(row, bit) in &self.0 {
            assert_eq!(bit, secret.secret_bits()[row], "row {row}");
        }
        self.0.len()
    }
}

/// Asks about a row in a session of its own, and signs to the end if nobody objects.
async fn ask(appliance: &Appliance, attacker: &Attacker<'_>, row: usize) -> Reply {
    let attack = Attack::prepare(appliance, attacker, 1).await;
    let probe = attack.probe(row);
    let sign_id = probe.sign_id;
    let (reply, opener) = attack.post_first(&probe).await;
    if reply.status == 202 {
        let (second, last) = attack.closing(probe, &reply, &opener);
        let signed = attack.post_second(sign_id, second, last).await;
        assert_eq!(signed.status, 200, "{}", json_of(&signed));
    } else {
        assert_eq!(refusal(&reply), (500, "MPC_SIGNING_FAILED".to_owned()));
        assert_eq!(json_of(&reply)["details"], "Round 1 failed");
        assert_eq!(attack.signing.state().await, "BANNED");
    }
    reply
}

/// Nothing is signed with this key, checked with it or even unwrapped, whatever is asked.
pub(crate) async fn assert_quarantined(
    appliance: &Appliance,
    attacker: &Attacker<'_>,
    waiting: &Attack<'_>,
) {
    let unwraps = appliance.metric(UNWRAPS).await;
    let wallet = attacker.wallet;
    let path = api::transactions_path(&profile(wallet));
    let session = &waiting.signing.prepared.session_id;
    let mut replies = vec![
        post(
            appliance,
            wallet,
            &path,
            &transaction(1),
            Some(&fresh_key()),
        )
        .await,
    ];
    let (honest, _) = waiting.sealed(SIGN_1.1, &waiting.attempt().frame());
    for message in [
        json!({"sessionId": session, "p1SignatureShare": honest}),
        json!({"sessionId": session, "restart": true}),
    ] {
        replies.push(post(appliance, wallet, api::SIGN, &message, None).await);
    }
    for reply in replies {
        assert_eq!(refusal(&reply), (403, "KEY_QUARANTINED".to_owned()));
    }
    assert_eq!(appliance.metric(UNWRAPS).await, unwraps);
}

/// The first row of two or three clear bits and a set one after them, or the row that comes closest.
fn promising(secret: &Share) -> usize {
    let zeros = |row: usize| {
        let rest = &secret.secret_bits()[row..];
        rest.iter().take_while(|bit| !**bit).count()
    };
    let all = 0..secret.secret_bits().len() - 8;
    let good = all.clone().find(|row| (2..=3).contains(&zeros(*row)));
    good.unwrap_or_else(|| all.max_by_key(|row| zeros(*row)).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a01_ban_lets_probes_in_order_learn_no_more_than_up_to_the_first_set_bit() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    // From the first row on, as an attacker would, and from a row from which it goes well for a while.
    for (name, lucky) in [("first", false), ("lucky", true)] {
        let wallet = wallet_of(&appliance, &node, name).await;
        let attacker = Attacker::of(&appliance, &wallet).await;
        let secret = stolen::share_of(&appliance, &profile(&wallet));
        let start = if lucky { promising(&secret) } else { 0 };
        let first_set = (start..).find(|row| secret.secret_bits()[*row]).unwrap();
        let waiting = Attack::prepare(&appliance, &attacker, 2).await;
        let mut learned = Learned::default();
        for row in start.. {
            let reply = ask(&appliance, &attacker, row).await;
            learned.hear(row, &reply);
            if reply.status != 202 {
                assert_eq!(row, first_set);
                break;
            }
        }
        assert_quarantined(&appliance, &attacker, &waiting).await;
        // Whatever it asks now.
        for row in first_set + 1..first_set + 4 {
            let (reply, _) = waiting.post_first(&waiting.probe(row)).await;
            learned.hear(row, &reply);
        }
        let count = learned.count(&secret);
        assert!(count <= first_set - start + 1, "{count} bits");
        let first = waiting.signing.prepared.session_id.clone();
        let (sealed, _) = waiting.sealed(SIGN_1.1, &waiting.probe(first_set).frame());
        appliance.crash_and_restart().await;
        let body = json!({"sessionId": first, "p1SignatureShare": sealed});
        let reply = post(&appliance, &wallet, api::SIGN, &body, None).await;
        assert_eq!(refusal(&reply), (403, "KEY_QUARANTINED".to_owned()));
    }
    let banned = "SELECT COUNT(*) FROM audit_records WHERE event = 'counterparty_banned'";
    assert_eq!(appliance.database().number(banned), 2);
}

/// Rows of set bits: whichever of these questions is checked is a ban, and tells one bit.
pub(crate) fn set_rows(secret: &Share) -> impl Iterator<Item = usize> {
    let bits = secret.secret_bits().to_vec();
    (0..bits.len()).filter(move |row| bits[*row])
}

/// As many sessions of one key as may wait, and more questions: the last ones go into sessions that have one already.
pub(crate) async fn fifty_at_once(instances: &[&Appliance], node: &Node) {
    const QUESTIONS: usize = 50;
    const SESSIONS: usize = 32;
    let one = instances[0];
    let wallet = wallet_of(one, node, "a02").await;
    let attacker = Attacker::of(one, &wallet).await;
    let secret = stolen::share_of(one, &profile(&wallet));
    let rows: Vec<usize> = set_rows(&secret).take(QUESTIONS).collect();
    assert_eq!(rows.len(), QUESTIONS);
    let mut attacks = Vec::new();
    for number in 0..SESSIONS {
        let appliance = instances[number % instances.len()];
        attacks.push(Attack::prepare(appliance, &attacker, 1).await);
    }
    let questions = rows.iter().enumerate().map(|(number, row)| {
        let attack = &attacks[number % SESSIONS];
        let (sealed, _) = attack.sealed(SIGN_1.1, &attack.probe(*row).frame());
        (*row, attack, sealed)
    });
    let questions: Vec<_> = questions.collect();
    let posts = questions
        .iter()
        .map(|(_, attack, sealed)| attack.signing.post(sealed));
    let replies = join_all(posts).await;

    let mut learned = Learned::default();
    for ((row, ..), reply) in questions.iter().zip(&replies) {
        learned.hear(*row, reply);
    }
    assert_eq!(learned.count(&secret), 1, "one check, then the ban");
    let (mut bans, mut unwraps) = (0.0, 0.0);
    for instance in instances {
        bans += instance.metric(BANS).await;
        unwraps += instance.metric(UNWRAPS).await;
    }
    assert_eq!((bans, unwraps), (1.0, 2.0), "key generation and one check");
    for instance in instances {
        for attack in attacks.iter().take(2) {
            let body = json!({"sessionId": attack.signing.prepared.session_id, "restart": true});
            let reply = post(instance, &wallet, api::SIGN, &body, None).await;
            assert_eq!(refusal(&reply), (403, "KEY_QUARANTINED".to_owned()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a02_parallel_fifty_questions_at_once_learn_one_bit() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    fifty_at_once(&[&appliance], &node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a01_ban_in_a_database_that_is_put_back_to_before_it_still_stands() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let attacker = Attacker::of(&appliance, &wallet).await;
    let secret = stolen::share_of(&appliance, &profile(&wallet));
    let rows: Vec<usize> = set_rows(&secret).take(2).collect();
    let mut learned = Learned::default();
    {
        let waiting = Attack::prepare(&appliance, &attacker, 1).await;
        let before = Saved::of(&appliance);
        learned.hear(rows[0], &ask(&appliance, &attacker, rows[0]).await);
        if Engine::of_this_run() == Engine::Postgres {
            // Under the process that knows of the ban.
            before.put_back(&appliance);
            let (reply, _) = waiting.post_first(&waiting.probe(rows[1])).await;
            assert_eq!(refusal(&reply), (503, "DUO_NODE_UNAVAILABLE".to_owned()));
            learned.hear(rows[1], &reply);
            before.put_back(&appliance);
        } else {
            appliance.signal("-KILL");
            eventually("it is dead", 5, async || {
                (!appliance.is_running()).then_some(())
            })
            .await;
            before.put_back(&appliance);
        }
    }
    appliance.kill();
    for _ in 0..2 {
        appliance.spawn();
        assert_eq!(appliance.ended().await.code(), Some(1), "it is not served");
    }
    assert_eq!(learned.count(&secret), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_implementation_of_the_protocol_signs_with_the_appliance() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let honest = Attacker::of(&appliance, &wallet).await;
    let attack = Attack::prepare(&appliance, &honest, 1).await;
    let attempt = attack.attempt();
    let sign_id = attempt.sign_id;
    let (answer, opener) = attack.post_first(&attempt).await;
    let (second, last) = attack.closing(attempt, &answer, &opener);
    let reply = attack.post_second(sign_id, second, last).await;
    assert_eq!(reply.status, 200, "{}", json_of(&reply));
    let hash = json_of(&reply)["txHash"].as_str().unwrap().to_owned();
    assert_eq!(node.receipt(&hash).await["status"], "0x1");
    // And the wallet's own goes on with the same share.
    Signing::prepare(&appliance, &wallet, 1)
        .await
        .complete()
        .await;
}
