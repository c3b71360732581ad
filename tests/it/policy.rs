//! Rules of an operator, in force on a running appliance: what they stop, how they are replaced, and what is hidden.

use countersign_client::keystore::Wallet;
use countersign_client::transport::Reply;
use serde_json::{Value, json};

use crate::support::appliance::COUNTERSIGND;
use crate::support::signing::{fresh_key, json_of, post, refusal, transaction};
use crate::support::wallet::{profile, try_create};
use crate::support::{Appliance, Node, RECIPIENT, Signing, eventually, root, wallet_of};

/// Permits everything that the guardrails leave.
const EVERYTHING: &str = "@id(\"test.everything\")\npermit (principal, action, resource);\n";

/// Puts these rules where the configuration points to.
fn write_rules(appliance: &Appliance, version: &str, rules: &str) {
    let directory = appliance.environment().join("rules");
    std::fs::create_dir_all(&directory).unwrap();
    let manifest = format!("version = \"{version}\"\n");
    std::fs::write(directory.join("bundle.toml"), manifest).unwrap();
    std::fs::write(directory.join("rules.cedar"), rules).unwrap();
}

/// An appliance with these rules, not served yet.
pub(crate) fn with_rules(node: &Node, rules: &str) -> Appliance {
    let appliance = Appliance::init(&node.url());
    write_rules(&appliance, "1", rules);
    appliance.configure(|config| {
        let table = "[policy]\ndirectory = \"rules\"\n";
        if config.contains("[policy]\n") {
            return config.replace("[policy]\n", table);
        }
        format!("{config}\n{table}")
    });
    appliance
}

