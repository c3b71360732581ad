//! The second factor: a code counts once, a guess is counted, and a stolen device alone changes nothing for good
//! (`protocol.md` 3.4 and 5.2, A24).

use std::time::Duration;

use countersign_client::api;
use countersign_client::flows::devices;
use countersign_client::keystore::Wallet;
use countersign_client::transport::{Reply, Request, SignedRequest};
use countersign_mpc::owner_proof::Algorithm;
use serde_json::{Value, json};

use crate::devices::copy_of;
use crate::gateway_jwt::another_profile;
use crate::sessions::join_all;
use crate::support::authenticator::{
    Authenticator, activate, ask, ask_for, begin, early_in_a_step, path, sealed, told, with_factor,
};
use crate::support::signing::{fresh_key, get, json_of, post, refusal, signed};
use crate::support::wallet::{profile, try_create};
use crate::support::{Appliance, Node, contains, eventually, wallet_of};

/// A request that enrols a device, with this as its code.
fn enrolling(appliance: &Appliance, wallet: &Wallet, name: &str, code: Option<&str>) -> Value {
    let new = copy_of(appliance, wallet, name, Algorithm::Ed25519);
    let mut body = json!(devices::ask(&new, &appliance.client, name).unwrap());
    if let Some(code) = code {
        body["twoFactorCode"] = json!(code);
    }
    body
}

fn with_code(body: &Value, code: &str) -> Value {
    let mut body = body.clone();
    body["twoFactorCode"] = json!(code);
    body
}

async fn enrol_device(appliance: &Appliance, wallet: &Wallet, body: &Value) -> Reply {
    let path = api::devices_path(&profile(wallet));
    post(appliance, wallet, &path, body, Some(&fresh_key())).await
}

async fn shown(appliance: &Appliance, wallet: &Wallet) -> Value {
    let reply = get(appliance, wallet, &path(wallet, "")).await;
    assert_eq!(reply.status, 200);
    json_of(&reply)
}

async fn cancel(appliance: &Appliance, wallet: &Wallet, enrolment: &str) -> Reply {
    let body = json!({"enrolmentId": enrolment});
    post(appliance, wallet, &path(wallet, "/cancel"), &body, None).await
}

fn invalid(reply: &Reply) {
    assert_eq!(refusal(reply), (401, "TWO_FACTOR_INVALID".to_owned()));
}

/// A refusal by the lock; the seconds to wait.
fn locked(reply: &Reply) -> u64 {
    assert_eq!(refusal(reply), (429, "TWO_FACTOR_LOCKED".to_owned()));
    reply.retry_after.unwrap().as_secs()
}

