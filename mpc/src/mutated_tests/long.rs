//! Random programs in great number, and the corpora of the fuzz targets once more.
#![expect(
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "long runs report their figures"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::stage::{Outcome, Stage, Target};

/// What became of the messages of one type.
#[derive(Default)]
struct Tally {
    outcomes: BTreeMap<Outcome, u64>,
    spent: Duration,
    slowest: Duration,
}

impl Tally {
    /// Delivers a message; whether it was altered.
    fn count(&mut self, stage: &mut Stage, program: &[u8]) -> bool {
        let start = Instant::now();
        let outcome = stage.run(program);
        let took = start.elapsed();
        *self.outcomes.entry(outcome).or_default() += 1;
        self.spent += took;
        self.slowest = self.slowest.max(took);
        outcome != Outcome::Unaltered
    }

    /// How many were altered.
    fn altered(&self) -> u64 {
        let outcomes = self.outcomes.iter();
        let altered = outcomes.filter(|(outcome, _)| **outcome != Outcome::Unaltered);
        altered.map(|(_, count)| count).sum()
    }

    fn add(&mut self, other: &Self) {
        for (outcome, count) in &other.outcomes {
            *self.outcomes.entry(*outcome).or_default() += count;
        }
        self.spent += other.spent;
        self.slowest = self.slowest.max(other.slowest);
    }
}

/// Numbers that are the same for the same seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    /// One in eight alters values only, one or two of them: most of those decode, so the engine works on them, which takes
    /// a thousand times as long. All others are anything.
    fn program(&mut self) -> Vec<u8> {
        if self.next().is_multiple_of(8) {
            let steps = 1 + self.next() % 4 / 3;
            let value = |_| {
                // How many bytes say which field, and what becomes of it.
                let (kind, length) =
                    [(0, 6), (1, 6), (8, 3), (12, 5)][usize::from(self.byte() % 4)];
                let mut step = vec![kind];
                step.extend((0..length).map(|_| self.byte()));
                step
            };
            return (0..steps).flat_map(value).collect();
        }
        let length = 4 + self.next() % 40;
        (0..length).map(|_| self.byte()).collect()
    }
}

fn seed() -> u64 {
    let asked = std::env::var("COUNTERSIGN_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    asked.unwrap_or_else(|| {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).expect("randomness");
        u64::from_le_bytes(bytes)
    })
}

/// Delivers so many altered messages; those that a program leaves as they were do not count.
fn deliver(target: Target, messages: u64, seed: u64) -> Tally {
    let mut dice = Dice(seed);
    let mut stage = Stage::new(target);
    let mut tally = Tally::default();
    let mut altered = 0;
    while altered < messages {
        altered += u64::from(tally.count(&mut stage, &dice.program()));
    }
    tally
}

#[test]
fn a12_fuzz_altered_messages_of_every_type_are_neither_accepted_nor_a_panic() {
    let seed = seed();
    println!("seed {seed}");
    for target in Target::ALL {
        let messages = match target {
            Target::Keygen2 | Target::Keygen2Reply => 8,
            Target::Keygen1 | Target::Keygen1Reply => 30,
            _ => 150,
        };
        let tally = deliver(target, messages, seed);
        println!("seed {seed}, {}: {:?}", target.name(), tally.outcomes);
        assert_eq!(tally.altered(), messages);
    }
}

/// What the fuzzer has found interesting stays so.
#[test]
fn a12_fuzz_the_corpora_pass() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus");
    for target in Target::ALL {
        let mut stage = Stage::new(target);
        let corpus = corpora.join(target.name());
        let entries = std::fs::read_dir(&corpus).expect("every target has a corpus");
        for entry in entries {
            let program = std::fs::read(entry.expect("an entry").path()).expect("a file");
            stage.run(&program);
        }
    }
}

/// Thousandths of all messages that are of each type. Those that cost most come least.
const SHARES: [(Target, u64); 9] = [
    (Target::Sign1, 413),
    (Target::Sign2, 150),
    (Target::Sign1Reply, 130),
    (Target::Keygen3, 130),
    (Target::Keygen3Reply, 130),
    (Target::Keygen1, 38),
    (Target::Keygen1Reply, 3),
    (Target::Keygen2, 4),
    (Target::Keygen2Reply, 2),
];

/// The most memory that this process has had, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.expect("VmHWM")
}

#[test]
#[ignore = "takes many minutes: make test-long"]
fn a12_fuzz_a_million_altered_messages_are_neither_accepted_nor_a_panic() {
    let messages: u64 = std::env::var("COUNTERSIGN_MESSAGES")
        .map_or(1_000_000, |count| count.parse().expect("a number"));
    let seed = seed();
    let workers = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    println!("seed {seed}");
    let tallies: Mutex<BTreeMap<Target, Tally>> = Mutex::default();
    let largest = Mutex::new(0);
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let (tallies, largest) = (&tallies, &largest);
            scope.spawn(move || {
                for (target, share) in SHARES {
                    let each = messages * share / 1000 / workers;
                    let tally = deliver(target, each, seed ^ worker);
                    let mut largest = largest.lock().expect("no panic");
                    *largest = resident().max(*largest);
                    let mut tallies = tallies.lock().expect("no panic");
                    tallies.entry(target).or_default().add(&tally);
                }
            });
        }
    });
    let largest = *largest.lock().expect("no panic");
    println!(
        "seed {seed}, {workers} threads, at most {} MiB",
        largest / 1024
    );
    let mut all = 0;
    for (target, tally) in &*tallies.lock().expect("no panic") {
        let count = tally.altered();
        all += count;
        println!(
            "{:<10} {count:>8} in {:>7.1} s, slowest {:>6.3} s: {:?}",
            target.name(),
            tally.spent.as_secs_f64(),
            tally.slowest.as_secs_f64(),
            tally.outcomes
        );
        assert!(tally.slowest < Duration::from_secs(20), "a hang");
    }
    println!("{all} altered messages");
    assert!(largest < 256 * 1024, "{largest} KiB");
}
