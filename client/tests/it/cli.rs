//! The `countersign` command as a user runs it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::support::{Bench, appliance::Fault};

const TO: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";

struct User {
    bench: Bench,
    home: PathBuf,
}

impl User {
    async fn new() -> Self {
        let bench = Bench::start().await;
        let home = bench.directory.path().to_owned();
        fs::write(home.join("client.toml"), bench.server.config_text()).unwrap();
        fs::write(home.join("phrase"), "correct horse\n").unwrap();
        fs::write(home.join("other"), "another horse\n").unwrap();
        Self { bench, home }
    }

    /// Runs the command with the right passphrase.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        self.run_with("phrase", arguments)
    }

    fn open(&self) -> countersign_client::keystore::Wallet {
        self.bench.open()
    }

    fn run_with(&self, passphrase_file: &str, arguments: &[&str]) -> (i32, String, String) {
        let output = command(&self.home)
            .env(
                "COUNTERSIGN_PASSPHRASE_FILE",
                self.home.join(passphrase_file),
            )
            .args(arguments)
            .output()
            .unwrap();
        texts(&output)
    }
}

fn command(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
    command
        .env_clear()
        .env("COUNTERSIGN_HOME", home)
        .current_dir(home)
        .stdin(Stdio::null());
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

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_nothing_to_a_payment_and_an_export() {
    let user = User::new().await;
    let (code, list, _) = user.run(&["wallet", "list"]);
    assert!(code == 0 && list.contains("no wallets yet"));

    let (code, created, progress) = user.run(&["wallet", "create", "main", "--json"]);
    assert_eq!(code, 0, "{progress}");
    let address = json(&created)["address"].as_str().unwrap().to_owned();
    for step in [
        "[1/3]",
        "[2/3]",
        "share is stored",
        "[3/3]",
        "test signature",
    ] {
        assert!(progress.contains(step), "{progress}");
    }
    let (_, list, _) = user.run(&["wallet", "list"]);
    assert!(list.contains("main") && list.contains("active") && list.contains(&address));

    let send = ["send", "main", "--to", TO, "--value", "0.01"];
    let (code, _, shown) = user.run(&send);
    assert_eq!(
        code, 9,
        "without a terminal and without --yes nothing is signed"
    );
    assert!(
        shown.contains("0.01 ETH")
            && shown.contains("at most 0.010042 ETH")
            && shown.contains("use --yes")
    );
    let (code, sent, _) = user.run(&[&send[..], &["--yes", "--json"]].concat());
    assert_eq!(
        (code, &json(&sent)["status"]),
        (0, &Value::from("submitted"))
    );
    let (_, shown, _) = user.run(&["wallet", "show", "main"]);
    let hash = json(&sent)["txHash"].as_str().unwrap().to_owned();
    for expected in [address.as_str(), "active, key STABLE", "0.01 ETH to", &hash] {
        assert!(shown.contains(expected), "{shown}");
    }

    let export = [
        "wallet",
        "export",
        "main",
        "stick",
        "--export-passphrase-file",
        "other",
    ];
    assert_eq!(user.run(&export).0, 0);
    assert_eq!(user.run(&export).0, 2, "an export is never overwritten");
    let beside = ["wallet", "import", "stick", "--name", "copy"];
    let (code, _, error) =
        user.run(&[&beside[..], &["--export-passphrase-file", "other"]].concat());
    assert!(code == 2 && error.contains("main.wallet"), "{error}");
    let import = [
        "wallet",
        "import",
        "stick",
        "--name",
        "copy",
        "--home",
        "elsewhere",
    ];
    assert_eq!(
        user.run(&import).0,
        3,
        "the export has a passphrase of its own"
    );
    let (code, imported, _) =
        user.run(&[&import[..], &["--export-passphrase-file", "other"]].concat());
    assert!(code == 0 && imported.contains(&address));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_tell_causes_apart() {
    let user = User::new().await;
    assert_eq!(user.run(&["wallet", "create", "main"]).0, 0);
    let send = ["send", "main", "--to", TO, "--value", "0.01", "--yes"];
    assert_eq!(
        user.run(&["wallet", "create", "main"]).0,
        2,
        "the name is taken"
    );
    assert_eq!(user.run(&["wallet", "show", "nobody"]).0, 2);
    assert_eq!(
        user.run(&[
            "send",
            "main",
            "--to",
            TO,
            "--value",
            "0.0000000000000000001"
        ])
        .0,
        2
    );
    assert_eq!(user.run_with("other", &send).0, 3);
    user.bench
        .server
        .fault(Fault::Refuse("transaction", 403, "POLICY_DENIED", "never"));
    let (code, _, error) = user.run(&[&send[..], &["--json"]].concat());
    assert_eq!(
        (code, &json(error.trim())["code"]),
        (6, &Value::from("POLICY_DENIED"))
    );
    user.bench.server.fault(Fault::OfferOther);
    assert_eq!(user.run(&send).0, 8);
    assert_eq!(
        user.run(&["send", "main", "--resume"]).0,
        10,
        "nothing to resume"
    );
    user.bench.server.fault(Fault::Tamper("sg1", 30));
    let (code, _, error) = user.run(&send);
    assert!(
        code == 7 && error.contains("QUARANTINED") && error.contains("Way out"),
        "{error}"
    );
    let (code, _, error) = user.run(&send);
    assert!(code == 7 && error.contains("QUARANTINED"), "{error}");
    assert!(user.run(&["wallet", "list"]).1.contains("QUARANTINED"));

    let file = user.home.join("wallets/main.wallet");
    let mut bytes = fs::read(&file).unwrap();
    bytes.truncate(1000);
    fs::write(&file, bytes).unwrap();
    assert_eq!(user.run(&send).0, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_payment_is_reported_once_and_never_looks_like_a_failure() {
    let user = User::new().await;
    assert_eq!(user.run(&["wallet", "create", "main"]).0, 0);
    let send = ["send", "main", "--to", TO, "--value", "0.01", "--yes"];
    // What the server writes cannot drive the terminal.
    user.bench.server.fault(Fault::Refuse(
        "transaction",
        403,
        "DENIED\u{1b}[2A\u{202e}",
        "never",
    ));
    let (code, _, error) = user.run(&send);
    assert_eq!(code, 6);
    assert!(error.contains("DENIED\u{fffd}[2A\u{fffd}"), "{error:?}");

    let looks = |count: usize| {
        user.bench.server.protocol(|protocol| {
            protocol.looks = vec![(500, Value::from("gateway trouble")); count];
        });
    };
    looks(10);
    let (code, _, error) = user.run(&[&send[..], &["--wait", "--wait-seconds", "1"]].concat());
    assert!(code == 12 && error.contains("signed"), "{error}");
    looks(0);
    let (code, _, error) = user.run(&["send", "main", "--resume"]);
    assert_eq!(code, 0, "{error}");
    // The hash was shown, so the same command is meant as a second payment.
    assert_eq!(user.run(&send).0, 0);

    // A run that was killed before it could show the hash.
    drop(user.bench.send(&mut user.open()).await.unwrap());
    assert_eq!(user.run(&send).0, 10);
    assert_eq!(user.run(&["send", "main", "--resume"]).0, 0);
    assert_eq!(user.run(&send).0, 0);
    user.bench
        .server
        .protocol(|protocol| assert_eq!(protocol.signed.len(), 4));

    // Given up after the last message: nothing is claimed that only the appliance knows.
    user.bench
        .server
        .fault(Fault::Refuse("sg2", 503, "STORE_UNAVAILABLE", "never"));
    assert_eq!(user.run(&send).0, 6);
    let (code, text, _) = user.run(&["send", "main", "--abandon"]);
    assert!(code == 0 && text.contains("the appliance says"), "{text}");
    user.bench.server.protocol(|protocol| protocol.nonce = 8);
    let (code, _, error) = user.run(&send);
    assert!(code == 10 && error.contains("--other-nonce"), "{error}");
    assert_eq!(user.run(&[&send[..], &["--other-nonce"]].concat()).0, 0);
}

#[test]
fn help_teaches_and_names_every_exit_code() {
    let directory = tempfile::tempdir().unwrap();
    let help =
        |arguments: &[&str]| texts(&command(directory.path()).args(arguments).output().unwrap());
    let (code, text, _) = help(&["--help"]);
    assert_eq!(code, 0);
    assert!(text.contains("countersign send main --to"));
    for number in [0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12] {
        assert!(
            text.lines()
                .any(|line| line.trim_start().starts_with(&format!("{number} "))),
            "{number}"
        );
    }
    assert!(help(&["send", "--help"]).1.contains("--abandon"));
    assert_eq!(help(&["send", "main"]).0, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_device_takes_a_key_of_its_own_and_asks_for_its_enrolment() {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use countersign_mpc::owner_proof::{Algorithm, Enrolment, PublicKey};

    let user = User::new().await;
    let create = ["wallet", "create", "main", "--device-key", "ed25519"];
    let (code, _, said) = user.run(&create);
    assert_eq!(code, 0, "{said}");
    assert_eq!(user.open().device().algorithm(), Algorithm::Ed25519);
    assert_eq!(user.run(&["wallet", "export", "main", "stick"]).0, 0);

    // Another device.
    let second = user.home.join("second");
    fs::create_dir(&second).unwrap();
    for file in [
        "client.toml",
        "phrase",
        "stick",
        "ca.pem",
        "gateway.pem",
        "gateway-key.pem",
    ] {
        fs::copy(user.home.join(file), second.join(file)).unwrap();
    }
    let run = |arguments: &[&str]| {
        let mut command = command(&second);
        command.env("COUNTERSIGN_PASSPHRASE_FILE", second.join("phrase"));
        texts(&command.args(arguments).output().unwrap())
    };
    assert_eq!(run(&["wallet", "import", "stick"]).0, 0);
    let new = ["device", "new", "main", "ask", "--name", "phone", "--json"];
    let (code, said, error) = run(&new);
    assert_eq!(code, 0, "{error}");
    let asked = json(&fs::read_to_string(second.join("ask")).unwrap());
    let key = PublicKey::parse(&asked["publicKey"]).unwrap();
    assert_eq!(key.algorithm(), Algorithm::P256);
    assert_eq!(json(&said)["keyId"], key.thumbprint());
    let wallet = user.open();
    assert_ne!(wallet.device().public_key(), key);
    let bytes = |name: &str| {
        let text = asked["proof"][name].as_str().unwrap();
        URL_SAFE_NO_PAD.decode(text).unwrap()
    };
    let mut environment_id = [0; 32];
    hex::decode_to_slice(wallet.environment_id(), &mut environment_id).unwrap();
    let enrolment = Enrolment {
        environment_id: &environment_id,
        tenant: "default",
        profile_id: wallet.current().unwrap().0,
        name: "phone",
        nonce: &bytes("nonce").try_into().unwrap(),
        expires: asked["proof"]["expires"].as_u64().unwrap(),
    };
    let signature = bytes("signature").try_into().unwrap();
    assert!(key.verify(&enrolment.statement(&key), &signature));

    // The file is not overwritten, and without it the key is not changed again.
    let (code, _, error) = run(&new);
    assert!(code != 0 && error.contains("ask"), "{error}");
    let again = [
        "device",
        "new",
        "main",
        "again",
        "--device-key",
        "ed25519",
        "--json",
    ];
    let (_, said, _) = run(&again);
    assert_ne!(json(&said)["keyId"], key.thumbprint());
    // An id that is none is refused before anybody is asked.
    let (code, _, error) = run(&["device", "revoke", "main", "../x"]);
    assert!(code != 0 && error.contains("no device key id"), "{error}");
}
