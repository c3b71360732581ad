//! Bans, and how far an append-only list or chain has come.

use std::fmt;

use countersign_mpc::lp::Lp;

use super::{Generation, ProfileId};
use crate::clock::Timestamp;

/// The end of a chain of hashes: how many links it has, and the hash of the last one; zeros without any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChainHead {
    /// How many links.
    pub count: i64,
    /// The hash of the last.
    pub hash: [u8; 32],
}

impl fmt::Display for ChainHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.count, hex::encode(self.hash))
    }
}

/// The oblivious-transfer setup of one generation of a key: what a counterparty that was caught is banned from for
/// good. A complete rotation makes another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OtSetup(pub [u8; 32]);

impl OtSetup {
    /// `H(LP("ot-setup/1", profile id, generation, session id of its key generation))`.
    #[must_use]
    pub fn of(profile: ProfileId, generation: Generation, dkg_session_id: &[u8]) -> Self {
        let id = Lp::new("ot-setup/1")
            .str(&profile.to_string())
            .u64(generation.0)
            .bytes(dkg_session_id);
        Self(id.hash())
    }
}

/// A ban.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// Its place in the list, from 1.
    pub position: i64,
    /// The profile whose wallet was caught.
    pub profile_id: ProfileId,
    /// The generation of its key.
    pub generation: Generation,
    /// What it is banned from.
    pub ot_setup: OtSetup,
    /// The session it was caught in.
    pub session_id: String,
    /// By which check.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

impl ChainHead {
    /// An end that no list has which goes on from this one: what is anchored when the database has lost the verdict
    /// about a wallet. Its hash is `H(LP("lost-verdict/1", hash, profile id, ot setup))`.
    #[must_use]
    pub fn with_lost_verdict(&self, profile: ProfileId, setup: OtSetup) -> Self {
        let lost = Lp::new("lost-verdict/1")
            .bytes(&self.hash)
            .str(&profile.to_string())
            .bytes(&setup.0);
        Self {
            count: self.count.saturating_add(1),
            hash: lost.hash(),
        }
    }
}

impl Ban {
    /// `H(LP("ban/1", previous, position, profile id, generation, ot setup, session id, reason, at))`.
    #[must_use]
    pub fn hash(&self, previous: &[u8; 32]) -> [u8; 32] {
        let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
        Lp::new("ban/1")
            .bytes(previous)
            .u64(unsigned(self.position))
            .str(&self.profile_id.to_string())
            .u64(self.generation.0)
            .bytes(&self.ot_setup.0)
            .str(&self.session_id)
            .str(&self.reason)
            .u64(unsigned(self.at.as_micros()))
            .hash()
    }
}
