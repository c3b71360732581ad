//! The list of bans: appended to with the quarantine, by several processes one at a time.

use super::super::bans::{self, Caught};
use super::super::profiles::NewProfile;
use super::super::shares::{self, ShareRow};
use super::super::{
    AuditEvent, AuditRecord, CommitError, Key, Operation, Reads, Store, Tx, profiles,
};
use super::Database;
use crate::domain::{ChainHead, Generation, OtSetup, OwnerId, ProfileId, SessionId, TenantId};

on_both_engines![
    a18_bans_of_many_keys_at_once_make_one_chain,
    a18_a_setup_is_listed_once_and_its_share_is_emptied_once,
    a18_an_append_that_is_rolled_back_leaves_no_gap,
];

const DKG: [u8; 32] = [7; 32];

fn share(version: u64) -> ShareRow {
    ShareRow {
        generation: Generation::FIRST,
        object_version: version,
        kek_id: [1; 16],
        sealed: vec![u8::try_from(version).unwrap(); 64],
        public_key: [2; 33],
        x1: [2; 33],
        x2: [3; 33],
        dkg_session_id: DKG,
    }
}

/// Adds a profile with a share.
struct Add(ProfileId);

impl Operation for Add {
    type Output = ();
    type Refusal = ();

    fn key(&self) -> Key {
        Key::profile(self.0)
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<((), AuditRecord), CommitError<()>> {
        let profile = NewProfile {
            profile_id: self.0,
            tenant: &TenantId::parse("default").unwrap(),
            owner_id: OwnerId::generate(),
            name: "test",
        };
        profiles::insert(tx, &profile).await?;
        shares::insert_pending(tx, self.0, &share(1)).await?;
        Ok(((), AuditRecord::done(AuditEvent::ShareStored)))
    }
}

/// Bans a profile; and then refuses, if told so.
struct Ban {
    profile: ProfileId,
    emptied: Option<ShareRow>,
    refuse: bool,
}

impl Operation for Ban {
    type Output = bool;
    type Refusal = ();

    fn key(&self) -> Key {
        Key::profile(self.profile)
    }

    fn also(&self) -> Key {
        Key::BANS
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<(bool, AuditRecord), CommitError<()>> {
        let caught = Caught {
            profile_id: self.profile,
            generation: Generation::FIRST,
            ot_setup: OtSetup::of(self.profile, Generation::FIRST, &DKG),
            session_id: Some(SessionId::generate()),
            reason: "multiplication",
        };
        bans::append(tx, &caught).await?;
        let done = match &self.emptied {
            Some(emptied) => shares::empty(tx, self.profile, emptied).await?,
            None => false,
        };
        shares::empty_later(tx, self.profile, Generation::FIRST).await?;
        if self.refuse {
            return Err(CommitError::Refused(()));
        }
        Ok((done, AuditRecord::done(AuditEvent::CounterpartyBanned)))
    }
}

async fn add(store: &Store) -> ProfileId {
    let id = ProfileId::generate();
    assert!(store.commit(Add(id)).await.is_ok());
    id
}

async fn ban(store: &Store, profile: ProfileId, emptied: Option<ShareRow>) -> bool {
    let ban = Ban {
        profile,
        emptied,
        refuse: false,
    };
    store.commit(ban).await.ok().unwrap().into_inner()
}

/// The list, verified from its beginning.
async fn list(store: &Store) -> Vec<bans::Entry> {
    let mut reader = store.reader().await.unwrap();
    let entries = bans::from(&mut reader, 1).await.unwrap();
    let mut head = ChainHead::default();
    for entry in &entries {
        assert_eq!(entry.ban.position, head.count + 1);
        assert_eq!(entry.previous_hash, head.hash);
        assert_eq!(entry.hash, entry.ban.hash(&head.hash));
        head = ChainHead {
            count: entry.ban.position,
            hash: entry.hash,
        };
    }
    assert_eq!(bans::head(&mut reader).await.unwrap(), head);
    let tail = bans::from(&mut reader, head.count).await.unwrap();
    assert_eq!(tail.len(), usize::from(head.count > 0));
    entries
}

async fn a18_bans_of_many_keys_at_once_make_one_chain(database: Database) {
    let store = database.store().await;
    let another = if store.is_alone() {
        store.clone()
    } else {
        Store::open(database.location()).await.unwrap()
    };
    assert!(list(&store).await.is_empty());
    let mut profiles = Vec::new();
    for _ in 0..24 {
        profiles.push(add(&store).await);
    }
    let banning: Vec<_> = profiles
        .iter()
        .zip([&store, &another].into_iter().cycle())
        .map(|(profile, store)| {
            let (store, profile) = (store.clone(), *profile);
            tokio::spawn(async move { ban(&store, profile, None).await })
        })
        .collect();
    for task in banning {
        task.await.unwrap();
    }
    let entries = list(&store).await;
    assert_eq!(entries.len(), 24);
    for profile in profiles {
        let setup = OtSetup::of(profile, Generation::FIRST, &DKG);
        let found = entries.iter().filter(|entry| entry.ban.ot_setup == setup);
        assert_eq!(found.count(), 1);
    }
}

async fn a18_a_setup_is_listed_once_and_its_share_is_emptied_once(database: Database) {
    let store = database.store().await;
    let profile = add(&store).await;
    let due = async || {
        let mut reader = store.reader().await.unwrap();
        shares::to_empty(&mut reader, "").await.unwrap()
    };
    assert!(due().await.is_empty());
    assert!(!ban(&store, profile, None).await);
    assert_eq!(due().await, [(profile, Generation::FIRST)]);
    // Made from a version that is not there.
    assert!(!ban(&store, profile, Some(share(3))).await);
    assert!(ban(&store, profile, Some(share(2))).await);
    assert!(due().await.is_empty());
    assert!(!ban(&store, profile, Some(share(3))).await);
    assert!(due().await.is_empty(), "once is enough");
    assert_eq!(list(&store).await.len(), 1);
    let mut reader = store.reader().await.unwrap();
    let found = shares::find(&mut reader, profile, Generation::FIRST).await;
    let found = found.unwrap().unwrap();
    assert_eq!((found.object_version, found.sealed), (2, vec![2; 64]));
    let state = "SELECT transfer_state FROM key_shares WHERE profile_id = $1";
    let id = profile.to_string();
    let row = reader
        .query_one(state, super::super::engine::values![id])
        .await;
    let state = row
        .unwrap()
        .unwrap()
        .of("key_shares")
        .text("transfer_state");
    assert_eq!(state.unwrap(), "emptied");
}

async fn a18_an_append_that_is_rolled_back_leaves_no_gap(database: Database) {
    let store = database.store().await;
    for refuse in [true, false, true, false] {
        let profile = add(&store).await;
        let emptied = None;
        let ban = Ban {
            profile,
            emptied,
            refuse,
        };
        assert_eq!(store.commit(ban).await.is_err(), refuse);
    }
    assert_eq!(list(&store).await.len(), 2);
}
