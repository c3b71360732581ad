//! Bare protocol CPU per key generation and per signature, for each party: what the whole server is compared with.
//!
//! `cargo bench -p countersign-mpc [-- SIGNATURES]`. Linux only: the thread's time on the CPU comes from
//! `/proc/thread-self/schedstat` (nanoseconds), so other load on the machine disturbs the figures little.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a program for people that prints its result"
)]

use countersign_mpc::binding::{KeygenBinding, Purpose, SignBinding};
use countersign_mpc::canary::CanaryDigest;
use countersign_mpc::envelope::{self, EnvelopeInfo, KemSecretKey, MessageType};
use countersign_mpc::keygen::{self, P1Keygen};
use countersign_mpc::share::{P1Share, P2Share};
use countersign_mpc::sign::{self, P1Sign};

fn main() {
    let signatures = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .next()
        .unwrap_or(200);
    let (p1, p2) = key_generation();
    signing(&p1, &p2, signatures);
    share_and_envelope(&p2, signatures);
}

/// Nanoseconds this thread has spent on a CPU. The kernel brings the figure up to date when the thread yields.
fn cpu_time() -> u64 {
    std::thread::yield_now();
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    schedstat
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

fn timed<T>(times: &mut Vec<u64>, step: impl FnOnce() -> T) -> T {
    let start = cpu_time();
    let value = step();
    times.push(cpu_time() - start);
    value
}

/// Prints median, least and 90th percentile in milliseconds.
fn report(name: &str, mut times: Vec<u64>) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100] as f64 / 1e6;
    println!(
        "{name:<34} median {:>8.3} ms   min {:>8.3}   p90 {:>8.3}   n {}",
        at(50),
        at(0),
        at(90),
        times.len()
    );
}

fn key_generation() -> (P1Share, P2Share) {
    let binding = KeygenBinding {
        environment_id: [1; 32],
        profile_id: "profile".into(),
        keygen_session_id: "session".into(),
        device_thumbprint: "thumbprint".into(),
    };
    let (mut p1_times, mut p2_times) = (Vec::new(), Vec::new());
    let mut wallet = None;
    for _ in 0..5 {
        let (mut one, mut two) = (Vec::new(), Vec::new());
        let (p1, kg1) = timed(&mut one, || P1Keygen::start().unwrap());
        let (p2, reply) = timed(&mut two, || {
            keygen::p2_round_1(&binding, [2; 32], &kg1).unwrap()
        });
        let (p1, kg2) = timed(&mut one, || p1.round_2(&binding, &reply).unwrap());
        let p2 = timed(&mut two, || p2.round_2(&kg2).unwrap());
        let p1 = timed(&mut one, || p1.round_3(&p2.message).unwrap());
        let digest = CanaryDigest::new("profile", 1, "session");
        let reply = timed(&mut two, || {
            p2.canary.finish(&p2.share, &p1.message, &digest).unwrap()
        });
        timed(&mut one, || p1.canary.finish(&p1.share, &reply).unwrap());
        p1_times.push(one.iter().sum());
        p2_times.push(two.iter().sum());
        wallet = Some((p1.share, p2.share));
    }
    report("key generation with canary, P1", p1_times);
    report("key generation with canary, P2", p2_times);
    wallet.unwrap()
}

fn signing(p1: &P1Share, p2: &P2Share, signatures: u64) {
    let (mut p1_times, mut step_1, mut step_2, mut p2_times) = (vec![], vec![], vec![], vec![]);
    for number in 0..signatures {
        let binding = SignBinding {
            environment_id: [1; 32],
            profile_id: "profile".into(),
            device_thumbprint: "thumbprint".into(),
            key_generation: 1,
            session_id: format!("session {number}"),
            attempt: 1,
            index: 0,
            server_nonce: [3; 32],
            policy_decision_id: "decision".into(),
            purpose: Purpose::Transaction,
            digest: [4; 32],
        };
        let mut one = Vec::new();
        let (kept_1, sg1) = timed(&mut one, || P1Sign::start(p1, binding.clone()).unwrap());
        let (kept_2, reply) = timed(&mut step_1, || {
            sign::p2_round_1(p2, binding.clone(), &sg1).unwrap()
        });
        let sg2 = timed(&mut one, || kept_1.round_2(p1, &reply).unwrap());
        timed(&mut step_2, || kept_2.round_2(p2, &sg2).unwrap());
        p1_times.push(one.iter().sum());
        p2_times.push(step_1[step_1.len() - 1] + step_2[step_2.len() - 1]);
    }
    report("signature, P1", p1_times);
    report("signature, P2, step 1", step_1);
    report("signature, P2, step 2", step_2);
    report("signature, P2", p2_times);
}

/// What a server does per step besides the protocol: read the share, open the request, seal the answer.
fn share_and_envelope(p2: &P2Share, rounds: u64) {
    let bytes = p2.to_bytes().unwrap();
    let key = KemSecretKey::generate().unwrap();
    let info = EnvelopeInfo {
        environment_id: [1; 32],
        tenant: "default".into(),
        message_type: MessageType::Sign1,
        kem_kid: "kid".into(),
        device_thumbprint: "thumbprint".into(),
        profile_id: "profile".into(),
        session_id: "session".into(),
        key_generation: 1,
        attempt: 1,
    };
    let (mut reads, mut opens) = (vec![], vec![]);
    for _ in 0..rounds {
        timed(&mut reads, || {
            P2Share::from_bytes(&bytes, p2.public()).unwrap()
        });
        let (request, _) = envelope::seal_request(&key.public_key(), &info, &[0; 26_800]).unwrap();
        timed(&mut opens, || {
            let (_, sealer) = envelope::open_request(&key, &info, &request).unwrap();
            sealer.seal(&[0; 82_200]).unwrap()
        });
    }
    report("reading a stored share, P2", reads);
    report("opening and sealing, P2, step 1", opens);
}
