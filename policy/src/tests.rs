#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]
use cedar_policy::{PolicyId, PolicySet};
use proptest::prelude::*;

use crate::matrix::{KNOWN, OTHER_KIND, UNKNOWN, facts, transaction};
use crate::{Asked, Bundle, ChainFacts, Facts, Problem, Reason, Refused, Source, Verdict};

const EVERYTHING: &str = r#"@id("all") permit (principal, action, resource);"#;

fn source(text: &str) -> Source {
    Source {
        name: "rules.cedar".to_owned(),
        text: text.to_owned(),
    }
}

fn bundle(text: &str) -> Bundle {
    Bundle::compile("1", &[source(text)]).unwrap()
}

fn problems(text: &str) -> Vec<String> {
    let Err(Refused(problems)) = Bundle::compile("1", &[source(text)]) else {
        panic!("accepted: {text}");
    };
    problems.iter().map(Problem::to_string).collect()
}

fn coins(chain: ChainFacts) -> Asked {
    Asked::PrepareTransaction(Box::new(transaction(
        chain,
        &["native-transfer"],
        false,
        false,
    )))
}

fn payment() -> Facts {
    facts(true, coins(KNOWN))
}

fn decided(bundle: &Bundle, facts: &Facts) -> (Option<Reason>, Vec<String>) {
    let Verdict { denied, rules } = bundle.decide(facts);
    (denied, rules)
}

/// The same rules, evaluated as their authors wrote them.
fn as_written(text: &str) -> Bundle {
    let mut bundle = bundle(text);
    let guardrails = include_str!("../../policies/guardrails.cedar");
    let mut written = PolicySet::new();
    for file in [guardrails, text] {
        let parsed: PolicySet = file.parse().unwrap();
        for policy in parsed.policies() {
            let id = PolicyId::new(policy.annotation("id").unwrap());
            written.add(policy.new_id(id)).unwrap();
        }
    }
    let by_action = bundle.prepared.by_action.values_mut();
    by_action.for_each(|rules| *rules = written.clone());
    bundle
}

fn ids(rules: &[&str]) -> Vec<String> {
    rules.iter().map(|&id| id.to_owned()).collect()
}

#[test]
fn the_schema_has_no_groups_of_actions() {
    let bundle = Bundle::builtin().unwrap();
    assert_eq!(bundle.schema.action_groups().count(), 0);
    assert_eq!(
        bundle.schema.actions().count(),
        bundle.prepared.by_action.len()
    );
}

#[test]
fn the_default_permits_what_it_lists_and_nothing_else() {
    let bundle = Bundle::builtin().unwrap();
    assert_eq!(
        decided(&bundle, &payment()),
        (None, ids(&["default.plain-calls"]))
    );
    let mut other = transaction(KNOWN, &["native-transfer"], false, false);
    other.kinds.insert("something-new".to_owned());
    let facts = facts(true, Asked::PrepareTransaction(Box::new(other)));
    assert_eq!(
        decided(&bundle, &facts),
        (Some(Reason::NotPermitted), ids(&["builtin.default-deny"]))
    );
}

#[test]
fn no_rule_of_an_operator_weakens_a_guardrail() {
    let bundle = bundle(EVERYTHING);
    assert_eq!(bundle.decide(&payment()).denied, None);
    for (facts, reason, rule) in [
        (
            facts(false, coins(KNOWN)),
            Reason::Owner,
            "builtin.owner-only",
        ),
        (
            facts(true, coins(UNKNOWN)),
            Reason::Chain,
            "builtin.known-chain",
        ),
        (
            facts(true, coins(OTHER_KIND)),
            Reason::Chain,
            "builtin.environment-chain",
        ),
    ] {
        assert_eq!(decided(&bundle, &facts), (Some(reason), ids(&[rule])));
    }
    let mut other_tenant = payment();
    other_tenant.device.tenant = "another".to_owned();
    assert_eq!(bundle.decide(&other_tenant).denied, Some(Reason::Owner));
    let mut officer = payment();
    officer.device.client_role = "operator".to_owned();
    assert_eq!(
        bundle.decide(&officer).rules,
        ids(&["builtin.gateways-only"])
    );
    let delegate = transaction(KNOWN, &["safe-transaction"], false, true);
    let delegate = facts(true, Asked::SignTransaction(Box::new(delegate)));
    assert_eq!(
        bundle.decide(&delegate).rules,
        ids(&["builtin.no-delegatecall"])
    );
}

#[test]
fn a_foreign_owner_is_the_first_reason_whatever_else_is_wrong() {
    let verdict = bundle(EVERYTHING).decide(&facts(false, coins(UNKNOWN)));
    assert_eq!(verdict.denied, Some(Reason::Owner));
    assert_eq!(
        verdict.rules,
        ids(&["builtin.known-chain", "builtin.owner-only"])
    );
}

