//! What keeps a database that was put back from undoing a ban (`protocol.md` A18).
//!
//! Three accounts of the list of bans must agree before any message is checked: the database's, as the operation saw
//! it that gave the permit; the one in this process's memory; and the anchor outside the database, which is read at
//! each check. The database may be ahead of the others, never behind and never different. When it is, this process
//! checks nothing more until it is started again, and a start is refused as long as the anchor is not met.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use countersign_hsm::{ErrorClass, HsmError, ObjectAad};
use zeroize::Zeroizing;

use super::anchor::{Anchor, AnchorError, Place};
use super::bans::{BanList, Mismatch};
use crate::domain::{ChainHead, OtSetup, ProfileId};
use crate::store::audit::inspect;
use crate::store::{Reader, Reads, Store, StoreError, bans};
use crate::telemetry::metrics::Metrics;

/// Pause before a ban that is not anchored yet is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Why a start is refused, or nothing is checked.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The anchor cannot be read or written.
    #[error(transparent)]
    Anchor(#[from] AnchorError),
    /// The database cannot be read.
    #[error("the bans could not be compared with the anchor")]
    Store(#[from] StoreError),
    /// A ban is in the database only.
    #[error("a ban could not be anchored yet: the token or the witness file takes nothing")]
    Unanchored,
    /// The database is not the one it was.
    #[error(
        "the database is older than its anchor, or was altered: {0}. Nothing is signed with it, because it may have \
         forgotten who was banned. Stop every countersignd of this environment and put the newest database back; \
         countersignd anchor show says what is missing, countersignd anchor replace --help what to do if it is lost"
    )]
    PutBack(#[from] Mismatch),
}

/// Why a message is not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Objection {
    /// It cannot be said whether the database is the one it was, or it is not.
    NotNow,
    /// The wallet is on the list of bans.
    Banned,
    /// The share is damaged or is not the one its row says.
    Damaged,
}

/// Compares the three accounts.
pub struct Guard {
    store: Store,
    place: Place,
    known: Mutex<BanList>,
    stopped: OnceLock<Mismatch>,
    /// Whether a ban waits to be anchored and could not be: a database put back now would forget it.
    unanchored: AtomicBool,
    /// The bans that the anchor has for certain; and one advance at a time.
    anchored: tokio::sync::Mutex<i64>,
    metrics: Arc<Metrics>,
}

impl Guard {
    /// Reads the list, and refuses a database that does not contain the anchor. Bans that a process could not anchor
    /// before it died are anchored now.
    ///
    /// # Errors
    /// [`GuardError`] says why nothing may be served.
    pub async fn open(
        store: Store,
        place: Place,
        metrics: Arc<Metrics>,
    ) -> Result<Self, GuardError> {
        let guard = Self {
            store,
            place,
            known: Mutex::default(),
            stopped: OnceLock::new(),
            unanchored: AtomicBool::new(false),
            anchored: tokio::sync::Mutex::new(0),
            metrics,
        };
        guard.look().await?;
        guard.advance(None).await?;
        Ok(guard)
    }

    /// Whether the database still contains the anchor and what this process has seen of it: the anchor as it was
    /// compared.
    ///
    /// # Errors
    /// [`GuardError`]; after [`GuardError::PutBack`] nothing is checked any more.
    pub async fn look(&self) -> Result<Anchor, GuardError> {
        let met = self.meet().await;
        self.metrics.anchor_met(met.is_ok());
        if self.unanchored.load(Ordering::Relaxed) {
            return met.and(Err(GuardError::Unanchored));
        }
        met
    }

    async fn meet(&self) -> Result<Anchor, GuardError> {
        if let Some(mismatch) = self.stopped.get() {
            return Err(GuardError::PutBack(*mismatch));
        }
        let anchor = self.place.read().await?;
        let mut reader = self.store.reader().await?;
        match self.compare(&mut reader, &anchor).await {
            Ok(()) => Ok(anchor),
            Err(GuardError::PutBack(mismatch)) => Err(self.stop(mismatch)),
            Err(error) => Err(error),
        }
    }

    async fn compare(&self, reader: &mut Reader, anchor: &Anchor) -> Result<(), GuardError> {
        self.catch_up(reader).await?;
        contains(&self.known(), &anchor.bans)?;
        meets(reader, &anchor.audit).await
    }

