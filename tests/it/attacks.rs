//! `tests/attacks.md`: each attack of the design, the tests that carry it out, and what no test shows yet.
//!
//! A test belongs to the attack that its name begins with. What is missing is written here, by hand, and what is not
//! missing must have a test.

use std::fmt::Write as _;
use std::path::Path;

use crate::repository::{files, text};
use crate::routes::compare;

/// Id, what it is, where else it is looked at, and what is missing.
type Attack = (
    &'static str,
    &'static str,
    Option<&'static str>,
    Option<&'static str>,
);

const ROTATION: Option<&str> = Some("comes with key rotation");
const BACKUP: Option<&str> = Some("comes with backups");
const SECOND_FACTOR: Option<&str> = Some("comes with the second factor");
const BATCH: Option<&str> = Some("comes with batches");

const ATTACKS: [Attack; 43] = [
    (
        "a01",
        "selective failure in the oblivious transfer: a cheat learns one bit of a long-lived secret",
        None,
        None,
    ),
    (
        "a02",
        "many such probes at once, before the first ban",
        None,
        None,
    ),
    (
        "a03",
        "a ban that is lost: cancelled, panicked, killed, failed over",
        None,
        None,
    ),
    (
        "a04",
        "a ban as denial of service: forged messages that look like cheating",
        None,
        None,
    ),
    ("a05", "several sessions of one key at once", None, None),
    (
        "a06",
        "messages and ids of another session, round, wallet or owner",
        None,
        None,
    ),
    ("a07", "kept state that is used twice", None, None),
    (
        "a08",
        "another digest than the one that was agreed",
        None,
        None,
    ),
    (
        "a09",
        "a signature for one purpose that is valid for another",
        None,
        None,
    ),
    (
        "a10",
        "malleable signatures: high s, wrong recovery id",
        None,
        None,
    ),
    ("a11", "a key that one side chose", None, None),
    (
        "a12",
        "invalid encodings, points, lengths; panics",
        Some("`make fuzz`: a target for every message and text from outside"),
        None,
    ),
    (
        "a13",
        "extraction through Paillier and failed final signatures",
        Some("`deny.toml`: no Paillier family in the tree"),
        None,
    ),
    ("a14", "ambiguous hashing", None, None),
    ("a15", "who learns the signature first", None, None),
    (
        "a16",
        "forget and forgive: one side has new shares, the other has old ones",
        None,
        Some("the rotation itself comes with key rotation"),
    ),
    ("a17", "an address whose key is half stored", None, None),
    (
        "a18",
        "a database from before: old shares, bans forgotten",
        None,
        Some("generations come with key rotation"),
    ),
    (
        "a19",
        "rows swapped in the database",
        None,
        Some("a message authentication code over states"),
    ),
    ("a20", "refresh misused", None, ROTATION),
    ("a21", "a backup that cannot be restored", None, BACKUP),
    ("a22", "a backup under the thief's key", None, BACKUP),
    ("a23", "a wallet's secret sent to the appliance", None, None),
    (
        "a24",
        "a second factor replayed, guessed, raced",
        None,
        SECOND_FACTOR,
    ),
    ("a25", "rate limits raced or gone around", None, None),
    (
        "a26",
        "a policy that changes between verdict and signature",
        None,
        None,
    ),
    ("a27", "what hides in a batch", None, BATCH),
    (
        "a28",
        "nonces of the chain, double payment, lost broadcasts",
        None,
        None,
    ),
    ("a29", "a node that lies", None, None),
    (
        "a30",
        "secrets in logs, metrics, errors, at rest",
        None,
        None,
    ),
    (
        "a31",
        "secrets left in memory",
        None,
        Some("locked memory and a wiping allocator come with hardening"),
    ),
    (
        "a32",
        "what time and answers tell about others' wallets",
        None,
        None,
    ),
    (
        "a33",
        "a gateway that alters, forges, replays, reads",
        None,
        None,
    ),
    (
        "a34",
        "certificates mistaken",
        Some("`make tls-check`"),
        None,
    ),
    ("a35", "devices lost, stolen, enrolled, revoked", None, None),
    (
        "a36",
        "an audit trail cut or forged",
        None,
        Some("signed checkpoints"),
    ),
    (
        "a37",
        "exhaustion: connections, bodies, key generations",
        None,
        None,
    ),
    (
        "a38",
        "another version of the protocol or of a dependency",
        Some("`deny.toml`, `Cargo.lock`"),
        None,
    ),
    ("a39", "randomness that repeats", None, None),
    ("a40", "development mode in production", None, None),
    ("s1", "first light: a wallet is made and pays", None, None),
    ("s4", "the owner's proof of each request", None, None),
    (
        "s35",
        "the exit: a wallet restored without the appliance",
        None,
        BACKUP,
    ),
];

