//! Durable operations: how many in a second, what grouping is worth, and what an operation costs as tables grow.
//!
//! `scripts/with-postgres.sh cargo bench --bench store [-- SECONDS]`: both engines in one run; without a server only
//! SQLite. Linux only: figures come from `/proc`. Needs the shells `sqlite3` and `psql`, and `pgbench`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::panic,
    reason = "a program for people that prints its result and stops at the first error"
)]

mod database;
mod fixture;
mod growth;
mod machine;
mod operation;
mod pgbench;
mod rate;
mod server;
mod table;

use database::Engine;
use server::Server;

/// How many callers wait for an operation at once.
const WRITERS: [u64; 3] = [1, 8, 32];

#[tokio::main]
async fn main() {
    let seconds = std::env::args().find_map(|argument| argument.parse().ok());
    let seconds = seconds.unwrap_or(2.0);
    table::head();
    let directory = tempfile::Builder::new()
        .prefix("countersign-bench-")
        .tempdir()
        .unwrap();
    let file = Engine::Sqlite(directory.path().to_owned());
    rate::measure(&file, seconds).await;
    growth::measure(&file).await;
    match Server::find() {
        Some(server) => {
            let server = Engine::Postgres(server);
            rate::measure(&server, seconds).await;
            growth::measure(&server).await;
        }
        None => println!("PostgreSQL: not measured; run this with scripts/with-postgres.sh"),
    }
    println!("{}", machine::describe());
}
