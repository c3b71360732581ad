//! Spending limits are exact, on either engine and over several processes (`protocol.md` A26).

use std::sync::Arc;

use alloy_primitives::U256;

use super::database::Database;
use super::{Nonce, Reserve, Store, add, commit};
use crate::domain::{ProfileId, SessionId, TenantId};
use crate::gate::spends::{NotReserved, Spending};
use crate::limits::InForce;
use crate::limits::spend::{Asset, Payer, Spend};
use crate::store::{
    AuditEvent, AuditRecord, CommitError, Key, Operation, Reads, StoreError, Tx, spends,
    transactions,
};

on_both_engines![
    a26_of_two_at_once_that_do_not_both_fit_exactly_one_does,
    a26_what_is_given_up_is_free_again_and_what_is_signed_is_not,
    a26_what_was_signed_counts_for_as_long_as_its_limit_says,
    a26_a_limit_of_all_profiles_is_exact_over_them,
    a26_every_limit_or_none_is_claimed,
    a26_a_total_is_the_sum_of_its_claims_whatever_happens,
];

/// Reserves for a session, and then agrees or refuses.
struct Claim {
    spending: Spending,
    profile: ProfileId,
    session: SessionId,
    amount: u64,
    refuse: bool,
}

impl Operation for Claim {
    type Output = ();
    type Refusal = Option<String>;

    fn key(&self) -> Key {
        Key::profile(self.profile)
    }

    fn also(&self) -> Key {
        self.spending.key()
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<((), AuditRecord), CommitError<Self::Refusal>> {
        let spend = Spend {
            asset: Asset {
                chain: 1,
                token: None,
            },
            recipient: [2; 20],
            amount: U256::from(self.amount),
        };
        let reserved = self.spending.reserve(tx, self.session, &[spend]).await;
        match reserved {
            Ok(()) if self.refuse => Err(CommitError::Refused(None)),
            Ok(()) => Ok(((), AuditRecord::done(AuditEvent::TransactionPrepared))),
            Err(NotReserved::Reached(reached)) => Err(CommitError::Refused(Some(reached.name))),
            Err(NotReserved::Store(error)) => Err(error.into()),
        }
    }
}

/// A test's limits and its database.
struct Case {
    store: Store,
    limits: InForce,
    _file: tempfile::TempDir,
}

/// `[[spend]]` of the chain's coin.
fn limit(name: &str, per: &str, amount: u64, seconds: u32) -> String {
    let seconds = match seconds {
        0 => String::new(),
        seconds => format!("seconds = {seconds}"),
    };
    format!(
        "[[spend]]\nname = \"{name}\"\nchain = 1\nasset = \"native\"\nper = \"{per}\"\namount = \"{amount}\"\n{seconds}\n"
    )
}

impl Case {
    async fn new(database: &Database, limits: &[String]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("limits.toml");
        std::fs::write(&file, limits.concat()).unwrap();
        Self {
            store: database.store().await,
            limits: InForce::open(Some(&file), vec![1]).unwrap(),
            _file: directory,
        }
    }

    fn claim(&self, profile: ProfileId, session: SessionId, amount: u64) -> Claim {
        let payer = Payer {
            profile,
            tenant: TenantId::parse("default").unwrap(),
        };
        Claim {
            spending: Spending::new(&self.limits, payer),
            profile,
            session,
            amount,
            refuse: false,
        }
    }

    /// The limit that does not allow it, if there is one.
    async fn reserve(&self, profile: ProfileId, session: SessionId, amount: u64) -> Option<String> {
        let claim = self.claim(profile, session, amount);
        match self.store.commit(claim).await {
            Ok(_) => None,
            Err(CommitError::Refused(name)) => name,
            Err(CommitError::Store(error)) => panic!("{error:?}"),
        }
    }
}

/// A profile of the database, and a session of it with a prepared transaction.
async fn prepared(store: &Store, profile: ProfileId, nonce: u64) -> SessionId {
    let session = SessionId::generate();
    let reserve = Reserve {
        profile,
        session,
        nonce,
    };
    commit(store, reserve).await;
    session
}

/// Signs the transaction of a session.
struct Signed(SessionId);

impl Operation for Signed {
    type Output = ();
    type Refusal = ();

