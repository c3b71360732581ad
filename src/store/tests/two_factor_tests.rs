//! A code counts once and a guess is counted, on either engine and under whatever keys (`protocol.md` 5.2, A24).

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::database::Database;
use super::{Store, commit};
use crate::clock::Timestamp;
use crate::domain::{DeviceKeyId, EnrolmentId, OwnerId, ProfileId, TenantId};
use crate::gate::two_factor::{Checked, Need, Presented, Refused, check_at, check_of_owner};
use crate::store::profiles::{self, NewProfile};
use crate::store::two_factor::{self, Confirmed, FactorRow, Lock};
use crate::store::{AuditEvent, AuditRecord, CommitError, Key, Operation, Tx};
use crate::two_factor::{KEYS, Keys};

on_both_engines![
    a24_a_step_counts_once_and_never_backwards,
    a24_steps_beside_the_present_one_count_and_no_others,
    a24_the_sixth_wrong_code_in_a_row_is_not_looked_at_nor_is_a_right_one,
    a24_the_twentieth_wrong_code_of_a_day_leaves_a_recovery_code_only,
    a24_wrong_codes_that_have_left_the_day_lock_nobody_for_good,
    a24_a_recovery_code_counts_once_and_unlocks,
    a24_what_is_needed_and_does_not_come_changes_nothing,
    a24_of_twenty_at_once_under_keys_of_their_own_one_is_right,
    a24_a_later_wallet_of_an_owner_goes_around_no_factor,
    a24_a_factor_takes_the_place_of_the_one_before_when_its_time_has_come,
];

/// A certain time, in the middle of a step.
const NOW: i64 = 1_795_338_015;

const fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros((NOW + seconds) * 1_000_000)
}

fn keys() -> Keys {
    Keys::from_bytes(Zeroizing::new(vec![9; KEYS])).unwrap()
}

/// What an authenticator shows then.
fn shown(seconds: i64) -> u32 {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &[9; 20]);
    let step = (NOW + seconds).div_euclid(30);
    let tag = hmac::sign(&key, &step.to_be_bytes());
    let offset = usize::from(tag.as_ref()[19] & 0xf);
    let word: [u8; 4] = tag.as_ref()[offset..offset + 4].try_into().unwrap();
    (u32::from_be_bytes(word) & 0x7fff_ffff) % 1_000_000
}

/// A profile of an owner, with a factor that is active since a time.
#[derive(Clone, Copy)]
struct Wallet {
    profile: ProfileId,
    owner: OwnerId,
    enrolment: EnrolmentId,
}

impl Wallet {
    async fn new(store: &Store, owner: OwnerId, since: Option<Timestamp>) -> Self {
        let wallet = Self {
            profile: ProfileId::generate(),
            owner,
            enrolment: EnrolmentId::generate(),
        };
        commit(store, Add(wallet, since)).await;
        wallet
    }

    fn row(&self, since: Timestamp) -> FactorRow {
        FactorRow {
            enrolment_id: self.enrolment,
            profile_id: self.profile,
            begun_by: DeviceKeyId::parse(DEVICE).unwrap(),
            sealed: vec![1],
            kek_id: [2; 16],
            last_step: 0,
            answer: None,
            expires_at: since,
            confirmed: Some(Confirmed {
                active_at: since,
                since,
            }),
        }
    }

    /// Somebody types a code.
    fn types(&self, code: u32, now: Timestamp) -> Presented {
        Presented::Shown {
            enrolment: self.enrolment,
            matching: keys().matching(code, now),
        }
    }

    fn recovers(&self, code: u8) -> Presented {
        Presented::Recovery {
            enrolment: self.enrolment,
            mac: keys().recovery_mac(self.enrolment, &[code; 10]),
        }
    }
}

struct Add(Wallet, Option<Timestamp>);

impl Operation for Add {
    type Output = ();
    type Refusal = ();

    fn key(&self) -> Key {
        Key::profile(self.0.profile)
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<()>> {
        let Self(wallet, since) = self;
        let profile = NewProfile {
            profile_id: wallet.profile,
            tenant: &TenantId::parse("default").unwrap(),
            owner_id: wallet.owner,
            name: "test",
        };
        profiles::insert(tx, &profile).await?;
        if let Some(since) = since {
            let macs = [1, 2].map(|code| keys().recovery_mac(wallet.enrolment, &[code; 10]));
            two_factor::insert(tx, &wallet.row(*since), &macs).await?;
        }
        Ok(((), AuditRecord::done(AuditEvent::TwoFactorActivated)))
    }
}

/// Checks a second factor at a time, under a key that excludes nobody.
struct Check {
    wallet: Wallet,
    presented: Presented,
    need: Need,
    now: Timestamp,
}

impl Operation for Check {
    type Output = Result<bool, Refused>;
    type Refusal = ();

