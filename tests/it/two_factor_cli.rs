//! The second factor as its owner sets it up and uses it: the real `countersign`, the real appliance, and `oathtool` for an
//! authenticator, which shares no code with us.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::appliance::COUNTERSIGND;
use crate::support::authenticator::{Authenticator, early_in_a_step};
use crate::support::{Appliance, Node, contains, eventually, files_below};

/// Exit code of everything that is about a code.
const ABOUT_A_CODE: i32 = 14;

/// Somebody with a wallet `w` and a terminal, or without one.
struct User {
    home: PathBuf,
    config: PathBuf,
    _directory: tempfile::TempDir,
}

impl User {
    fn new(appliance: &Appliance) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().to_owned();
        std::fs::write(home.join("phrase"), "correct horse\n").unwrap();
        let user = Self {
            home,
            config: appliance.environment().join("client.toml"),
            _directory: directory,
        };
        let (code, _, wrong) = user.run(&["wallet", "create", "w"]);
        assert_eq!(code, 0, "{wrong}");
        user
    }

    /// Another device, with a directory of its own.
    fn elsewhere(&self) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().to_owned();
        std::fs::write(home.join("phrase"), "correct horse\n").unwrap();
        Self {
            home,
            config: self.config.clone(),
            _directory: directory,
        }
    }

    fn arguments<'a>(&'a self, arguments: &[&'a str]) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        let mut all = vec!["--config".to_owned(), text(&self.config)];
        all.extend(["--home".to_owned(), text(&self.home)]);
        all.extend([
            "--passphrase-file".to_owned(),
            text(&self.home.join("phrase")),
        ]);
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        all
    }

    /// Runs the command without a terminal.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = command()
            .args(self.arguments(arguments))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        texts(&output)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let (code, said, wrong) = self.run(&[arguments, &["--json"]].concat());
        assert_eq!(code, 0, "{wrong}");
        serde_json::from_str(&said).unwrap()
    }

    /// Runs the command on a terminal of its own.
    fn on_a_terminal(&self, arguments: &[&str]) -> Terminal {
        let program = countersign().display().to_string();
        let words: Vec<String> = std::iter::once(program)
            .chain(self.arguments(arguments))
            .map(|word| format!("'{word}'"))
            .collect();
        let child = Command::new("script")
            .args(["--quiet", "--return", "--command"])
            .arg(words.join(" "))
            .arg("/dev/null")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script: it is part of util-linux");
        Terminal {
            child,
            seen: String::new(),
        }
    }

    fn enrol(&self, options: &[&str]) -> Authenticator {
        let begun = self.json(&[&["two-factor", "enrol", "w"], options].concat());
        let uri = begun["otpauth"].as_str().unwrap().to_owned();
        Authenticator {
            enrolment: begun["enrolmentId"].as_str().unwrap().to_owned(),
            secret: secret_of(&uri),
            recovery: serde_json::from_value(begun["recoveryCodes"].clone()).unwrap(),
            uri,
        }
    }

    fn status(&self) -> Value {
        self.json(&["two-factor", "status", "w"])
    }
}

fn countersign() -> PathBuf {
    // The workspace's other program lies beside ours.
    Path::new(COUNTERSIGND).with_file_name("countersign")
}

fn command() -> Command {
    let mut command = Command::new(countersign());
    command.env_clear();
    command
}

