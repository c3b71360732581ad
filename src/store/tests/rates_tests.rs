//! Request rates are exact, on either engine and over several processes (`protocol.md` A25).

use super::database::Database;
use super::{Store, commit};
use crate::clock::{self, Timestamp};
use crate::domain::{InstanceId, OwnerId, ProfileId, RateClass, RateSubject};
use crate::gate::rates::{Metering, NotCounted};
use crate::limits::{Exceeded, InForce, Meter};
use crate::store::retention::{Aged, Retention};
use crate::store::{AuditEvent, AuditRecord, CommitError, Key, Operation, Reads, Tx};

on_both_engines![
    a25_a_rate_admits_exactly_as_many_as_have_left_the_window,
    a25_a_batch_is_counted_as_a_whole_or_not_at_all,
    a25_subjects_and_classes_are_counted_apart,
    a25_what_is_refused_after_it_was_counted_leaves_nothing,
    a25_of_fifty_at_once_exactly_ten_are_admitted,
    a25_without_its_table_nothing_is_admitted,
    requests_that_count_no_more_are_deleted,
];

/// Counts requests, at a time or now, and then agrees or refuses.
struct Take {
    metering: Metering,
    at: Option<Timestamp>,
    events: u32,
    refuse: bool,
}

impl Operation for Take {
    type Output = ();
    type Refusal = Option<Exceeded>;

