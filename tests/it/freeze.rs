//! Freezes: what stops all signing at once, also of what is under way, and who lifts it (`protocol.md` A15, 2.7).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use countersign_client::api;
use countersign_client::flows::{freeze, show};
use countersign_client::keystore::Wallet;
use countersign_client::transport::Reply;
use serde_json::{Value, json};

use crate::support::authenticator::with_factor;
use crate::support::operators::{CONNECT, done, refused, sign, with_operators};
use crate::support::signing::{fresh_key, get, json_of, post, refusal, transaction};
use crate::support::wallet::{mined, profile, send, send_and_mine, try_create};
use crate::support::{Appliance, Node, Signing, contains, eventually, wallet_of};

const SIGNED: &str = "SELECT COUNT(*) FROM transactions WHERE raw IS NOT NULL";

fn frozen(reply: &Reply) {
    assert_eq!(refusal(reply), (403, "PROFILE_FROZEN".to_owned()));
    // Nobody learns who placed it.
    let body = json_of(reply).to_string();
    assert!(
        !body.contains("operator") && !body.contains("tenant"),
        "{body}"
    );
}

async fn freeze_path(appliance: &Appliance, by: &Wallet, of: &Wallet, verb: &str) -> Reply {
    let path = format!("/api/v1/profiles/{}/{verb}", profile(of));
    post(appliance, by, &path, &json!({}), None).await
}

async fn prepare(appliance: &Appliance, wallet: &Wallet) -> Reply {
    let path = api::transactions_path(&profile(wallet));
    post(
        appliance,
        wallet,
        &path,
        &transaction(1),
        Some(&fresh_key()),
    )
    .await
}

/// The id of no profile.
const NOBODY: &str = "01900000-0000-7000-8000-000000000000";

fn freeze_by_operator(appliance: &Appliance, what: &[&str]) -> String {
    let reason = ["--reason", "a test"];
    done(
        appliance,
        &[&["freeze"][..], what, &CONNECT, &reason].concat(),
    )
}

fn draft(appliance: &Appliance, target: &str, out: &str, more: &[&str]) -> String {
    let fixed = [
        "approve",
        "draft",
        "--unfreeze",
        target,
        "--reason",
        "it is safe again",
        "--out",
        out,
    ];
    done(appliance, &[&fixed[..], &CONNECT, more].concat());
    std::fs::read_to_string(appliance.environment().join(out)).unwrap()
}

