//! Operations per second, grouped and not, with one caller and with many.

use std::time::{Duration, Instant};

use countersign::store::Store;
use tokio::task::JoinSet;

use crate::database::{Database, Engine};
use crate::operation::{OPERATIONS, step};
use crate::{WRITERS, fixture, machine, pgbench, table};

/// Measurements of each rate; the median counts.
const ROUNDS: usize = 5;

pub(crate) async fn measure(engine: &Engine, seconds: f64) {
    let database = Database::create(engine).await;
    let most = WRITERS.into_iter().max().unwrap();
    fixture::wallets(&database, most);
    let name = engine.name();
    for writers in WRITERS {
        let (mut ungrouped, mut grouped, mut bare) = (vec![], vec![], vec![]);
        // In turns, so that all see the same machine.
        for _ in 0..ROUNDS {
            ungrouped.push(rate(&database, Some(1), writers, seconds).await);
            grouped.push(rate(&database, None, writers, seconds).await);
            if let Engine::Postgres(server) = engine {
                bare.push(pgbench::rate(server, &database.name, writers, seconds));
            }
        }
        let of = |what: &str| format!("{name}, {writers} writers, {what}");
        let (ungrouped, grouped) = (machine::median(ungrouped), machine::median(grouped));
        let many = writers == most;
        let sqlite = many && matches!(engine, Engine::Sqlite(_));
        let target = |text| if sqlite { text } else { "" };
        table::row(&of("ungrouped"), ungrouped, "/s", "");
        table::row(&of("grouped"), grouped, "/s", target(">= 2000"));
        table::row(
            &of("grouped / ungrouped"),
            grouped / ungrouped,
            "",
            target(">= 4 when fsync takes milliseconds"),
        );
        if !bare.is_empty() {
            let bare = machine::median(bare);
            table::row(&of("pgbench"), bare, "/s", "");
            let target = if many { ">= 0.7" } else { "" };
            table::row(&of("grouped / pgbench"), grouped / bare, "", target);
        }
    }
}

async fn rate(database: &Database<'_>, group: Option<usize>, writers: u64, seconds: f64) -> f64 {
    let store = database.open(group).await;
    // Statements are prepared and tables are in memory after this.
    run(&store, writers, Duration::from_secs_f64(seconds / 10.0)).await;
    let started = Instant::now();
    let done = run(&store, writers, Duration::from_secs_f64(seconds)).await;
    done as f64 / started.elapsed().as_secs_f64()
}

/// How many operations so many callers got done.
async fn run(store: &Store, writers: u64, time: Duration) -> u64 {
    let end = Instant::now() + time;
    let mut callers = JoinSet::new();
    for writer in 1..=writers {
        let (store, wallet) = (store.clone(), fixture::wallet(writer));
        callers.spawn(async move {
            let mut done = 0;
            while Instant::now() < end {
                step(&store, wallet).await;
                done += OPERATIONS;
            }
            done
        });
    }
    callers.join_all().await.into_iter().sum()
}