    /// Moves the anchor forward to the bans that the database has, and to `audit`, the end of a verified part of the
    /// audit chain.
    ///
    /// # Errors
    /// As [`Guard::look`].
    pub async fn advance(&self, audit: Option<ChainHead>) -> Result<Anchor, GuardError> {
        let mut anchored = self.anchored.lock().await;
        let anchor = self.meet().await?;
        let here = Anchor {
            bans: self.known().head(),
            audit: audit.unwrap_or(anchor.audit),
        };
        let next = here.and(&anchor)?;
        if next != anchor {
            self.place.advance(&next).await?;
        }
        // What this database has, and not what somebody else anchored meanwhile.
        *anchored = here.bans.count;
        self.unanchored.store(false, Ordering::Relaxed);
        self.metrics.anchored(next.bans.count, next.audit.count);
        Ok(next)
    }

    /// Remembers a wallet that was caught, whatever the database comes to say of it. To be called with the verdict,
    /// before it is concluded.
    pub(super) fn condemn(&self, profile: ProfileId, setup: OtSetup) {
        self.known().condemn(profile, setup);
    }

    /// Whether custody has seen this wallet caught.
    pub(super) fn is_banned(&self, profile: ProfileId, setup: OtSetup) -> bool {
        self.known().is_banned(profile, setup)
    }

    /// Anchors a ban that may have been committed just now, and makes sure that `caught` is in the list. To be awaited
    /// before anybody learns of it: it returns when that is done, or when the database turned out to be another one and
    /// the anchor is beyond it. As long as it cannot be done, nothing is checked.
    pub async fn secure(&self, caught: Option<(ProfileId, OtSetup)>) {
        loop {
            let secured = match self.try_secure(caught).await {
                Err(GuardError::PutBack(mismatch)) => {
                    self.stop(mismatch);
                    self.disown(caught).await
                }
                secured => secured,
            };
            match secured {
                Ok(()) => return,
                Err(GuardError::Store(error)) => error.log("a ban is not anchored yet"),
                Err(error) => tracing::error!(?error, "a ban is not anchored yet"),
            }
            self.unanchored.store(true, Ordering::Relaxed);
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn try_secure(&self, caught: Option<(ProfileId, OtSetup)>) -> Result<(), GuardError> {
        let mut reader = self.store.reader().await?;
        self.catch_up(&mut reader).await?;
        drop(reader);
        let (count, listed) = {
            let known = self.known();
            let listed = caught.is_none_or(|(profile, setup)| known.lists(profile, setup));
            (known.head().count, listed)
        };
        let behind = *self.anchored.lock().await < count;
        if behind || self.unanchored.load(Ordering::Relaxed) {
            self.advance(None).await?;
        }
        if listed {
            Ok(())
        } else {
            Err(Mismatch::VerdictGone.into())
        }
    }

    /// Moves the anchor to where the database that has lost a verdict is not, so that no start accepts it either.
    async fn disown(&self, caught: Option<(ProfileId, OtSetup)>) -> Result<(), GuardError> {
        let _one_at_a_time = self.anchored.lock().await;
        let anchor = self.place.read().await?;
        let mut bans = {
            let known = self.known().head();
            if known.count > anchor.bans.count {
                known
            } else {
                anchor.bans
            }
        };
        if let Some((profile, setup)) = caught
            && !self.known().lists(profile, setup)
        {
            bans = bans.with_lost_verdict(profile, setup);
            tracing::error!(%profile, "the database has lost the verdict about this wallet: it was caught and must not be served");
        }
        let beyond = Anchor { bans, ..anchor };
        if beyond != anchor {
            self.place.advance(&beyond).await?;
        }
        Ok(())
    }

    /// A share was unwrapped that the database has no record of: nothing is checked any more.
    pub(super) fn contradicted(&self) {
        self.stop(Mismatch::RecordGone);
    }

    /// Whether this process checks nothing any more.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.get().is_some()
    }

    /// Whether a message may be checked that needs no share: `permit` is the end of the list as the operation saw it
    /// that gave the permit.
    pub(super) async fn admits(&self, permit: &ChainHead) -> Result<(), Objection> {
        let anchor = self.place.read().await.map_err(|error| unknown(&error))?;
        self.agrees(permit, &anchor).await
    }

    /// Opens a share that a message is to be checked with, and reads the anchor with it.
    pub(super) async fn open_share(
        &self,
        permit: &ChainHead,
        (profile, setup): (ProfileId, OtSetup),
        (sealed, aad): (Vec<u8>, ObjectAad),
    ) -> (Option<HsmError>, Result<Zeroizing<Vec<u8>>, Objection>) {
        let opened = self.place.read_and_open(sealed, aad).await;
        let (anchor, opened) = match opened {
            Ok(both) => both,
            Err(AnchorError::Hsm(error)) if error.kind() == ErrorClass::Data => {
                return (Some(error), Err(Objection::Damaged));
            }
            Err(AnchorError::Hsm(error)) => return (Some(error), Err(Objection::NotNow)),
            Err(error) => return (None, Err(unknown(&error))),
        };
        let agreed = self.agrees(permit, &anchor).await.and_then(|()| {
            // SECURITY: from memory, never from the row: that may be anybody's by now.
            if self.is_banned(profile, setup) {
                tracing::error!(%profile, "a wallet that was banned is in use again: its row was altered");
                Err(Objection::Banned)
            } else {
                Ok(opened)
            }
        });
        (None, agreed)
    }

    async fn agrees(&self, permit: &ChainHead, anchor: &Anchor) -> Result<(), Objection> {
        if self.is_stopped() || self.unanchored.load(Ordering::Relaxed) {
            return Err(Objection::NotNow);
        }
        let same = {
            let known = self.known();
            known.head() == *permit && known.contains(&anchor.bans)
        };
        if same {
            return Ok(());
        }
        // Somebody was banned meanwhile, here or by another process; or the database is another one.
        let compared = async {
            self.catch_up(&mut self.store.reader().await?).await?;
            contains(&self.known(), permit)?;
            contains(&self.known(), &anchor.bans)
        };
        match compared.await {
            Ok(()) => Ok(()),
            Err(GuardError::PutBack(mismatch)) => {
                self.stop(mismatch);
                Err(Objection::NotNow)
            }
            Err(error @ (GuardError::Anchor(_) | GuardError::Unanchored)) => Err(unknown(&error)),
            Err(GuardError::Store(error)) => {
                error.log("the bans could not be read");
                Err(Objection::NotNow)
            }
        }
    }

    async fn catch_up(&self, reader: &mut Reader) -> Result<(), GuardError> {
        catch_up(reader, &self.known).await
    }

    fn stop(&self, mismatch: Mismatch) -> GuardError {
        self.metrics.anchor_met(false);
        let error = GuardError::PutBack(mismatch);
        if self.stopped.set(mismatch).is_ok() {
            tracing::error!(%error, "nothing is checked any more");
        }
        error
    }

    fn known(&self) -> MutexGuard<'_, BanList> {
        lock(&self.known)
    }
}