/// Replaces the rules while it serves; `result` is how that must end.
async fn replace_rules(appliance: &Appliance, version: &str, rules: &str, result: &str) {
    let name = format!(r#"countersign_policy_loads_total{{result="{result}"}}"#);
    let before = appliance.metric(&name).await;
    write_rules(appliance, version, rules);
    appliance.signal("-HUP");
    eventually("the rules are loaded", 5, async || {
        (appliance.metric(&name).await > before).then_some(())
    })
    .await;
}

/// Asks for a transaction with this call data.
pub(crate) async fn prepare(appliance: &Appliance, wallet: &Wallet, data: &str) -> Reply {
    let mut body = transaction(0);
    body["data"] = json!(data);
    prepare_body(appliance, wallet, &body).await
}

pub(crate) async fn prepare_body(appliance: &Appliance, wallet: &Wallet, body: &Value) -> Reply {
    let path = countersign_client::api::transactions_path(&profile(wallet));
    post(appliance, wallet, &path, body, Some(&fresh_key())).await
}

pub(crate) fn denied() -> (u16, String) {
    (403, "POLICY_DENIED".to_owned())
}

/// What was recorded of the last denial: in the decision, and in the audit trail.
pub(crate) fn last_denial(appliance: &Appliance) -> (String, String) {
    let rows = appliance.database().rows(
        "SELECT action, rules FROM decisions WHERE outcome = 'denied' ORDER BY created_at DESC, decision_id DESC LIMIT 1",
    );
    let details = appliance
        .database()
        .rows("SELECT detail FROM audit_records WHERE outcome = 'denied' ORDER BY at DESC LIMIT 1");
    (rows[0].clone(), details[0].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a26_toctou_rules_replaced_between_the_rounds_stop_the_signature() {
    let node = Node::start().await;
    let mut appliance = with_rules(&node, EVERYTHING);
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let mut signing = Signing::prepare(&appliance, &wallet, 1).await;
    let (answer, kept) = signing.round_1().await;
    assert_eq!(answer.status, 202);

    // Nothing that concerns this payment changes; but it was judged by rules that are no longer in force.
    replace_rules(&appliance, "2", EVERYTHING, "done").await;
    let reply = signing.round_2(kept, &answer).await;
    assert_eq!(refusal(&reply), (409, "POLICY_CHANGED".to_owned()));
    let signed = "SELECT COUNT(*) FROM transactions WHERE raw IS NOT NULL";
    assert_eq!(appliance.database().number(signed), 0);

    // Another attempt is of the same decision; a new preparation makes a new one.
    let restarted = signing.restart().await;
    if restarted.status == 200 {
        let (answer, _) = signing.round_1().await;
        assert_eq!(refusal(&answer), (409, "POLICY_CHANGED".to_owned()));
    }
    Signing::prepare(&appliance, &wallet, 2)
        .await
        .complete()
        .await;
    assert_eq!(appliance.database().number(signed), 1);
}

/// What a decision says is looked at in the operation that gives the share away, not when the session began.
#[tokio::test(flavor = "multi_thread")]
async fn a26_toctou_a_decision_that_stands_no_more_signs_nothing() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let alter = |signing: &Signing<'_>, change: &str| {
        let id = &signing.prepared.policy_decision_id;
        let sql = format!("UPDATE decisions SET {change} WHERE decision_id = '{id}'");
        appliance.storage.tamper(&appliance.environment(), &sql);
    };
    for (name, change, (status, code)) in [
        ("one", "expires_at = created_at", (410, "SESSION_EXPIRED")),
        ("two", "outcome = 'denied'", (403, "POLICY_DENIED")),
    ] {
        let refused = (status, code.to_owned());
        let wallet = wallet_of(&appliance, &node, name).await;
        // Before the first message, and between the two.
        let signing = Signing::prepare(&appliance, &wallet, 1).await;
        alter(&signing, change);
        let (reply, _) = signing.round_1().await;
        assert_eq!(refusal(&reply), refused, "{change}");
        let signing = Signing::prepare(&appliance, &wallet, 1).await;
        let (answer, kept) = signing.round_1().await;
        assert_eq!(answer.status, 202);
        alter(&signing, change);
        let reply = signing.round_2(kept, &answer).await;
        assert_eq!(refusal(&reply), refused, "{change}");
    }
    let signed = "SELECT COUNT(*) FROM transactions WHERE raw IS NOT NULL";
    assert_eq!(appliance.database().number(signed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a26_rules_that_forbid_what_was_prepared_deny_the_next_attempt() {
    let node = Node::start().await;
    let mut appliance = with_rules(&node, EVERYTHING);
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let mut signing = Signing::prepare(&appliance, &wallet, 1).await;
    let no_payments = format!(
        "{EVERYTHING}@id(\"test.no-payments\")\nforbid (principal, action == Action::\"sign-transaction\", resource);\n"
    );
    replace_rules(&appliance, "2", &no_payments, "done").await;
    assert_eq!(refusal(&signing.restart().await), denied());
    let (decision, detail) = last_denial(&appliance);
    assert_eq!(decision, "sign-transaction|test.no-payments");
    assert_eq!(detail, "forbidden: test.no-payments");
}

#[tokio::test(flavor = "multi_thread")]
async fn a26_bad_rules_never_take_the_place_of_good_ones() {
    let node = Node::start().await;
    let mut appliance = with_rules(&node, EVERYTHING);
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let signing = Signing::prepare(&appliance, &wallet, 1).await;
    let bad = format!(
        "{EVERYTHING}\n@id(\"test.bad\")\nforbid (principal, action, resource)\nwhen {{ context.amount > 1 }};\n"
    );
    replace_rules(&appliance, "2", &bad, "failed").await;
    let log = appliance.log();
    assert!(log.contains("rules.cedar:6: rule test.bad: "), "{log}");
    // What was judged before still stands, and what comes is judged as before.
    signing.complete().await;
    Signing::prepare(&appliance, &wallet, 2)
        .await
        .complete()
        .await;

    let doctor = appliance.doctor();
    assert!(doctor.contains("FAIL  policy: "), "{doctor}");
    appliance.stop().await;
    let output = appliance.serve_command().output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("rules.cedar:6: rule test.bad: "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a27_what_hides_in_calls_is_denied_and_what_is_understood_is_not() {
    let word = |hex: &str| format!("{hex:0>64}");
    let token_call = |selector: &str, amount: &str| {
        format!(
            "0x{selector}{}{}",
            word(&RECIPIENT[2..].to_lowercase()),
            word(amount)
        )
    };
    let transfer = token_call("a9059cbb", "1");
    let hidden = [
        "0xac9650d8",
        &word("20"),
        &word("1"),
        &word("20"),
        &word("4"),
        "deadbeef",
        &"0".repeat(56),
    ]
    .concat();
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;

    let reply = prepare(&appliance, &wallet, &transfer).await;
    assert_eq!(
        reply.status,
        200,
        "{}",
        String::from_utf8_lossy(&reply.body)
    );
    for (data, rules) in [
        (hidden.as_str(), "builtin.default-deny"),
        ("0xdeadbeef", "builtin.default-deny"),
        (&token_call("a9059cbb", "1")[..130], "builtin.default-deny"),
        (
            &token_call("095ea7b3", &"f".repeat(64)),
            "default.no-unlimited-approval",
        ),
        (
            &token_call("a22cb465", "1"),
            "default.no-unlimited-approval",
        ),
    ] {
        assert_eq!(
            refusal(&prepare(&appliance, &wallet, data).await),
            denied(),
            "{data}"
        );
        let (decision, _) = last_denial(&appliance);
        assert_eq!(decision, format!("prepare-transaction|{rules}"), "{data}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a27_a_list_of_recipients_holds_for_coins_and_for_tokens() {
    let somebody_else = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC";
    let rules = format!(
        "@id(\"test.wallets\")\npermit (principal, action == Action::\"create-profile\", resource);\n\
         @id(\"test.list\")\npermit (principal, action == Action::\"prepare-transaction\", resource)\n\
         when {{ [\"{}\"].containsAll(context.transaction.recipients) }};\n",
        RECIPIENT.to_lowercase()
    );
    let node = Node::start().await;
    let mut appliance = with_rules(&node, &rules);
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    Signing::prepare(&appliance, &wallet, 1)
        .await
        .complete()
        .await;
    let mut body = transaction(1);
    body["to"] = json!(somebody_else);
    assert_eq!(
        refusal(&prepare_body(&appliance, &wallet, &body).await),
        denied()
    );
    let to = |who: &str| format!("0xa9059cbb{:0>64}{:0>64}", who[2..].to_lowercase(), "1");
    assert_eq!(
        prepare(&appliance, &wallet, &to(RECIPIENT)).await.status,
        200
    );
    for data in [to(somebody_else), "0xdeadbeef".to_owned()] {
        assert_eq!(
            refusal(&prepare(&appliance, &wallet, &data).await),
            denied(),
            "{data}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_that_no_rule_permits_is_not_made() {
    let node = Node::start().await;
    let rules = "@id(\"test.payments\")\npermit (principal, action == Action::\"prepare-transaction\", resource);\n";
    let mut appliance = with_rules(&node, rules);
    appliance.serve().await;
    let said = try_create(&appliance, "w").await.err().unwrap().to_string();
    assert!(said.contains("POLICY_DENIED"), "{said}");
    let (decision, detail) = last_denial(&appliance);
    assert_eq!(decision, "create-profile|builtin.default-deny");
    assert_eq!(detail, "not-permitted: builtin.default-deny");
    let profiles = "SELECT COUNT(*) FROM profiles";
    assert_eq!(appliance.database().number(profiles), 0);

    replace_rules(&appliance, "2", EVERYTHING, "done").await;
    try_create(&appliance, "w2").await.unwrap();
}

/// Runs a verb of `countersignd policy` at the repository's root: exit code, standard output, standard error.
pub(crate) fn policy(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = std::process::Command::new(COUNTERSIGND)
        .current_dir(root())
        .env_clear()
        .arg("policy")
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn the_tables_of_the_default_and_of_every_example_pass() {
    let (code, said, wrong) = policy(&["test", "--tests", "policies/tests"]);
    assert_eq!(code, Some(0), "{said}{wrong}");
    assert!(said.contains("cases pass, version builtin-"), "{said}");
    let examples = std::fs::read_dir(root().join("policies/examples")).unwrap();
    let examples: Vec<String> = examples
        .map(|example| example.unwrap().path().display().to_string())
        .collect();
    assert!(examples.len() >= 3);
    for example in examples {
        let (code, said, wrong) = policy(&["check", &example]);
        assert_eq!(code, Some(0), "{said}{wrong}");
        assert!(said.contains("forbid  builtin.owner-only "), "{said}");
        let (code, said, wrong) = policy(&["test", &example]);
        assert_eq!(code, Some(0), "{said}{wrong}");
    }
}

#[test]
fn a_table_that_the_rules_contradict_fails_with_its_place() {
    // The tables of one example under the rules of another.
    let (code, said, wrong) = policy(&[
        "test",
        "policies/examples/step-up",
        "--tests",
        "policies/examples/allow-list/tests",
    ]);
    assert_eq!(code, Some(1));
    let place = "policies/examples/allow-list/tests/payments.toml:2: coins to the treasury: \
                 expected allow by payments.known-recipients, got allow by payments.small";
    assert!(said.contains(place), "{said}");
    assert!(wrong.contains("of 5 cases failed"), "{wrong}");
}

#[test]
fn bad_rules_tables_and_requests_are_told_with_file_and_line() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let rules = directory.path().display().to_string();
    write("bundle.toml", "version = \"1\"\n");
    let file = write(
        "a.cedar",
        "\n@id(\"x\")\npermit (principal, action, resource)\nwhen { context.nothing };\n",
    );
    let (code, _, wrong) = policy(&["check", &rules]);
    assert_eq!(code, Some(1));
    assert!(wrong.contains(&format!("{file}:4: rule x: ")), "{wrong}");

    write("a.cedar", EVERYTHING);
    for (text, line, says) in [
        ("[[case]]\nname = 1", 2, "string"),
        (
            "[[case]]\nname = \"a\"\nexpect = \"yes\"\nrequest = { action = \"create-profile\" }",
            3,
            "expect is",
        ),
        (
            "[[case]]\nname = \"a\"\nexpect = \"allow\"\nrequest = { action = \"create\" }",
            4,
            "action is",
        ),
        (
            "[[case]]\nname = \"a\"\nexpect = \"allow\"\nrequest = { action = \"sign-transaction\" }",
            4,
            "no chain",
        ),
        (
            "[[case]]\nname = \"a\"\nexpect = \"allow\"\nrequest = { action = \"sign-transaction\", chain = 1, to = \"0x1\" }",
            4,
            "to must be",
        ),
        (
            "[[case]]\nname = \"a\"\nexpect = \"allow\"\nrequest = { action = \"sign-transaction\", chain = 1, value = \"-1\" }",
            4,
            "value must be",
        ),
        (
            "[[case]]\nname = \"a\"\nexpect = \"allow\"\nrequest = { action = \"create-profile\", at = \"noon\" }",
            4,
            "at is a time",
        ),
        (
            "[[case]]\nname = \"a\"\nexpect = \"allow\"\nrequest = { action = \"create-profile\", amount = 1 }",
            4,
            "unknown field",
        ),
    ] {
        let file = write("tests/t.toml", text);
        let (code, _, wrong) = policy(&["test", &rules]);
        assert_eq!(code, Some(1), "{text}");
        assert!(
            wrong.contains(&format!("{file}:{line}: ")),
            "{text}\n{wrong}"
        );
        assert!(wrong.contains(says), "{text}\n{wrong}");
    }
    write("tests/t.toml", "");
    let (code, _, wrong) = policy(&["test", &rules]);
    assert!(
        code == Some(1) && wrong.contains("holds no cases"),
        "{wrong}"
    );
    let (code, _, wrong) = policy(&["test"]);
    assert!(code == Some(2) && wrong.contains("--tests"), "{wrong}");
}

#[test]
fn a_request_is_explained_and_two_sets_of_rules_are_compared() {
    let directory = tempfile::tempdir().unwrap();
    let request = directory.path().join("request.toml");
    let transfer = format!(
        "0xa9059cbb{:0>64}{:0>64}",
        RECIPIENT[2..].to_lowercase(),
        "1"
    );
    let text = format!(
        "[request]\naction = \"prepare-transaction\"\nchain = 1\nto = \"0xdac17f958d2ee523a2206206994597c13d831ec7\"\ndata = \"{transfer}\"\n"
    );
    std::fs::write(&request, text).unwrap();
    let request = request.display().to_string();
    let (code, said, wrong) = policy(&["explain", "--request", &request]);
    assert_eq!(code, Some(0), "{wrong}");
    let recipient = RECIPIENT.to_lowercase();
    for part in [
        "allow by default.plain-calls",
        "builtin/default.cedar:",
        "kinds               erc20-transfer (1 calls)",
        "tokens              0xdac17f958d2ee523a2206206994597c13d831ec7",
        &format!("recipients          {recipient}"),
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    let (_, said, _) = policy(&[
        "explain",
        "policies/examples/step-up",
        "--request",
        &request,
    ]);
    assert!(
        said.starts_with("deny (not-permitted) by builtin.default-deny"),
        "{said}"
    );

    let (code, said, _) = policy(&[
        "diff",
        "builtin",
        "policies/examples/allow-list",
        "--requests",
        "policies/examples/allow-list/tests",
    ]);
    assert_eq!(code, Some(0));
    assert!(
        said.contains(
            "payments.toml:8: coins to somebody else\n  - allow by default.plain-calls\n  + deny"
        ),
        "{said}"
    );
    assert!(said.contains("3 of 5 verdicts change"), "{said}");
}

#[test]
fn the_matrix_that_is_printed_is_the_one_that_was_reviewed() {
    let (code, said, _) = policy(&["matrix"]);
    assert_eq!(code, Some(0));
    let reviewed = std::fs::read_to_string(root().join("policies/matrix.txt")).unwrap();
    assert_eq!(said, reviewed);
    // Verdicts of an operator's rules on the same requests: the guardrails show in all of them.
    let (_, said, _) = policy(&["matrix", "policies/examples/contracts"]);
    assert!(said.contains("builtin.no-delegatecall"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_explained_and_judged_again_under_other_rules() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let to = format!("{:0>64}", RECIPIENT[2..].to_lowercase());
    let reply = prepare(&appliance, &wallet, &format!("0xa9059cbb{to}{:0>64}", "1")).await;
    assert_eq!(reply.status, 200);
    let allowed = json_of(&reply)["policyDecisionId"]
        .as_str()
        .unwrap()
        .to_owned();
    let reply = prepare(&appliance, &wallet, "0xdeadbeef").await;
    assert_eq!(refusal(&reply), denied());
    let rows = appliance
        .database()
        .rows("SELECT decision_id FROM decisions WHERE outcome = 'denied'");
    let config = appliance.environment().join("countersignd.toml");
    let config = config.display().to_string();
    let explain = |id: &str, rules: &[&str]| {
        let options = ["explain", "--decision", id, "--config", &config];
        let (code, said, wrong) = policy(&[&options[..], rules].concat());
        assert_eq!(code, Some(0), "{wrong}");
        said
    };

    let said = explain(&allowed, &[]);
    assert!(said.starts_with("decided "), "{said}");
    assert!(
        said.contains(": allow by default.plain-calls, under version builtin-"),
        "{said}"
    );
    assert!(
        said.contains("the rules say now:\nallow by default.plain-calls\n"),
        "{said}"
    );
    assert!(
        said.contains("kinds               erc20-transfer (1 calls)"),
        "{said}"
    );
    let said = explain(&allowed, &["policies/examples/step-up"]);
    assert!(
        said.contains("now:\ndeny (not-permitted) by builtin.default-deny\n"),
        "{said}"
    );
    let said = explain(&rows[0], &[]);
    assert!(
        said.contains(": deny (not-permitted) by builtin.default-deny, under"),
        "{said}"
    );
    assert!(said.contains("recipients          unknown"), "{said}");

    let diff = [
        "diff",
        "builtin",
        "policies/examples/step-up",
        "--config",
        &config,
    ];
    let (code, said, wrong) = policy(&diff);
    assert_eq!(code, Some(0), "{wrong}");
    assert!(said.contains(&format!("VERDICT {allowed} of ")), "{said}");
    assert!(said.ends_with("1 of 3 verdicts change\n"), "{said}");

    for (id, says) in [
        ("1", "is no decision id"),
        (&profile(&wallet), "has no decision"),
    ] {
        let (code, _, wrong) = policy(&["explain", "--decision", id, "--config", &config]);
        assert!(code != Some(0) && wrong.contains(says), "{wrong}");
    }
    let (code, _, _) = policy(&["explain", "--decision", &allowed]);
    assert_eq!(code, Some(2));
}
