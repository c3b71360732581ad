//! CPU per sealed object on SoftHSM, against its two unavoidable parts: one 32-byte `C_Decrypt` and one
//! pass of AES-256-GCM. Run with `cargo bench -p countersign-hsm`; needs softhsm2.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints and may stop at the first error"
)]

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit};
use countersign_hsm::{KekName, ObjectAad, Pin, Profile, Purpose, Token, TokenConfig};
use cryptoki::context::Pkcs11;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::Attribute;
use zeroize::Zeroizing;

/// The size of a sealed P2 share.
const LENGTH: usize = 52_590;
const ROUNDS: u32 = 4000;

fn main() {
    match std::env::var_os("PIN_FILE") {
        Some(pin) => measure(Path::new(&pin)),
        None => with_token(),
    }
}

/// SoftHSM finds its configuration by an environment variable, so the benchmark starts itself again.
fn with_token() {
    let directory = tempfile::tempdir().unwrap();
    let setup = concat!(env!("CARGO_MANIFEST_DIR"), "/../softhsm/setup.sh");
    let made = Command::new(setup).arg(directory.path()).output().unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let status = Command::new("sh")
        .args(["-c", ". \"$1\"; exec \"$2\"", "sh"])
        .arg(directory.path().join("env"))
        .arg(std::env::current_exe().unwrap())
        .status();
    assert!(status.unwrap().success());
}

#[tokio::main(flavor = "current_thread")]
async fn measure(pin: &Path) {
    let module = PathBuf::from(std::env::var_os("HSM_MODULE").unwrap());
    let config = TokenConfig {
        module: module.clone(),
        token_label: std::env::var("TOKEN_LABEL").unwrap(),
        pin: Pin::from_file(pin).unwrap(),
        profile: Profile::builtin("softhsm2").unwrap(),
        workers: 1,
        queue: 16,
        deadline: Duration::from_secs(10),
    };
    let token = Token::open(config).unwrap();
    let name = KekName {
        environment_id: [1; 32],
        tenant: "default".to_owned(),
        purpose: Purpose::Share,
        epoch: 1,
    };
    let kek = token.create_kek(&name).await.unwrap();
    let payload = Zeroizing::new(vec![7; LENGTH]);
    let sealed = token.seal(kek, aad(), payload.clone()).await.unwrap();

    println!("{LENGTH} bytes, {ROUNDS} rounds, one worker; per operation:");
    let decrypt = raw_decrypt(&module, &kek.0);
    let cipher = in_process();
    let clock = Clock::start();
    for _ in 0..ROUNDS {
        black_box(token.seal(kek, aad(), payload.clone()).await.unwrap());
    }
    let seal = clock.report("seal (wrap, unwrap again, encrypt)");
    let clock = Clock::start();
    for _ in 0..ROUNDS {
        black_box(token.open_sealed(sealed.clone(), aad()).await.unwrap());
    }
    let open = clock.report("open");
    anchored(&token, &sealed, open).await;
    let parts = decrypt + cipher;
    println!(
        "open / (C_Decrypt + AES-256-GCM) = {:.2}, target 1.5",
        open / parts
    );
    println!("seal / (C_Decrypt + AES-256-GCM) = {:.2}", seal / parts);
}

/// Opening a share reads the anchor too: one search of the token and one object, among the keys of an environment.
async fn anchored(token: &Token, sealed: &[u8], open: f64) {
    for number in 0..8 {
        let label = format!("cs/0101010101010101/identity/v{number:03}");
        token.create_signing_key(&label).await.unwrap();
    }
    let set = format!("countersign/anchor/{}", "01".repeat(32));
    let added = token.add_to_set(&set, "anchor/0/0", vec![1; 230]).await;
    added.unwrap();
    let clock = Clock::start();
    for _ in 0..ROUNDS {
        let opened = token.open_sealed_with_set(&set, sealed.to_vec(), aad());
        black_box(opened.await.unwrap());
    }
    let both = clock.report("open and read the anchor");
    println!("the anchor costs {:.0} µs", both - open);
}

/// One `C_Decrypt` of 32 bytes, without threads or checks.
fn raw_decrypt(module: &Path, kek: &[u8]) -> f64 {
    let pkcs11 = Pkcs11::new(module).unwrap();
    let slot = pkcs11.get_slots_with_initialized_token().unwrap().remove(0);
    let session = pkcs11.open_rw_session(slot).unwrap();
    let key = session
        .find_objects(&[Attribute::Id(kek.to_vec())])
        .unwrap()
        .remove(0);
    let aad = [3; 200];
    let mut iv = [9; 12];
    let mut gcm = |data: &[u8], encrypt: bool| {
        let mechanism = Mechanism::AesGcm(GcmParams::new(&mut iv, &aad, 128.into()).unwrap());
        match encrypt {
            true => session.encrypt(&mechanism, key, data).unwrap(),
            false => session.decrypt(&mechanism, key, data).unwrap(),
        }
    };
    let wrapped = gcm(&[5; 32], true);
    let clock = Clock::start();
    for _ in 0..ROUNDS {
        black_box(gcm(&wrapped, false));
    }
    clock.report("raw C_Decrypt of 32 bytes")
}

/// AES-256-GCM over the payload, in place.
fn in_process() -> f64 {
    let mut buffer = vec![7; LENGTH];
    let clock = Clock::start();
    for _ in 0..ROUNDS {
        let cipher = Aes256Gcm::new(&black_box([1; 32]).into());
        let tag =
            cipher.encrypt_inout_detached(&[2; 12].into(), &[3; 200], buffer.as_mut_slice().into());
        black_box(tag.unwrap());
    }
    clock.report("AES-256-GCM in process")
}

fn aad() -> ObjectAad {
    ObjectAad {
        environment_id: [1; 32],
        tenant: "default".to_owned(),
        purpose: Purpose::Share,
        profile_id: "0190a6f0-0000-7000-8000-000000000001".to_owned(),
        owner_id: "owner".to_owned(),
        key_generation: 1,
        object_version: 1,
        role: "P2",
        public_key: vec![2; 33],
    }
}

/// Wall clock, and CPU of the whole process where `/proc` tells it (in ticks of 10 ms).
struct Clock {
    wall: Instant,
    cpu: Option<f64>,
}

impl Clock {
    fn start() -> Self {
        Self {
            wall: Instant::now(),
            cpu: cpu_seconds(),
        }
    }

    /// Prints and returns microseconds per round: CPU if known, else wall.
    fn report(&self, what: &str) -> f64 {
        let per_round = |seconds: f64| seconds * 1e6 / f64::from(ROUNDS);
        let wall = per_round(self.wall.elapsed().as_secs_f64());
        let cpu = self
            .cpu
            .zip(cpu_seconds())
            .map(|(before, after)| per_round(after - before));
        match cpu {
            Some(cpu) => println!("  {what:36} {cpu:8.1} µs CPU {wall:8.1} µs wall"),
            None => println!("  {what:36} {wall:8.1} µs wall"),
        }
        cpu.unwrap_or(wall)
    }
}

fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the command in parentheses; utime and stime are fields 14 and 15.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    Some(f64::from(ticks()? + ticks()?) / 100.0)
}
