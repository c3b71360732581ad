//! CPU of one decision: the content of a transaction decoded, Cedar asked, the decision's row made, and what it would
//! claim of the spending limits; and of loading rules. What the database does is in `store`.
//!
//! `cargo bench --bench decision [-- DECISIONS]`. Linux only: the thread's time on the CPU comes from
//! `/proc/thread-self/schedstat`, so other load on the machine disturbs the figures little.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a program for people that prints its result"
)]

use std::fmt::Write as _;

use alloy_primitives::{Address, Bytes, U256, address, hex};
use countersign::chain::{Fees, Terms, TransactionRequest, Unsigned1559};
use countersign::clock;
use countersign::domain::{ProfileId, TenantId};
use countersign::gate;
use countersign::limits::SpendLimit;
use countersign::limits::spend::{Asset, Payer, Per, claims};
use countersign::policy::{
    Asked, Bundle, ChainFacts, DeviceFacts, Facts, Policy, ProfileFacts, Source,
};
use countersign::service::{facts, spends};

/// Decisions that are timed together: the clock's resolution does not show then.
const BATCH: u64 = 50;
const TOKEN: Address = address!("dac17f958d2ee523a2206206994597c13d831ec7");

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
    let limits = limits();
    for (name, bundle) in [("the built-in rules", builtin), ("many rules", many)] {
        let rules = bundle.rules().count();
        let policy = Policy::new(bundle);
        let times = (0..decisions / BATCH).map(|_| {
            let start = cpu_time();
            for _ in 0..BATCH {
                decide(&policy, &limits, &payment);
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

/// USDT, to the last address of the list of the last rule that has one: all before it are looked at in vain.
fn payment() -> Unsigned1559 {
    let recipient = format!("{:064x}", 192 * 16 + 9);
    let data = format!("a9059cbb{recipient}{:064x}", 1_000_000);
    let request = TransactionRequest {
        chain_id: 1,
        to: TOKEN,
        value: U256::ZERO,
        data: Bytes::from(hex::decode(data).unwrap()),
        gas: None,
        max_fee_per_gas: None,
        max_priority_fee_per_gas: None,
    };
    let terms = Terms {
        gas: 60_000,
        fees: Fees {
            max_fee_per_gas: 30_000_000_000,
            max_priority_fee_per_gas: 1_000_000_000,
        },
    };
    Unsigned1559::new(&request, 7, terms).unwrap()
}

/// Twenty limits, half of them of the token that is paid.
fn limits() -> Vec<SpendLimit> {
    let per = [
        Per::Profile,
        Per::Recipient,
        Per::Tenant,
        Per::Environment,
        Per::Transaction,
    ];
    let limit = |(number, per): (u32, Per)| SpendLimit {
        name: format!("limit-{number}"),
        asset: Asset {
            chain: 1,
            token: number.is_multiple_of(2).then_some(TOKEN.into()),
        },
        per,
        amount: U256::from(1_000_000_000_u64),
        seconds: 3600 * (number + 1),
    };
    (0..20).zip(per.into_iter().cycle()).map(limit).collect()
}

fn decide(policy: &Policy, limits: &[SpendLimit], payment: &Unsigned1559) {
    let chain = ChainFacts {
        id: 1,
        configured: true,
        fits_environment: true,
    };
    let (to, data) = (payment.to(), payment.data());
    let content = facts::of_transaction(chain, Some(to), payment.value(), data);
    let profile = ProfileId::generate();
    let tenant: TenantId = TenantId::parse("default").unwrap();
    let facts = Facts {
        asked: Asked::PrepareTransaction(Box::new(content)),
        device: DeviceFacts {
            id: "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs".to_owned(),
            owner: "0197d5f5-7a0e-7c3e-9d2a-3a2f0f9f0d11".to_owned(),
            tenant: "default".to_owned(),
            client_role: "gateway".to_owned(),
            age_seconds: 86_400,
        },
        profile: ProfileFacts {
            id: profile.to_string(),
            owner: "0197d5f5-7a0e-7c3e-9d2a-3a2f0f9f0d11".to_owned(),
            tenant: "default".to_owned(),
        },
        environment: "production".to_owned(),
        at: 1_767_787_200,
        second_factor: false,
    };
    let expires = clock::now().plus_seconds(120);
    assert!(gate::judge(policy, &facts, profile, expires).is_ok());
    let spends = spends::of(limits, payment).unwrap();
    let payer = Payer { profile, tenant };
    assert_eq!(claims(limits, &payer, &spends).unwrap().len(), 8);
}
