//! Several devices for one owner: enrolled by one another, revoked by any of them (`protocol.md` 4, A35).

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::time::Duration;

use countersign_client::api::{self, EnrolDevice};
use countersign_client::flows::devices;
use countersign_client::keystore::{KdfParams, Wallet};
use countersign_client::transport::{Reply, Request};
use countersign_client::{ClientError, Keystore};
use countersign_mpc::owner_proof::Algorithm;
use serde_json::{Value, json};

use crate::kem::begin;
use crate::support::engine::Storage;
use crate::support::signing::{fresh_key, get, json_of, post, refusal, transaction};
use crate::support::wallet::{mined, passphrase, profile, send, send_and_mine};
use crate::support::{Appliance, Node, Signing, wallet_of};

/// A copy of the wallet on another device, with a key of its own that is not enrolled yet.
pub(crate) fn copy_of(
    appliance: &Appliance,
    wallet: &Wallet,
    name: &str,
    key: Algorithm,
) -> Wallet {
    let file = appliance.directory().join(format!("{name}.export"));
    wallet
        .export(&file, &passphrase(), KdfParams::FLOOR)
        .unwrap();
    let keystore = Keystore::new(appliance.directory().join(name)).with_cost(KdfParams::FLOOR);
    let name = Some(name.parse().unwrap());
    let imported = keystore.import(&file, name, &passphrase(), &passphrase());
    let mut copy = imported.unwrap();
    copy.renew_device(key).unwrap();
    copy
}

/// A second device of the wallet's owner, enrolled.
pub(crate) async fn enrolled(
    appliance: &Appliance,
    wallet: &Wallet,
    name: &str,
    key: Algorithm,
) -> Wallet {
    let copy = copy_of(appliance, wallet, name, key);
    let asked = devices::ask(&copy, &appliance.client, name).unwrap();
    let device = devices::add(wallet, &appliance.client, &asked).await;
    assert_eq!(device.unwrap().status, "active");
    copy
}

async fn post_asked(appliance: &Appliance, wallet: &Wallet, asked: &EnrolDevice) -> Reply {
    let path = api::devices_path(&profile(wallet));
    post(appliance, wallet, &path, &json!(asked), Some(&fresh_key())).await
}

async fn revoke(appliance: &Appliance, by: &Wallet, device: &Wallet) -> Reply {
    let path = api::revoke_path(&profile(by), &device.device().thumbprint());
    post(appliance, by, &path, &json!({}), Some(&fresh_key())).await
}

