//! Rules of the tree that no compiler checks: who may use whom, and that the documents tell the truth.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Which modules of `src/` a module may use. What a module may use, its users may use too.
const ALLOWED: [(&str, &[&str]); 16] = [
    ("main", &["cli"]),
    ("cli", &["http"]),
    ("http", &["service", "config"]),
    ("config", &["identity", "chain", "operators"]),
    (
        "service",
        &[
            "identity",
            "gate",
            "audit",
            "custody",
            "sessions",
            "chain",
            "operators",
            "store",
        ],
    ),
    ("custody", &["gate", "store"]),
    ("gate", &["policy", "limits", "two_factor", "store"]),
    ("identity", &["store"]),
    ("audit", &["store"]),
    ("sessions", &["store"]),
    ("chain", &["domain"]),
    ("operators", &["domain"]),
    ("policy", &["domain"]),
    ("limits", &["domain"]),
    ("two_factor", &["domain"]),
    ("store", &["domain"]),
];

/// Leaves: open to every module, and they use only each other.
const LEAVES: [&str; 3] = ["domain", "clock", "telemetry"];

/// Crates that only one place may name.
const CONFINED: [(&str, &[&str]); 7] = [
    ("axum", &["src/http"]),
    ("utoipa_axum", &["src/http"]),
    ("rusqlite", &["src/store"]),
    ("sqlx", &["src/store"]),
    ("cryptoki", &["hsm"]),
    ("dkls23", &["mpc"]),
    ("cedar_policy", &["policy"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Rust files of the product below `folder`, without those that hold tests only.
fn product(folder: &str) -> Vec<PathBuf> {
    let mut found = files(folder, "rs");
    found.retain(|file| {
        let mut names = file.iter().map(|name| name.to_str().unwrap());
        !names.any(|name| name.trim_end_matches(".rs").ends_with("tests"))
    });
    found
}

/// Files below `folder` with this extension, as paths relative to the repository.
pub(crate) fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir()
                && !name.starts_with('.')
                && !["target", "node_modules", "tmp"].contains(&name)
            {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

pub(crate) fn text(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The product code of a Rust file: without comments and without its test module, which closes the file.
fn code(path: &Path) -> String {
    text(path)
        .split("#[cfg(test)]")
        .next()
        .unwrap()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// The identifier with which `text` starts.
fn word(text: &str) -> &str {
    text.split(|c: char| !is_word(c)).next().unwrap()
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// What follows each occurrence of `prefix` that starts a word, up to the next occurrence.
fn after<'a>(text: &'a str, prefix: &str) -> Vec<&'a str> {
    let pieces: Vec<&str> = text.split(prefix).collect();
    pieces
        .windows(2)
        .filter(|pair| !pair[0].ends_with(is_word))
        .map(|pair| pair[1])
        .collect()
}

/// The modules of this crate that `code` names: `crate::module` and `crate::{one::…, two::…}`.
fn named_modules(code: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for rest in after(code, "crate::") {
        let Some(group) = rest.strip_prefix('{') else {
            named.insert(word(rest).to_owned());
            continue;
        };
        let outermost: String = group
            .chars()
            .scan(0, |depth, c| {
                *depth += i32::from(c == '{') - i32::from(c == '}');
                (*depth >= 0).then_some((*depth, c))
            })
            .filter(|(depth, _)| *depth == 0)
            .map(|(_, c)| c)
            .collect();
        named.extend(
            outermost
                .split(',')
                .map(|item| word(item.trim()).to_owned())
                .filter(|name| !name.is_empty()),
        );
    }
    named
}

fn may_use(module: &str, used: &str) -> bool {
    if LEAVES.contains(&used) || module == used {
        return true;
    }
    ALLOWED
        .iter()
        .find(|(name, _)| *name == module)
        .is_some_and(|(_, allowed)| {
            allowed
                .iter()
                .any(|next| may_use(next, used) && !LEAVES.contains(next))
        })
}

#[test]
fn modules_use_each_other_in_one_direction() {
    let mut wrong = Vec::new();
    for file in product("src") {
        let module = file
            .iter()
            .nth(1)
            .unwrap()
            .to_str()
            .unwrap()
            .trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        let known = ALLOWED.iter().any(|(name, _)| *name == module) || LEAVES.contains(&module);
        assert!(known, "{module} has no place in ALLOWED");
        for used in named_modules(&code(&file)) {
            if !may_use(module, &used) {
                wrong.push(format!("{} uses {used}", file.display()));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn confined_crates_stay_in_their_place() {
    let mut wrong = Vec::new();
    for folder in ["src", "hsm/src", "mpc/src", "client/src", "policy/src"] {
        for file in product(folder) {
            let code = code(&file);
            for (name, places) in CONFINED {
                let named = after(&code, name).iter().any(|rest| rest.starts_with("::"));
                if named
                    && !places.iter().any(|place| {
                        file.starts_with(place) || file.starts_with(format!("{place}.rs"))
                    })
                {
                    wrong.push(format!("{} names {name}", file.display()));
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn every_route_is_registered_with_its_description() {
    let mut wrong = Vec::new();
    for file in product("src/http") {
        let code = code(&file);
        for call in [".route(", ".route_service(", ".nest_service("] {
            if code.contains(call) {
                wrong.push(format!("{} calls {call}…): use routes!(…)", file.display()));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn module_names_are_read_out_of_use_groups() {
    let code = "use crate::{clock::{now, Timestamp}, store};\nlet x = crate::gate::admit(); let y = not_crate::http::z;";
    let expected = ["clock", "gate", "store"].map(str::to_owned);
    assert_eq!(named_modules(code), BTreeSet::from(expected));
}

#[test]
fn links_in_documents_exist() {
    let mut wrong = Vec::new();
    for file in files(".", "md") {
        for link in text(&file).split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap();
            if !target.contains("://")
                && !root().join(&file).parent().unwrap().join(target).exists()
            {
                wrong.push(format!("{} links to {target}", file.display()));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn paths_in_documents_exist() {
    let folders = [
        "src/",
        "mpc/",
        "hsm/",
        "client/",
        "policy/",
        "tests/",
        "scripts/",
        "softhsm/",
        "policies/",
        "systemd/",
        "docs/",
    ];
    let mut wrong = Vec::new();
    for file in files(".", "md") {
        for path in text(&file).split('`').skip(1).step_by(2) {
            let is_path = folders.iter().any(|folder| path.starts_with(folder))
                && path.chars().all(|c| is_word(c) || "/.-".contains(c));
            if is_path
                && !root().join(path).exists()
                && !root().join(&file).parent().unwrap().join(path).exists()
            {
                wrong.push(format!("{} names {path}", file.display()));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// The first word after `command` wherever a document shows it as code, with the document's name.
fn shown(command: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for file in files(".", "md") {
        let document = text(&file);
        for start in [format!("`{command} "), format!("\n{command} ")] {
            for rest in document.split(&start).skip(1) {
                let argument = rest
                    .split(|c: char| !is_word(c) && c != '-')
                    .next()
                    .unwrap();
                found.push((file.clone(), argument.to_owned()));
            }
        }
    }
    found
}

#[test]
fn commands_in_documents_exist() {
    let makefile = text(Path::new("Makefile"));
    for (file, target) in shown("make") {
        assert!(
            makefile.contains(&format!("\n{target}:")),
            "{} says make {target}",
            file.display()
        );
    }
    let help = Command::new(env!("CARGO_BIN_EXE_countersignd"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for (file, verb) in shown("countersignd") {
        let known = help
            .lines()
            .any(|line| line.starts_with("  ") && word(line.trim()) == verb);
        assert!(known, "{} says countersignd {verb}", file.display());
    }
}

#[test]
fn tests_that_security_md_names_exist() {
    let sources: String = ["src", "tests", "mpc", "hsm", "client", "policy"]
        .iter()
        .flat_map(|folder| files(folder, "rs"))
        .map(|file| text(&file))
        .collect();
    let document = text(Path::new("SECURITY.md"));
    let code = document.split('`').skip(1).step_by(2);
    let names: Vec<&str> = code
        .filter(|code| code.contains('_') && code.chars().all(|c| is_word(c) || c == '*'))
        .collect();
    assert!(
        names.len() > 20,
        "SECURITY.md names too few tests: {names:?}"
    );
    for name in names {
        let end = if name.ends_with('*') { "" } else { "(" };
        let definition = format!("fn {}{end}", name.trim_end_matches('*'));
        assert!(
            sources.contains(&definition),
            "SECURITY.md names {name}, which is no test"
        );
    }
}

#[test]
fn migrations_are_numbered_without_gaps_say_why_and_exist_for_both_engines() {
    let names = |engine: &str| -> Vec<String> {
        let name = |file: &PathBuf| file.file_name().unwrap().to_str().unwrap().to_owned();
        let files = files(engine, "sql");
        for file in &files {
            let why = text(file);
            assert!(why.starts_with("-- "), "{} says not why", file.display());
        }
        files.iter().map(name).collect()
    };
    let sqlite = names("migrations/sqlite");
    assert_eq!(sqlite, names("migrations/postgres"));
    for (name, number) in sqlite.iter().zip(1..) {
        assert!(
            name.starts_with(&format!("{number:04}_")),
            "{name} is not number {number}"
        );
    }
}

#[test]
fn no_public_authority_vouches_for_a_database() {
    let lock = text(Path::new("Cargo.lock"));
    let (_, roots) = lock.split_once("name = \"webpki-roots\"").unwrap();
    let roots = roots.split("[[package]]").next().unwrap();
    assert!(
        !roots.contains("source ="),
        "the crate of public root certificates is in the tree, not vendor/webpki-roots"
    );
}
