//! A verdict that somebody wants to be lost (A03): between a check and its commit the wallet hangs up, the task panics,
//! the process is killed, or the database or the anchor does not take it.

use countersign::domain::{Generation, OtSetup, ProfileId};
use countersign_client::api;
use countersign_client::transport::{Reply, Request};
use serde_json::json;

use crate::a01_probing::{BANS, assert_quarantined, set_rows};
use crate::a18_restore::verb;
use crate::support::attacker::{Attack, Attacker, SIGN_1};
use crate::support::engine::Storage;
use crate::support::fault::{Fault, Hang, Locked};
use crate::support::signing::{fresh_key, json_of, post, refusal, signed, transaction};
use crate::support::stolen;
use crate::support::wallet::profile;
use crate::support::{Appliance, Node, Signing, eventually, wallet_of};

/// Asks about a row, and waits until the question is admitted. It is not checked as long as the token hangs.
async fn admitted(
    appliance: &Appliance,
    attack: &Attack<'_>,
    row: usize,
) -> (Hang, tokio::task::JoinHandle<Option<Reply>>) {
    let (sealed, _) = attack.sealed(SIGN_1.1, &attack.probe(row).frame());
    let session = attack.signing.prepared.session_id.clone();
    let body = json!({"sessionId": session, "p1SignatureShare": sealed});
    let request = Request::post(api::SIGN, &body).unwrap();
    let request = signed(appliance, attack.by.wallet, &request);
    let transport = appliance.client.transport().clone();
    let hang = Hang::of(appliance);
    let asked = tokio::spawn(async move { transport.send(&request).await.ok() });
    let state = format!("SELECT state FROM sessions WHERE session_id = '{session}'");
    eventually("the check is admitted", 5, async || {
        (appliance.database().value(&state) == "r1_checking").then_some(())
    })
    .await;
    (hang, asked)
}

/// Asks about a row whose bit is set, and stops the appliance between the check and the commit of its verdict: the
/// database is locked by somebody else. Gives the lock and the request that waits.
async fn between_check_and_commit(
    appliance: &Appliance,
    attack: &Attack<'_>,
    row: usize,
) -> (Locked, tokio::task::JoinHandle<Option<Reply>>) {
    let bans = appliance.metric(BANS).await;
    let (hang, asked) = admitted(appliance, attack, row).await;
    let locked = Locked::database_of(appliance);
    drop(hang);
    eventually("the check has its verdict", 10, async || {
        (appliance.metric(BANS).await > bans).then_some(())
    })
    .await;
    assert!(!asked.is_finished(), "nobody is told before it is durable");
    (locked, asked)
}

fn standing(appliance: &Appliance, profile: &str) -> String {
    appliance.database().value(&format!(
        "SELECT key_state || ' ' || suspect_events || ' ' || CASE WHEN checking IS NULL THEN 'free' ELSE 'locked' END \
         FROM profiles WHERE profile_id = '{profile}'"
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn a03_cancel_who_hangs_up_before_the_verdict_is_durable_is_banned() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "a03").await;
    let attacker = Attacker::of(&appliance, &wallet).await;
    let secret = stolen::share_of(&appliance, &profile(&wallet));
    let row = set_rows(&secret).next().unwrap();
    let waiting = Attack::prepare(&appliance, &attacker, 1).await;
    let attack = Attack::prepare(&appliance, &attacker, 1).await;

    let (locked, asked) = between_check_and_commit(&appliance, &attack, row).await;
    asked.abort();
    assert!(asked.await.unwrap_err().is_cancelled());
    drop(locked);
    eventually("the ban is durable", 10, async || {
        (standing(&appliance, &profile(&wallet)) == "quarantined 0 free").then_some(())
    })
    .await;
    assert_eq!(attack.signing.state().await, "BANNED");
    assert_quarantined(&appliance, &attacker, &waiting).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a01_ban_names_what_was_checked_with_whatever_the_rows_say_meanwhile() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "a01").await;
    let attacker = Attacker::of(&appliance, &wallet).await;
    let profile = profile(&wallet);
    let secret = stolen::share_of(&appliance, &profile);
    let row = set_rows(&secret).next().unwrap();
    let attack = Attack::prepare(&appliance, &attacker, 1).await;
    let made_by = hex::decode(
        appliance
            .database()
            .value("SELECT hex(dkg_session_id) FROM key_shares"),
    );

    let (locked, asked) = between_check_and_commit(&appliance, &attack, row).await;
    asked.abort();
    assert!(asked.await.unwrap_err().is_cancelled());
    // The setup is another one, and the check is none of that session any more: nothing there is left to conclude.
    locked.commit(
        "UPDATE key_shares SET dkg_session_id = x1; UPDATE steps SET outcome = 'done' WHERE outcome = 'open'; \
         UPDATE sessions SET state = 'aborted' WHERE state = 'r1_checking'; UPDATE profiles SET checking = NULL",
    );
    let setup = OtSetup::of(
        ProfileId::parse(&profile).unwrap(),
        Generation::FIRST,
        &made_by.unwrap(),
    );
    eventually("the ban is on the list", 10, async || {
        let banned = appliance.database().rows("SELECT hex(ot_setup) FROM bans");
        (banned == [hex::encode_upper(setup.0)]).then_some(())
    })
    .await;
    assert_eq!(standing(&appliance, &profile), "quarantined 0 free");
}

