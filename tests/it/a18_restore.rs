//! A database that is put back undoes no ban: the anchor outside it, and the memory of processes that run, say so.

use std::process::Output;

use countersign_client::keystore::Wallet;

use crate::support::appliance::countersignd;
use crate::support::engine::Saved;
use crate::support::signing::refusal;
use crate::support::wallet::{profile, send_and_mine};
use crate::support::{Appliance, Node, Signing, eventually, wallet_of};

/// The wallet cheats where the appliance always notices.
async fn cheat(appliance: &Appliance, wallet: &Wallet) {
    let signing = Signing::prepare(appliance, wallet, 1).await;
    let (_, mut message) = signing.first();
    message[9_000] ^= 1;
    let (reply, _) = signing.post_first(&message).await;
    assert_eq!(refusal(&reply), (500, "MPC_SIGNING_FAILED".to_owned()));
}

/// Runs a verb of the appliance's configuration.
pub(crate) fn verb(appliance: &Appliance, words: &[&str], more: &[&str]) -> Output {
    countersignd(&appliance.token)
        .args(words)
        .arg("--config")
        .arg(appliance.environment().join("countersignd.toml"))
        .args(more)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8(text).unwrap()
}

/// The start is refused for this reason, and `doctor` says it too.
async fn refuses_to_start(appliance: &mut Appliance, reason: &str) {
    let before = appliance.log().len();
    appliance.spawn();
    let status = appliance.ended().await;
    assert_eq!(status.code(), Some(1), "{}", appliance.log());
    let log = appliance.log().split_off(before);
    assert!(log.contains(reason), "{reason}: {log}");
    let report = appliance.doctor();
    let line = report.lines().find(|line| line.contains("anchor"));
    assert!(
        line.is_some_and(|line| line.starts_with("FAIL")),
        "{report}"
    );
}

fn anchored(appliance: &Appliance) -> String {
    let output = verb(appliance, &["anchor", "show"], &[]);
    let text = said(&output);
    let line = text.lines().find(|line| line.starts_with("anchor "));
    line.unwrap_or_else(|| panic!("{text}")).to_owned()
}

const SIGNED: &str = "SELECT COUNT(*) FROM transactions WHERE raw IS NOT NULL";
const DONE: &str = r#"countersign_mpc_steps_total{result="done",step="sign_1"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a18_a_database_from_before_a_ban_is_not_served() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let cheater = wallet_of(&appliance, &node, "cheat").await;
    let mut honest = wallet_of(&appliance, &node, "honest").await;
    appliance.stop().await;
    let before = Saved::of(&appliance);
    appliance.serve().await;
    cheat(&appliance, &cheater).await;
    let report = anchored(&appliance);
    assert!(
        report.contains("1 bans"),
        "anchored with the answer: {report}"
    );
    appliance.kill();

    let after = Saved::of(&appliance);
    before.put_back(&appliance);
    refuses_to_start(&mut appliance, "it knows fewer than 1 bans").await;
    let shown = verb(&appliance, &["anchor", "show"], &[]);
    assert!(!shown.status.success() && said(&shown).contains("older than its anchor"));
    let made = verb(&appliance, &["anchor", "make"], &[]);
    assert!(!made.status.success() && said(&made).contains("there is an anchor already"));
    let replaced = verb(&appliance, &["anchor", "replace"], &[]);
    assert!(!replaced.status.success() && said(&replaced).contains("--danger-forget"));
    refuses_to_start(&mut appliance, "it knows fewer than 1 bans").await;

    after.put_back(&appliance);
    appliance.serve().await;
    let standing = "SELECT key_state FROM profiles WHERE profile_id = ";
    let standing = format!("{standing}'{}'", profile(&cheater));
    assert_eq!(appliance.database().value(&standing), "quarantined");
    send_and_mine(&mut honest, &appliance, 1).await;
    appliance.kill();

    // Whoever says so outright gets what they asked for.
    before.put_back(&appliance);
    let forget = ["--danger-forget-what-is-newer"];
    let replaced = verb(&appliance, &["anchor", "replace"], &forget);
    assert!(replaced.status.success(), "{}", said(&replaced));
    appliance.serve().await;
    Signing::prepare(&appliance, &cheater, 3)
        .await
        .complete()
        .await;
}

