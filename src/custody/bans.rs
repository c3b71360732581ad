//! The list of bans in memory: what custody believes, whatever the database says later.

use std::collections::HashSet;

use crate::domain::{ChainHead, OtSetup, ProfileId};
use crate::store::bans::Entry;

/// The list that a process has seen. It only grows.
#[derive(Default)]
pub(super) struct BanList {
    hashes: Vec<[u8; 32]>,
    listed: HashSet<(ProfileId, OtSetup)>,
    /// Whom this process caught itself.
    condemned: HashSet<(ProfileId, OtSetup)>,
}

/// The database has not the list that was seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// It has fewer entries.
    #[error("it knows fewer than {0} bans")]
    BansMissing(i64),
    /// It has another entry in this place, or one that is not what its hash says.
    #[error("its ban {0} is another one or was altered")]
    BanAltered(i64),
    /// It has fewer links in its audit chain.
    #[error("its audit chain has fewer than {0} links")]
    LinksMissing(i64),
    /// It lost the verdict about a wallet that this process caught.
    #[error("a wallet was caught and is not in its list of bans")]
    VerdictGone,
    /// It has no record of a share that was unwrapped, or a permit was used twice.
    #[error("a share was unwrapped without a record of its own")]
    RecordGone,
    /// It has another link in this place.
    #[error("link {0} of its audit chain is another one")]
    LinkAltered(i64),
}

impl BanList {
    /// Its end.
    pub(super) fn head(&self) -> ChainHead {
        ChainHead {
            count: i64::try_from(self.hashes.len()).unwrap_or(i64::MAX),
            hash: self.hashes.last().copied().unwrap_or_default(),
        }
    }

    /// Whether it goes on from `head`, or ends there.
    pub(super) fn contains(&self, head: &ChainHead) -> bool {
        match self.hash_at(head.count) {
            Some(hash) => hash == head.hash,
            None => false,
        }
    }

    pub(super) fn is_banned(&self, profile: ProfileId, setup: OtSetup) -> bool {
        self.lists(profile, setup) || self.condemned.contains(&(profile, setup))
    }

    /// Whether the list has this wallet.
    pub(super) fn lists(&self, profile: ProfileId, setup: OtSetup) -> bool {
        self.listed.contains(&(profile, setup))
    }

    /// Remembers a wallet that was caught and is not in the list yet.
    pub(super) fn condemn(&mut self, profile: ProfileId, setup: OtSetup) {
        self.condemned.insert((profile, setup));
    }

    /// The hash of an entry; zeros before the first.
    fn hash_at(&self, position: i64) -> Option<[u8; 32]> {
        match usize::try_from(position).ok()?.checked_sub(1) {
            None => Some([0; 32]),
            Some(index) => self.hashes.get(index).copied(),
        }
    }

    /// Takes over entries that follow `from`, or begin with it, as the database has them. All of them are verified,
    /// also those that are known.
    pub(super) fn follow(&mut self, from: &ChainHead, entries: &[Entry]) -> Result<(), Mismatch> {
        let mut position = from.count;
        if position == 0 {
            position = 1;
        }
        if from.count > 0 && entries.is_empty() {
            return Err(Mismatch::BansMissing(from.count));
        }
        for entry in entries {
            let altered = Mismatch::BanAltered(position);
            let before = self.hash_at(position.saturating_sub(1)).ok_or(altered)?;
            let sound = entry.ban.position == position
                && entry.previous_hash == before
                && entry.hash == entry.ban.hash(&before);
            if !sound {
                return Err(altered);
            }
            match self.hash_at(position) {
                Some(known) if known == entry.hash => {}
                Some(_) => return Err(altered),
                None => {
                    self.hashes.push(entry.hash);
                    let ban = &entry.ban;
                    self.listed.insert((ban.profile_id, ban.ot_setup));
                }
            }
            position = position.saturating_add(1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::{BanList, ChainHead, Entry, Mismatch, OtSetup};
    use crate::clock::Timestamp;
    use crate::domain::{Ban, Generation, ProfileId, SessionId};

    fn entries(count: i64) -> Vec<Entry> {
        let mut previous_hash = [0; 32];
        (1..=count)
            .map(|position| {
                let profile_id = ProfileId::generate();
                let ban = Ban {
                    position,
                    profile_id,
                    generation: Generation::FIRST,
                    ot_setup: OtSetup::of(profile_id, Generation::FIRST, &[1; 32]),
                    session_id: SessionId::generate().to_string(),
                    reason: "multiplication".to_owned(),
                    at: Timestamp::from_micros(position),
                };
                let hash = ban.hash(&previous_hash);
                let entry = Entry {
                    ban,
                    previous_hash,
                    hash,
                };
                previous_hash = hash;
                entry
            })
            .collect()
    }

    fn list(entries: &[Entry]) -> BanList {
        let mut list = BanList::default();
        list.follow(&ChainHead::default(), entries).unwrap();
        list
    }

    #[test]
    fn a18_a_list_contains_all_its_beginnings_and_no_other() {
        let all = entries(3);
        let list = list(&all);
        let head = |count: i64, hash| ChainHead { count, hash };
        assert!(list.contains(&ChainHead::default()) && list.contains(&list.head()));
        assert!(list.contains(&head(2, all[1].hash)));
        assert!(!list.contains(&head(2, all[0].hash)));
        assert!(!list.contains(&head(4, all[2].hash)));
        assert!(!list.contains(&head(0, [1; 32])) && !list.contains(&head(-1, [0; 32])));
        for entry in &all {
            assert!(list.is_banned(entry.ban.profile_id, entry.ban.ot_setup));
            assert!(!list.is_banned(entry.ban.profile_id, OtSetup([0; 32])));
        }
    }

    #[test]
    fn a18_what_is_shorter_or_different_is_refused_and_the_list_stays() {
        let all = entries(4);
        let mut list = list(&all[..2]);
        let head = list.head();
        assert_eq!(list.follow(&head, &[]), Err(Mismatch::BansMissing(2)));
        let foreign = entries(2);
        assert_eq!(
            list.follow(&head, &foreign[1..]),
            Err(Mismatch::BanAltered(2))
        );
        // A gap, and an entry that its hash does not cover.
        let gap = [all[1].clone(), all[3].clone()];
        assert_eq!(list.follow(&head, &gap), Err(Mismatch::BanAltered(3)));
        for alter in [
            |ban: &mut Ban| ban.profile_id = ProfileId::generate(),
            |ban: &mut Ban| ban.generation = Generation(2),
            |ban: &mut Ban| ban.ot_setup.0[0] ^= 1,
            |ban: &mut Ban| ban.session_id.push('x'),
            |ban: &mut Ban| ban.reason.push('x'),
            |ban: &mut Ban| ban.at = Timestamp::from_micros(99),
        ] {
            let mut next = all[1..3].to_vec();
            alter(&mut next[1].ban);
            assert_eq!(list.follow(&head, &next), Err(Mismatch::BanAltered(3)));
        }
        assert_eq!(list.head(), head);
        // Another task may have followed further meanwhile.
        list.follow(&head, &all[1..]).unwrap();
        list.follow(&head, &all[1..]).unwrap();
        assert_eq!(list.head().count, 4);
    }
}
