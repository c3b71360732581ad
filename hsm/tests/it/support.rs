//! A fresh SoftHSM token per test.
//!
//! SoftHSM reads `SOFTHSM2_CONF` from the environment, and a test cannot set its own environment without
//! unsafe code. So each test runs itself again as a child process with the variable set; the child
//! leaves a mark, so that a child that ran nothing fails the test.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use countersign_hsm::{HsmError, KekName, ObjectAad, Pin, Profile, Purpose, Token, TokenConfig};
use cryptoki::context::Pkcs11;
use cryptoki::session::Session;

pub(crate) const LABEL: &str = "test";
pub(crate) const PIN: &str = "correct-horse";
const DIRECTORY: &str = "COUNTERSIGN_HSM_TEST_DIR";

/// What a test gets: a directory with a token in it.
pub(crate) struct Bench {
    pub(crate) directory: PathBuf,
}

/// Runs `body` in a child process with its own token, labelled [`LABEL`].
pub(crate) fn with_token<F, R>(body: F)
where
    F: FnOnce(Bench) -> R,
    R: Future<Output = ()>,
{
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        let bench = Bench {
            directory: directory.into(),
        };
        fs::write(bench.directory.join("ran"), "").unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(body(bench));
        return;
    }
    // "it::envelope::name::{{closure}}" is the test "envelope::name".
    let path = std::any::type_name::<F>().trim_end_matches("::{{closure}}");
    let (_, test) = path.split_once("::").unwrap();
    let directory = tempfile::tempdir().unwrap();
    prepare(directory.path());
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("SOFTHSM2_CONF", directory.path().join("softhsm2.conf"))
        .env("PKCS11SPY", softhsm())
        .env("PKCS11SPY_OUTPUT", directory.path().join("spy.log"))
        .env(DIRECTORY, directory.path())
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{test} failed in its child:\n{out}\n{err}"
    );
    assert!(
        directory.path().join("ran").exists(),
        "the child ran no test named {test}"
    );
}

fn prepare(directory: &Path) {
    let tokens = directory.join("tokens");
    fs::create_dir(&tokens).unwrap();
    let conf = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        tokens.display()
    );
    fs::write(directory.join("softhsm2.conf"), conf).unwrap();
    write_pin(directory, PIN);
    init_token(directory, LABEL);
}

/// Makes one more token with this label.
pub(crate) fn init_token(directory: &Path, label: &str) {
    let output = Command::new("softhsm2-util")
        .args([
            "--init-token",
            "--free",
            "--label",
            label,
            "--so-pin",
            "so-pin-of-a-test",
        ])
        .args(["--pin", PIN])
        .env("SOFTHSM2_CONF", directory.join("softhsm2.conf"))
        .output()
        .expect("softhsm2-util is needed: install softhsm2");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

pub(crate) fn write_pin(directory: &Path, pin: &str) {
    let path = directory.join("pin");
    fs::write(&path, pin).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
}

/// The SoftHSM module of this system.
pub(crate) fn softhsm() -> PathBuf {
    first_of(&[
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib64/pkcs11/libsofthsm2.so",
        "/usr/lib64/softhsm/libsofthsm2.so",
        "/opt/homebrew/lib/softhsm/libsofthsm2.so",
        "/usr/local/lib/softhsm/libsofthsm2.so",
    ])
}

/// OpenSC's spy: it logs every call and passes it on to SoftHSM.
pub(crate) fn spy() -> PathBuf {
    first_of(&[
        "/usr/lib/x86_64-linux-gnu/pkcs11-spy.so",
        "/usr/lib/aarch64-linux-gnu/pkcs11-spy.so",
        "/usr/lib64/pkcs11-spy.so",
        "/usr/lib64/pkcs11/pkcs11-spy.so",
        "/opt/homebrew/lib/pkcs11-spy.so",
    ])
}

fn first_of(paths: &[&str]) -> PathBuf {
    let found = paths.iter().map(PathBuf::from).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("install softhsm2 and opensc; looked for {paths:?}"))
}