/// Needs the server of `scripts/with-postgres.sh`, whatever engine the other tests run on.
#[tokio::test(flavor = "multi_thread")]
async fn a18_a_database_that_is_put_back_under_two_instances_stops_both() {
    let node = Node::start().await;
    let one = Appliance::start_on_postgres(&node).await;
    let mut two = one.another().await;
    let cheater = wallet_of(&one, &node, "cheat").await;
    let honest = wallet_of(&one, &node, "honest").await;
    let before = Saved::of(&one);
    cheat(&one, &cheater).await;
    // The other one has heard of it by its next check.
    Signing::prepare(&two, &honest, 1).await.complete().await;
    let done = two.metric(DONE).await;

    before.put_back(&one);
    for appliance in [&one, &two] {
        for wallet in [&cheater, &honest] {
            let signing = Signing::prepare(appliance, wallet, 5).await;
            let (reply, _) = signing.round_1().await;
            assert_eq!(refusal(&reply), (503, "DUO_NODE_UNAVAILABLE".to_owned()));
        }
        eventually("it is not ready", 20, async || {
            let reply = appliance.operator("/readyz").await.unwrap();
            (reply.status == 503).then_some(())
        })
        .await;
        assert_eq!(appliance.metric("countersign_anchor_met").await, 0.0);
        assert!(appliance.log().contains("nothing is checked any more"));
    }
    assert_eq!(two.metric(DONE).await, done);
    assert_eq!(one.database().number(SIGNED), 0);

    two.kill();
    two.spawn();
    assert_eq!(two.ended().await.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a18_an_audit_chain_that_was_cut_off_is_not_served() {
    let node = Node::start().await;
    let mut appliance = Appliance::init(&node.url());
    appliance.configure(|config| format!("{config}\n[anchor]\ninterval_seconds = 1\n"));
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "cut").await;
    eventually("the chain is anchored while it runs", 20, async || {
        let links = appliance.metric("countersign_anchor_audit_links").await;
        (links >= 8.0).then_some(())
    })
    .await;
    Signing::prepare(&appliance, &wallet, 1).await;
    appliance.stop().await;
    let links = appliance
        .database()
        .number("SELECT MAX(position) FROM audit_chain");
    let report = anchored(&appliance);
    assert!(
        report.contains(&format!("{links} links")),
        "an orderly stop anchors all: {report}"
    );

    let last = format!("(SELECT operation_id FROM audit_chain WHERE position = {links})");
    let record = appliance.database().value(&format!(
        "SELECT operation_id FROM audit_chain WHERE position = {links}"
    ));
    let environment = appliance.environment();
    let saved = Saved::of(&appliance);
    for sql in [
        format!("DELETE FROM audit_checkpoints WHERE position = {links}"),
        format!("DELETE FROM audit_chain WHERE position = {links}"),
        format!("DELETE FROM audit_records WHERE operation_id = '{record}'"),
    ] {
        appliance.storage.tamper(&environment, &sql);
    }
    let verified = verb(&appliance, &["audit", "verify"], &[]);
    assert!(
        verified.status.success(),
        "by itself it is whole: {}",
        said(&verified)
    );
    refuses_to_start(&mut appliance, &format!("fewer than {links} links")).await;

    saved.put_back(&appliance);
    let rehash = format!("UPDATE audit_chain SET hash = previous_hash WHERE operation_id = {last}");
    appliance.storage.tamper(&environment, &rehash);
    refuses_to_start(
        &mut appliance,
        &format!("link {links} of its audit chain is another one"),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a18_a_ban_that_is_removed_or_altered_is_missed_and_a_row_that_is_set_back_lifts_none() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let cheater = wallet_of(&appliance, &node, "cheat").await;
    cheat(&appliance, &cheater).await;
    appliance.kill();
    let environment = appliance.environment();
    let saved = Saved::of(&appliance);
    for (sql, reason) in [
        ("DELETE FROM bans", "it knows fewer than 1 bans"),
        (
            "UPDATE bans SET reason = 'none'",
            "its ban 1 is another one or was altered",
        ),
        (
            "UPDATE bans SET hash = previous_hash",
            "its ban 1 is another one or was altered",
        ),
    ] {
        appliance.storage.tamper(&environment, sql);
        refuses_to_start(&mut appliance, reason).await;
        saved.put_back(&appliance);
    }

    let lift = "UPDATE profiles SET key_state = 'stable'";
    appliance.storage.tamper(&environment, lift);
    appliance.serve().await;
    let signing = Signing::prepare(&appliance, &cheater, 1).await;
    let (reply, _) = signing.round_1().await;
    assert_eq!(refusal(&reply), (403, "KEY_QUARANTINED".to_owned()));
    assert_eq!(appliance.metric(DONE).await, 0.0);
    let database = appliance.database();
    assert_eq!(
        database.value("SELECT key_state FROM profiles"),
        "quarantined"
    );
    assert_eq!(database.number("SELECT COUNT(*) FROM bans"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a01_a_ban_takes_the_transfer_state_out_of_the_share() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "cheat").await;
    let share = "SELECT transfer_state || ' ' || object_version || ' ' || \
                 CASE WHEN length(sealed) < 1000 THEN 'small' ELSE 'large' END FROM key_shares";
    assert_eq!(appliance.database().value(share), "whole 1 large");
    cheat(&appliance, &wallet).await;
    assert_eq!(appliance.database().value(share), "emptied 2 small");
    let records = "SELECT COUNT(*) FROM audit_records WHERE event = 'transfer_state_emptied'";
    assert_eq!(
        appliance.database().number(records),
        0,
        "with the ban itself"
    );

    // As a ban leaves it while the token is away.
    let other = wallet_of(&appliance, &node, "other").await;
    appliance.kill();
    let id = profile(&other);
    for sql in [
        format!("UPDATE profiles SET key_state = 'quarantined' WHERE profile_id = '{id}'"),
        format!("UPDATE key_shares SET transfer_state = 'due' WHERE profile_id = '{id}'"),
    ] {
        appliance.storage.tamper(&appliance.environment(), &sql);
    }
    appliance.serve().await;
    let share = format!("{share} WHERE profile_id = '{id}'");
    eventually("the share is emptied later", 20, async || {
        (appliance.database().value(&share) == "emptied 2 small").then_some(())
    })
    .await;
    assert_eq!(appliance.database().number(records), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a18_a_quarantine_from_before_there_was_a_list_is_put_on_it_with_the_first_anchor() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "old").await;
    wallet_of(&appliance, &node, "other").await;
    appliance.stop().await;
    let id = profile(&wallet);
    let quarantine =
        format!("UPDATE profiles SET key_state = 'quarantined' WHERE profile_id = '{id}'");
    appliance
        .storage
        .tamper(&appliance.environment(), &quarantine);
    let witness = appliance.directory().join("witness");
    let table = format!("\n[anchor]\nwitness_file = \"{}\"\n", witness.display());
    appliance.configure(|config| config + &table);
    let made = verb(&appliance, &["anchor", "make"], &[]);
    assert!(made.status.success() && said(&made).contains("Put 1 quarantines"));
    assert!(anchored(&appliance).contains(" 1 bans"));
    let listed = appliance.database().value("SELECT profile_id FROM bans");
    assert_eq!(listed, id);

    let lift = "UPDATE profiles SET key_state = 'stable'";
    appliance.storage.tamper(&appliance.environment(), lift);
    appliance.serve().await;
    let signing = Signing::prepare(&appliance, &wallet, 1).await;
    let (reply, _) = signing.round_1().await;
    assert_eq!(refusal(&reply), (403, "KEY_QUARANTINED".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a18_a_witness_file_takes_the_place_of_the_token_and_without_an_anchor_nothing_starts() {
    let node = Node::start().await;
    let mut appliance = Appliance::init(&node.url());
    let witness = appliance.directory().join("witness");
    let table = format!("\n[anchor]\nwitness_file = \"{}\"\n", witness.display());
    appliance.configure(|config| config + &table);
    refuses_to_start(&mut appliance, "there is no anchor of this environment").await;
    let made = verb(&appliance, &["anchor", "make"], &[]);
    assert!(made.status.success(), "{}", said(&made));
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "cheat").await;
    appliance.stop().await;
    let before = Saved::of(&appliance);
    let old_witness = std::fs::read(&witness).unwrap();
    appliance.serve().await;
    cheat(&appliance, &wallet).await;
    assert_ne!(std::fs::read(&witness).unwrap(), old_witness);

    // Beside the running appliance: what cannot be read is not passed over.
    let kept = std::fs::read(&witness).unwrap();
    std::fs::remove_file(&witness).unwrap();
    eventually("it is not ready", 20, async || {
        let reply = appliance.operator("/readyz").await.unwrap();
        (reply.status == 503).then_some(())
    })
    .await;
    std::fs::write(&witness, &kept).unwrap();
    eventually("it is ready again", 20, async || {
        let reply = appliance.operator("/readyz").await.unwrap();
        (reply.status == 200).then_some(())
    })
    .await;
    appliance.kill();
    let after = Saved::of(&appliance);
    before.put_back(&appliance);
    refuses_to_start(&mut appliance, "it knows fewer than 1 bans").await;

    // A process that dies between a ban and its anchor leaves that to the next one.
    after.put_back(&appliance);
    std::fs::write(&witness, old_witness).unwrap();
    assert!(anchored(&appliance).contains(" 0 bans"));
    appliance.serve().await;
    assert!(anchored(&appliance).contains(" 1 bans"));
}