#[tokio::test(flavor = "multi_thread")]
async fn a24_a_device_is_changed_only_with_a_code_that_an_authenticator_shows() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    assert_eq!(
        shown(&appliance, &wallet).await,
        json!({"status": "none", "elsewhere": []})
    );
    let body = enrolling(&appliance, &wallet, "second", None);
    let third = enrolling(&appliance, &wallet, "third", None);
    let authenticator = with_factor(&appliance, &wallet).await;
    let short = &profile(&wallet)[..8];
    let secret = &authenticator.secret;
    assert_eq!(
        authenticator.uri,
        format!(
            "otpauth://totp/countersign:{short}?secret={secret}&issuer=countersign&algorithm=SHA1&digits=6&period=30"
        )
    );
    let view = shown(&appliance, &wallet).await;
    assert_eq!(
        (&view["status"], &view["recoveryCodesLeft"]),
        (&json!("active"), &json!(10))
    );

    let missing = enrol_device(&appliance, &wallet, &body).await;
    assert_eq!(refusal(&missing), (401, "TWO_FACTOR_REQUIRED".to_owned()));
    // The step of the first code is used, and so is each that counted.
    invalid(
        &enrol_device(
            &appliance,
            &wallet,
            &with_code(&body, &authenticator.code(-1)),
        )
        .await,
    );
    let code = authenticator.code(0);
    let key = fresh_key();
    let to = api::devices_path(&profile(&wallet));
    let enrolled = post(
        &appliance,
        &wallet,
        &to,
        &with_code(&body, &code),
        Some(&key),
    )
    .await;
    assert_eq!(enrolled.status, 201, "{}", json_of(&enrolled));
    // The same request has its answer, with whatever code, and uses nothing.
    for code in [&code, &authenticator.code(1)] {
        let again = post(
            &appliance,
            &wallet,
            &to,
            &with_code(&body, code),
            Some(&key),
        )
        .await;
        assert_eq!((again.status, json_of(&again)), (201, json_of(&enrolled)));
    }
    let again = post(&appliance, &wallet, &to, &body, Some(&key)).await;
    assert_eq!((again.status, json_of(&again)), (201, json_of(&enrolled)));
    invalid(&enrol_device(&appliance, &wallet, &with_code(&third, &code)).await);

    let device = json_of(&enrolled)["keyId"].as_str().unwrap().to_owned();
    let revoke = api::revoke_path(&profile(&wallet), &device);
    let without = post(&appliance, &wallet, &revoke, &json!({}), Some(&fresh_key())).await;
    assert_eq!(refusal(&without), (401, "TWO_FACTOR_REQUIRED".to_owned()));
    let with = json!({"twoFactorCode": authenticator.code(1)});
    let revoked = post(&appliance, &wallet, &revoke, &with, Some(&fresh_key())).await;
    assert_eq!(
        json_of(&revoked)["status"],
        "revoked",
        "{}",
        json_of(&revoked)
    );
    // What is revoked needs none to be told so.
    let again = post(&appliance, &wallet, &revoke, &json!({}), Some(&fresh_key())).await;
    assert_eq!(json_of(&again)["status"], "revoked");

    let metric = "countersign_two_factor_total{result=\"ok\"}";
    assert!((appliance.metric(metric).await - 3.0).abs() < 0.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a24_replayed_earlier_late_and_wrong_codes_are_one_answer() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let bodies = ["a", "b"].map(|name| enrolling(&appliance, &wallet, name, None));
    let authenticator = with_factor(&appliance, &wallet).await;
    let code = authenticator.code(0);
    let first = enrol_device(&appliance, &wallet, &with_code(&bodies[0], &code)).await;
    assert_eq!(first.status, 201);
    let mut answers = Vec::new();
    for code in [
        code,
        authenticator.code(-1),
        authenticator.code(2),
        authenticator.wrong(),
    ] {
        let reply = enrol_device(&appliance, &wallet, &with_code(&bodies[1], &code)).await;
        invalid(&reply);
        answers.push(json_of(&reply));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    let next = with_code(&bodies[1], &authenticator.code(1));
    assert_eq!(enrol_device(&appliance, &wallet, &next).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a24_five_wrong_codes_lock_and_what_is_malformed_does_not_count() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let body = enrolling(&appliance, &wallet, "second", None);
    let authenticator = with_factor(&appliance, &wallet).await;
    let try_code = async |code: &str| {
        let body = with_code(&body, code);
        enrol_device(&appliance, &wallet, &body).await
    };
    for code in ["", "12345", "1234567", "abcdef", "1 2345", "AAAA-AAAA-AAAA"] {
        assert_eq!(
            refusal(&try_code(code).await),
            (400, "INVALID_REQUEST".to_owned())
        );
    }
    let wrong = authenticator.wrong();
    for _ in 0..5 {
        invalid(&try_code(&wrong).await);
    }
    for code in [&wrong, &authenticator.code(0)] {
        let wait = locked(&try_code(code).await);
        assert!((880..=900).contains(&wait), "{wait}");
    }
    assert!(shown(&appliance, &wallet).await["lockedUntil"].is_string());
    let events = "SELECT COUNT(*) FROM audit_records WHERE event = 'two_factor_locked'";
    assert_eq!(appliance.database().number(events), 1);
    // A recovery code opens, once, however it is written.
    let recovery = authenticator.recovery[3].to_lowercase();
    let enrolled = try_code(&recovery).await;
    assert_eq!(enrolled.status, 201, "{}", json_of(&enrolled));
    let view = shown(&appliance, &wallet).await;
    assert_eq!(view["recoveryCodesLeft"], 9);
    assert!(view.get("lockedUntil").is_none());
    let device = json_of(&enrolled)["keyId"].as_str().unwrap().to_owned();
    let revoke = api::revoke_path(&profile(&wallet), &device);
    let revoke = async |code: &str| {
        let body = json!({"twoFactorCode": code});
        post(&appliance, &wallet, &revoke, &body, Some(&fresh_key())).await
    };
    invalid(&revoke(&recovery).await);
    assert_eq!(revoke(&authenticator.code(0)).await.status, 200);
}

/// The same code in twenty requests at once, at all instances in turn: devices that are all different.
async fn one_code_twenty_times(instances: &[&Appliance], wallet: &Wallet, bodies: &[Value]) {
    let authenticator = with_factor(instances[0], wallet).await;
    let code = authenticator.code(0);
    let to = api::devices_path(&profile(wallet));
    let requests: Vec<SignedRequest> = bodies
        .iter()
        .map(|body| {
            let request = Request::post(&to, &with_code(body, &code)).unwrap();
            signed(
                instances[0],
                wallet,
                &request.with_idempotency_key(fresh_key()),
            )
        })
        .collect();
    assert_eq!(requests.len(), 20);
    let posts = requests.iter().enumerate().map(|(index, request)| {
        let transport = instances[index % instances.len()].client.transport();
        async move { transport.send(request).await.unwrap() }
    });
    let replies = join_all(posts).await;
    let ends: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
    let won = ends.iter().filter(|status| **status == 201).count();
    assert_eq!(won, 1, "{ends:?}");
    for reply in replies.iter().filter(|reply| reply.status != 201) {
        let code = refusal(reply).1;
        assert!(
            ["TWO_FACTOR_INVALID", "TWO_FACTOR_LOCKED"].contains(&code.as_str()),
            "{code}"
        );
    }
    let enrolled = "SELECT COUNT(*) FROM devices";
    assert_eq!(instances[0].database().number(enrolled), 2);
}

fn twenty(appliance: &Appliance, wallet: &Wallet) -> Vec<Value> {
    (0..20)
        .map(|index| enrolling(appliance, wallet, &format!("d{index}"), None))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a24_one_code_in_twenty_requests_at_once_counts_once() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let bodies = twenty(&appliance, &wallet);
    one_code_twenty_times(&[&appliance], &wallet, &bodies).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a24_one_code_in_twenty_requests_at_two_instances_counts_once() {
    let node = Node::start().await;
    let one = Appliance::start_on_postgres(&node).await;
    let two = one.another().await;
    let wallet = wallet_of(&one, &node, "w").await;
    let bodies = twenty(&one, &wallet);
    one_code_twenty_times(&[&one, &two], &wallet, &bodies).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a24_a_new_factor_waits_is_cancelled_by_any_device_and_replaced_with_the_one_before() {
    let node = Node::start().await;
    let mut appliance = Appliance::init(&node.url());
    appliance.configure(|config| config.replace("cooling_off = \"0s\"", "cooling_off = \"72h\""));
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let body = enrolling(&appliance, &wallet, "second", None);
    assert_eq!(enrol_device(&appliance, &wallet, &body).await.status, 201);
    early_in_a_step().await;

    // A second request takes the place of one that waits for its first code.
    let lost = begin(&appliance, &wallet, None).await;
    let first = begin(&appliance, &wallet, None).await;
    assert_ne!(lost.secret, first.secret);
    let gone = activate(&appliance, &wallet, &lost.enrolment, &lost.code(-1)).await;
    assert_eq!(refusal(&gone), (404, "NOT_FOUND".to_owned()));
    let view = shown(&appliance, &wallet).await;
    assert_eq!(
        (&view["status"], &view["enrolmentId"]),
        (&json!("pending"), &json!(first.enrolment))
    );
    assert!(view["expiresAt"].is_string());
    invalid(&activate(&appliance, &wallet, &first.enrolment, &first.wrong()).await);
    let recovery = activate(&appliance, &wallet, &first.enrolment, &first.recovery[0]).await;
    assert_eq!(refusal(&recovery), (401, "TWO_FACTOR_REQUIRED".to_owned()));
    let reply = activate(&appliance, &wallet, &first.enrolment, &first.code(-1)).await;
    assert_eq!(
        json_of(&reply)["status"],
        "cooling-off",
        "{}",
        json_of(&reply)
    );
    // The answer was lost: it comes again, and looks at no code.
    let again = activate(&appliance, &wallet, &first.enrolment, &first.wrong()).await;
    assert_eq!(json_of(&again), json_of(&reply));

    // Nothing asks for it yet, nobody can hurry it, and it is not pushed out in silence.
    let third = enrolling(&appliance, &wallet, "third", None);
    assert_eq!(enrol_device(&appliance, &wallet, &third).await.status, 201);
    let (early, _) = ask(&appliance, &wallet, None).await;
    assert_eq!(refusal(&early), (409, "SESSION_STATE_CONFLICT".to_owned()));
    assert_eq!(
        cancel(&appliance, &wallet, &lost.enrolment).await.status,
        404
    );
    assert_eq!(
        cancel(&appliance, &wallet, &first.enrolment).await.status,
        200
    );
    assert_eq!(
        cancel(&appliance, &wallet, &first.enrolment).await.status,
        404
    );
    assert_eq!(
        shown(&appliance, &wallet).await,
        json!({"status": "none", "elsewhere": []})
    );
    let left = "SELECT COUNT(*) FROM two_factors";
    assert_eq!(appliance.database().number(left), 0, "nothing of it stays");
    let left = "SELECT COUNT(*) FROM two_factor_recovery";
    assert_eq!(appliance.database().number(left), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a24_a_factor_is_replaced_only_with_the_one_before_which_counts_until_then() {
    let node = Node::start().await;
    let mut appliance = Appliance::init(&node.url());
    appliance.configure(|config| config.replace("cooling_off = \"0s\"", "cooling_off = \"5s\""));
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let bodies = ["a", "b"].map(|name| enrolling(&appliance, &wallet, name, None));
    early_in_a_step().await;
    let first = begin(&appliance, &wallet, None).await;
    let reply = activate(&appliance, &wallet, &first.enrolment, &first.code(-1)).await;
    assert_eq!(json_of(&reply)["status"], "cooling-off");
    eventually("the factor counts", 10, async || {
        (shown(&appliance, &wallet).await["status"] == "active").then_some(())
    })
    .await;

    let (without, _) = ask(&appliance, &wallet, None).await;
    assert_eq!(refusal(&without), (401, "TWO_FACTOR_REQUIRED".to_owned()));
    let second = begin(&appliance, &wallet, Some(&first.recovery[0])).await;
    // The code of the one before is no first code of the new one.
    invalid(&activate(&appliance, &wallet, &second.enrolment, &first.code(0)).await);
    let reply = activate(&appliance, &wallet, &second.enrolment, &second.code(-1)).await;
    assert_eq!(json_of(&reply)["status"], "cooling-off");
    let view = shown(&appliance, &wallet).await;
    assert_eq!(
        (&view["status"], &view["enrolmentId"]),
        (&json!("active"), &json!(first.enrolment))
    );
    assert_eq!(view["next"]["enrolmentId"], json!(second.enrolment));
    let old = with_code(&bodies[0], &first.recovery[1]);
    assert_eq!(enrol_device(&appliance, &wallet, &old).await.status, 201);
    eventually("the new factor counts", 10, async || {
        (shown(&appliance, &wallet).await["enrolmentId"] == json!(second.enrolment)).then_some(())
    })
    .await;
    let old = with_code(&bodies[1], &first.recovery[2]);
    invalid(&enrol_device(&appliance, &wallet, &old).await);
    let new = with_code(&bodies[1], &second.recovery[0]);
    assert_eq!(enrol_device(&appliance, &wallet, &new).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a24_another_wallet_of_the_owner_is_no_way_around() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let body = enrolling(&appliance, &wallet, "second", None);
    let second = json_of(&enrol_device(&appliance, &wallet, &body).await)["keyId"].clone();
    let authenticator = with_factor(&appliance, &wallet).await;
    let other = json_of(&another_profile(&appliance, &wallet).await)["profileId"].clone();
    let revoke = async |profile: &str, body: Value| {
        let path = api::revoke_path(profile, second.as_str().unwrap());
        post(&appliance, &wallet, &path, &body, Some(&fresh_key())).await
    };
    let with = || json!({"twoFactorCode": authenticator.code(0)});
    for body in [json!({}), with()] {
        let refused = revoke(other.as_str().unwrap(), body).await;
        assert_eq!(refusal(&refused), (401, "TWO_FACTOR_REQUIRED".to_owned()));
        let details = json_of(&refused)["details"].as_str().unwrap().to_owned();
        assert!(details.contains(&profile(&wallet)), "{details}");
    }
    assert_eq!(revoke(&profile(&wallet), with()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a24_wrong_first_codes_end_their_enrolment_and_lock_nothing() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let body = enrolling(&appliance, &wallet, "second", None);
    early_in_a_step().await;
    for _ in 0..5 {
        let begun = begin(&appliance, &wallet, None).await;
        for _ in 0..5 {
            invalid(&activate(&appliance, &wallet, &begun.enrolment, &begun.wrong()).await);
        }
        let gone = activate(&appliance, &wallet, &begun.enrolment, &begun.code(0)).await;
        assert_eq!(refusal(&gone), (404, "NOT_FOUND".to_owned()));
    }
    let authenticator = with_factor(&appliance, &wallet).await;
    // Four wrong codes of the factor are not forgotten by what a thief does with a device.
    let wrong = with_code(&body, &authenticator.wrong());
    for _ in 0..4 {
        invalid(&enrol_device(&appliance, &wallet, &wrong).await);
    }
    let next = begin(&appliance, &wallet, Some(&authenticator.recovery[0])).await;
    let reply = activate(&appliance, &wallet, &next.enrolment, &next.code(0)).await;
    assert_eq!(json_of(&reply)["status"], "active", "{}", json_of(&reply));
}

/// Makes one wallet another one of the owner of the first.
fn give_to_owner(appliance: &Appliance, of: &Wallet, other: &Wallet) -> String {
    let (first, second) = (profile(of), profile(other));
    let sql = format!(
        "UPDATE profiles SET owner_id = (SELECT owner_id FROM profiles WHERE profile_id = '{first}') \
         WHERE profile_id = '{second}'"
    );
    appliance.storage.tamper(&appliance.environment(), &sql);
    second
}

#[tokio::test(flavor = "multi_thread")]
async fn a24_no_factor_is_enrolled_on_another_wallet_without_the_one_that_the_owner_has() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let other = wallet_of(&appliance, &node, "other").await;
    let other = give_to_owner(&appliance, &wallet, &other);
    let authenticator = with_factor(&appliance, &wallet).await;
    let (without, _) = ask_for(&appliance, (&wallet, &other), None).await;
    assert_eq!(refusal(&without), (401, "TWO_FACTOR_REQUIRED".to_owned()));
    let details = json_of(&without)["details"].as_str().unwrap().to_owned();
    assert!(details.contains(&profile(&wallet)), "{details}");
    let wrong = authenticator.wrong();
    let (wrong, _) = ask_for(&appliance, (&wallet, &other), Some(&wrong)).await;
    invalid(&wrong);
    let code = authenticator.code(0);
    let (with, _) = ask_for(&appliance, (&wallet, &other), Some(&code)).await;
    assert_eq!(with.status, 201, "{}", json_of(&with));
}

#[tokio::test(flavor = "multi_thread")]
async fn a24_what_waits_on_another_wallet_is_seen_and_cancelled_through_any() {
    let node = Node::start().await;
    let mut appliance = Appliance::init(&node.url());
    appliance.configure(|config| config.replace("cooling_off = \"0s\"", "cooling_off = \"72h\""));
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let stranger = wallet_of(&appliance, &node, "stranger").await;
    let other = wallet_of(&appliance, &node, "other").await;
    let other = give_to_owner(&appliance, &wallet, &other);
    early_in_a_step().await;
    let (reply, opener) = ask_for(&appliance, (&wallet, &other), None).await;
    let waiting = told(&reply, &opener);
    let seen = shown(&appliance, &wallet).await;
    assert_eq!(seen["status"], "none");
    assert_eq!(seen["elsewhere"][0]["profileId"], json!(other));
    assert_eq!(
        seen["elsewhere"][0]["enrolmentId"],
        json!(waiting.enrolment)
    );
    assert_eq!(shown(&appliance, &stranger).await["elsewhere"], json!([]));
    let enrolment = &waiting.enrolment;
    assert_eq!(cancel(&appliance, &stranger, enrolment).await.status, 404);
    assert_eq!(cancel(&appliance, &wallet, enrolment).await.status, 200);
    assert_eq!(shown(&appliance, &wallet).await["elsewhere"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a35_what_a_revoked_device_enrolled_never_becomes_the_factor() {
    let node = Node::start().await;
    let mut appliance = Appliance::init(&node.url());
    appliance.configure(|config| config.replace("cooling_off = \"0s\"", "cooling_off = \"72h\""));
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let other = wallet_of(&appliance, &node, "other").await;
    let other = give_to_owner(&appliance, &wallet, &other);
    let stolen = copy_of(&appliance, &wallet, "stolen", Algorithm::Ed25519);
    let body = json!(devices::ask(&stolen, &appliance.client, "stolen").unwrap());
    let enrolled = enrol_device(&appliance, &wallet, &body).await;
    let device = json_of(&enrolled)["keyId"].as_str().unwrap().to_owned();
    // The cooling-off of devices is over.
    let over = "UPDATE devices SET active_at = created_at";
    appliance.storage.tamper(&appliance.environment(), over);
    early_in_a_step().await;
    let mine = begin(&appliance, &stolen, None).await;
    let reply = activate(&appliance, &stolen, &mine.enrolment, &mine.code(0)).await;
    assert_eq!(json_of(&reply)["status"], "cooling-off");
    let (reply, _) = ask_for(&appliance, (&stolen, &other), None).await;
    assert_eq!(reply.status, 201);
    let revoke = api::revoke_path(&profile(&wallet), &device);
    let revoked = post(&appliance, &wallet, &revoke, &json!({}), Some(&fresh_key())).await;
    assert_eq!(revoked.status, 200, "{}", json_of(&revoked));
    let none = json!({"status": "none", "elsewhere": []});
    assert_eq!(shown(&appliance, &wallet).await, none);
    let left = "SELECT COUNT(*) FROM two_factors";
    assert_eq!(appliance.database().number(left), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a24_where_a_factor_is_asked_for_nobody_without_one_enrols_a_device() {
    let node = Node::start().await;
    let mut appliance = Appliance::init(&node.url());
    appliance
        .configure(|config| config.replace("[two_factor]\n", "[two_factor]\nrequired = true\n"));
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let body = enrolling(&appliance, &wallet, "second", None);
    for body in [body.clone(), with_code(&body, "123456")] {
        let refused = enrol_device(&appliance, &wallet, &body).await;
        assert_eq!(
            refusal(&refused),
            (403, "TWO_FACTOR_NOT_ENROLLED".to_owned())
        );
    }
    let authenticator = with_factor(&appliance, &wallet).await;
    let body = with_code(&body, &authenticator.code(0));
    assert_eq!(enrol_device(&appliance, &wallet, &body).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolment_is_answered_once_and_the_same_request_gets_the_same_answer() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let key = fresh_key();
    let (share, opener) = sealed(&appliance, &wallet, &key, &[]).await;
    let body = json!({"clientShare": {"share": share}});
    let send = async |body: &Value, key: &str| {
        post(&appliance, &wallet, &path(&wallet, ""), body, Some(key)).await
    };
    let first = send(&body, &key).await;
    let authenticator = told(&first, &opener);
    assert_eq!(authenticator.recovery.len(), 10);
    assert_eq!(json_of(&send(&body, &key).await), json_of(&first));
    // Sealed for another request it does not open, and a message that says something is refused.
    assert_eq!(
        refusal(&send(&body, &fresh_key()).await),
        (400, "INVALID_KEY_SHARE".to_owned())
    );
    let other = fresh_key();
    let (share, _) = sealed(&appliance, &wallet, &other, b"x").await;
    let body = json!({"clientShare": {"share": share}});
    assert_eq!(
        refusal(&send(&body, &other).await),
        (400, "INVALID_KEY_SHARE".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a30_no_secret_and_no_code_of_a_second_factor_rests_or_is_logged() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let bodies = ["a", "b", "c"].map(|name| enrolling(&appliance, &wallet, name, None));
    let authenticator: Authenticator = with_factor(&appliance, &wallet).await;
    let wrong = "ABCD-EFGH-JKMN-PQRS";
    let shown = authenticator.code(0);
    let recovery = &authenticator.recovery[0];
    let mut statuses = Vec::new();
    for (body, code) in bodies.iter().zip([wrong, &shown, recovery]) {
        let reply = enrol_device(&appliance, &wallet, &with_code(body, code)).await;
        statuses.push(reply.status);
    }
    assert_eq!(statuses, [401, 201, 201]);
    let pending = try_create(&appliance, "another").await.unwrap();
    let waiting = begin(&appliance, &pending, None).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let secrets = [&authenticator, &waiting].map(|one| {
        let output = std::process::Command::new("base32")
            .arg("-d")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .and_then(|mut child| {
                use std::io::Write;
                child
                    .stdin
                    .take()
                    .unwrap()
                    .write_all(one.secret.as_bytes())?;
                child.wait_with_output()
            });
        output.unwrap().stdout
    });
    let mut needles: Vec<Vec<u8>> = Vec::new();
    for (one, secret) in [&authenticator, &waiting].iter().zip(&secrets) {
        assert_eq!(secret.len(), 20);
        needles.push(secret.clone());
        needles.push(hex::encode(secret).into_bytes());
        needles.push(one.secret.clone().into_bytes());
        needles.extend(one.recovery.iter().map(|code| code.clone().into_bytes()));
        needles.extend(
            one.recovery
                .iter()
                .map(|code| code.replace('-', "").into_bytes()),
        );
    }
    needles.push(wrong.as_bytes().to_vec());
    for (file, content) in appliance.at_rest() {
        for needle in &needles {
            assert!(
                !contains(&content, needle),
                "{}: {}",
                file.display(),
                String::from_utf8_lossy(needle)
            );
        }
    }
    // Six digits may stand anywhere by chance, but not where somebody wrote of a code.
    let log = appliance.log();
    assert!(!log.contains(&format!("\"{shown}\"")) && !log.contains(&format!("={shown} ")));
}