/// A test of an attack.
struct Test {
    name: String,
    file: String,
    engines: &'static str,
    long: bool,
}

/// Modules of `tests/it` that are not run once more on PostgreSQL, as `scripts/test.sh` says.
fn on_one_engine() -> Vec<String> {
    let script = text(Path::new("scripts/test.sh"));
    let (_, list) = script.split_once("not test(/^(").unwrap();
    let (list, _) = list.split_once(')').unwrap();
    list.split('|').map(str::to_owned).collect()
}

fn engines(file: &str, rest: &str, once: &[String]) -> &'static str {
    let module = file.strip_prefix("tests/it/");
    let module = module.map(|file| file.trim_end_matches(".rs").split('/').next().unwrap());
    match module {
        Some("postgres" | "instances") => "PostgreSQL",
        Some("copy") => "SQLite, PostgreSQL",
        Some(module) if once.iter().any(|one| one == module) => "",
        Some(_) => "SQLite, PostgreSQL",
        None if rest.starts_with("(database: Database)") => "SQLite, PostgreSQL",
        None => "",
    }
}

/// The tests of one file whose names begin with an attack's id.
fn tests_of(file: &Path, once: &[String]) -> Vec<Test> {
    let source = text(file);
    let lines: Vec<&str> = source.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let line = line.trim_start();
        let line = line.strip_prefix("async ").unwrap_or(line);
        let Some(name) = line.strip_prefix("fn ") else {
            continue;
        };
        let end = name.find('(').unwrap_or(name.len());
        let (name, rest) = name.split_at(end);
        let id = name.split('_').next().unwrap();
        if !ATTACKS.iter().any(|attack| attack.0 == id) {
            continue;
        }
        let above = lines[..at].iter().rev();
        let attributes: Vec<&str> = above
            .map(|line| line.trim())
            .take_while(|line| line.starts_with('#') || line.starts_with("//"))
            .collect();
        let is = |what: &str| attributes.iter().any(|line| line.starts_with(what));
        if !is("#[test]") && !is("#[tokio::test") && !rest.starts_with("(database: Database)") {
            continue;
        }
        let file = file.to_str().unwrap();
        found.push(Test {
            name: name.to_owned(),
            file: file.to_owned(),
            engines: engines(file, rest, once),
            long: is("#[ignore"),
        });
    }
    found
}

fn all_tests() -> Vec<Test> {
    let once = on_one_engine();
    let folders = ["src", "hsm", "mpc", "client", "policy", "tests"];
    let files = folders.iter().flat_map(|folder| files(folder, "rs"));
    let mut tests: Vec<Test> = files.flat_map(|file| tests_of(&file, &once)).collect();
    tests.sort_by(|one, other| (&one.name, &one.file).cmp(&(&other.name, &other.file)));
    tests
}

/// As a table needs it: the id, then the tests.
fn described((id, what, elsewhere, missing): &Attack, tests: &[Test], page: &mut String) {
    writeln!(page, "\n## {id}: {what}\n").unwrap();
    let own: Vec<&Test> = tests
        .iter()
        .filter(|test| test.name.split('_').next() == Some(id))
        .collect();
    assert!(
        !own.is_empty() || missing.is_some(),
        "{id} has no test, and nothing says that one is missing"
    );
    if !own.is_empty() {
        page.push_str("| test | in | on | result |\n|---|---|---|---|\n");
    }
    for Test {
        name,
        file,
        engines,
        long,
    } in own
    {
        let result = if *long {
            "passes, in `make test-long`"
        } else {
            "passes"
        };
        writeln!(page, "| `{name}` | `{file}` | {engines} | {result} |").unwrap();
    }
    if let Some(elsewhere) = elsewhere {
        writeln!(page, "\nAlso: {elsewhere}.").unwrap();
    }
    if let Some(missing) = missing {
        writeln!(page, "\n**Missing:** {missing}.").unwrap();
    }
}

#[test]
fn every_attack_of_the_design_has_its_tests_or_says_what_is_missing() {
    let tests = all_tests();
    let mut page = String::from(
        "# Attacks and their tests\n\n\
         Made by `tests/it/attacks.rs` from the names of the tests (`COUNTERSIGN_BLESS=1`), and compared in CI. The ids\n\
         are those of the design. \"Passes\" is what CI finds of every test in this list, or it is red; what takes long runs\n\
         in `make test-long` only. \"On\" names the databases that a test runs on; where none is, it knows none.\n",
    );
    for attack in &ATTACKS {
        described(attack, &tests, &mut page);
    }
    compare("tests/attacks.md", &page);
}
