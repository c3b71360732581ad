//! The end of a KEM key: after 48 hours, what wallets sealed to it opens nowhere any more.
//!
//! Time is moved by moving what the database says about it.

use std::process::Command;

use countersign_client::api::{self, CreateProfile};
use countersign_client::flows::create::client_share;
use countersign_client::flows::{MessageBinding, seal};
use countersign_client::identity::Identity;
use countersign_client::keystore::Wallet;
use countersign_client::transport::{Reply, Request};
use countersign_mpc::envelope::MessageType;
use countersign_mpc::keygen::P1Keygen;

use crate::support::engine::Engine;
use crate::support::signing::{deliver, refusal, signed};
use crate::support::wallet::passphrase;
use crate::support::{Appliance, Node, eventually, wallet_of};

/// 48 hours, in microseconds.
const LIFE: &str = "172800000000";

/// Labels of the key encryption keys of KEM keys that the token holds.
fn on_token(appliance: &Appliance) -> Vec<String> {
    let directory = appliance.directory().join("softhsm");
    let pin = std::fs::read_to_string(directory.join("pin")).unwrap();
    let output = Command::new("pkcs11-tool")
        .env("SOFTHSM2_CONF", directory.join("softhsm2.conf"))
        .args([
            "--module",
            appliance.token.module(),
            "--token-label",
            "countersign",
        ])
        .args([
            "--login",
            "--pin",
            pin.trim(),
            "--list-objects",
            "--type",
            "secrkey",
        ])
        .output()
        .expect("pkcs11-tool must be installed: run scripts/setup.sh softhsm");
    let text = String::from_utf8(output.stdout).unwrap();
    let labels = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("label:"));
    let kem = labels
        .map(str::trim)
        .filter(|label| label.contains("/kem/"));
    kem.map(str::to_owned).collect()
}

fn kids(appliance: &Appliance) -> Vec<String> {
    appliance
        .database()
        .rows("SELECT kid FROM kem_keys ORDER BY kid")
}

/// The first request of a key generation, sealed to the key in `identity`.
pub(crate) async fn begin(
    appliance: &Appliance,
    wallet: &Wallet,
    identity: &Identity,
    key: &str,
) -> Reply {
    let (_, message) = P1Keygen::start().unwrap();
    let place = MessageBinding {
        profile_id: key,
        session_id: key,
        key_generation: 1,
        attempt: 1,
    };
    let kind = MessageType::Keygen1;
    let sealed = seal(&appliance.client, identity, wallet, kind, place, &message);
    let body = CreateProfile {
        name: "recorded".to_owned(),
        client_share: client_share(wallet, sealed.unwrap().0),
    };
    let request = Request::post(api::PROFILES, &body)
        .unwrap()
        .with_idempotency_key(key);
    deliver(appliance, &signed(appliance, wallet, &request)).await
}

/// Lets 48 hours pass for the KEM keys.
fn let_48_hours_pass(appliance: &Appliance) {
    for sql in [
        format!(
            "UPDATE kem_keys SET not_before = not_before - {LIFE}, not_after = not_after - {LIFE}"
        ),
        format!(
            "UPDATE kem_keks SET claimed_at = claimed_at - {LIFE}, destroy_at = destroy_at - {LIFE}"
        ),
    ] {
        appliance.storage.tamper(&appliance.environment(), &sql);
    }
}

/// The same while it is stopped.
async fn after_48_hours(appliance: &mut Appliance) {
    appliance.stop().await;
    let_48_hours_pass(appliance);
    appliance.serve().await;
}

/// From now on the database refuses this for rows of `kem_keks`, until the trigger is dropped.
fn refuse(appliance: &Appliance, when: &str, condition: &str) {
    let sql = match Engine::of_this_run() {
        Engine::Sqlite => format!(
            "CREATE TRIGGER refused {when} ON kem_keks WHEN {condition} \
             BEGIN SELECT RAISE(ABORT, 'refused by the test'); END"
        ),
        Engine::Postgres => format!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN RAISE EXCEPTION 'refused by the test'; END $$; \
             CREATE TRIGGER refused {when} ON kem_keks FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION refuse()"
        ),
    };
    appliance.storage.tamper(&appliance.environment(), &sql);
}

fn refuse_no_more(appliance: &Appliance) {
    let sql = match Engine::of_this_run() {
        Engine::Sqlite => "DROP TRIGGER refused",
        Engine::Postgres => "DROP TRIGGER refused ON kem_keks",
    };
    appliance.storage.tamper(&appliance.environment(), sql);
}