fn unknown(error: &dyn std::error::Error) -> Objection {
    tracing::error!(?error, "the anchor could not be read");
    Objection::NotNow
}

/// Compares a database that nobody has open with an anchor; the end of its list of bans.
///
/// # Errors
/// [`GuardError`].
pub async fn compare(reads: &mut impl Reads, anchor: &Anchor) -> Result<ChainHead, GuardError> {
    let bans = bans_of(reads).await?;
    contains(&bans, &anchor.bans)?;
    meets(reads, &anchor.audit).await?;
    Ok(bans.head())
}

/// The end of a database's list of bans, all of which was verified.
///
/// # Errors
/// [`GuardError`].
pub async fn verified_bans(reads: &mut impl Reads) -> Result<ChainHead, GuardError> {
    Ok(bans_of(reads).await?.head())
}

async fn bans_of(reads: &mut impl Reads) -> Result<BanList, GuardError> {
    let known = Mutex::default();
    catch_up(reads, &known).await?;
    Ok(known.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Takes over what the database has beyond what is known, and looks at the last known entry again.
async fn catch_up(reads: &mut impl Reads, known: &Mutex<BanList>) -> Result<(), GuardError> {
    loop {
        let head = lock(known).head();
        let entries = bans::from(reads, head.count.max(1)).await?;
        lock(known).follow(&head, &entries)?;
        if entries.len() < bans::PAGE {
            return Ok(());
        }
    }
}

fn lock(known: &Mutex<BanList>) -> MutexGuard<'_, BanList> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

fn contains(known: &BanList, head: &ChainHead) -> Result<(), GuardError> {
    if known.contains(head) {
        Ok(())
    } else if known.head().count < head.count {
        Err(Mismatch::BansMissing(head.count).into())
    } else {
        Err(Mismatch::BanAltered(head.count).into())
    }
}

/// Whether the audit chain of a database has the link that the anchor names.
async fn meets(reads: &mut impl Reads, audit: &ChainHead) -> Result<(), GuardError> {
    if audit.count == 0 {
        return Ok(());
    }
    match inspect::hash_at(reads, audit.count).await? {
        Some(hash) if hash == audit.hash => Ok(()),
        Some(_) => Err(Mismatch::LinkAltered(audit.count).into()),
        None => Err(Mismatch::LinksMissing(audit.count).into()),
    }
}
