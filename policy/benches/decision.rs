//! CPU of one decision, from facts to verdict with the facts' hash, and of loading rules.
//!
//! `cargo bench -p countersign-policy [-- DECISIONS]`. Linux only: the thread's time on the CPU comes from
//! `/proc/thread-self/schedstat`, so other load on the machine disturbs the figures little.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a program for people that prints its result"
)]

use std::collections::BTreeSet;
use std::fmt::Write as _;

use countersign_policy::{
    Asked, Bundle, ChainFacts, DeviceFacts, Facts, ProfileFacts, Source, TransactionFacts,
};

/// Decisions that are timed together: the clock's resolution does not show then.
const BATCH: u64 = 50;

fn main() {
    let decisions: u64 = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .next()
        .unwrap_or(5000);
    let payment = payment();
    let mut text = String::new();
    for number in 0..193 {
        rule(&mut text, number);
    }
    let source = Source {
        name: "rules.cedar".to_owned(),
        text,
    };
    let builtin = Bundle::builtin().unwrap();
    let many = Bundle::compile("1", std::slice::from_ref(&source)).unwrap();
    for (name, bundle) in [("the built-in rules", &builtin), ("many rules", &many)] {
        let rules = bundle.rules().count();
        assert!(bundle.decide(&payment).denied.is_none());
        let times = (0..decisions / BATCH).map(|_| {
            let start = cpu_time();
            for _ in 0..BATCH {
                assert!(bundle.decide(&payment).denied.is_none());
                assert_ne!(payment.hash(), [0; 32]);
            }
            (cpu_time() - start) / BATCH
        });
        report(&format!("decision, {name} ({rules})"), times.collect());
    }
    let loads = (0..20).map(|_| {
        let start = cpu_time();
        Bundle::compile("1", std::slice::from_ref(&source)).unwrap();
        cpu_time() - start
    });
    report("loading many rules", loads.collect());
}

/// Nanoseconds this thread has spent on a CPU. The kernel brings the figure up to date when the thread yields.
fn cpu_time() -> u64 {
    std::thread::yield_now();
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let first = schedstat.split_whitespace().next().unwrap();
    first.parse().unwrap()
}

/// Prints median, least and 90th percentile in microseconds.
fn report(name: &str, mut times: Vec<u64>) {
    times.sort_unstable();
    let at = |share: usize| {
        let place = times.len().saturating_sub(1) * share / 100;
        times.get(place).copied().unwrap_or_default() as f64 / 1e3
    };
    println!(
        "{name:<40} median {:>9.1} us   min {:>9.1}   p90 {:>9.1}   n {}",
        at(50),
        at(0),
        at(90),
        times.len()
    );
}

/// Rules as operators write them: lists of ten addresses, limits, hours; three of four look into the transaction.
fn rule(text: &mut String, number: u32) {
    let addresses: Vec<String> = (0..10)
        .map(|place| format!("\"0x{:040x}\"", number * 16 + place))
        .collect();
    let list = addresses.join(", ");
    let scope = "(principal, action in [Action::\"prepare-transaction\", Action::\"sign-transaction\"], resource)";
    let (word, condition) = match number % 4 {
        0 => (
            "permit",
            format!(
                "[\"native-transfer\", \"erc20-transfer\"].containsAll(context.transaction.kinds) && \
                 [{list}].containsAll(context.transaction.recipients)"
            ),
        ),
        1 => (
            "forbid",
            format!("[{list}].containsAny(context.transaction.tokens)"),
        ),
        2 => (
            "forbid",
            format!("context.transaction.valueGwei > {}000000000", number + 2),
        ),
        _ => (
            "permit",
            format!("resource.tenant == \"tenant-{number}\" && context.time.hour < 18"),
        ),
    };
    writeln!(
        text,
        "@id(\"rule.{number}\")\n{word} {scope}\nwhen {{ {condition} }};"
    )
    .unwrap();
}

fn payment() -> Facts {
    let set = |names: &[&str]| -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    };
    let transaction = TransactionFacts {
        chain: ChainFacts {
            id: 1,
            configured: true,
            fits_environment: true,
        },
        to: "0xdac17f958d2ee523a2206206994597c13d831ec7".to_owned(),
        value_gwei: 0,
        inner_value_gwei: 0,
        kinds: set(&["erc20-transfer"]),
        contracts: set(&["0xdac17f958d2ee523a2206206994597c13d831ec7"]),
        selectors: set(&["0xa9059cbb"]),
        tokens: set(&["0xdac17f958d2ee523a2206206994597c13d831ec7"]),
        // Of the list of the last rule that has one: all before it are looked at in vain.
        recipients: set(&[&format!("0x{:040x}", 192 * 16 + 9)]),
        spenders: set(&[]),
        sources: set(&[]),
        unlimited_approval: false,
        delegatecall: false,
        calls: 1,
    };
    Facts {
        asked: Asked::PrepareTransaction(Box::new(transaction)),
        device: DeviceFacts {
            id: "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs".to_owned(),
            owner: "0197d5f5-7a0e-7c3e-9d2a-3a2f0f9f0d11".to_owned(),
            tenant: "default".to_owned(),
            client_role: "gateway".to_owned(),
            age_seconds: 86_400,
        },
        profile: ProfileFacts {
            id: "0197d5f5-7a0e-7c3e-9d2a-3a2f0f9f0d12".to_owned(),
            owner: "0197d5f5-7a0e-7c3e-9d2a-3a2f0f9f0d11".to_owned(),
            tenant: "default".to_owned(),
        },
        environment: "production".to_owned(),
        at: 1_767_787_200,
        second_factor: false,
    }
}
