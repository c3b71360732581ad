//! Bare protocol CPU per key generation and per signature, for each party: what the whole server is compared with; and
//! P2's steps of a signature against the engine alone.
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
use dkls23::protocols::Party;
use dkls23::protocols::signing::SignData;
use k256::Secp256k1;

fn main() {
    let signatures = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .next()
        .unwrap_or(200);
    let (p1, p2) = key_generation();
    signing(&p1, &p2, signatures);
    share_and_envelope(&p2, signatures);
    against_the_engine(&p1, &p2, signatures);
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

/// P2's steps of a signature, of one kind.
#[derive(Default)]
struct Steps {
    first: Vec<u64>,
    second: Vec<u64>,
}

/// P2's steps through our layer, with and without what custody does around them, and the same by the engine alone; in
/// turns, with the same shares.
fn against_the_engine(p1: &P1Share, p2: &P2Share, rounds: u64) {
    let (mut layer, mut custody, mut bare) = (Steps::default(), Steps::default(), Steps::default());
    let parties = [p1.to_bytes().unwrap(), p2.to_bytes().unwrap()]
        .map(|bytes| postcard::from_bytes::<Party<Secp256k1>>(&bytes[1..]).unwrap());
    for number in 0..rounds {
        through_our_layer(p1, p2, number, &mut layer, &mut custody);
        by_the_engine(&parties, number, &mut bare);
    }
    println!("P2 against the engine alone, of the medians:");
    for (name, steps, target) in [
        ("our layer", layer, "<= 1.15"),
        ("with envelope and stored share", custody, ""),
    ] {
        let first = median(steps.first) / median(bare.first.clone());
        let second = median(steps.second) / median(bare.second.clone());
        println!("{name:<34} step 1 {first:>8.3}      step 2 {second:>8.3}   {target}");
    }
}

fn median(mut times: Vec<u64>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2] as f64
}

fn through_our_layer(
    p1: &P1Share,
    p2: &P2Share,
    number: u64,
    layer: &mut Steps,
    custody: &mut Steps,
) {
    let key = KemSecretKey::generate().unwrap();
    let stored = p2.to_bytes().unwrap();
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
    let info = |message_type| EnvelopeInfo {
        environment_id: [1; 32],
        tenant: "default".into(),
        message_type,
        kem_kid: "kid".into(),
        device_thumbprint: "thumbprint".into(),
        profile_id: "profile".into(),
        session_id: binding.session_id.clone(),
        key_generation: 1,
        attempt: 1,
    };
    let (kept_1, sg1) = P1Sign::start(p1, binding.clone()).unwrap();
    let first = info(MessageType::Sign1);
    let (request, _) = envelope::seal_request(&key.public_key(), &first, &sg1).unwrap();
    let (mut before, mut step, mut after) = (vec![], vec![], vec![]);
    let (share, opened, sealer) = timed(&mut before, || {
        let (opened, sealer) = envelope::open_request(&key, &first, &request).unwrap();
        let share = P2Share::from_bytes(&stored, p2.public()).unwrap();
        (share, opened, sealer)
    });
    let (kept_2, reply) = timed(&mut step, || {
        sign::p2_round_1(&share, binding.clone(), &opened).unwrap()
    });
    timed(&mut after, || sealer.seal(&reply).unwrap());
    layer.first.push(step[0]);
    custody.first.push(before[0] + step[0] + after[0]);

    let sg2 = kept_1.round_2(p1, &reply).unwrap();
    let second = info(MessageType::Sign2);
    let (request, _) = envelope::seal_request(&key.public_key(), &second, &sg2).unwrap();
    let (mut before, mut step) = (vec![], vec![]);
    let (share, opened) = timed(&mut before, || {
        let (opened, _) = envelope::open_request(&key, &second, &request).unwrap();
        let share = P2Share::from_bytes(&stored, p2.public()).unwrap();
        (share, opened)
    });
    timed(&mut step, || kept_2.round_2(&share, &opened).unwrap());
    layer.second.push(step[0]);
    custody.second.push(before[0] + step[0]);
}

fn by_the_engine([p1, p2]: &[Party<Secp256k1>; 2], number: u64, bare: &mut Steps) {
    let data = |other: &Party<Secp256k1>| SignData {
        sign_id: number.to_be_bytes().to_vec(),
        counterparties: vec![other.party_index],
        message_hash: [4; 32],
    };
    let (of_1, of_2) = (data(p2), data(p1));
    let (unique_1, kept_1, first_1) = p1.sign_phase1(&of_1).unwrap();
    let (unique_2, kept_2, first_2, second_2) = timed(&mut bare.first, || {
        let (unique, kept, first) = p2.sign_phase1(&of_2).unwrap();
        let (unique, kept, second) = p2.sign_phase2(&of_2, unique, kept, &first_1).unwrap();
        (unique, kept, first, second)
    });
    let (unique_1, kept_1, second_1) = p1.sign_phase2(&of_1, unique_1, kept_1, &first_2).unwrap();
    let (_, last_1) = p1.sign_phase3(&of_1, unique_1, kept_1, &second_2).unwrap();
    timed(&mut bare.second, || {
        let (x, last_2) = p2.sign_phase3(&of_2, unique_2, kept_2, &second_1).unwrap();
        p2.sign_phase4(&of_2, &x, &[last_1, last_2], true).unwrap()
    });
}
