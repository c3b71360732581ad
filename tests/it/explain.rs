//! `countersignd policy explain`: which limits a request or a past decision falls under, and what is left of them.

use std::path::Path;

use crate::policy::policy;
use crate::spending::{MILLI, ONE, coin, limits, prepare};
use crate::support::signing::json_of;
use crate::support::wallet::profile;
use crate::support::{Appliance, CHAIN, Node, RECIPIENT, wallet_of};

const TOKEN: &str = "0x5FbDB2315678afecb367f032d93F642f64180aa3";

/// An appliance with limits of every kind, not served yet.
fn limited(node: &Node) -> Appliance {
    let appliance = Appliance::init(&node.url());
    let each = coin("each", "transaction", "700000000000000000").replace("seconds = 86400\n", "");
    appliance.limit(&limits(&[
        &each,
        &coin("day", "profile", ONE),
        &coin("to", "recipient", "900000000000000000"),
        &coin("all", "environment", "5000000000000000000"),
        &coin("usd", "profile", "100").replace("native", TOKEN),
    ]));
    appliance
}

fn explain(options: &[&str]) -> String {
    let (code, said, wrong) = policy(&[&["explain"], options].concat());
    assert_eq!(code, Some(0), "{wrong}");
    said
}

/// The line about a limit.
fn line<'a>(said: &'a str, start: &str) -> &'a str {
    let mut lines = said.lines().map(str::trim_start);
    lines
        .find(|line| line.starts_with(start))
        .unwrap_or_else(|| panic!("{start} is not in\n{said}"))
}

