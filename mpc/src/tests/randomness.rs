//! A39: nothing random of a signature comes twice, neither what a party sends nor the signature's `r`.

use std::collections::BTreeSet;
use std::time::Instant;

use super::support::{body, dealt, sign_binding};
use crate::engine::Role;
use crate::wire::{self, Sign1, Sign1Reply, Sign2};

/// What must be fresh in every signature: both parties' nonce points and nonces, and `r`.
type Fresh = [Vec<u8>; 8];

fn signatures(count: usize) -> Vec<Fresh> {
    let wallet = dealt(1);
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        let (p1, sg1) = wallet.start();
        let (p2, reply) = wallet.answer(&sg1).unwrap();
        let sg2 = p1.round_2(&wallet.p1, &reply).unwrap();
        let ours: Sign1Reply = body(Role::P2, &reply);
        let first: Sign1 = body(Role::P1, &sg1);
        let second: Sign2 = body(Role::P1, &sg2);
        let signature = p2.round_2(&wallet.p2, &sg2).unwrap();
        let address = wallet.p2.public().address;
        let digest = sign_binding().digest;
        assert_eq!(signature.verify_against(&address, &digest), Ok(()));
        let point = |point| wire::encode_bounded(&point, 64).unwrap().to_vec();
        all.push([
            signature.r().to_vec(),
            point(second.second.instance_point),
            point(ours.second.instance_point),
            first.client_nonce.to_vec(),
            first.first.commitment.to_vec(),
            ours.first.commitment.to_vec(),
            second.second.salt.clone(),
            ours.second.salt.clone(),
        ]);
    }
    all
}

fn assert_all_differ(all: &[Fresh]) {
    // Over all kinds of values at once: no party takes a value of the other's either.
    let different: BTreeSet<&Vec<u8>> = all.iter().flatten().collect();
    assert_eq!(different.len(), all.len() * 8, "something came twice");
}

#[test]
fn a39_rng_a_hundred_signatures_repeat_nothing_random() {
    assert_all_differ(&signatures(100));
}

#[test]
#[ignore = "takes minutes: make test-long"]
fn a39_rng_ten_thousand_signatures_repeat_nothing_random() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let start = Instant::now();
    let all: Vec<Fresh> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| signatures(10_000_usize.div_ceil(threads))))
            .collect();
        let finished = running.into_iter().map(|thread| thread.join().unwrap());
        finished.flatten().collect()
    });
    assert_all_differ(&all);
    println!(
        "{} signatures in {:.0} s: no r, no nonce point, no nonce and no salt of either party came twice",
        all.len(),
        start.elapsed().as_secs_f64()
    );
}