fn texts(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        output.status.code().unwrap(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

fn secret_of(uri: &str) -> String {
    let (_, secret) = uri.split_once("secret=").unwrap();
    secret[..32].to_owned()
}

/// A program on a terminal.
struct Terminal {
    child: Child,
    seen: String,
}

impl Terminal {
    /// Reads until this text was shown.
    fn until(&mut self, text: &str) {
        let stdout = self.child.stdout.as_mut().unwrap();
        let mut bytes = [0; 4096];
        while !self.seen.contains(text) {
            let count = stdout.read(&mut bytes).unwrap();
            assert!(count > 0, "{text} never came:\n{}", self.seen);
            self.seen
                .push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    }

    fn types(&mut self, text: &str) {
        // As a person does: the echo is switched off just after the question is shown.
        std::thread::sleep(Duration::from_millis(500));
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(format!("{text}\n").as_bytes()).unwrap();
    }

    /// Reads the rest; how it ended, and everything that was shown.
    fn end(mut self) -> (i32, String) {
        let mut rest = Vec::new();
        let stdout = self.child.stdout.as_mut().unwrap();
        stdout.read_to_end(&mut rest).unwrap();
        self.seen.push_str(&String::from_utf8_lossy(&rest));
        (self.child.wait().unwrap().code().unwrap(), self.seen)
    }
}

/// Factors count after so many seconds, and not at once as `init` has it in development.
fn cooling_off(appliance: &Appliance, seconds: u32) {
    appliance.configure(|config| {
        let (before, table) = config.split_once("[two_factor]\n").unwrap();
        let table = table.replacen("\"0s\"", &format!("\"{seconds}s\""), 1);
        format!("{before}[two_factor]\n{table}")
    });
}

/// What nobody but the owner's eyes may have.
fn assert_nowhere(user: &User, appliance: &Appliance, secrets: &[&str]) {
    let log = appliance.log();
    for secret in secrets {
        assert!(!log.contains(secret), "the log");
        for file in files_below(&user.home) {
            let content = std::fs::read(&file).unwrap();
            assert!(!contains(&content, secret.as_bytes()), "{}", file.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a24_cli_a_factor_is_enrolled_activated_and_asked_for_without_a_terminal() {
    let node = Node::start().await;
    let mut appliance = Appliance::init(&node.url());
    cooling_off(&appliance, 1);
    appliance.serve().await;
    let user = User::new(&appliance);
    assert_eq!(user.status()["status"], "none");
    let (code, _, wrong) = user.run(&["two-factor", "activate", "w"]);
    assert!(code == 2 && wrong.contains("two-factor enrol w"), "{wrong}");

    early_in_a_step().await;
    let authenticator = user.enrol(&[]);
    assert_eq!(authenticator.recovery.len(), 10);
    assert_eq!(user.status()["status"], "pending");
    let (code, _, wrong) = user.run(&["two-factor", "activate", "w"]);
    assert!(code == 2 && wrong.contains("--two-factor-code"), "{wrong}");
    let give = |code: &str| user.run(&["two-factor", "activate", "w", "--two-factor-code", code]);
    let (code, _, wrong) = give("12345");
    assert!(
        code == 2 && wrong.contains("six digits") && !wrong.contains("12345"),
        "{wrong}"
    );
    let (code, _, wrong) = give(&authenticator.wrong());
    assert!(
        code == ABOUT_A_CODE && wrong.contains("the code is not right"),
        "{wrong}"
    );
    let first = authenticator.code(-1);
    let (code, said, wrong) = give(&first);
    assert_eq!(code, 0, "{wrong}");
    assert!(said.contains("counts from"), "{said}");
    eventually("it counts", 10, async || {
        (user.status()["status"] == "active").then_some(())
    })
    .await;
    let (_, said, _) = user.run(&["two-factor", "status", "w"]);
    assert!(
        said.contains("counts since") && said.contains("10 left"),
        "{said}"
    );

    // From now on it is asked for, by name; and each code is good once.
    let (code, _, wrong) = user.run(&["two-factor", "enrol", "w"]);
    assert!(
        code == ABOUT_A_CODE && wrong.contains("--two-factor-code"),
        "{wrong}"
    );
    let (code, _, wrong) = user.run(&["two-factor", "enrol", "w", "--json"]);
    let error: Value = serde_json::from_str(&wrong).unwrap();
    assert_eq!(
        (code, error["code"].as_str()),
        (ABOUT_A_CODE, Some("TWO_FACTOR_REQUIRED"))
    );
    let again = ["two-factor", "enrol", "w", "--two-factor-code"];
    let (code, _, wrong) = user.run(&[&again[..], &[&first]].concat());
    assert!(
        code == ABOUT_A_CODE && wrong.contains("was used before"),
        "{wrong}"
    );
    // A lost authenticator is replaced with a recovery code, in whatever spelling.
    let spelling = authenticator.recovery[0].to_lowercase().replace('-', " ");
    let next = user.enrol(&["--two-factor-code", &spelling]);
    let status = user.status();
    assert_eq!(status["recoveryCodesLeft"], 9);
    assert_eq!(status["next"]["status"], "pending");
    let (code, said, _) = user.run(&["two-factor", "cancel", "w"]);
    assert!(code == 0 && said.contains("is cancelled"), "{said}");
    assert_eq!(user.status()["next"], Value::Null);
    let (code, _, wrong) = user.run(&["two-factor", "cancel", "w"]);
    assert!(
        code == 2 && wrong.contains("no second factor of w waits"),
        "{wrong}"
    );

    let secrets = [
        authenticator.secret.as_str(),
        &authenticator.recovery[0],
        &authenticator.recovery[9],
        &next.secret,
    ];
    assert_nowhere(&user, &appliance, &secrets);
}

#[tokio::test(flavor = "multi_thread")]
async fn a24_cli_devices_are_enrolled_and_revoked_with_a_code() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let user = User::new(&appliance);
    early_in_a_step().await;
    let authenticator = user.enrol(&[]);
    let first = authenticator.code(-1);
    let (code, _, wrong) = user.run(&["two-factor", "activate", "w", "--two-factor-code", &first]);
    assert_eq!(code, 0, "{wrong}");

    let other = user.elsewhere();
    let shared = |name: &str| user.home.join(name).display().to_string();
    let (stick, asks) = (shared("stick"), shared("asks"));
    let phrase = shared("phrase");
    let export = ["wallet", "export", "w", &stick];
    let with = ["--export-passphrase-file", &phrase];
    assert_eq!(user.run(&[&export[..], &with].concat()).0, 0);
    let import = ["wallet", "import", &stick, "--name", "w"];
    let (code, _, wrong) = other.run(&[&import[..], &with].concat());
    assert_eq!(code, 0, "{wrong}");
    let (code, said, wrong) = other.run(&["device", "new", "w", &asks, "--json"]);
    assert_eq!(code, 0, "{wrong}");
    let asked: Value = serde_json::from_str(&said).unwrap();
    let key = asked["keyId"].as_str().unwrap();

    let add = ["device", "add", "w", &asks];
    let (code, _, wrong) = user.run(&add);
    assert!(
        code == ABOUT_A_CODE && wrong.contains("--two-factor-code"),
        "{wrong}"
    );
    let now = authenticator.code(0);
    let (code, said, wrong) = user.run(&[&add[..], &["--two-factor-code", &now]].concat());
    assert!(code == 0 && said.contains(key), "{wrong}");
    let revoke = ["device", "revoke", "w", key];
    assert_eq!(user.run(&revoke).0, ABOUT_A_CODE);
    let recovery = authenticator.recovery[3].as_str();
    let (code, said, wrong) = user.run(&[&revoke[..], &["--two-factor-code", recovery]].concat());
    assert!(code == 0 && said.contains("revoked"), "{wrong}");

    // Enough wrong ones lock it, for right ones too, and it is said for how long.
    let status = ["two-factor", "enrol", "w", "--two-factor-code"];
    for _ in 0..5 {
        let wrong = authenticator.wrong();
        assert_eq!(user.run(&[&status[..], &[&wrong]].concat()).0, ABOUT_A_CODE);
    }
    let right = authenticator.code(1);
    let (code, _, wrong) = user.run(&[&status[..], &[&right]].concat());
    assert!(
        code == ABOUT_A_CODE && wrong.contains("is locked for 15 minutes"),
        "{wrong}"
    );
    let (_, said, _) = user.run(&["two-factor", "status", "w"]);
    assert!(said.contains("locked          until 20"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a24_cli_on_a_terminal_the_secret_is_drawn_and_codes_are_not_echoed() {
    let node = Node::start().await;
    let appliance = Appliance::start(&node).await;
    let user = User::new(&appliance);
    early_in_a_step().await;
    let mut terminal = user.on_a_terminal(&["two-factor", "enrol", "w"]);
    terminal.until("First code of the authenticator: ");
    let seen = terminal.seen.clone();
    for shown in [
        "█▀▀▀▀▀█",
        "Recovery codes, each good once",
        "Write them down NOW",
    ] {
        assert!(seen.contains(shown), "{shown} is not in\n{seen}");
    }
    let (_, uri) = seen.split_once("otpauth://").unwrap();
    let authenticator = Authenticator {
        enrolment: String::new(),
        secret: secret_of(uri),
        recovery: Vec::new(),
        uri: String::new(),
    };
    // Not a code, a wrong one, and the right one.
    terminal.types("hello");
    terminal.until("a code is the six digits");
    terminal.types(&authenticator.wrong());
    terminal.until("the code is not right");
    let right = authenticator.code(-1);
    terminal.types(&right);
    let (code, seen) = terminal.end();
    assert_eq!(code, 0, "{seen}");
    assert!(seen.contains("counts from now on"), "{seen}");
    assert!(!seen.contains(&right) && !seen.contains("hello"), "{seen}");
    assert_eq!(user.status()["status"], "active");

    // Where a code is needed and there is a terminal, it is asked for.
    let mut terminal = user.on_a_terminal(&["two-factor", "enrol", "w", "--no-qr"]);
    terminal.until("Code of the authenticator, or a recovery code: ");
    let right = authenticator.code(0);
    terminal.types(&right);
    terminal.until("First code of the authenticator: ");
    terminal.types("");
    let (code, seen) = terminal.end();
    assert_eq!(code, 2, "{seen}");
    assert!(!seen.contains('█') && !seen.contains(&right), "{seen}");
    assert!(seen.contains("waits for its first code until"), "{seen}");
    assert_nowhere(&user, &appliance, &[&authenticator.secret]);
}