    fn key(&self) -> Key {
        Key::NONE
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<()>> {
        assert!(transactions::set_signed(tx, self.0, &[1], &[1; 32]).await?);
        Ok(((), AuditRecord::done(AuditEvent::TransactionSigned)))
    }
}

/// A hundred rounds of two at once, each of which fits and both of which do not.
async fn a26_of_two_at_once_that_do_not_both_fit_exactly_one_does(database: Database) {
    let limits = [limit("day", "profile", 10, 86_400)];
    let case = Arc::new(Case::new(&database, &limits).await);
    let other = if case.store.is_alone() {
        case.store.clone()
    } else {
        database.reopened(64).await
    };
    for round in 0..100 {
        let profile = ProfileId::generate();
        let at_once = [case.store.clone(), other.clone()].map(|store| {
            let claim = case.claim(profile, SessionId::generate(), 6);
            tokio::spawn(async move { store.commit(claim).await.map(|_| ()) })
        });
        let mut passed = 0;
        for one in at_once {
            match one.await.unwrap() {
                Ok(()) => passed += 1,
                Err(CommitError::Refused(name)) => assert_eq!(name.as_deref(), Some("day")),
                Err(CommitError::Store(error)) => panic!("{error:?}"),
            }
        }
        assert_eq!(passed, 1, "round {round}");
    }
}

async fn a26_a_limit_of_all_profiles_is_exact_over_them(database: Database) {
    for per in ["tenant", "environment"] {
        let database = database.another().await;
        let limits = [limit("all", per, 10, 86_400)];
        let case = Arc::new(Case::new(&database, &limits).await);
        let other = if case.store.is_alone() {
            case.store.clone()
        } else {
            database.reopened(64).await
        };
        let at_once: Vec<_> = (0..40)
            .map(|index| {
                let store = if index % 2 == 0 { &case.store } else { &other };
                let store = store.clone();
                let claim = case.claim(ProfileId::generate(), SessionId::generate(), 3);
                tokio::spawn(async move { store.commit(claim).await.is_ok() })
            })
            .collect();
        let mut passed = 0;
        for one in at_once {
            passed += u32::from(one.await.unwrap());
        }
        assert_eq!(passed, 3, "per {per}");
        let one_more = case.reserve(ProfileId::generate(), SessionId::generate(), 1);
        assert_eq!(one_more.await, None);
        let too_much = case.reserve(ProfileId::generate(), SessionId::generate(), 1);
        assert_eq!(too_much.await.as_deref(), Some("all"));
    }
}

async fn a26_what_is_given_up_is_free_again_and_what_is_signed_is_not(database: Database) {
    let limits = [limit("day", "profile", 10, 86_400)];
    let case = Case::new(&database, &limits).await;
    let profile = add(false);
    commit(&case.store, profile).await;
    let id = profile.id;
    let first = prepared(&case.store, id, 0).await;
    assert_eq!(case.reserve(id, first, 6).await, None);
    let second = prepared(&case.store, id, 1).await;
    assert_eq!(case.reserve(id, second, 6).await.as_deref(), Some("day"));
    commit(&case.store, Nonce::Release(first)).await;
    assert_eq!(case.reserve(id, second, 6).await, None);
    // The next attempt of the first finds its room taken.
    commit(&case.store, Nonce::Reclaim(first)).await;
    assert_eq!(case.reserve(id, first, 6).await.as_deref(), Some("day"));
    assert_eq!(case.reserve(id, first, 4).await, None);
    commit(&case.store, Nonce::Release(first)).await;
    // Signed is signed, whatever is released then.
    commit(&case.store, Signed(second)).await;
    commit(&case.store, Nonce::Release(second)).await;
    let third = prepared(&case.store, id, 2).await;
    assert_eq!(case.reserve(id, third, 5).await.as_deref(), Some("day"));
    assert_eq!(case.reserve(id, third, 4).await, None);
}

async fn a26_what_was_signed_counts_for_as_long_as_its_limit_says(database: Database) {
    let limits = [
        limit("short", "profile", 10, 2),
        limit("day", "profile", 100, 86_400),
    ];
    let case = Case::new(&database, &limits).await;
    let profile = add(false);
    commit(&case.store, profile).await;
    let id = profile.id;
    let session = prepared(&case.store, id, 0).await;
    assert_eq!(case.reserve(id, session, 6).await, None);
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    // What is not signed yet counts however old it is: it may be signed now.
    let other = SessionId::generate();
    assert_eq!(case.reserve(id, other, 6).await.as_deref(), Some("short"));
    commit(&case.store, Signed(session)).await;
    assert_eq!(case.reserve(id, other, 6).await.as_deref(), Some("short"));
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    assert_eq!(case.reserve(id, other, 6).await, None);
    // And in the longer window still.
    let more = case.reserve(id, SessionId::generate(), 4).await;
    assert_eq!(more, None);
    let mut reader = case.store.reader().await.unwrap();
    let total = spends::total(&mut reader, &format!("profile/86400/1/native/{id}")).await;
    assert_eq!(U256::from_be_bytes(total.unwrap().unwrap()), U256::from(16));
}

async fn a26_every_limit_or_none_is_claimed(database: Database) {
    let limits = [
        limit("each", "transaction", 8, 0),
        limit("minute", "profile", 10, 60),
        limit("day", "profile", 15, 86_400),
        limit("to", "recipient", 12, 86_400),
        limit("all", "environment", 20, 86_400),
    ];
    let case = Case::new(&database, &limits).await;
    let (one, two) = (ProfileId::generate(), ProfileId::generate());
    let spend = async |profile, amount| case.reserve(profile, SessionId::generate(), amount).await;
    assert_eq!(spend(one, 9).await.as_deref(), Some("each"));
    assert_eq!(spend(one, 8).await, None);
    assert_eq!(spend(one, 3).await.as_deref(), Some("minute"));
    assert_eq!(spend(two, 8).await, None);
    // There is room for both, and not for all: nothing of what is refused stays.
    let third = ProfileId::generate();
    assert_eq!(spend(third, 5).await.as_deref(), Some("all"));
    assert_eq!(spend(third, 4).await, None);
    let mut refused = case.claim(third, SessionId::generate(), 0);
    (refused.amount, refused.refuse) = (0, true);
    assert!(case.store.commit(refused).await.is_err());
    assert_eq!(sums(&case.store).await, [20, 8, 8, 8, 8, 8, 8, 4, 4, 4]);
}

/// The totals of all buckets, the largest first; each is the sum of its claims.
async fn sums(store: &Store) -> Vec<u64> {
    let mut reader = store.reader().await.unwrap();
    let sql = "SELECT bucket, total FROM spend_totals";
    let mut totals = Vec::new();
    for row in reader.query(sql, &[]).await.unwrap() {
        let mut row = row.of("spend_totals");
        let bucket = row.text("bucket").unwrap();
        let total = U256::from_be_bytes::<32>(row.array("total").unwrap());
        let claims = spends::claims(&mut reader, &bucket).await.unwrap();
        let amounts = claims.iter().map(|claim| U256::from_be_bytes(claim.amount));
        assert_eq!(
            amounts.fold(U256::ZERO, |sum, one| sum + one),
            total,
            "{bucket}"
        );
        totals.push(total.to());
    }
    totals.sort_unstable_by_key(|total| std::cmp::Reverse(*total));
    totals
}

/// Claims, releases and signatures at once, as they come: what is claimed never exceeds a limit.
async fn a26_a_total_is_the_sum_of_its_claims_whatever_happens(database: Database) {
    let limits = [
        limit("day", "profile", 20, 86_400),
        limit("all", "environment", 50, 86_400),
    ];
    let case = Arc::new(Case::new(&database, &limits).await);
    let mut tasks = Vec::new();
    for worker in 0..4_u64 {
        let case = Arc::clone(&case);
        tasks.push(tokio::spawn(async move {
            let profile = add(false);
            commit(&case.store, profile).await;
            for turn in 0..40 {
                let session = prepared(&case.store, profile.id, worker * 1000 + turn).await;
                let amount = 1 + (turn * 7 + worker * 3) % 9;
                let claimed = case.reserve(profile.id, session, amount).await.is_none();
                if claimed && turn % 10 == worker {
                    commit(&case.store, Signed(session)).await;
                } else {
                    commit(&case.store, Nonce::Release(session)).await;
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    for total in sums(&case.store).await {
        assert!(total <= 50, "{total}");
    }
    // What is left is what was signed.
    let mut reader = case.store.reader().await.unwrap();
    let bucket = "environment/86400/1/native";
    let claims = spends::claims(&mut reader, bucket).await.unwrap();
    assert!(claims.iter().all(|claim| claim.committed || claim.released));
    assert!(claims.iter().filter(|claim| claim.committed).count() >= 4);
}

#[tokio::test]
async fn a26_without_their_tables_nothing_is_reserved() {
    let database = Database::sqlite();
    let case = Case::new(&database, &[limit("day", "profile", 10, 60)]).await;
    database.tamper("DROP TABLE spend_totals").await;
    let claim = case.claim(ProfileId::generate(), SessionId::generate(), 1);
    let failed = case.store.commit(claim).await;
    assert!(matches!(
        failed,
        Err(CommitError::Store(StoreError::Unavailable(_)))
    ));
}
