#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]
use super::*;

const RULE: &str = "@id(\"all\")\npermit (principal, action, resource);\n";

fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

fn says(files: &[(&str, &str)]) -> String {
    let directory = directory(files);
    let Err(refused) = load(Some(directory.path())) else {
        panic!("{files:?} were accepted");
    };
    let path = format!("{}/", directory.path().display());
    refused.to_string().replace(&path, "")
}

const VERSION: (&str, &str) = ("bundle.toml", "version = \"1\"\n");

#[test]
fn a_directory_takes_the_place_of_the_default_rules() {
    let directory = directory(&[
        VERSION,
        ("b.cedar", RULE),
        ("a.cedar", "// nothing yet\n"),
        ("README.md", "about"),
        (".hidden", ""),
        ("b.cedar~", "left by an editor"),
    ]);
    fs::create_dir(directory.path().join("tests")).unwrap();
    let bundle = load(Some(directory.path())).unwrap();
    assert_eq!(bundle.version(), "1");
    assert!(bundle.rule("all").is_some());
    assert!(bundle.rule("builtin.owner-only").is_some());
    assert!(bundle.rule("default.plain-calls").is_none());
    assert!(load(None).unwrap().rule("default.plain-calls").is_some());
}

#[test]
fn a_bundle_that_does_not_hold_is_refused_with_its_place() {
    let bad = "@id(\"r\")\npermit (principal, action == Action::\"sing\", resource);";
    for (files, expected) in [
        (&[("a.cedar", RULE)][..], "bundle.toml: is missing"),
        (&[VERSION], "holds no rules"),
        (&[VERSION, ("a.cedar", bad)], "a.cedar:2: rule r: "),
        (
            &[VERSION, ("a.cedar", RULE), ("b.cedar", RULE)],
            "b.cedar:1: rule all: the id is taken: a.cedar:1",
        ),
        (
            &[VERSION, ("a.cedar", RULE), ("b.ceder", RULE)],
            "b.ceder: is neither",
        ),
        (
            &[("bundle.toml", "version = 1"), ("a.cedar", RULE)],
            "bundle.toml:1: ",
        ),
        (
            &[
                ("bundle.toml", "version = \"1\"\nname = \"x\""),
                ("a.cedar", RULE),
            ],
            "bundle.toml:2: ",
        ),
        (
            &[("bundle.toml", "version = \"a b\""), ("a.cedar", RULE)],
            "bundle.toml: a version is",
        ),
    ] {
        let said = says(files);
        assert!(said.contains(expected), "{said}");
    }
    let missing = load(Some(Path::new("/nowhere"))).err().unwrap();
    assert!(missing.to_string().contains("/nowhere: cannot be read"));
}
