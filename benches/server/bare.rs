//! The protocol alone, both parties in this thread: the yardstick.

use countersign_mpc::binding::{Purpose, SignBinding};
use countersign_mpc::sign::{self, P1Sign};

use crate::dealt::Key;
use crate::machine::thread_cpu;

/// Milliseconds of CPU of one signature.
#[derive(Clone, Copy)]
pub(crate) struct Bare {
    pub(crate) p1: f64,
    pub(crate) p2: f64,
}

/// Signs `count` times.
pub(crate) fn signatures(key: &Key, count: usize) -> Vec<Bare> {
    (0..count).map(|number| signature(key, number)).collect()
}

fn signature(key: &Key, number: usize) -> Bare {
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
    let mut cpu = Bare { p1: 0.0, p2: 0.0 };
    let (p1, sg1) = timed(&mut cpu.p1, || {
        P1Sign::start(&key.p1, binding.clone()).unwrap()
    });
    let (p2, reply) = timed(&mut cpu.p2, || {
        sign::p2_round_1(&key.p2, binding, &sg1).unwrap()
    });
    let sg2 = timed(&mut cpu.p1, || p1.round_2(&key.p1, &reply).unwrap());
    timed(&mut cpu.p2, || p2.round_2(&key.p2, &sg2).unwrap());
    cpu
}

fn timed<T>(total: &mut f64, step: impl FnOnce() -> T) -> T {
    let start = thread_cpu();
    let value = step();
    *total += thread_cpu() - start;
    value
}
