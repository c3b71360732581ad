//! CPU per operation as wallets and audit records become many.

use countersign::audit;
use countersign::store::Store;
use tokio::task::JoinSet;

use crate::database::{Database, Engine};
use crate::operation::{OPERATIONS, Wallet, step};
use crate::{fixture, table};

/// Callers at once. So many wallets are in use, however many there are.
const BUSY: u64 = 8;
/// Measurements of each database, in turns, so that all see the same machine.
const ROUNDS: usize = 8;
/// Steps of each caller in a measurement.
const STEPS: u64 = 150;

const FEW_WALLETS: u64 = 10;
const MANY_WALLETS: u64 = 100_000;
const FEW_RECORDS: u64 = 1_000;
const MANY_RECORDS: u64 = 1_000_000;

/// A database and what was spent on it.
struct Case<'a> {
    database: Database<'a>,
    store: Store,
    /// Busy wallets are this far apart: neighbours share their pages.
    apart: u64,
    cpu: f64,
    operations: u64,
}

impl<'a> Case<'a> {
    async fn new(engine: &'a Engine, wallets: u64, records: u64, apart: u64) -> Self {
        let database = Database::create(engine).await;
        fixture::wallets(&database, wallets);
        fixture::records(&database, records);
        Self {
            store: database.open(None).await,
            database,
            apart,
            cpu: 0.0,
            operations: 0,
        }
    }

    /// Runs steps of the busy wallets, and chains their records as the sequencer does.
    async fn round(&mut self, counts: bool) {
        let before = self.database.cpu();
        let mut callers = JoinSet::new();
        for caller in 0..BUSY {
            let wallet = fixture::wallet(1 + caller * self.apart);
            callers.spawn(work(self.store.clone(), wallet));
        }
        let done: u64 = callers.join_all().await.into_iter().sum();
        audit::catch_up(&self.store).await.unwrap();
        if counts {
            self.cpu += self.database.cpu() - before;
            self.operations += done;
        }
    }

    /// Microseconds.
    fn per_operation(&self) -> f64 {
        self.cpu * 1e3 / self.operations as f64
    }
}

async fn work(store: Store, wallet: Wallet) -> u64 {
    for _ in 0..STEPS {
        step(&store, wallet).await;
    }
    STEPS * OPERATIONS
}

pub(crate) async fn measure(engine: &Engine) {
    let mut cases = [
        Case::new(engine, FEW_WALLETS, FEW_RECORDS, 1).await,
        Case::new(engine, MANY_WALLETS, FEW_RECORDS, 1).await,
        Case::new(engine, MANY_WALLETS, FEW_RECORDS, MANY_WALLETS / BUSY).await,
        Case::new(engine, FEW_WALLETS, MANY_RECORDS, 1).await,
    ];
    for round in 0..=ROUNDS {
        for case in &mut cases {
            case.round(round > 0).await;
        }
    }
    let [few, wallets, apart, records] = &cases;
    let of = |what: &str| format!("{}, {what}", engine.name());
    let base = few.per_operation();
    table::row(&of("CPU per operation, chained"), base, "us", "");
    for (what, case, target) in [
        ("100 000 wallets / 10", wallets, "0.9 to 1.1"),
        ("the same, busy ones on pages of their own", apart, ""),
        ("1 000 000 audit records / 1 000", records, "0.9 to 1.1"),
    ] {
        let ratio = case.per_operation() / base;
        table::row(&of(what), ratio, "", target);
    }
}