#[tokio::test(flavor = "multi_thread")]
async fn a03_cancel_who_kills_the_process_before_the_verdict_is_durable_can_do_so_three_times() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "a03").await;
    let attacker = Attacker::of(&appliance, &wallet).await;
    let secret = stolen::share_of(&appliance, &profile(&wallet));
    let rows: Vec<usize> = set_rows(&secret).take(3).collect();
    for (row, expected) in
        rows.into_iter()
            .zip(["stable 1 free", "stable 2 free", "refresh_required 3 free"])
    {
        let session;
        let message;
        let asked = {
            let attack = Attack::prepare(&appliance, &attacker, 1).await;
            let (locked, asked) = between_check_and_commit(&appliance, &attack, row).await;
            (message, _) = attack.sealed(SIGN_1.1, &attack.attempt().frame());
            session = attack.signing.prepared.session_id.clone();
            appliance.signal("-KILL");
            drop(locked);
            asked
        };
        assert!(asked.await.unwrap().is_none());
        appliance.kill();
        appliance.serve().await;
        assert_eq!(standing(&appliance, &profile(&wallet)), expected);
        // The session is over: no other question in it.
        let body = json!({"sessionId": session, "p1SignatureShare": message});
        let reply = post(&appliance, &wallet, api::SIGN, &body, None).await;
        assert!(
            [403, 409].contains(&refusal(&reply).0),
            "{}",
            json_of(&reply)
        );
    }
    let path = api::transactions_path(&profile(&wallet));
    for _ in 0..2 {
        let reply = post(
            &appliance,
            &wallet,
            &path,
            &transaction(1),
            Some(&fresh_key()),
        )
        .await;
        assert_eq!(refusal(&reply).1, "KEY_REFRESH_REQUIRED");
        appliance.crash_and_restart().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a03_panic_in_a_check_counts_as_one_without_a_verdict_and_the_third_asks_for_new_shares() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "a03").await;
    let attacker = Attacker::of(&appliance, &wallet).await;
    let secret = stolen::share_of(&appliance, &profile(&wallet));
    let rows: Vec<usize> = set_rows(&secret).take(3).collect();
    for (row, expected) in
        rows.into_iter()
            .zip(["stable 1 free", "stable 2 free", "refresh_required 3 free"])
    {
        // A new process: the engine's generator is seeded at its first use on each thread, and panics when it cannot be.
        appliance.crash_and_restart().await;
        let attack = Attack::prepare(&appliance, &attacker, 1).await;
        let (hang, asked) = admitted(&appliance, &attack, row).await;
        let panics = |appliance: &Appliance| appliance.log().matches("panicked at").count();
        let before = panics(&appliance);
        let fault = Fault::inject(appliance.pid(), &[], "getrandom", "error=EIO");
        drop(hang);
        // The engine in the middle of the check, or whoever concludes it: neither has its random numbers.
        eventually("the step has panicked", 10, async || {
            (panics(&appliance) > before).then_some(())
        })
        .await;
        drop(fault);
        if let Some(reply) = asked.await.unwrap() {
            assert!([500, 503].contains(&reply.status), "{}", json_of(&reply));
        }
        eventually("the check is ended", 60, async || {
            (standing(&appliance, &profile(&wallet)) == expected).then_some(())
        })
        .await;
        // What else needed a random number then goes on.
        assert!(appliance.is_running());
        assert_eq!(attack.signing.state().await, "ABORTED");
    }
    let path = api::transactions_path(&profile(&wallet));
    let payment = transaction(1);
    let reply = post(&appliance, &wallet, &path, &payment, Some(&fresh_key())).await;
    assert_eq!(refusal(&reply).1, "KEY_REFRESH_REQUIRED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a01_ban_that_the_database_swallows_stops_the_appliance_for_good() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "cheat").await;
    let honest = wallet_of(&appliance, &node, "honest").await;
    let attacker = Attacker::of(&appliance, &wallet).await;
    let secret = stolen::share_of(&appliance, &profile(&wallet));
    let row = set_rows(&secret).next().unwrap();
    let (swallow, release) = match &*appliance.storage {
        Storage::Sqlite => (
            "CREATE TRIGGER swallow BEFORE INSERT ON bans BEGIN SELECT RAISE(IGNORE); END",
            "DROP TRIGGER swallow",
        ),
        Storage::Postgres(_) => (
            "CREATE RULE swallow AS ON INSERT TO bans DO INSTEAD NOTHING",
            "DROP RULE swallow ON bans",
        ),
    };
    let tamper = |appliance: &Appliance, sql: &str| {
        appliance.storage.tamper(&appliance.environment(), sql);
    };
    let attack = Attack::prepare(&appliance, &attacker, 1).await;
    let waiting = Attack::prepare(&appliance, &attacker, 1).await;
    tamper(&appliance, swallow);
    attack.post_first(&attack.probe(row)).await;
    // The row of the profile says what somebody wants it to say.
    tamper(&appliance, release);
    tamper(&appliance, "UPDATE profiles SET key_state = 'stable'");
    assert_eq!(appliance.database().number("SELECT COUNT(*) FROM bans"), 0);
    let (reply, _) = waiting.post_first(&waiting.probe(row)).await;
    assert_eq!(refusal(&reply), (503, "DUO_NODE_UNAVAILABLE".to_owned()));
    let signing = Signing::prepare(&appliance, &honest, 1).await;
    let (reply, _) = signing.round_1().await;
    assert_eq!(refusal(&reply), (503, "DUO_NODE_UNAVAILABLE".to_owned()));
    for _ in 0..2 {
        appliance.kill();
        appliance.spawn();
        assert_eq!(appliance.ended().await.code(), Some(1), "it is not served");
    }
    assert!(appliance.log().contains("it knows fewer than 1 bans"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a01_ban_that_cannot_be_anchored_is_told_to_nobody_and_nothing_is_checked_until_it_is() {
    let node = Node::start().await;
    let mut appliance = Appliance::init(&node.url());
    let witness = appliance.directory().join("witness");
    let table = format!("\n[anchor]\nwitness_file = \"{}\"\n", witness.display());
    appliance.configure(|config| config + &table);
    let made = verb(&appliance, &["anchor", "make"], &[]);
    assert!(made.status.success());
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "cheat").await;
    let honest = wallet_of(&appliance, &node, "honest").await;
    let attacker = Attacker::of(&appliance, &wallet).await;
    let secret = stolen::share_of(&appliance, &profile(&wallet));
    let row = set_rows(&secret).next().unwrap();
    let attack = Attack::prepare(&appliance, &attacker, 1).await;
    let signing = Signing::prepare(&appliance, &honest, 1).await;

    // What replaces the file cannot be made.
    let obstacle = appliance.directory().join("witness.new");
    std::fs::create_dir(&obstacle).unwrap();
    let (hang, asked) = admitted(&appliance, &attack, row).await;
    drop(hang);
    eventually("the ban is durable", 10, async || {
        (standing(&appliance, &profile(&wallet)) == "quarantined 0 free").then_some(())
    })
    .await;
    eventually("it is known that the ban is not anchored", 10, async || {
        appliance
            .log()
            .contains("a ban is not anchored yet")
            .then_some(())
    })
    .await;
    let (reply, _) = signing.round_1().await;
    assert_eq!(refusal(&reply), (503, "DUO_NODE_UNAVAILABLE".to_owned()));
    eventually("it is not ready", 20, async || {
        let reply = appliance.operator("/readyz").await.unwrap();
        (reply.status == 503).then_some(())
    })
    .await;
    assert!(!asked.is_finished(), "the wallet learns nothing of it");

    std::fs::remove_dir(&obstacle).unwrap();
    let reply = asked.await.unwrap().expect("an answer");
    assert_eq!(refusal(&reply), (500, "MPC_SIGNING_FAILED".to_owned()));
    // The step was not begun, so it is the same message again.
    signing.complete().await;
}