/// A well-formed request of this device for every route that a device signs for.
async fn everywhere(appliance: &Appliance, wallet: &Wallet, session: &str) -> Vec<Reply> {
    let id = profile(wallet);
    let share = countersign_client::flows::create::client_share(wallet, "mw1.kg1.k.x".to_owned());
    let key = fresh_key();
    let posts: [(String, Value); 7] = [
        (
            api::PROFILES.to_owned(),
            json!({"name": "n", "clientShare": share}),
        ),
        (
            api::PROFILES.to_owned(),
            json!({"profileId": id, "keygenSessionId": session, "clientShare": share}),
        ),
        (api::transactions_path(&id), transaction(1)),
        (
            api::SIGN.to_owned(),
            json!({"sessionId": session, "p1SignatureShare": "mw1.sg1.k.x"}),
        ),
        (
            api::SIGN.to_owned(),
            json!({"sessionId": session, "restart": true}),
        ),
        (
            api::devices_path(&id),
            json!(devices::ask(wallet, &appliance.client, "n").unwrap()),
        ),
        (
            api::revoke_path(&id, &wallet.device().thumbprint()),
            json!({}),
        ),
    ];
    let mut replies = Vec::new();
    for (path, body) in posts {
        replies.push(post(appliance, wallet, &path, &body, Some(&key)).await);
    }
    for path in [
        api::profile_path(&id),
        api::session_path(session),
        api::devices_path(&id),
    ] {
        replies.push(get(appliance, wallet, &path).await);
    }
    replies
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_device_with_an_imported_wallet_signs() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let mut first = wallet_of(&appliance, &node, "first").await;

    // Before it is enrolled, it is a stranger.
    let mut second = copy_of(&appliance, &first, "second", Algorithm::Ed25519);
    let refused = send(&mut second, &appliance, 1).await;
    assert!(
        matches!(&refused, Err(error) if error.server_code() == Some("SIGNATURE_INVALID")),
        "{refused:?}"
    );
    let asked = devices::ask(&second, &appliance.client, "second").unwrap();
    devices::add(&first, &appliance.client, &asked)
        .await
        .unwrap();
    let sent = send(&mut second, &appliance, 7).await.unwrap();
    mined(&second, &appliance, &sent).await.unwrap();
    send_and_mine(&mut first, &appliance, 8).await;

    // And the third, which the second vouches for.
    let mut third = enrolled(&appliance, &second, "third", Algorithm::P256).await;
    send_and_mine(&mut third, &appliance, 9).await;
    let all = devices::list(&third, &appliance.client).await.unwrap();
    let shown: Vec<_> = all
        .iter()
        .map(|device| (&*device.name, &*device.algorithm, &*device.status))
        .collect();
    let p256 = "ecdsa-p256-sha256";
    assert_eq!(
        shown,
        [
            ("first device", p256, "active"),
            ("second", "ed25519", "active"),
            ("third", p256, "active")
        ]
    );
    let events = "SELECT COUNT(*) FROM audit_records WHERE event = 'device_enrolled'";
    assert_eq!(appliance.database().number(events), 2);

    // What one device has begun, another one does not go on with.
    let signing = Signing::prepare(&appliance, &first, 10).await;
    let path = api::session_path(&signing.prepared.session_id);
    assert_eq!(refusal(&get(&appliance, &second, &path).await).0, 404);
    signing.complete().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a35_device() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let mut first = wallet_of(&appliance, &node, "first").await;
    let second = enrolled(&appliance, &first, "second", Algorithm::P256).await;

    let done = Signing::prepare(&appliance, &second, 1).await;
    done.complete().await;
    let created = Signing::prepare(&appliance, &second, 2).await;
    let begun = Signing::prepare(&appliance, &second, 3).await;
    assert_eq!(begun.round_1().await.0.status, 202);
    let untouched = Signing::prepare(&appliance, &first, 4).await;
    // Signed before the revocation, and held back by the gateway.
    let path = api::transactions_path(&profile(&second));
    let request = Request::post(&path, &transaction(5)).unwrap();
    let transport = appliance.client.transport();
    let request = request.with_idempotency_key(fresh_key());
    let held_back = transport.sign(&request, second.device()).unwrap();

    let reply = revoke(&appliance, &first, &second).await;
    assert_eq!(
        (reply.status, &json_of(&reply)["status"]),
        (200, &json!("revoked"))
    );

    let session = &created.prepared.session_id;
    for reply in everywhere(&appliance, &second, session).await {
        assert_eq!(refusal(&reply), (401, "SIGNATURE_INVALID".to_owned()));
    }
    let late = transport.send(&held_back).await.unwrap();
    assert_eq!(refusal(&late), (401, "SIGNATURE_INVALID".to_owned()));
    let database = appliance.database();
    let of = |what: &str, signing: &Signing<'_>| {
        let table = if what == "session" {
            "sessions"
        } else {
            "transactions"
        };
        let id = &signing.prepared.session_id;
        database.value(&format!(
            "SELECT state FROM {table} WHERE session_id = '{id}'"
        ))
    };
    for signing in [&created, &begun] {
        assert_eq!(of("session", signing), "aborted");
        assert_eq!(of("transaction", signing), "released");
    }
    assert_eq!(of("session", &done), "signed");
    assert_eq!(of("session", &untouched), "created");
    let detail = "SELECT detail FROM audit_records WHERE event = 'device_revoked'";
    assert!(database.value(detail).ends_with("2 sessions given up"));
    // The others go on, with the nonces that are free again.
    untouched.complete().await;
    send_and_mine(&mut first, &appliance, 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a35_a_new_device_waits_and_any_device_can_cancel_it() {
    let node = Node::start().await;
    let mut appliance = Appliance::init(&node.url());
    appliance.configure(|config| config.replace("cooling_off_hours = 0", "cooling_off_hours = 24"));
    appliance.serve().await;
    let first = wallet_of(&appliance, &node, "first").await;
    let second = copy_of(&appliance, &first, "second", Algorithm::P256);
    let asked = devices::ask(&second, &appliance.client, "second").unwrap();
    let device = devices::add(&first, &appliance.client, &asked)
        .await
        .unwrap();
    assert_eq!(device.status, "pending");

    let session = uuid::Uuid::now_v7().to_string();
    for reply in everywhere(&appliance, &second, &session).await {
        assert_eq!(refusal(&reply), (403, "DEVICE_PENDING".to_owned()));
    }
    // A device that may not act is none that the last one could leave the wallet to.
    let last = revoke(&appliance, &first, &first).await;
    assert_eq!(refusal(&last), (409, "DEVICE_CONFLICT".to_owned()));
    assert_eq!(revoke(&appliance, &first, &second).await.status, 200);
    for reply in everywhere(&appliance, &second, &session).await {
        assert_eq!(refusal(&reply), (401, "SIGNATURE_INVALID".to_owned()));
    }

    // A day later, if nobody objects.
    let third = copy_of(&appliance, &first, "third", Algorithm::Ed25519);
    let asked = devices::ask(&third, &appliance.client, "third").unwrap();
    devices::add(&first, &appliance.client, &asked)
        .await
        .unwrap();
    let key = third.device().thumbprint();
    appliance.stop().await;
    appliance.storage.tamper(
        &appliance.environment(),
        &format!(
            "UPDATE devices SET active_at = active_at - 86400000000 WHERE device_key_id = '{key}'"
        ),
    );
    appliance.serve().await;
    let reply = get(&appliance, &third, &api::profile_path(&profile(&third))).await;
    assert_eq!(reply.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a35_only_a_device_that_asks_itself_is_enrolled_and_the_last_one_stays() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let first = wallet_of(&appliance, &node, "first").await;
    let other = wallet_of(&appliance, &node, "other").await;
    let conflict = (409, "DEVICE_CONFLICT".to_owned());
    assert_eq!(refusal(&revoke(&appliance, &first, &first).await), conflict);

    // Of somebody else, unknown, and no device at all.
    let path = |id: &str, key: &str| api::revoke_path(id, key);
    let (mine, theirs) = (profile(&first), profile(&other));
    let (own, foreign) = (first.device().thumbprint(), other.device().thumbprint());
    for (path, code) in [
        (path(&mine, &foreign), "NOT_FOUND"),
        (path(&mine, &"A".repeat(43)), "NOT_FOUND"),
        (path(&mine, "x"), "NOT_FOUND"),
        (path(&theirs, &foreign), "PROFILE_NOT_FOUND"),
        (path(&theirs, &own), "PROFILE_NOT_FOUND"),
        (path("x", &own), "PROFILE_NOT_FOUND"),
    ] {
        let reply = post(&appliance, &first, &path, &json!({}), Some(&fresh_key())).await;
        assert_eq!(refusal(&reply), (404, code.to_owned()), "{path}");
    }

    let copy = copy_of(&appliance, &first, "copy", Algorithm::Ed25519);
    let asked = devices::ask(&copy, &appliance.client, "copy").unwrap();
    let invalid = (400, "INVALID_REQUEST".to_owned());
    let altered = |pointer: &str, value: Value| {
        let mut body = json!(asked);
        *body.pointer_mut(pointer).unwrap() = value;
        serde_json::from_value::<EnrolDevice>(body).unwrap()
    };
    let stranger = other.device().public_key().jwk();
    for wrong in [
        altered("/publicKey", stranger),
        altered("/name", json!("another name")),
        altered("/name", json!("")),
        altered("/proof/nonce", json!("A".repeat(22))),
        altered("/proof/nonce", json!("")),
        altered("/proof/expires", json!(asked.proof.expires + 1)),
        altered("/proof/expires", json!(0)),
        altered("/proof/expires", json!(i64::MAX)),
        altered("/proof/signature", json!("A".repeat(86))),
    ] {
        let reply = post_asked(&appliance, &first, &wrong).await;
        assert_eq!(refusal(&reply), invalid, "{wrong:?}");
    }
    // It asked to be enrolled for this profile, and not for another one.
    let reply = post_asked(&appliance, &other, &asked).await;
    assert_eq!(refusal(&reply), invalid);

    // Repeated, it is one enrolment; its key names this request and no other.
    let path = api::devices_path(&mine);
    let key = fresh_key();
    let once = post(&appliance, &first, &path, &json!(asked), Some(&key)).await;
    let twice = post(&appliance, &first, &path, &json!(asked), Some(&key)).await;
    assert_eq!((once.status, &once.body), (201, &twice.body));
    let another = devices::ask(&copy, &appliance.client, "copy").unwrap();
    let reply = post(&appliance, &first, &path, &json!(another), Some(&key)).await;
    assert_eq!(refusal(&reply), (422, "IDEMPOTENCY_MISMATCH".to_owned()));
    let reply = post(&appliance, &first, &path, &json!(another), None).await;
    assert_eq!(refusal(&reply), invalid, "without a key");
    let again = post_asked(&appliance, &first, &another).await;
    assert_eq!(refusal(&again), conflict, "enrolled already");
    assert_eq!(
        revoke(&appliance, &copy, &first).await.status,
        200,
        "one of two"
    );
    assert_eq!(refusal(&revoke(&appliance, &copy, &copy).await), conflict);
    // What was revoked never comes back.
    let back = devices::ask(&first, &appliance.client, "back").unwrap();
    assert_eq!(
        refusal(&post_asked(&appliance, &copy, &back).await),
        conflict
    );

    for number in 1..8 {
        enrolled(&appliance, &copy, &format!("n{number}"), Algorithm::P256).await;
    }
    let ninth = copy_of(&appliance, &copy, "ninth", Algorithm::P256);
    let asked = devices::ask(&ninth, &appliance.client, "ninth").unwrap();
    let refused = devices::add(&copy, &appliance.client, &asked).await;
    assert!(
        matches!(&refused, Err(ClientError::Call(error)) if error.code() == Some("DEVICE_CONFLICT")),
        "{refused:?}"
    );
}

/// A thief who holds one device could otherwise enrol another where its owner does not see it.
#[tokio::test(flavor = "multi_thread")]
async fn a35_a_device_enrolled_after_very_many_others_is_listed_and_can_be_revoked() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    appliance.storage.tamper(
        &appliance.environment(),
        "WITH RECURSIVE n(i) AS (SELECT 10001 UNION ALL SELECT i + 1 FROM n WHERE i < 11500) \
         INSERT INTO devices SELECT tenant, 'revoked-revoked-revoked-revoked-revok-' || i, owner_id, \
         algorithm, public_key, 'x', created_at - 1, active_at - 1, created_at FROM devices, n",
    );
    let second = enrolled(&appliance, &wallet, "second", Algorithm::P256).await;
    let path = api::devices_path(&profile(&wallet));
    let listed = json_of(&get(&appliance, &wallet, &path).await);
    let listed = listed["devices"].as_array().unwrap();
    let active = listed.iter().filter(|device| device["status"] == "active");
    assert_eq!(active.count(), 2);
    assert!(listed.len() <= 110, "{}", listed.len());
    assert_eq!(revoke(&appliance, &wallet, &second).await.status, 200);
    assert_eq!(get(&appliance, &second, &path).await.status, 401);
}

/// A change of the database that has begun and is not committed: readers see what was before, writers wait.
enum Change {
    Sqlite(rusqlite::Connection),
    Postgres(Child),
}

impl Change {
    fn begin(appliance: &Appliance, sql: &str) -> Self {
        match &*appliance.storage {
            Storage::Sqlite => {
                let file = appliance.environment().join("countersign.db");
                let connection = rusqlite::Connection::open(file).unwrap();
                connection.busy_timeout(Duration::from_secs(5)).unwrap();
                let begin = format!("BEGIN IMMEDIATE; {sql}");
                connection.execute_batch(&begin).unwrap();
                Self::Sqlite(connection)
            }
            Storage::Postgres(database) => {
                let mut shell = database
                    .server
                    .psql(&database.name)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap();
                let says = shell.stdin.as_mut().unwrap();
                // What every request that writes writes first.
                let lock = "LOCK TABLE request_nonces IN SHARE ROW EXCLUSIVE MODE";
                writeln!(says, "BEGIN; {lock}; {sql};\n\\echo begun").unwrap();
                let mut line = String::new();
                let hears = shell.stdout.take().unwrap();
                BufReader::new(hears).read_line(&mut line).unwrap();
                assert_eq!(line.trim(), "begun");
                Self::Postgres(shell)
            }
        }
    }

    fn commit(self) {
        match self {
            Self::Sqlite(connection) => connection.execute_batch("COMMIT").unwrap(),
            Self::Postgres(mut shell) => {
                let mut says = shell.stdin.take().unwrap();
                writeln!(says, "COMMIT;").unwrap();
                drop(says);
                assert!(shell.wait().unwrap().success());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a35_a_device_that_stops_being_active_while_its_request_waits_makes_no_wallet() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let first = wallet_of(&appliance, &node, "first").await;
    let identity = appliance.client.identity().await.unwrap();
    let profiles = "SELECT COUNT(*) FROM profiles";
    for (column, name) in [("active_at", "pending"), ("revoked_at", "revoked")] {
        let second = enrolled(&appliance, &first, name, Algorithm::P256).await;
        let before = appliance.database().number(profiles);
        let key = second.device().thumbprint();
        let change = Change::begin(
            &appliance,
            &format!(
                "UPDATE devices SET {column} = created_at + 3600000000 WHERE device_key_id = '{key}'"
            ),
        );
        let request_key = fresh_key();
        let request = begin(&appliance, &second, &identity, &request_key);
        let committed = async {
            // By then the request has passed the look at its device, which is active as far as anybody can see.
            tokio::time::sleep(Duration::from_secs(1)).await;
            change.commit();
        };
        let (reply, ()) = tokio::join!(request, committed);
        // Whoever looks afterwards is told DEVICE_PENDING.
        let expected = (401, "SIGNATURE_INVALID".to_owned());
        assert_eq!(refusal(&reply), expected, "{name}");
        assert_eq!(appliance.database().number(profiles), before, "{name}");
    }
}