/// Two operators lift what stands of a target.
fn lift(appliance: &Appliance, target: &str, more: &[&str]) {
    let file = format!("lift-{}", fresh_key());
    draft(appliance, target, &file, more);
    for name in ["alice", "carol"] {
        sign(appliance, name, &file);
    }
    let said = done(
        appliance,
        &[&["approve", "run", &file][..], &CONNECT].concat(),
    );
    assert_eq!(said, format!("Carried out: unfreeze {target}\n"));
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn events(appliance: &Appliance, event: &str) -> Vec<String> {
    let query =
        format!("SELECT detail FROM audit_records WHERE event = '{event}' ORDER BY operation_id");
    appliance.database().rows(&query)
}

#[tokio::test(flavor = "multi_thread")]
async fn a15_a_profile_that_its_owner_freezes_between_the_rounds_signs_nothing() {
    let node = Node::start().await;
    let mut appliance = with_operators(&node);
    appliance.serve().await;
    let mut wallet = wallet_of(&appliance, &node, "mine").await;
    let mut other = wallet_of(&appliance, &node, "other").await;
    // What was signed before goes on.
    let before = send(&mut wallet, &appliance, 3).await.unwrap();
    let waits = Signing::prepare(&appliance, &wallet, 4).await;
    let mut begun = Signing::prepare(&appliance, &wallet, 5).await;
    let (answer, kept) = begun.round_1().await;
    assert_eq!(answer.status, 202);
    let signed = appliance.database().number(SIGNED);

    // Nobody else freezes it: to them it does not exist.
    let foreign = freeze_path(&appliance, &other, &wallet, "freeze").await;
    assert_eq!(refusal(&foreign), (404, "PROFILE_NOT_FOUND".to_owned()));
    let reply = freeze_path(&appliance, &wallet, &wallet, "freeze").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let first = json_of(&reply);

    frozen(&begun.round_2(kept, &answer).await);
    assert_eq!(appliance.database().number(SIGNED), signed);
    assert_eq!(
        (waits.state().await, begun.state().await),
        ("ABORTED".into(), "ABORTED".into())
    );
    let held = "SELECT COUNT(*) FROM transactions WHERE state = 'prepared'";
    assert_eq!(appliance.database().number(held), 0);
    frozen(&waits.round_1().await.0);
    frozen(&begun.restart().await);
    frozen(&prepare(&appliance, &wallet).await);

    // Freezing again is another freeze; reading and settling go on; others sign.
    let again = freeze::freeze(&wallet, &appliance.client).await.unwrap();
    assert_ne!(first["freezeId"], again.freeze_id);
    assert!(
        show::profile(&wallet, &appliance.client)
            .await
            .unwrap()
            .frozen
    );
    assert!(
        !show::profile(&other, &appliance.client)
            .await
            .unwrap()
            .frozen
    );
    mined(&wallet, &appliance, &before).await.unwrap();
    let list = format!(
        "{}?chainId=31337",
        api::transactions_path(&profile(&wallet))
    );
    assert_eq!(get(&appliance, &wallet, &list).await.status, 200);
    send_and_mine(&mut other, &appliance, 1).await;

    // The device that freezes does not lift it: whoever stole one would.
    let reply = freeze_path(&appliance, &wallet, &wallet, "unfreeze").await;
    let none = (403, "TWO_FACTOR_NOT_ENROLLED".to_owned());
    assert_eq!(refusal(&reply), none);
    frozen(&prepare(&appliance, &wallet).await);
    let gauge = r#"countersign_frozen{scope="profile"}"#;
    assert!(appliance.metric(gauge).await == 1.0);
    let denials = r#"countersign_frozen_denials_total{scope="profile"}"#;
    assert!(appliance.metric(denials).await == 5.0);

    // After a restart as before.
    appliance.crash_and_restart().await;
    frozen(&prepare(&appliance, &wallet).await);
    lift(&appliance, &format!("profile {}", profile(&wallet)), &[]);
    let after = Signing::prepare(&appliance, &wallet, 6).await;
    after.complete().await;
    let [placed, replaced] = &events(&appliance, "frozen")[..] else {
        panic!("a record of each")
    };
    let device = wallet.device().thumbprint();
    let expected = format!("by owner {device}: by its owner, 2 sessions given up");
    assert!(placed.ends_with(&expected), "{placed}");
    let instead = format!(
        "(instead of {}), 0 sessions given up",
        text_of(&first["freezeId"])
    );
    assert!(replaced.ends_with(&instead), "{replaced}");
    // The refusal is another event.
    let [lifted] = &events(&appliance, "unfrozen")[..] else {
        panic!("one record")
    };
    assert!(lifted.contains("approved by alice,carol"), "{lifted}");
    assert!(lifted.contains("it is safe again"), "{lifted}");
    assert!(!contains(&appliance.log().into_bytes(), b"mw1.sg2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a15_a_tenant_or_everything_that_an_operator_freezes_signs_nothing() {
    let node = Node::start().await;
    let mut appliance = with_operators(&node);
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let mut signing = Signing::prepare(&appliance, &wallet, 1).await;
    for (what, target, scope) in [
        (vec!["tenant", "default"], "tenant default", "tenant"),
        (vec!["global"], "global", "global"),
        (vec!["profile", &profile(&wallet)], "", "profile"),
    ] {
        let (answer, kept) = signing.round_1().await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let said = freeze_by_operator(&appliance, &what);
        assert!(said.contains(&what.join(" ")), "{said}");
        frozen(&signing.round_2(kept, &answer).await);
        frozen(&prepare(&appliance, &wallet).await);
        frozen(&signing.restart().await);
        if scope != "profile" {
            let created = try_create(&appliance, scope).await.map(drop).unwrap_err();
            assert_eq!(created.server_code(), Some("PROFILE_FROZEN"));
        }
        let gauge = format!("countersign_frozen{{scope=\"{scope}\"}}");
        assert!(appliance.metric(&gauge).await == 1.0);
        assert!(
            done(&appliance, &[&["freeze", "list"][..], &CONNECT].concat()).contains(&said[..60])
        );
        let target = match target {
            "" => format!("profile {}", profile(&wallet)),
            wider => wider.to_owned(),
        };
        lift(&appliance, &target, &[]);
        assert!(appliance.metric(&gauge).await == 0.0);
        assert_eq!(signing.restart().await.status, 200);
    }
    assert_eq!(appliance.database().number(SIGNED), 0);
    signing.complete().await;
    let list = done(&appliance, &[&["freeze", "list"][..], &CONNECT].concat());
    assert_eq!(list, "nothing is frozen\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_freeze_is_refused_and_changes_nothing() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let freeze = |what: &'static [&'static str]| {
        [&["freeze"][..], what, &CONNECT, &["--reason", "a test"]].concat()
    };
    refused(
        &appliance,
        &freeze(&["tenant", "acme"]),
        "no tenant acme; there is default",
    );
    refused(
        &appliance,
        &freeze(&["profile", "mine"]),
        "scope must be profile, tenant or global",
    );
    refused(
        &appliance,
        &freeze(&["profile", NOBODY]),
        "PROFILE_NOT_FOUND",
    );
    for body in [
        json!({"scope": "global", "subject": "x", "reason": "r"}),
        json!({"scope": "global", "reason": ""}),
        json!({"scope": "global", "reason": "two\nlines"}),
        json!({"scope": "everything", "reason": "r"}),
        json!({"scope": "tenant", "reason": "r"}),
        json!({"scope": "global"}),
        json!({"scope": "global", "reason": "r", "until": "tomorrow"}),
    ] {
        let reply = appliance.operator_post("/freezes", &body).await;
        assert_eq!(
            refusal(&reply),
            (400, "INVALID_REQUEST".to_owned()),
            "{body}"
        );
    }
    let standing = "SELECT COUNT(*) FROM freezes";
    assert_eq!(appliance.database().number(standing), 0);
    assert_eq!(prepare(&appliance, &wallet).await.status, 200);

    // Without operators in the configuration a freeze stands until there are some.
    freeze_by_operator(&appliance, &["global"]);
    let text = draft(&appliance, "global", "alone", &[]);
    let body = json!({"command": text, "approvals": []});
    let reply = appliance.operator_post("/commands", &body).await;
    assert_eq!(refusal(&reply), (403, "COMMAND_REFUSED".to_owned()));
    frozen(&prepare(&appliance, &wallet).await);
}

/// `approve run`, and what it must say when it refuses.
fn run_refused(appliance: &Appliance, files: &[&str], expected: &str) {
    let arguments = [&["approve", "run"][..], files, &CONNECT].concat();
    refused(appliance, &arguments, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_is_lifted_by_nobody_less_than_two_operators_who_sign_one_text() {
    let node = Node::start().await;
    let mut appliance = with_operators(&node);
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let nothing = [
        "approve",
        "draft",
        "--unfreeze",
        "global",
        "--reason",
        "r",
        "--out",
        "no",
    ];
    let nothing = [&nothing[..], &CONNECT].concat();
    refused(&appliance, &nothing, "global is not frozen");
    freeze_by_operator(&appliance, &["global"]);
    let command = draft(&appliance, "global", "one", &[]);
    assert!(command.contains("\ncommand unfreeze global\n"), "{command}");
    assert!(command.contains("\nreason it is safe again\n"), "{command}");

    // Nobody, one, one twice, somebody in another's name.
    run_refused(
        &appliance,
        &["one"],
        "0 different operators have signed, 2 must",
    );
    let shown = sign(&appliance, "alice", "one");
    assert!(shown.starts_with(&command), "{shown}");
    assert!(!shown.contains("claims"), "{shown}");
    let one = "1 different operators have signed, 2 must";
    run_refused(&appliance, &["one"], one);
    run_refused(&appliance, &["one", "one"], one);
    let sign_as = |key: &'static str, name: &'static str, file: &'static str| {
        [
            "approve", "sign", "--key", key, "--name", name, "--yes", file,
        ]
    };
    let twice = sign_as("alice.pem", "alice", "one");
    refused(&appliance, &twice, "alice has signed this already");
    let file = |name: &str| appliance.environment().join(name);
    std::fs::copy(file("one"), file("forged")).unwrap();
    done(&appliance, &sign_as("alice.pem", "bob", "forged"));
    std::fs::copy(file("forged"), file("believed")).unwrap();
    let shown = done(&appliance, &sign_as("carol.pem", "carol", "believed"));
    let claim = "(claims to be signed by bob; not checked here)";
    assert!(shown.contains(claim), "{shown}");
    run_refused(&appliance, &["forged"], "signature of bob does not hold");
    // Nobody is there to read it.
    let unread = [
        "approve", "sign", "--key", "bob.pem", "--name", "bob", "one",
    ];
    refused(&appliance, &unread, "not signed: you did not agree");
    // Another text than was signed.
    let altered = std::fs::read_to_string(file("one")).unwrap();
    std::fs::write(file("altered"), altered.replace("safe", "sage")).unwrap();
    sign(&appliance, "bob", "altered");
    run_refused(&appliance, &["altered"], "signature of alice does not hold");
    frozen(&prepare(&appliance, &wallet).await);

    // One that nobody could hold to account in a year, whenever it is brought.
    let expires = command.rfind("expires 2").unwrap();
    let endless = format!("{}expires 2999-01-01T00:00:00Z\n", &command[..expires]);
    std::fs::write(file("endless"), endless).unwrap();
    let endless = sign_as("bob.pem", "bob", "endless");
    refused(&appliance, &endless, "by 24 hours at most");

    // Signed apart, brought together.
    std::fs::write(file("two"), &command).unwrap();
    sign(&appliance, "bob", "two");
    let run = ["approve", "run", "one", "two"];
    done(&appliance, &[&run[..], &CONNECT].concat());
    assert_eq!(prepare(&appliance, &wallet).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_of_operators_is_carried_out_once_and_lifts_one_freeze() {
    let node = Node::start().await;
    let mut appliance = with_operators(&node);
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    freeze_by_operator(&appliance, &["global"]);
    let signed = |file| {
        draft(&appliance, "global", file, &[]);
        sign(&appliance, "alice", file);
        sign(&appliance, "bob", file);
    };
    signed("replaced");
    // It stands already, and is another one from now on.
    freeze_by_operator(&appliance, &["global"]);
    run_refused(
        &appliance,
        &["replaced"],
        "freeze does not stand (any more)",
    );
    frozen(&prepare(&appliance, &wallet).await);
    signed("used");
    signed("unused");
    let run = [&["approve", "run", "used"][..], &CONNECT].concat();
    done(&appliance, &run);
    assert_eq!(prepare(&appliance, &wallet).await.status, 200);
    let carried_out = "SELECT approved_by || ' ' || command FROM operator_commands";
    let carried_out = appliance.database().rows(carried_out);
    assert!(carried_out[0].starts_with("alice,bob countersign operator command 1"));

    // Neither is of any use against the next freeze.
    freeze_by_operator(&appliance, &["global"]);
    run_refused(&appliance, &["used"], "was carried out before");
    run_refused(&appliance, &["unused"], "freeze does not stand (any more)");
    frozen(&prepare(&appliance, &wallet).await);
    lift(&appliance, "global", &[]);
    assert_eq!(prepare(&appliance, &wallet).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_freezes_of_an_owner_and_of_an_operator_stand_apart() {
    let node = Node::start().await;
    let mut appliance = with_operators(&node);
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let id = profile(&wallet);
    freeze::freeze(&wallet, &appliance.client).await.unwrap();
    freeze_by_operator(&appliance, &["profile", &id]);
    let target = format!("profile {id}");
    let both = [
        "approve",
        "draft",
        "--unfreeze",
        &target,
        "--reason",
        "r",
        "--out",
        "x",
    ];
    let both = [&both[..], &CONNECT].concat();
    refused(
        &appliance,
        &both,
        "two freezes, its owner's and an operator's",
    );
    lift(&appliance, &target, &["--placed-by", "operator"]);
    frozen(&prepare(&appliance, &wallet).await);
    lift(&appliance, &target, &["--placed-by", "owner"]);
    assert_eq!(prepare(&appliance, &wallet).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a37_a_gateway_that_has_used_up_its_requests_still_brings_a_freeze() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    appliance.stop().await;
    let little = "requests_per_second = 1\nrequest_burst = 2";
    appliance.configure(|config| config.replace("requests_per_second = 10000", little));
    appliance.serve().await;
    let path = format!("/api/v1/profiles/{}", profile(&wallet));
    let mut shed = 0;
    for _ in 0..8 {
        let reply = get(&appliance, &wallet, &path).await;
        shed += u32::from(reply.status == 429);
    }
    assert!(shed > 0, "it was not too much");
    for _ in 0..3 {
        let reply = freeze_path(&appliance, &wallet, &wallet, "freeze").await;
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    // That is not without end, and is of no use for anything else.
    let unfreeze = freeze_path(&appliance, &wallet, &wallet, "unfreeze").await;
    assert_eq!(unfreeze.status, 429, "{unfreeze:?}");
    let mut last = 0;
    for _ in 0..400 {
        last = freeze_path(&appliance, &wallet, &wallet, "freeze")
            .await
            .status;
        if last == 429 {
            break;
        }
    }
    assert_eq!(last, 429);
}

/// Asks to lift the owner's freeze, with this code.
async fn unfreeze(appliance: &Appliance, wallet: &Wallet, code: Option<&str>) -> Reply {
    let path = format!("/api/v1/profiles/{}/unfreeze", profile(wallet));
    let body = code.map_or(json!({}), |code| json!({"twoFactorCode": code}));
    post(appliance, wallet, &path, &body, None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a24_an_owner_lifts_their_own_freeze_with_a_code_and_no_other_freeze() {
    let node = Node::start().await;
    let mut appliance = with_operators(&node);
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let other = wallet_of(&appliance, &node, "other").await;
    let authenticator = with_factor(&appliance, &wallet).await;
    let code = authenticator.code(0);
    // Where nothing stands no code is used up.
    let nothing = unfreeze(&appliance, &wallet, Some(&code)).await;
    assert_eq!(json_of(&nothing)["frozen"], false, "{nothing:?}");
    freeze::freeze(&wallet, &appliance.client).await.unwrap();
    freeze_by_operator(&appliance, &["profile", &profile(&wallet)]);
    let stands = "SELECT COUNT(*) FROM freezes WHERE placed_by = 'owner'";
    for (code, expected) in [
        (None, (401, "TWO_FACTOR_REQUIRED")),
        (Some(authenticator.wrong()), (401, "TWO_FACTOR_INVALID")),
        (Some("12".to_owned()), (400, "INVALID_REQUEST")),
    ] {
        let reply = unfreeze(&appliance, &wallet, code.as_deref()).await;
        let (status, name) = expected;
        assert_eq!(refusal(&reply), (status, name.to_owned()));
    }
    // Nobody else's code, and nobody else's device.
    let path = format!("/api/v1/profiles/{}/unfreeze", profile(&wallet));
    let body = json!({"twoFactorCode": code});
    let foreign = post(&appliance, &other, &path, &body, None).await;
    assert_eq!(refusal(&foreign), (404, "PROFILE_NOT_FOUND".to_owned()));
    assert_eq!(appliance.database().number(stands), 1);

    // The operator's stands.
    let still = unfreeze(&appliance, &wallet, Some(&code)).await;
    assert_eq!(json_of(&still)["frozen"], true, "{still:?}");
    assert_eq!(appliance.database().number(stands), 0);
    frozen(&prepare(&appliance, &wallet).await);
    lift(&appliance, &format!("profile {}", profile(&wallet)), &[]);
    assert_eq!(prepare(&appliance, &wallet).await.status, 200);
    // A code that counted once does not lift the next one; a recovery code does.
    freeze::freeze(&wallet, &appliance.client).await.unwrap();
    let used = unfreeze(&appliance, &wallet, Some(&code)).await;
    assert_eq!(refusal(&used), (401, "TWO_FACTOR_INVALID".to_owned()));
    frozen(&prepare(&appliance, &wallet).await);
    let recovery = &authenticator.recovery[0];
    let lifted = unfreeze(&appliance, &wallet, Some(recovery)).await;
    assert_eq!(json_of(&lifted)["frozen"], false, "{lifted:?}");
    assert_eq!(prepare(&appliance, &wallet).await.status, 200);
    let lifted = events(&appliance, "unfrozen").join("\n");
    assert!(lifted.contains("with a code"), "{lifted}");
    assert!(lifted.contains("with a recovery code, 9 left"), "{lifted}");
}

/// When a signature was told, measured by its wallet.
type Told = Vec<Instant>;

/// Signs as fast as it can until it meets a freeze.
async fn sign_until_frozen(appliance: &Appliance, wallet: &Wallet, stop: &AtomicBool) -> Told {
    let mut told = Vec::new();
    loop {
        let prepared = prepare(appliance, wallet).await;
        if prepared.status == 403 || stop.load(Ordering::Relaxed) {
            frozen(&prepared);
            return told;
        }
        assert_eq!(prepared.status, 200, "{prepared:?}");
        let signing = Signing::of(appliance, wallet, &prepared, 1);
        let (answer, kept) = signing.round_1().await;
        if answer.status == 403 {
            frozen(&answer);
            return told;
        }
        assert_eq!(answer.status, 202, "{answer:?}");
        let reply = signing.round_2(kept, &answer).await;
        if reply.status == 403 {
            frozen(&reply);
            return told;
        }
        assert_eq!(reply.status, 200, "{reply:?}");
        told.push(Instant::now());
    }
}

/// A freeze while wallets of these instances sign: what is stored and told afterwards.
async fn under_load(instances: &[&Arc<Appliance>], node: &Node) {
    let mut wallets = Vec::new();
    for number in 0..6 {
        wallets.push(wallet_of(instances[0], node, &format!("w{number}")).await);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut load = tokio::task::JoinSet::new();
    for (number, wallet) in wallets.into_iter().enumerate() {
        let appliance = Arc::clone(instances[number % instances.len()]);
        let stop = Arc::clone(&stop);
        load.spawn(async move { sign_until_frozen(&appliance, &wallet, &stop).await });
    }
    eventually("the load runs", 30, async || {
        (instances[0].database().number(SIGNED) >= 12).then_some(())
    })
    .await;
    let asked = Instant::now();
    let body = json!({"scope": "global", "reason": "a test"});
    let reply = instances[0].operator_post("/freezes", &body).await;
    let answered = Instant::now();
    assert_eq!(reply.status, 200, "{reply:?}");
    let stored = instances[0].database().number(SIGNED);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(
        instances[0].database().number(SIGNED),
        stored,
        "signed after the freeze"
    );
    stop.store(true, Ordering::Relaxed);
    let told: Vec<Instant> = load.join_all().await.concat();
    assert_eq!(
        i64::try_from(told.len()).unwrap(),
        stored,
        "each is told, and no other"
    );
    assert_eq!(instances[0].database().number(SIGNED), stored);
    let last = told.iter().max().unwrap();
    eprintln!(
        "frozen in {:?}; {stored} signatures, none stored after that; the last answer that told of one {}",
        answered - asked,
        match last.checked_duration_since(answered) {
            Some(after) => format!("{after:?} later"),
            None => format!("{:?} earlier", answered - *last),
        }
    );
    // What was stored before may still be on its way to its wallet.
    assert!(last.saturating_duration_since(answered) < Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a15_no_signature_leaves_that_was_stored_after_a_freeze_under_load() {
    let node = Node::start().await;
    let appliance = Arc::new(Appliance::start(&node).await);
    under_load(&[&appliance], &node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a15_a_freeze_at_one_instance_stops_the_load_at_two() {
    let node = Node::start().await;
    let one = Arc::new(Appliance::start_on_postgres(&node).await);
    let two = Arc::new(one.another().await);
    under_load(&[&one, &two], &node).await;
    let denied = r#"countersign_frozen_denials_total{scope="global"}"#;
    for instance in [&one, &two] {
        assert!(instance.metric(denied).await >= 1.0);
        let gauge = r#"countersign_frozen{scope="global"}"#;
        eventually("it is shown", 10, async || {
            (instance.metric(gauge).await == 1.0).then_some(())
        })
        .await;
    }
    let list: Value = json_of(&two.operator("/freezes").await.unwrap());
    assert_eq!(list["freezes"][0]["scope"], "global");
}