fn request(directory: &Path, fields: &str) -> String {
    let file = directory.join("request.toml");
    let text = format!(
        "[request]\naction = \"prepare-transaction\"\nenvironment = \"development\"\n{fields}"
    );
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

fn coins(to: &str, milli: u64) -> String {
    let wei = milli * MILLI;
    format!("chain = {CHAIN}\nto = \"{to}\"\nvalue = \"{wei}\"\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a26_a_decision_is_explained_with_its_limits_and_what_is_left_of_them() {
    let node = Node::start().await;
    let mut appliance = limited(&node);
    appliance.serve().await;
    let wallet = wallet_of(&appliance, &node, "w").await;
    let reply = prepare(&appliance, &wallet, 600).await;
    assert_eq!(reply.status, 200);
    let allowed = json_of(&reply)["policyDecisionId"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(prepare(&appliance, &wallet, 500).await.status, 403);
    let config = appliance.environment().join("countersignd.toml");
    let config = config.display().to_string();

    let said = explain(&["--decision", &allowed, "--config", &config]);
    assert!(
        said.contains("\nlimits, and what is left of them now:\n"),
        "{said}"
    );
    for (start, end) in [
        ("rate   transactions", "100000 per 60s: 2 used, 99998 left"),
        ("rate   signing", "100000 per 60s: 0 used, 100000 left"),
        (
            "spend  each ",
            ": takes 600000000000000000, which counts until it is given up or leaves the window",
        ),
        (
            "spend  day ",
            "; 600000000000000000 claimed, 400000000000000000 left",
        ),
        (
            "spend  all ",
            "; 600000000000000000 claimed, 4400000000000000000 left",
        ),
        (
            "spend  to ",
            "; 600000000000000000 claimed, 300000000000000000 left",
        ),
    ] {
        assert!(line(&said, start).ends_with(end), "{start}\n{said}");
    }
    let for_whom = format!("for {}", RECIPIENT.to_lowercase());
    assert!(line(&said, "spend  to ").contains(&for_whom), "{said}");
    assert!(!said.contains("usd"), "it is about another asset\n{said}");

    // Rules allowed it, and a limit did not: that has a reason and a name too.
    let denied = "SELECT decision_id FROM decisions WHERE outcome = 'denied'";
    let denied = appliance.database().rows(denied);
    let said = explain(&["--decision", &denied[0], "--config", &config]);
    assert!(
        said.contains(": deny (limit) by limit:day, under version"),
        "{said}"
    );
    assert!(
        line(&said, "spend  day ").ends_with(": would take at most 500000000000000000"),
        "{said}"
    );

    let created = "SELECT decision_id FROM decisions WHERE action = 'create-profile'";
    let created = appliance.database().rows(created);
    let said = explain(&["--decision", &created[0], "--config", &config]);
    assert!(
        line(&said, "rate   key-operations").ends_with(": 1 used, 99999 left"),
        "{said}"
    );
    assert!(!said.contains("spend"), "{said}");
}

/// Requests that are written down, of a wallet that has spent some of its limits.
struct Requests {
    appliance: Appliance,
    config: String,
    of_wallet: String,
    directory: tempfile::TempDir,
    _node: Node,
}

impl Requests {
    async fn new() -> Self {
        let node = Node::start().await;
        let mut appliance = limited(&node);
        appliance.serve().await;
        let wallet = wallet_of(&appliance, &node, "w").await;
        assert_eq!(prepare(&appliance, &wallet, 600).await.status, 200);
        let config = appliance.environment().join("countersignd.toml");
        Self {
            config: config.display().to_string(),
            of_wallet: format!("profile = \"{}\"\n", profile(&wallet)),
            directory: tempfile::tempdir().unwrap(),
            appliance,
            _node: node,
        }
    }

    fn explain(&self, fields: &str, options: &[&str]) -> String {
        let file = request(self.directory.path(), fields);
        explain(&[&["--request", &file], options].concat())
    }

    fn with_database(&self, fields: &str) -> String {
        self.explain(fields, &["--config", &self.config])
    }
}

const ELSEWHERE: &str = "0x3c44cdddb6a900fa2b585dd299e03d12fa4293bc";

#[tokio::test(flavor = "multi_thread")]
async fn a26_a_request_is_explained_with_the_limits_that_it_would_meet() {
    let requests = Requests::new().await;
    let of_wallet = &requests.of_wallet;
    let said = requests.with_database(&(coins(RECIPIENT, 400) + of_wallet));
    assert!(said.starts_with("allow by default.plain-calls\n"), "{said}");
    for (start, end) in [
        ("rate   transactions", ": 1 used, 99999 left"),
        ("spend  each ", ": takes 400000000000000000"),
        (
            "spend  day ",
            "; 600000000000000000 claimed, 400000000000000000 left",
        ),
        (
            "spend  to ",
            "; 600000000000000000 claimed, 300000000000000000 left: too much",
        ),
    ] {
        assert!(line(&said, start).ends_with(end), "{start}\n{said}");
    }
    let said = requests.with_database(&(coins(ELSEWHERE, 701) + of_wallet));
    for (start, end) in [
        ("spend  each ", ": too much"),
        ("spend  day ", ": too much"),
        ("spend  to ", "; 0 claimed, 900000000000000000 left"),
    ] {
        assert!(line(&said, start).ends_with(end), "{start}\n{said}");
    }
    // An approval counts for whoever may take it, and what nobody can count is denied.
    let call =
        |data: &str| format!("chain = {CHAIN}\nto = \"{TOKEN}\"\ndata = \"{data}\"\n{of_wallet}");
    let approval = format!("0x095ea7b3{:0>64}{:0>64}", &ELSEWHERE[2..], "28");
    let said = requests.with_database(&call(&approval));
    let usd = line(&said, "spend  usd ");
    assert!(usd.ends_with(": takes 40; 0 claimed, 100 left"), "{said}");
    let said = requests.with_database(&call("0xdeadbeef"));
    let usd = line(&said, "spend  usd ");
    assert!(
        usd.ends_with(": denied: the call does not say how much it moves"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_is_not_made_up_where_nobody_knows_it() {
    let requests = Requests::new().await;
    let nobodys = coins(RECIPIENT, 800);
    let says = |said: &str, why: &str| {
        let title = format!("\nlimits (what is left is not known: {why}");
        assert!(said.contains(&title), "{title}\n{said}");
    };
    let said = requests.with_database(&nobodys);
    says(&said, "profile is no profile id):\n");
    for (start, end) in [
        ("rate   transactions", "100000 per 60s"),
        ("spend  each ", ": takes 800000000000000000: too much"),
        ("spend  day ", ": takes 800000000000000000"),
    ] {
        assert!(line(&said, start).ends_with(end), "{start}\n{said}");
    }
    let stranger = format!("profile = \"{}\"\n", uuid::Uuid::now_v7());
    let said = requests.with_database(&(nobodys.clone() + &stranger));
    says(&said, "the database has no profile ");
    let said = requests.explain(&nobodys, &[]);
    says(&said, "name a configuration with --config):\n");
    assert!(
        line(&said, "rate   transactions").ends_with("30 per 60s"),
        "{said}"
    );
    assert!(
        said.contains("  spend  no limit is about what it spends\n"),
        "{said}"
    );
    let file = requests.appliance.environment().join("away.toml");
    std::fs::write(&file, elsewhere_stored(&requests.config)).unwrap();
    let away = ["--config", &file.display().to_string()];
    let said = requests.explain(&(nobodys + &requests.of_wallet), &away);
    says(&said, "the database cannot be read: ");
    assert!(
        line(&said, "spend  day ").ends_with(": takes 800000000000000000"),
        "{said}"
    );
}

/// A configuration whose database does not exist.
fn elsewhere_stored(config: &str) -> String {
    let text = std::fs::read_to_string(config).unwrap();
    let (before, store) = text.split_once("\n[store").unwrap();
    let after = store.split_once("\n[").map_or("", |(_, after)| after);
    format!("{before}\n[store]\npath = \"away.db\"\n[{after}")
}