#[tokio::test(flavor = "multi_thread")]
async fn a33_after_48_hours_recorded_traffic_opens_nowhere() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let environment_id = appliance.client.config().environment_id;
    let wallet = appliance
        .keystore()
        .create(&"draft".parse().unwrap(), &environment_id, &passphrase())
        .unwrap();
    let recorded = appliance.client.identity().await.unwrap();
    let accepted = begin(&appliance, &wallet, &recorded, "0123456789abcdef-1").await;
    assert_eq!(accepted.status, 202);
    let (before, keks) = (kids(&appliance), on_token(&appliance));
    assert_eq!(
        (before.as_slice(), keks.len()),
        ([recorded.kid().to_owned()].as_slice(), 1)
    );
    // What a thief of the database keeps.
    let stolen = appliance.database().value(
        "SELECT kid || '|' || hex(public_key) || '|' || hex(sealed) || '|' || kek_epoch || '|' || \
         hex(identity_key) || '|' || hex(signature) FROM kem_keys",
    );

    after_48_hours(&mut appliance).await;
    // Its row and its key encryption key are gone, and another took their place.
    let now = eventually("the key encryption key is destroyed", 20, async || {
        let now = on_token(&appliance);
        (now.len() == 1 && now != keks).then_some(now)
    })
    .await;
    let after = kids(&appliance);
    assert!(after.len() == 1 && after != before, "{after:?}");
    assert_eq!(
        appliance.database().number("SELECT COUNT(*) FROM kem_keks"),
        1
    );
    let refused = begin(&appliance, &wallet, &recorded, "0123456789abcdef-2").await;
    assert_eq!(refusal(&refused), (400, "INVALID_KEY_SHARE".to_owned()));
    let current = appliance.client.identity().await.unwrap();
    let accepted = begin(&appliance, &wallet, &current, "0123456789abcdef-3").await;
    assert_eq!(accepted.status, 202);

    // The thief has the whole appliance, too, and puts the old row back as if no time had passed.
    appliance.stop().await;
    let [kid, public_key, sealed, epoch, identity_key, signature] =
        stolen.split('|').collect::<Vec<_>>().try_into().unwrap();
    let bytes = |hex: &str| match Engine::of_this_run() {
        Engine::Sqlite => format!("x'{hex}'"),
        Engine::Postgres => format!("decode('{hex}', 'hex')"),
    };
    let times = "(SELECT not_before FROM kem_keys), (SELECT not_after + 1 FROM kem_keys)";
    for sql in [
        format!("INSERT INTO kem_keks SELECT {epoch}, claimed_at, destroy_at FROM kem_keks"),
        format!(
            "INSERT INTO kem_keys (kid, public_key, sealed, kek_epoch, identity_key, signature, not_before, not_after) \
             VALUES ('{kid}', {}, {}, {epoch}, {}, {}, {times})",
            bytes(public_key),
            bytes(sealed),
            bytes(identity_key),
            bytes(signature),
        ),
    ] {
        appliance.storage.tamper(&appliance.environment(), &sql);
    }
    appliance.serve().await;
    assert!(appliance.log().contains("is damaged and is skipped"));
    let refused = begin(&appliance, &wallet, &recorded, "0123456789abcdef-4").await;
    assert_eq!(refusal(&refused), (400, "INVALID_KEY_SHARE".to_owned()));
    assert_eq!(on_token(&appliance), now);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_make_one_kem_key_and_destroy_it_together() {
    let node = Node::start().await;
    let one = Appliance::start_on_postgres(&node).await;
    let two = one.another().await;
    let kid = async |appliance: &Appliance| {
        let document = appliance.client.identity_document().await.ok()?;
        Some(document.kem.kid)
    };
    let first = kid(&one).await.unwrap();
    assert_eq!(kid(&two).await.as_ref(), Some(&first));
    assert_eq!(on_token(&one).len(), 1);

    // Both notice within a moment that it has ended.
    let_48_hours_pass(&one);
    let second = eventually("both have the next key", 20, async || {
        let (here, there) = (kid(&one).await?, kid(&two).await?);
        (here == there && here != first).then_some(here)
    })
    .await;
    assert_eq!(kids(&one), [second]);
    eventually(
        "the first key encryption key is destroyed",
        20,
        async || (on_token(&one).len() == 1).then_some(()),
    )
    .await;
    wallet_of(&two, &node, "main").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a33_keys_that_have_ended_are_destroyed_while_no_new_one_can_be_made() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let before = kids(&appliance);
    refuse(&appliance, "BEFORE INSERT", "1 = 1");
    let_48_hours_pass(&appliance);
    eventually("it is destroyed on the token", 20, async || {
        on_token(&appliance).is_empty().then_some(())
    })
    .await;
    eventually("it is forgotten", 20, async || {
        let rows = "SELECT COUNT(*) FROM kem_keks";
        (kids(&appliance).is_empty() && appliance.database().number(rows) == 0).then_some(())
    })
    .await;
    assert!(appliance.client.identity_document().await.is_err());

    refuse_no_more(&appliance);
    let after = eventually("the next one is made", 20, async || {
        let now = kids(&appliance);
        (!now.is_empty()).then_some(now)
    })
    .await;
    assert_ne!(after, before);
    wallet_of(&appliance, &node, "main").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a33_keys_whose_destruction_fails_for_ever_keep_no_other_alive() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let before = on_token(&appliance);
    // More of them than one look takes, and all before the one of today.
    refuse(&appliance, "BEFORE DELETE", "OLD.epoch < 100");
    appliance.storage.tamper(
        &appliance.environment(),
        "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 21) \
         INSERT INTO kem_keks (epoch, claimed_at, destroy_at) SELECT i, 0, 0 FROM n",
    );
    let_48_hours_pass(&appliance);
    eventually("the one that has ended is destroyed", 20, async || {
        let now = on_token(&appliance);
        (now.len() == 1 && now != before).then_some(())
    })
    .await;
    let stuck = "SELECT COUNT(*) FROM kem_keks WHERE epoch < 100";
    assert_eq!(appliance.database().number(stuck), 20);

    refuse_no_more(&appliance);
    eventually("and the others when they can be", 20, async || {
        (appliance.database().number(stuck) == 0).then_some(())
    })
    .await;
}