    fn key(&self) -> Key {
        Key::profile(ProfileId::generate())
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<(Self::Output, AuditRecord), CommitError<()>> {
        let profile = self.wallet.profile;
        let checked = check_at(tx, self.now, profile, &self.presented, self.need).await?;
        let checked = match checked {
            Checked::Granted(_) => Ok(true),
            Checked::NotNeeded => Ok(false),
            Checked::Refused(refused) => Err(refused),
        };
        Ok((checked, AuditRecord::done(AuditEvent::TwoFactorWrong)))
    }
}

async fn check(
    store: &Store,
    wallet: Wallet,
    presented: Presented,
    now: Timestamp,
) -> Result<bool, Refused> {
    let check = Check {
        wallet,
        presented,
        need: Need::Always,
        now,
    };
    match store.commit(check).await {
        Ok(checked) => checked.into_inner(),
        Err(_) => panic!("the store failed"),
    }
}

async fn typed(store: &Store, wallet: Wallet, code: u32, seconds: i64) -> Result<bool, Refused> {
    check(store, wallet, wallet.types(code, at(seconds)), at(seconds)).await
}

/// The device that enrolled.
const DEVICE: &str = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs";
/// Six digits that no step shows.
const WRONG: u32 = 1_000_000;
const INVALID: Result<bool, Refused> = Err(Refused::Invalid { locks: false });
const LOCKS: Result<bool, Refused> = Err(Refused::Invalid { locks: true });

async fn lock(store: &Store, wallet: Wallet) -> Lock {
    let mut reader = store.reader().await.unwrap();
    two_factor::lock(&mut reader, wallet.profile).await.unwrap()
}

async fn enrolled(database: &Database) -> (Store, Wallet) {
    let store = database.store().await;
    let wallet = Wallet::new(&store, OwnerId::generate(), Some(at(-100))).await;
    (store, wallet)
}

async fn a24_a_step_counts_once_and_never_backwards(database: Database) {
    let (store, wallet) = enrolled(&database).await;
    assert_eq!(typed(&store, wallet, shown(0), 0).await, Ok(true));
    assert_eq!(typed(&store, wallet, shown(0), 1).await, INVALID, "again");
    assert_eq!(
        typed(&store, wallet, shown(-30), 2).await,
        INVALID,
        "before"
    );
    assert_eq!(typed(&store, wallet, shown(30), 3).await, Ok(true), "after");
    assert_eq!(typed(&store, wallet, shown(0), 3).await, INVALID);
    assert_eq!(typed(&store, wallet, shown(30), 30).await, INVALID);
    assert_eq!(typed(&store, wallet, shown(60), 60).await, Ok(true));
}

async fn a24_steps_beside_the_present_one_count_and_no_others(database: Database) {
    let store = database.store().await;
    for (off, counts) in [(-2, false), (-1, true), (0, true), (1, true), (2, false)] {
        let wallet = Wallet::new(&store, OwnerId::generate(), Some(at(-100))).await;
        let expected = if counts { Ok(true) } else { INVALID };
        assert_eq!(
            typed(&store, wallet, shown(off * 30), 0).await,
            expected,
            "{off}"
        );
    }
}

async fn a24_the_sixth_wrong_code_in_a_row_is_not_looked_at_nor_is_a_right_one(database: Database) {
    let (store, wallet) = enrolled(&database).await;
    let mut time = 0;
    // Each pause is twice as long as the one before; a day holds twenty.
    for (pause, day) in [(900, 0), (1800, 0), (3600, 0), (7200, 1)] {
        time += day * 86_400;
        for _ in 0..4 {
            assert_eq!(typed(&store, wallet, WRONG, time).await, INVALID);
        }
        assert_eq!(typed(&store, wallet, WRONG, time).await, LOCKS);
        let locked = |seconds| Err(Refused::Locked(seconds));
        for code in [WRONG, shown(time)] {
            assert_eq!(typed(&store, wallet, code, time).await, locked(pause));
        }
        let last = time + i64::from(pause) - 1;
        for code in [WRONG, shown(last)] {
            assert_eq!(typed(&store, wallet, code, last).await, locked(1));
        }
        time += i64::from(pause);
    }
    assert_eq!(
        lock(&store, wallet).await.in_a_row,
        20,
        "what is locked is not counted"
    );
    assert_eq!(typed(&store, wallet, shown(time), time).await, Ok(true));
    assert_eq!(lock(&store, wallet).await, Lock::default());
}

async fn a24_the_twentieth_wrong_code_of_a_day_leaves_a_recovery_code_only(database: Database) {
    let (store, wallet) = enrolled(&database).await;
    let mut time = 0;
    for _ in 0..4 {
        for _ in 0..4 {
            assert_eq!(typed(&store, wallet, WRONG, time).await, INVALID);
        }
        assert_eq!(typed(&store, wallet, shown(time), time).await, Ok(true));
        time += 60;
    }
    for _ in 0..3 {
        assert_eq!(typed(&store, wallet, WRONG, time).await, INVALID);
    }
    // The twentieth.
    assert_eq!(typed(&store, wallet, WRONG, time).await, LOCKS);
    let refused = Err(Refused::Locked(86_400));
    assert_eq!(typed(&store, wallet, shown(time), time).await, refused);
    let next_year = time + 366 * 86_400;
    assert_eq!(
        typed(&store, wallet, shown(next_year), next_year).await,
        refused
    );
    let recovered = check(&store, wallet, wallet.recovers(1), at(next_year)).await;
    assert_eq!(recovered, Ok(true));
    let right = typed(&store, wallet, shown(next_year), next_year).await;
    assert_eq!(right, Ok(true));
}

async fn a24_wrong_codes_that_have_left_the_day_lock_nobody_for_good(database: Database) {
    let (store, wallet) = enrolled(&database).await;
    // Nineteen in the first hours.
    for (time, wrong) in [(0, 5), (900, 5), (2700, 5), (6300, 4)] {
        for _ in 0..wrong {
            assert!(typed(&store, wallet, WRONG, time).await.is_err());
        }
    }
    // The twentieth comes when the first ones have left: the pause is one like the others.
    assert_eq!(typed(&store, wallet, WRONG, 86_400).await, LOCKS);
    let locked = typed(&store, wallet, WRONG, 86_401).await;
    assert_eq!(locked, Err(Refused::Locked(7199)));
}

async fn a24_a_recovery_code_counts_once_and_unlocks(database: Database) {
    let (store, wallet) = enrolled(&database).await;
    let recovers = async |code, time| check(&store, wallet, wallet.recovers(code), at(time)).await;
    for _ in 0..5 {
        assert!(typed(&store, wallet, WRONG, 0).await.is_err());
    }
    // A wrong one says nothing, and is not counted while nobody looks.
    assert_eq!(recovers(7, 1).await, Err(Refused::Locked(899)));
    assert_eq!(recovers(1, 1).await, Ok(true));
    assert_eq!(lock(&store, wallet).await, Lock::default());
    assert_eq!(typed(&store, wallet, shown(2), 2).await, Ok(true));
    // A used one is a wrong one, and is counted.
    assert_eq!(recovers(1, 3).await, INVALID);
    assert_eq!(lock(&store, wallet).await.in_a_row, 1);
    assert_eq!(recovers(2, 4).await, Ok(true));
    let mut reader = store.reader().await.unwrap();
    let left = two_factor::recovery_left(&mut reader, wallet.enrolment).await;
    assert_eq!(left.unwrap(), 0);
    // Of another enrolment it is none.
    let other = Wallet::new(&store, OwnerId::generate(), Some(at(-100))).await;
    assert_eq!(
        check(&store, other, wallet.recovers(2), at(5)).await,
        INVALID
    );
    assert_eq!(
        check(&store, other, wallet.types(shown(5), at(5)), at(5)).await,
        INVALID
    );
}

async fn a24_what_is_needed_and_does_not_come_changes_nothing(database: Database) {
    let (store, wallet) = enrolled(&database).await;
    let without = Wallet::new(&store, OwnerId::generate(), None).await;
    for _ in 0..30 {
        let refused = check(&store, wallet, Presented::Nothing, at(0)).await;
        assert_eq!(refused, Err(Refused::Required(None)));
    }
    assert_eq!(lock(&store, wallet).await, Lock::default());
    let need = async |need, presented| {
        let check = Check {
            wallet: without,
            presented,
            need,
            now: at(0),
        };
        store.commit(check).await.ok().unwrap().into_inner()
    };
    for presented in [
        Presented::Nothing,
        Presented::Strange,
        wallet.types(shown(0), at(0)),
    ] {
        assert_eq!(need(Need::IfActive, presented).await, Ok(false));
        assert_eq!(
            need(Need::Always, presented).await,
            Err(Refused::NotEnrolled)
        );
    }
    // One that was read before there was a factor is wrong.
    assert_eq!(
        check(&store, wallet, Presented::Strange, at(0)).await,
        INVALID
    );
    assert_eq!(typed(&store, wallet, shown(0), 0).await, Ok(true));
}

async fn a24_of_twenty_at_once_under_keys_of_their_own_one_is_right(database: Database) {
    let (store, wallet) = enrolled(&database).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let store = store.clone();
        tasks.spawn(async move { typed(&store, wallet, shown(0), 0).await });
    }
    let ends = tasks.join_all().await;
    let right = ends.iter().filter(|end| **end == Ok(true)).count();
    let wrong = ends
        .iter()
        .filter(|end| matches!(end, Err(Refused::Invalid { .. })))
        .count();
    assert_eq!((right, wrong), (1, 5), "{ends:?}");
}

async fn a24_a_later_wallet_of_an_owner_goes_around_no_factor(database: Database) {
    struct OfOwner(Wallet, Presented);
    impl Operation for OfOwner {
        type Output = Result<bool, Refused>;
        type Refusal = ();

        fn key(&self) -> Key {
            Key::owner(self.0.owner)
        }

        async fn apply(
            &mut self,
            tx: &mut Tx<'_>,
        ) -> Result<(Self::Output, AuditRecord), CommitError<()>> {
            let Self(wallet, presented) = self;
            let tenant = TenantId::parse("default").unwrap();
            let (owner, profile) = ((&tenant, wallet.owner), wallet.profile);
            let checked = check_of_owner(tx, owner, profile, presented, Need::IfActive).await?;
            let checked = match checked {
                Checked::Granted(_) => Ok(true),
                Checked::NotNeeded => Ok(false),
                Checked::Refused(refused) => Err(refused),
            };
            Ok((checked, AuditRecord::done(AuditEvent::TwoFactorWrong)))
        }
    }
    let (store, owner) = (database.store().await, OwnerId::generate());
    let changes = async |wallet: Wallet| {
        let operation = OfOwner(wallet, wallet.recovers(1));
        store.commit(operation).await.ok().unwrap().into_inner()
    };
    let bare = Wallet::new(&store, owner, None).await;
    assert_eq!(changes(bare).await, Ok(false));
    let newer = Wallet::new(&store, owner, Some(at(-100))).await;
    assert_eq!(
        changes(bare).await,
        Err(Refused::Required(Some(newer.profile)))
    );
    let older = Wallet::new(&store, owner, Some(at(-200))).await;
    for wallet in [bare, newer] {
        assert_eq!(
            changes(wallet).await,
            Err(Refused::Required(Some(older.profile)))
        );
    }
    assert_eq!(changes(older).await, Ok(true));
    let stranger = Wallet::new(&store, OwnerId::generate(), None).await;
    assert_eq!(changes(stranger).await, Ok(false));
}

async fn a24_a_factor_takes_the_place_of_the_one_before_when_its_time_has_come(database: Database) {
    let (store, first) = enrolled(&database).await;
    struct Replace(Wallet, Timestamp);
    impl Operation for Replace {
        type Output = ();
        type Refusal = ();

        fn key(&self) -> Key {
            Key::profile(self.0.profile)
        }

        async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<()>> {
            two_factor::insert(tx, &self.0.row(self.1), &[]).await?;
            Ok(((), AuditRecord::done(AuditEvent::TwoFactorActivated)))
        }
    }
    let second = Wallet {
        enrolment: EnrolmentId::generate(),
        ..first
    };
    commit(&store, Replace(second, at(1000))).await;
    assert_eq!(typed(&store, first, shown(990), 990).await, Ok(true));
    assert_eq!(typed(&store, second, shown(990), 990).await, INVALID);
    assert_eq!(typed(&store, first, shown(1020), 1020).await, INVALID);
    assert_eq!(typed(&store, second, shown(1020), 1020).await, Ok(true));
    let mut reader = store.reader().await.unwrap();
    let standing = two_factor::standing(&mut reader, first.profile, at(1020)).await;
    let standing = standing.unwrap();
    assert_eq!(standing.active.unwrap().enrolment_id, second.enrolment);
    assert_eq!(standing.over, [first.enrolment]);
    assert!(standing.next.is_none());
}
