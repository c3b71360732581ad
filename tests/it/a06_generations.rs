//! A signature belongs to one session, one purpose and one generation of the shares: with any other, the parties find out
//! that they disagree before any check on long-lived secrets, and nothing is held against anybody (A05, A06, A09, A16).

use countersign_attacker::hashes::{Binding, canary_digest};
use countersign_attacker::share::next_generation;
use countersign_client::api;
use serde_json::json;

use crate::support::attacker::{Attack, Attacker, Attempt, binding};
use crate::support::signing::{fresh_key, json_of, post, refusal, transaction};
use crate::support::stolen;
use crate::support::wallet::profile;
use crate::support::{Appliance, Node, wallet_of};

fn standing(appliance: &Appliance) -> Vec<String> {
    let of = "SELECT key_state || ' ' || suspect_events || ' ' || failed_signatures FROM profiles";
    let mut rows = appliance.database().rows(of);
    rows.dedup();
    rows
}

async fn assert_disagrees(
    appliance: &Appliance,
    attack: &Attack<'_>,
    attempt: &Attempt,
    what: &str,
) {
    let (reply, _) = attack.post_first(attempt).await;
    let expected = (500, "MPC_SIGNING_FAILED".to_owned());
    assert_eq!(refusal(&reply), expected, "{what}");
    assert_eq!(json_of(&reply)["details"], "Round 1 failed", "{what}");
    assert_eq!(standing(appliance), ["stable 0 0"], "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a06_matrix_of_what_a_signature_is_bound_to_and_a09_purpose() {
    type Change = fn(&mut Binding);
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let attacker = Attacker::of(&appliance, &wallet).await;
    let changes: [(&str, Change); 13] = [
        ("environment", |b| b.environment[0] ^= 1),
        ("profile", |b| b.profile.push('x')),
        ("device", |b| b.device.push('x')),
        ("generation", |b| b.generation = 2),
        ("session", |b| b.session.push('x')),
        ("attempt", |b| b.attempt = 2),
        ("index", |b| b.index = 1),
        ("server nonce", |b| b.server_nonce[0] ^= 1),
        ("decision", |b| b.decision.clear()),
        ("purpose: canary", |b| b.purpose = "canary".to_owned()),
        ("purpose: none", |b| b.purpose.clear()),
        ("digest", |b| b.digest[0] ^= 1),
        ("a canary's digest", |b| {
            b.digest = canary_digest(&b.profile, b.generation, &b.session);
        }),
    ];
    for (what, change) in changes {
        let attack = Attack::prepare(&appliance, &attacker, 1).await;
        let mut binding = binding(&attack.signing);
        change(&mut binding);
        let attempt = Attempt::new(&attacker.share, &binding);
        assert_disagrees(&appliance, &attack, &attempt, what).await;
        if what == "digest" || what == "a canary's digest" {
            // Neither does a header help that lies about what was signed.
            let mut honest = attack.attempt();
            honest.first = attempt.first;
            let again = Attack::prepare(&appliance, &attacker, 1).await;
            assert_disagrees(&appliance, &again, &honest, what).await;
        }
    }
    let raw = "SELECT COUNT(*) FROM transactions WHERE raw IS NOT NULL";
    assert_eq!(appliance.database().number(raw), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a16_shares_of_another_generation_or_wallet_do_not_sign() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let other = wallet_of(&appliance, &node, "other").await;
    let mut attacker = Attacker::of(&appliance, &wallet).await;
    let victim = stolen::share_of(&appliance, &profile(&wallet));
    let [next, _] = next_generation([&attacker.share, &victim]);
    let current = std::mem::replace(&mut attacker.share, next);
    {
        // The same key, and new shares of it that the appliance has not taken.
        let attack = Attack::prepare(&appliance, &attacker, 1).await;
        assert_disagrees(&appliance, &attack, &attack.attempt(), "next generation").await;
        let attack = Attack::prepare(&appliance, &attacker, 1).await;
        let mut bound = binding(&attack.signing);
        bound.generation = 2;
        let attempt = Attempt::new(&attacker.share, &bound);
        assert_disagrees(&appliance, &attack, &attempt, "and says so").await;
        let probe = attack.probe(0);
        let again = Attack::prepare(&appliance, &attacker, 1).await;
        assert_disagrees(
            &appliance,
            &again,
            &probe,
            "a question of another generation",
        )
        .await;
    }
    attacker.share = Attacker::of(&appliance, &other).await.share;
    {
        let attack = Attack::prepare(&appliance, &attacker, 1).await;
        assert_disagrees(&appliance, &attack, &attack.attempt(), "another wallet's").await;
    }
    attacker.share = current;
    // Who expects another generation is told so before anything is prepared.
    let mut body = transaction(1);
    body["keyGeneration"] = json!(2);
    let path = api::transactions_path(&profile(&wallet));
    let reply = post(&appliance, &wallet, &path, &body, Some(&fresh_key())).await;
    assert_eq!(refusal(&reply), (409, "KEY_GENERATION_MISMATCH".to_owned()));

    let attack = Attack::prepare(&appliance, &attacker, 1).await;
    let attempt = attack.attempt();
    let sign_id = attempt.sign_id;
    let (answer, opener) = attack.post_first(&attempt).await;
    let (second, last) = attack.closing(attempt, &answer, &opener);
    let signed = attack.post_second(sign_id, second, last).await;
    assert_eq!(signed.status, 200, "{}", json_of(&signed));
}
