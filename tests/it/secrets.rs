//! What rests on disk holds no share in the clear.
//!
//! P2's share never leaves the appliance, so the test cannot look for its bytes. It looks for what only P2's share
//! contains and what P1 can recognise: the secret scalar is the one whose public point is X2, and of every pair of
//! oblivious-transfer seeds that P1 holds, P2's share holds one, beside other values that both hold. That the search
//! would find a share is shown on one made in the test.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};

use countersign_mpc::binding::KeygenBinding;
use countersign_mpc::keygen::{P1Keygen, p2_round_1};
use countersign_mpc::share::PublicShare;
use k256::elliptic_curve::PrimeField;
use k256::{ProjectivePoint, PublicKey, Scalar};

use crate::support::engine::Engine;
use crate::support::wallet::{profile, send_and_mine};
use crate::support::{Appliance, Node, contains, wallet_of};

/// What gives P2's share away.
struct Detector {
    x2: ProjectivePoint,
    seeds: HashSet<[u8; 32]>,
    /// Pages come several times, in the database and in its write-ahead log.
    cleared: RefCell<HashSet<[u8; 32]>>,
}

impl Detector {
    /// From P1's half of the same key, which holds all the seeds.
    fn new(p1: &[u8], public: &PublicShare) -> Self {
        // A window that reaches into a public value is not a secret.
        let known: HashSet<&[u8]> = [public.session_id.as_slice(), &public.public_key, &public.x1]
            .into_iter()
            .flat_map(|value| value.windows(8))
            .collect();
        let seeds = windows(p1)
            .filter(|window| is_random(window))
            .filter(|window| !window.windows(8).any(|part| known.contains(part)))
            .copied()
            .collect();
        Self {
            x2: PublicKey::from_sec1_bytes(&public.x2)
                .unwrap()
                .to_projective(),
            seeds,
            cleared: RefCell::default(),
        }
    }

    /// Where in `bytes`, taken as they are and as hex digits, a secret stands.
    fn find(&self, bytes: &[u8]) -> Option<usize> {
        self.find_raw(bytes).or_else(|| {
            let digits: Vec<u8> = bytes.to_ascii_lowercase();
            digits
                .split(|byte| !byte.is_ascii_hexdigit())
                .filter(|run| run.len() >= 64)
                .flat_map(|run| [&run[run.len() % 2..], &run[..run.len() - run.len() % 2]])
                .find_map(|run| self.find_raw(&hex::decode(run).unwrap()))
        })
    }

    fn find_raw(&self, bytes: &[u8]) -> Option<usize> {
        windows(bytes).position(|window| {
            if !is_random(window) || self.cleared.borrow().contains(window) {
                return false;
            }
            let found = self.seeds.contains(window) || self.is_scalar(window);
            found || !self.cleared.borrow_mut().insert(*window)
        })
    }

    fn is_scalar(&self, window: &[u8; 32]) -> bool {
        let scalar = Option::<Scalar>::from(Scalar::from_repr((*window).into()));
        scalar.is_some_and(|scalar| ProjectivePoint::mul_by_generator(&scalar) == self.x2)
    }
}

fn windows(bytes: &[u8]) -> impl Iterator<Item = &[u8; 32]> {
    bytes
        .windows(32)
        .filter_map(|window| window.try_into().ok())
}

/// Whether 32 random bytes might look like this: fewer than 20 different values come once in 10^9, and text has no
/// byte above 127.
fn is_random(window: &[u8; 32]) -> bool {
    let mut seen = [0_u128; 2];
    let mut high = 0;
    for byte in window {
        high |= byte & 0x80;
        seen[usize::from(byte >> 7)] |= 1 << (byte & 0x7f);
    }
    high != 0 && seen[0].count_ones() + seen[1].count_ones() >= 20
}

#[test]
fn a30_the_search_for_a_share_finds_one() {
    let binding = KeygenBinding {
        environment_id: [1; 32],
        profile_id: "p".to_owned(),
        keygen_session_id: "s".to_owned(),
        device_thumbprint: "d".to_owned(),
    };
    let (p1, kg1) = P1Keygen::start().unwrap();
    let (p2, answer) = p2_round_1(&binding, [2; 32], &kg1).unwrap();
    let (p1, kg2) = p1.round_2(&binding, &answer).unwrap();
    let p2 = p2.round_2(&kg2).unwrap();
    let p1 = p1.round_3(&p2.message).unwrap();
    let detector = Detector::new(&p1.share.to_bytes().unwrap(), &p1.public);
    let share = p2.share.to_bytes().unwrap();

    let mut page = vec![0; 4_096];
    assert_eq!(detector.find(&page), None);
    // The scalar alone.
    let scalar = windows(&share)
        .find(|window| detector.is_scalar(window))
        .unwrap();
    page[100..132].copy_from_slice(scalar);
    assert_eq!(detector.find(&page), Some(100));
    let digits = format!("share={};", hex::encode(scalar));
    assert!(detector.find(digits.as_bytes()).is_some());
    // Any piece of the rest that is long enough to hold a seed.
    let seeds = windows(&share)
        .filter(|window| detector.seeds.contains(*window))
        .count();
    assert!(seeds >= 256, "{seeds}");
    let without_scalar = share.len() / 2;
    assert!(detector.find(&share[without_scalar..]).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a30_no_share_rests_in_the_clear() {
    let node = Node::start().await;
    let mut appliance = Appliance::start(&node).await;
    let mut wallet = wallet_of(&appliance, &node, "w").await;
    send_and_mine(&mut wallet, &appliance, 1).await;
    let public = wallet.current().unwrap().1.public.clone();
    let detector = Detector::new(
        &wallet.current_share().unwrap().to_bytes().unwrap(),
        &public,
    );

    // Once while it runs, with its write-ahead log, and once after an orderly stop.
    let name = profile(&wallet);
    let (mut seen, mut searched, mut with_wallet) =
        (HashSet::new(), BTreeSet::new(), BTreeSet::new());
    for round in ["running", "stopped"] {
        for (file, bytes) in appliance.at_rest() {
            searched.insert(file.display().to_string());
            if contains(&bytes, name.as_bytes()) {
                with_wallet.insert(file.display().to_string());
            }
            if seen.contains(&bytes) {
                continue;
            }
            assert_eq!(detector.find(&bytes), None, "{} ({round})", file.display());
            seen.insert(bytes);
        }
        if round == "running" {
            appliance.stop().await;
        }
    }
    for expected in ["/log", "softhsm/tokens/"] {
        let found = searched.iter().any(|name| name.contains(expected));
        assert!(found, "{expected}: {searched:?}");
    }
    // The search came by every place where a wallet is written to.
    let expected: &[&str] = match Engine::of_this_run() {
        Engine::Sqlite => &["env/countersign.db", "env/countersign.db-wal"],
        Engine::Postgres => &["base/", "data/pg_wal"],
    };
    for expected in expected {
        let found = with_wallet.iter().any(|name| name.contains(expected));
        assert!(found, "{expected}: {with_wallet:?}");
    }
}