#[test]
fn a_chain_id_that_no_number_of_cedar_holds_is_unknown() {
    let huge = ChainFacts {
        id: u64::MAX,
        ..KNOWN
    };
    let verdict = bundle(EVERYTHING).decide(&facts(true, coins(huge)));
    assert_eq!(verdict.rules, ids(&["builtin.known-chain"]));
}

#[test]
fn forbidding_wins_over_any_number_of_permitting_rules() {
    let text = format!(
        r#"{EVERYTHING}
        @id("again") permit (principal, action, resource);
        @id("no-payments") forbid (principal, action == Action::"prepare-transaction", resource)
        when {{ context.transaction.valueGwei > 0 }};"#
    );
    let bundle = bundle(&text);
    assert_eq!(
        decided(&bundle, &payment()),
        (Some(Reason::Forbidden), ids(&["no-payments"]))
    );
    let creation = facts(true, Asked::CreateProfile);
    assert_eq!(decided(&bundle, &creation), (None, ids(&["again", "all"])));
}

#[test]
fn a_rule_that_cannot_be_evaluated_denies_what_others_permit() {
    // Cedar would pass over the rule that overflows, and with it over what it forbids.
    let text = format!(
        r#"{EVERYTHING}
        @id("overflows") forbid (principal, action == Action::"prepare-transaction", resource)
        when {{ context.transaction.valueGwei * 9223372036854775807 > 10 }};"#
    );
    let bundle = bundle(&text);
    let mut facts = payment();
    let Asked::PrepareTransaction(content) = &mut facts.asked else {
        panic!()
    };
    content.value_gwei = 2;
    assert_eq!(
        decided(&bundle, &facts),
        (Some(Reason::Evaluation), ids(&["overflows"]))
    );
}

#[test]
fn what_a_second_factor_would_change_is_said() {
    let bundle = bundle(
        r#"@id("small") permit (principal, action == Action::"prepare-transaction", resource)
        when { context.transaction.valueGwei < 10 };
        @id("with-code") permit (principal, action == Action::"prepare-transaction", resource)
        when { context.secondFactor && context.transaction.valueGwei < 100 };"#,
    );
    let of = |gwei: i64, second_factor: bool| {
        let mut facts = payment();
        let Asked::PrepareTransaction(content) = &mut facts.asked else {
            panic!()
        };
        content.value_gwei = gwei;
        facts.second_factor = second_factor;
        bundle.decide(&facts).denied
    };
    assert_eq!((of(9, false), of(9, true)), (None, None));
    assert_eq!(
        (of(10, false), of(10, true)),
        (Some(Reason::SecondFactor), None)
    );
    assert_eq!(of(100, false), Some(Reason::NotPermitted));
    assert_eq!(of(100, true), Some(Reason::NotPermitted));
}

#[test]
fn rules_see_time_device_owner_tenant_and_content() {
    let bundle = bundle(
        r#"@id("all") permit (principal, action, resource) when {
            principal in Owner::"owner" && principal.ageSeconds == 2592000 && resource == Profile::"profile" &&
            resource.tenant == "default" && context.environment == "production" &&
            context.time.hour == 12 && context.time.weekday == 3 && context.time.unix == 1700049600 };
        @id("to") forbid (principal, action == Action::"prepare-transaction", resource)
        unless { ["0x00000000000000000000000000000000000000aa"].containsAll(context.transaction.recipients) };"#,
    );
    assert_eq!(bundle.decide(&payment()).denied, None);
    let mut other = payment();
    let Asked::PrepareTransaction(content) = &mut other.asked else {
        panic!()
    };
    content.recipients.insert("unknown".to_owned());
    assert_eq!(bundle.decide(&other).rules, ids(&["to"]));
    other = payment();
    other.at -= 1;
    assert_eq!(bundle.decide(&other).denied, Some(Reason::NotPermitted));
}

