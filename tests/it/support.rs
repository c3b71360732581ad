//! Real parts for the tests: the real binary, a real token, a real database, a real node.

pub(crate) mod appliance;
pub(crate) mod attacker;
pub(crate) mod authenticator;
pub(crate) mod database;
pub(crate) mod engine;
pub(crate) mod fault;
pub(crate) mod keygen;
pub(crate) mod node;
pub(crate) mod operators;
pub(crate) mod outside;
pub(crate) mod proxy;
pub(crate) mod signing;
pub(crate) mod site;
pub(crate) mod stolen;
pub(crate) mod trap;
pub(crate) mod wallet;

pub(crate) use appliance::{Appliance, wallet_of};
pub(crate) use node::Node;
pub(crate) use signing::Signing;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// The chain of the tests: a test chain, so a development environment signs for it.
pub(crate) const CHAIN: u64 = 31_337;

/// Somebody who receives.
pub(crate) const RECIPIENT: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";

/// A port that is free now and stays so: it is below those that connections are made from, and no test beside this one
/// asks for it, because each is a process of its own.
pub(crate) fn free_port() -> u16 {
    const EACH: u16 = 20;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let process = u16::try_from(std::process::id() % 1000).unwrap();
    (0..EACH)
        .map(|_| 10_000 + process * EACH + NEXT.fetch_add(1, Ordering::Relaxed) % EACH)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Asks until the answer is `Some`.
pub(crate) async fn eventually<T>(
    what: &str,
    seconds: u64,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < end, "not within {seconds} s: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Every file below `folder`.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found
}

/// Whether `needle` occurs in `haystack`.
pub(crate) fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}