    fn key(&self) -> Key {
        self.metering.key()
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<((), AuditRecord), CommitError<Self::Refusal>> {
        let taken = match self.at {
            Some(at) => self.metering.take_at(tx, at, self.events).await,
            None => self.metering.take(tx).await,
        };
        match taken {
            Ok(()) if self.refuse => Err(CommitError::Refused(None)),
            Ok(()) => Ok(((), AuditRecord::done(AuditEvent::StepPermitted))),
            Err(NotCounted::Exceeded(exceeded)) => Err(CommitError::Refused(Some(exceeded))),
            Err(NotCounted::Store(error)) => Err(error.into()),
        }
    }
}

/// The limits that the program comes with: ten signatures in any minute.
fn metering(class: RateClass, subject: RateSubject) -> (Metering, Meter) {
    let (limits, meter) = (InForce::open(None, Vec::new()).unwrap(), Meter::default());
    let metering = Metering::new(&limits, class, subject, meter.clone());
    (metering, meter)
}

fn profile() -> RateSubject {
    RateSubject::Profile(ProfileId::generate())
}

/// Seconds to wait, if a number of requests at a time is not admitted.
async fn take(
    store: &Store,
    class: RateClass,
    subject: RateSubject,
    at: Timestamp,
    events: u32,
) -> Option<u32> {
    let take = Take {
        metering: metering(class, subject).0,
        at: Some(at),
        events,
        refuse: false,
    };
    match store.commit(take).await {
        Ok(_) => None,
        Err(CommitError::Refused(Some(exceeded))) => Some(exceeded.retry_after),
        Err(_) => panic!("the store failed"),
    }
}

/// Tenths of a second after a certain time.
const fn tenths(tenths: i64) -> Timestamp {
    Timestamp::from_micros(1_795_338_000_000_000 + tenths * 100_000)
}

async fn a25_a_rate_admits_exactly_as_many_as_have_left_the_window(database: Database) {
    let (store, subject) = (database.store().await, profile());
    let sign = async |at| take(&store, RateClass::Signing, subject, tenths(at), 1).await;
    for second in 0..10 {
        assert_eq!(sign(second * 10).await, None, "t={second}");
    }
    assert_eq!(sign(90).await, Some(51));
    assert_eq!(sign(599).await, Some(1));
    // What was at 0 has left, and nothing else.
    assert_eq!(sign(600).await, None);
    assert_eq!(sign(600).await, Some(1));
    assert_eq!(sign(609).await, Some(1));
    assert_eq!(sign(610).await, None);
    assert_eq!(sign(610).await, Some(1));
    // An edge of fixed windows would let twenty in.
    let mut admitted = 0;
    for at in 620..1200 {
        admitted += u32::from(sign(at).await.is_none());
    }
    assert_eq!(admitted, 8);
    assert_eq!(sign(1199).await, Some(1));
}

async fn a25_a_batch_is_counted_as_a_whole_or_not_at_all(database: Database) {
    let (store, subject) = (database.store().await, profile());
    let sign =
        async |at, events| take(&store, RateClass::Signing, subject, tenths(at), events).await;
    assert_eq!(sign(0, 8).await, None);
    assert_eq!(sign(10, 3).await, Some(59), "a batch of three");
    assert_eq!(sign(10, 1).await, None);
    assert_eq!(sign(20, 1).await, None);
    assert_eq!(sign(30, 1).await, Some(57), "the third single one");
    assert_eq!(sign(600, 8).await, None);
    // For three more, two of which fit in: until the second of those at 1 s and 2 s has left.
    assert_eq!(sign(605, 2).await, Some(2));
    assert_eq!(sign(2000, 11).await, Some(60), "never");
}

async fn a25_subjects_and_classes_are_counted_apart(database: Database) {
    let (store, subject) = (database.store().await, profile());
    let at = tenths(0);
    assert_eq!(
        take(&store, RateClass::Signing, subject, at, 10).await,
        None
    );
    let again = take(&store, RateClass::Signing, subject, at, 1).await;
    assert_eq!(again, Some(60));
    let other = take(&store, RateClass::Transactions, subject, at, 1).await;
    assert_eq!(other, None);
    for other in [
        profile(),
        RateSubject::Owner(OwnerId::generate()),
        RateSubject::User([1; 32]),
        RateSubject::User([2; 32]),
    ] {
        assert_eq!(take(&store, RateClass::Signing, other, at, 10).await, None);
        let again = take(&store, RateClass::Signing, other, at, 1).await;
        assert_eq!(again, Some(60), "{other:?}");
    }
}

async fn rows(store: &Store) -> i64 {
    let mut reader = store.reader().await.unwrap();
    let row = reader
        .query_one("SELECT COUNT(*) FROM rate_events", &[])
        .await;
    row.unwrap()
        .unwrap()
        .of("rate_events")
        .int("count")
        .unwrap()
}

async fn a25_what_is_refused_after_it_was_counted_leaves_nothing(database: Database) {
    let (store, subject) = (database.store().await, profile());
    for _ in 0..20 {
        let take = Take {
            metering: metering(RateClass::Signing, subject).0,
            at: None,
            events: 1,
            refuse: true,
        };
        let refused = store.commit(take).await;
        assert!(matches!(refused, Err(CommitError::Refused(None))));
    }
    assert_eq!(rows(&store).await, 0);
}

async fn a25_of_fifty_at_once_exactly_ten_are_admitted(database: Database) {
    let store = database.store().await;
    // As another process: SQLite has none.
    let other = if store.is_alone() {
        store.clone()
    } else {
        database.reopened(64).await
    };
    for _ in 0..5 {
        let subject = profile();
        let starts: Vec<_> = (0..50)
            .map(|start| {
                let store = if start % 2 == 0 { &store } else { &other };
                let store = store.clone();
                let (metering, meter) = metering(RateClass::Signing, subject);
                let take = Take {
                    metering,
                    at: None,
                    events: 1,
                    refuse: false,
                };
                tokio::spawn(async move { (store.commit(take).await, meter) })
            })
            .collect();
        let mut left = Vec::new();
        for start in starts {
            match start.await.unwrap() {
                (Ok(_), meter) => left.push(meter.read().unwrap().standing.remaining),
                (Err(CommitError::Refused(Some(exceeded))), meter) => {
                    assert!((59..=60).contains(&exceeded.retry_after), "{exceeded:?}");
                    let found = meter.read().unwrap();
                    assert!(found.exceeded && found.standing.remaining == 0);
                }
                (Err(_), _) => panic!("the store failed"),
            }
        }
        left.sort_unstable();
        assert_eq!(left, (0..10).collect::<Vec<u32>>());
        let (looks, _) = metering(RateClass::Signing, subject);
        let looked = looks.look(&mut store.reader().await.unwrap()).await;
        assert!(matches!(looked, Err(NotCounted::Exceeded(_))));
    }
    assert_eq!(rows(&store).await, 50);
}

async fn a25_without_its_table_nothing_is_admitted(database: Database) {
    let store = database.store().await;
    database.tamper("DROP TABLE rate_events").await;
    let take = Take {
        metering: metering(RateClass::Signing, profile()).0,
        at: None,
        events: 1,
        refuse: false,
    };
    let failed = store.commit(take).await;
    assert!(matches!(failed, Err(CommitError::Store(_))));
    let (looks, _) = metering(RateClass::Signing, profile());
    let looked = looks.look(&mut store.reader().await.unwrap()).await;
    assert!(matches!(looked, Err(NotCounted::Store(_))));
}

async fn requests_that_count_no_more_are_deleted(database: Database) {
    let store = database.store().await;
    let (now, subject) = (clock::now(), profile());
    let kept = Retention {
        idempotency: 0,
        sessions: 0,
        steps: 0,
        denials: 0,
    };
    for (ago, events) in [(3 * 3600, 10), (30, 4)] {
        let at = now.plus_seconds(-ago);
        let taken = take(&store, RateClass::Signing, subject, at, events).await;
        assert_eq!(taken, None);
    }
    let holder = InstanceId::generate();
    let deleted = store.prune(Aged::RateEvents, kept, holder).await.unwrap();
    assert_eq!(
        deleted.unwrap().iter().map(|(_, rows)| rows).sum::<u64>(),
        10
    );
    assert_eq!(rows(&store).await, 4);
    let refused = take(&store, RateClass::Signing, subject, now, 7).await;
    assert!(refused.is_some(), "four of the last minute still count");
    commit(
        &store,
        Take {
            metering: metering(RateClass::Signing, subject).0,
            at: Some(now),
            events: 6,
            refuse: false,
        },
    )
    .await;
}