#[test]
fn bad_rules_are_refused_with_file_line_and_rule() {
    let rule = |text: &str| format!("// one\n\n{text}");
    let transaction = |condition: &str| {
        rule(&format!(
            "@id(\"r\")\npermit (principal, action == Action::\"prepare-transaction\", resource)\nwhen {{ {condition} }};"
        ))
    };
    for (text, place, says) in [
        (
            rule("permit (principal, action, resource"),
            "rules.cedar:3:",
            "unexpected end",
        ),
        (
            rule("permit (principal, action, resource);"),
            "rules.cedar:3:",
            "has no id",
        ),
        (
            rule("@id(\"A b\") permit (principal, action, resource);"),
            "rules.cedar:3: rule A b:",
            "lower-case",
        ),
        (
            rule("@id(\"builtin.x\") permit (principal, action, resource);"),
            "rules.cedar:3: rule builtin.x:",
            "own",
        ),
        (
            rule("@id(\"default.x\")@reason(\"owner\") permit (principal, action, resource);"),
            "rules.cedar:3: rule default.x:",
            "@reason",
        ),
        (
            rule("@id(\"x\") permit (principal == ?principal, action, resource);"),
            "rules.cedar:3: rule x:",
            "?principal",
        ),
        (
            rule(
                "@id(\"x\") permit (principal, action, resource);\n@id(\"x\") permit (principal, action, resource);",
            ),
            "rules.cedar:4: rule x:",
            "rules.cedar:3",
        ),
        (
            rule("@id(\"x\") permit (principal, action == Action::\"sign\", resource);"),
            "rules.cedar:3: rule x:",
            "unrecognized action",
        ),
        (
            transaction("context.transaction.amount > 1"),
            "rules.cedar:5: rule r:",
            "amount",
        ),
        (
            transaction("context.transaction.valueGwei > \"1\""),
            "rules.cedar:5: rule r:",
            "Long",
        ),
        (
            transaction("context.transaction.to like \"0x*\" && 1 == \"1\""),
            "rules.cedar:3: rule r:",
            "impossible",
        ),
        (transaction("false"), "rule r:", "impossible"),
        (
            transaction("context.chain.id == -1 - 9223372036854775808"),
            "rules.cedar:5:",
            "",
        ),
    ] {
        let found = problems(&text);
        let first = &found[0];
        assert!(first.contains(place), "{text}\n{first}");
        assert!(first.contains(says), "{text}\n{first}");
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let text = "permit (principal, action, resource);\n@id(\"a\") permit (principal, action == Action::\"x\", resource);";
    assert_eq!(problems(text).len(), 2);
}

#[test]
fn a_file_that_is_too_large_or_too_many_rules_are_refused() {
    let large = format!("//{}", " ".repeat(1024 * 1024));
    assert!(problems(&large)[0].contains("larger than"));
    let many: Vec<Source> = (0..257).map(|_| source("")).collect();
    assert!(Bundle::compile("1", &many).is_err());
}

#[test]
fn what_is_as_large_as_it_may_be_is_taken() {
    let full = format!("//{}", " ".repeat(1024 * 1024 - 2));
    assert_eq!(bundle(&full).rules().count(), guardrails());
    let files: Vec<Source> = (0..256)
        .map(|number| Source {
            name: format!("{number}.cedar"),
            text: String::new(),
        })
        .collect();
    assert!(Bundle::compile("1", &files).is_ok());
    let rule = |id: &str| format!("@id(\"{id}\") permit (principal, action, resource);");
    bundle(&rule(&"a".repeat(64)));
    assert!(problems(&rule(&"a".repeat(65)))[0].contains("at most 64"));
    let rules = |count: usize| -> String { (0..count).map(|id| rule(&id.to_string())).collect() };
    let most = 2000 - guardrails();
    assert_eq!(bundle(&rules(most)).rules().count(), 2000);
    assert!(problems(&rules(most + 1))[0].contains("more than 2000 rules"));
}

/// How many rules are part of every bundle.
fn guardrails() -> usize {
    bundle("").rules().count()
}

#[test]
fn a_bundle_tells_its_version_and_its_rules() {
    let bundle = bundle(EVERYTHING);
    assert_eq!(bundle.version(), "1");
    assert_eq!(guardrails(), 5);
    assert!(bundle.rules().any(|rule| rule.id == "all" && !rule.forbids));
}

#[test]
fn what_is_wrong_is_told_in_lines() {
    let text =
        "permit (principal, action, resource);\n@id(\"A\") permit (principal, action, resource);";
    let Err(refused) = Bundle::compile("1", &[source(text)]) else {
        panic!("accepted");
    };
    let said = refused.to_string();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(lines[0].starts_with("rules.cedar:1: has no id"), "{said}");
    assert!(lines[1].starts_with("rules.cedar:2: rule A: "), "{said}");
}

#[test]
fn the_matrix_says_where_a_second_factor_would_do() {
    let matrix = bundle(
        r#"@id("with-code") permit (principal, action == Action::"create-profile", resource)
        when { context.secondFactor };"#,
    )
    .matrix();
    assert!(
        matrix.starts_with("2fa   | create-profile      | owner "),
        "{matrix}"
    );
}

#[test]
fn the_hash_covers_version_names_and_texts() {
    let of = |version: &str, name: &str, text: &str| {
        let source = Source {
            name: name.to_owned(),
            text: text.to_owned(),
        };
        *Bundle::compile(version, &[source]).unwrap().hash()
    };
    let first = of("1", "a.cedar", EVERYTHING);
    assert_eq!(first, of("1", "a.cedar", EVERYTHING));
    let spaced = format!("{EVERYTHING} ");
    for other in [
        of("2", "a.cedar", EVERYTHING),
        of("1", "b.cedar", EVERYTHING),
        of("1", "a.cedar", &spaced),
        *Bundle::builtin().unwrap().hash(),
    ] {
        assert_ne!(first, other);
    }
}

#[test]
fn facts_are_read_back_as_they_were_written() {
    let facts = payment();
    assert_eq!(Facts::from_text(&facts.to_text()).unwrap(), facts);
    let mut other = facts.clone();
    other.at += 1;
    assert_ne!(facts.hash(), other.hash());
    assert!(Facts::from_text(&facts.to_text().replace("\"at\"", "\"att\"")).is_err());
}

#[test]
fn the_matrix_is_the_one_that_was_reviewed() {
    let actual = Bundle::builtin().unwrap().matrix();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/matrix.txt");
    if std::env::var_os("COUNTERSIGN_BLESS").is_some() {
        std::fs::write(path, &actual).unwrap();
    }
    let reviewed = std::fs::read_to_string(path).unwrap();
    assert_eq!(
        actual, reviewed,
        "what the built-in rules say has changed: bless it with COUNTERSIGN_BLESS=1 and review the difference"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_text_panics_and_none_but_rules_are_rules(text in ".{0,200}") {
        let words = text.split_whitespace().next().is_some() && !text.trim_start().starts_with("//");
        let compiled = Bundle::compile("1", &[source(&text)]);
        prop_assert!(compiled.is_err() || !words);
    }

    #[test]
    fn no_name_reaches_out_of_its_quotes(name in ".{0,40}") {
        // Whatever a user's ids hold, they are values, never rules: nobody becomes somebody else.
        let bundle = bundle(EVERYTHING);
        let mut facts = payment();
        facts.device.owner.clone_from(&name);
        let expected = (name != "owner").then_some(Reason::Owner);
        prop_assert_eq!(bundle.decide(&facts).denied, expected);
    }

    #[test]
    fn lists_that_are_made_once_decide_as_if_they_were_written_out(
        rules in proptest::collection::vec((any::<bool>(), 0..6_usize, address_list(), address_list()), 1..8),
        of_payment in (address_list(), address_list()),
        prepare: bool,
    ) {
        let mut text = String::new();
        for (number, (forbids, how, one, other)) in rules.into_iter().enumerate() {
            let word = if forbids { "forbid" } else { "permit" };
            let (one, other) = (written(&one), written(&other));
            let condition = match how {
                0 => format!("[{one}].containsAll(context.transaction.recipients)"),
                1 => format!("[{one}].containsAny(context.transaction.tokens)"),
                2 => format!("[{one}].contains(context.transaction.to) && ![{other}].containsAny(context.transaction.recipients)"),
                3 => format!("(if [{one}].contains(context.transaction.to) then [{other}] else [{one}]) == context.transaction.recipients"),
                4 => format!("[{one}, context.transaction.to].containsAll(context.transaction.recipients)"),
                _ => format!("context.transaction.recipients.containsAny([{one}]) || [{one}] == [{other}]"),
            };
            let scope = match number % 3 {
                0 => "(principal, action in [Action::\"prepare-transaction\", Action::\"sign-transaction\"], resource)",
                1 => "(principal, action == Action::\"prepare-transaction\", resource)",
                _ => "(principal, action == Action::\"sign-transaction\", resource)",
            };
            text.push_str(&format!("@id(\"r{number}\") {word} {scope} when {{ {condition} }};\n"));
        }
        let (recipients, tokens) = of_payment;
        let mut content = transaction(KNOWN, &["native-transfer"], false, false);
        content.to = recipients[0].clone();
        content.recipients = recipients.into_iter().collect();
        content.tokens = tokens.into_iter().collect();
        let asked = if prepare { Asked::PrepareTransaction } else { Asked::SignTransaction };
        let facts = facts(true, asked(Box::new(content)));
        let (made, written) = (bundle(&text), as_written(&text));
        prop_assert_eq!(decided(&made, &facts), decided(&written, &facts), "{}", text);
    }
}

fn address_list() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec((0..5_u8).prop_map(|n| format!("0x{n:040x}")), 1..4)
}

fn written(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|text| format!("{text:?}")).collect();
    quoted.join(", ")
}