impl Bench {
    pub(crate) fn config(&self) -> TokenConfig {
        TokenConfig {
            module: softhsm(),
            token_label: LABEL.to_owned(),
            pin: Pin::from_file(&self.directory.join("pin")).unwrap(),
            profile: Profile::builtin("softhsm2").unwrap(),
            workers: 4,
            queue: 64,
            deadline: Duration::from_secs(20),
        }
    }

    /// The shipped profile with one text replaced.
    pub(crate) fn profile_with(&self, from: &str, to: &str) -> Profile {
        let shipped = include_str!("../../profiles/softhsm2.toml");
        assert!(shipped.contains(from), "{from}");
        let path = self.directory.join("profile.toml");
        fs::write(&path, shipped.replace(from, to)).unwrap();
        Profile::load(&path).unwrap()
    }

    pub(crate) fn open(&self) -> Token {
        Token::open(self.config()).unwrap()
    }

    /// Opens the token behind the spy, with one worker, so that calls can be counted.
    pub(crate) fn open_spied(&self) -> Result<Token, HsmError> {
        Token::open(TokenConfig {
            module: spy(),
            workers: 1,
            ..self.config()
        })
    }

    /// How often the module was called so far.
    pub(crate) fn calls(&self, function: &str) -> usize {
        self.records(function).len()
    }

    /// The sessions that called a function, in order, as the spy prints them.
    pub(crate) fn sessions_of(&self, function: &str) -> Vec<String> {
        let session = |call: &String| {
            call.lines()
                .find(|line| line.contains("hSession"))
                .unwrap()
                .to_owned()
        };
        self.records(function).iter().map(session).collect()
    }

    /// The input bytes of every call of a one-shot function, in order.
    pub(crate) fn inputs_of(&self, function: &str) -> Vec<Vec<u8>> {
        let input = |call: &String| {
            let dump = call
                .lines()
                .skip_while(|line| !line.starts_with("[in] p"))
                .skip(1);
            // "    00000000  96 94 E5 ...  ......": 16 columns of three characters each.
            let rows = dump.take_while(|line| line.starts_with("    0"));
            let digits: String = rows
                .map(|row| row.get(14..62).unwrap().replace(' ', ""))
                .collect();
            hex::decode(digits).unwrap()
        };
        self.records(function).iter().map(input).collect()
    }

    /// What the spy wrote about each call of a function.
    fn records(&self, function: &str) -> Vec<String> {
        let log = fs::read_to_string(self.directory.join("spy.log")).unwrap_or_default();
        let head = format!(": {function}\n");
        let calls = log.split("\n\n").filter(|call| call.contains(&head));
        calls.map(ToOwned::to_owned).collect()
    }

    /// Every file of the token directory, concatenated.
    pub(crate) fn token_files(&self) -> Vec<u8> {
        let mut directories = vec![self.directory.join("tokens")];
        let mut bytes = Vec::new();
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    bytes.extend(fs::read(path).unwrap());
                }
            }
        }
        bytes
    }
}

pub(crate) fn share_kek() -> KekName {
    KekName {
        environment_id: [0x11; 32],
        tenant: "default".to_owned(),
        purpose: Purpose::Share,
        epoch: 1,
    }
}

pub(crate) fn share_aad() -> ObjectAad {
    ObjectAad {
        environment_id: [0x11; 32],
        tenant: "default".to_owned(),
        purpose: Purpose::Share,
        profile_id: "0190a6f0-0000-7000-8000-000000000001".to_owned(),
        owner_id: "device-thumbprint".to_owned(),
        key_generation: 1,
        object_version: 1,
        role: "P2",
        public_key: vec![2; 33],
    }
}

/// The module as another user in this process sees it.
pub(crate) fn second_module() -> Pkcs11 {
    let module = Pkcs11::new(softhsm()).unwrap();
    std::mem::forget(module.clone());
    module
}

/// A session of that other user, on the token [`LABEL`]; logged in because the application is.
pub(crate) fn second_session() -> Session {
    let module = second_module();
    let slots = module.get_slots_with_token().unwrap();
    let ours = slots
        .into_iter()
        .find(|slot| module.get_token_info(*slot).unwrap().label() == LABEL);
    module.open_rw_session(ours.unwrap()).unwrap()
}
