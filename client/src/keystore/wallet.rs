//! An open wallet: its state changes, each durable before it returns.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use countersign_mpc::{
    error::MpcError,
    owner_proof::{Algorithm, DeviceKey},
    share::{P1Share, PublicShare},
};

use super::{
    Draft, KdfParams, KeystoreError, Passphrase, Payment, Quarantine, Slot, WalletName,
    WalletState, disk,
    format::{self, FileKey, Header},
    record::{Meta, Record, ShareBytes},
};
use crate::clock;

/// Suspect events of one key generation after which the client stops signing with it (`protocol.md` sections A03, 2.4).
pub const SUSPECT_LIMIT: u32 = 3;

/// An open wallet. Holds its lock until dropped.
pub struct Wallet {
    name: WalletName,
    path: PathBuf,
    record: Record,
    key: FileKey,
    /// Whether the payment was finished through this object: then its caller knows the hash, reported or not.
    finished_here: bool,
    _lock: File,
}

impl Wallet {
    pub(super) fn opened(
        name: WalletName,
        path: PathBuf,
        lock: File,
        record: Record,
        key: FileKey,
    ) -> Result<Self, KeystoreError> {
        let mut wallet = Self {
            name,
            path,
            record,
            key,
            finished_here: false,
            _lock: lock,
        };
        if let Some(session) = wallet.record.meta.suspect_open.take() {
            wallet
                .count_suspect_event(&session, "checks that were interrupted or failed too often");
            wallet.save()?;
        }
        Ok(wallet)
    }

    /// The wallet's name.
    #[must_use]
    pub fn name(&self) -> &WalletName {
        &self.name
    }

    /// Where the wallet stands in its life.
    #[must_use]
    pub fn state(&self) -> WalletState {
        self.record.state()
    }

    /// What the file shows without a passphrase.
    #[must_use]
    pub fn header(&self) -> Header {
        let meta = &self.record.meta;
        Header {
            name: self.name.clone(),
            environment_id: meta.environment_id.clone(),
            state: self.state(),
            profile_id: meta.profile_id.clone(),
            address: meta.current.as_ref().map(Slot::address),
            key_generation: meta.current.as_ref().map(|slot| slot.generation),
            fingerprint: meta.current.as_ref().map(|slot| slot.fingerprint.clone()),
            kdf: self.key.kdf(),
        }
    }

    /// The device key that signs this wallet's requests.
    #[must_use]
    pub fn device(&self) -> &DeviceKey {
        &self.record.device
    }

    /// Gives this copy of the wallet a device key of its own, so that it can be enrolled beside the one that the export
    /// came from. It signs nothing before that. The old key is gone from this file.
    ///
    /// # Errors
    /// [`KeystoreError::NotActive`] for a wallet that is not finished, [`KeystoreError::Quarantined`], and the usual file
    /// errors.
    pub fn renew_device(&mut self, algorithm: Algorithm) -> Result<(), KeystoreError> {
        self.refuse_if_quarantined()?;
        self.current()?;
        self.record.device = DeviceKey::generate(algorithm).map_err(|_| KeystoreError::Random)?;
        // What the other device has begun is its own to finish.
        self.record.meta.payment = None;
        self.save()
    }

    /// Environment id as hex.
    #[must_use]
    pub fn environment_id(&self) -> &str {
        &self.record.meta.environment_id
    }

    /// Suspect events of the current generation so far.
    #[must_use]
    pub fn suspect_events(&self) -> u32 {
        self.record.meta.suspect_events
    }

    /// The ban, if there is one.
    #[must_use]
    pub fn quarantine(&self) -> Option<&Quarantine> {
        self.record.meta.quarantine.as_ref()
    }

    /// Fails if the wallet is quarantined. Every flow that talks to the server about this key calls it first.
    ///
    /// # Errors
    /// [`KeystoreError::Quarantined`].
    pub fn refuse_if_quarantined(&self) -> Result<(), KeystoreError> {
        self.quarantine()
            .map_or(Ok(()), |ban| Err(KeystoreError::Quarantined(ban.clone())))
    }

    /// The key generation in progress.
    #[must_use]
    pub fn draft(&self) -> Option<&Draft> {
        self.record.meta.draft.as_ref()
    }

    /// The CURRENT slot and the profile it belongs to.
    ///
    /// # Errors
    /// [`KeystoreError::NotActive`].
    pub fn current(&self) -> Result<(&str, &Slot), KeystoreError> {
        match &self.record.meta {
            Meta {
                profile_id: Some(profile),
                current: Some(slot),
                ..
            } => Ok((profile, slot)),
            _ => Err(KeystoreError::NotActive),
        }
    }

    /// The STAGED slot.
    #[must_use]
    pub fn staged(&self) -> Option<&Slot> {
        self.record.meta.staged.as_ref()
    }

    /// The CURRENT share, for signing.
    ///
    /// # Errors
    /// [`KeystoreError::Quarantined`], [`KeystoreError::NotActive`], or [`KeystoreError::Damaged`] if the share does not fit its public values.
    pub fn current_share(&self) -> Result<P1Share, KeystoreError> {
        self.refuse_if_quarantined()?;
        let (_, slot) = self.current()?;
        self.record
            .current
            .as_ref()
            .ok_or(KeystoreError::NotActive)?
            .open(slot)
    }

    /// The last payment.
    #[must_use]
    pub fn payment(&self) -> Option<&Payment> {
        self.record.meta.payment.as_ref()
    }

    /// Runs `check`, which looks at a message of the server with long-lived secrets, under the ban rules (A01).
    ///
    /// The suspect mark is durable before `check` starts and its verdict is durable before this returns: a ban is stored
    /// before anything else can happen; recoverable suspect events are counted and the third one quarantines; a crash in
    /// between leaves the mark for the next [`super::Keystore::open`]. There is no `await` in here, so a caller that is
    /// cancelled cannot lose a verdict.
    ///
    /// # Errors
    /// [`KeystoreError::Quarantined`] after a ban and for every later call, [`KeystoreError::Protocol`] for what
    /// `check` said otherwise, and the file errors.
    pub fn under_suspicion<T>(
        &mut self,
        session: &str,
        check: impl FnOnce() -> Result<T, MpcError>,
    ) -> Result<T, KeystoreError> {
        self.refuse_if_quarantined()?;
        self.record.meta.suspect_open = Some(session.to_owned());
        self.save()?;
        let outcome = check();
        self.record.meta.suspect_open = None;
        match &outcome {
            Err(MpcError::Ban { reason }) => self.ban(session, &reason.to_string()),
            Err(error) if error.is_suspect() => {
                self.count_suspect_event(session, "suspect failures in three sessions");
            }
            _ => {}
        }
        let saved = self.save();
        // The ban first: it holds in this process even if it could not be stored.
        self.refuse_if_quarantined()?;
        saved?;
        outcome.map_err(KeystoreError::Protocol)
    }

    /// Remembers what the server called the key generation.
    pub(crate) fn set_draft_session(
        &mut self,
        profile_id: &str,
        keygen_session_id: &str,
    ) -> Result<(), KeystoreError> {
        if let Some(draft) = &mut self.record.meta.draft {
            draft.profile_id = Some(profile_id.to_owned());
            draft.keygen_session_id = Some(keygen_session_id.to_owned());
        }
        self.save()
    }

    /// Forgets the key generation in progress, with its staged share if there is one, and starts one under a new
    /// idempotency key.
    ///
    /// SECURITY: only for a wallet without CURRENT share: the staged share's address was never shown to anybody.
    pub(crate) fn restart_draft(&mut self) -> Result<(), KeystoreError> {
        self.record.meta.draft = Some(Draft::new());
        self.record.meta.staged = None;
        self.record.staged = None;
        self.save()
    }

    /// Starts a key generation: its idempotency key, durably stored. Suspect events are counted per generation of shares,
    /// so those of an earlier try end with it.
    pub(crate) fn begin_generation(&mut self) -> Result<String, KeystoreError> {
        self.record.meta.suspect_events = 0;
        let draft = self.record.meta.draft.get_or_insert_with(Draft::new);
        let key = draft.idempotency_key.clone();
        self.save()?;
        Ok(key)
    }

    /// Stores a fresh share as STAGED. Must return before the message that makes the server activate it leaves.
    pub(crate) fn stage(
        &mut self,
        share: &P1Share,
        public: PublicShare,
        generation: u64,
    ) -> Result<(), KeystoreError> {
        let fingerprint = hex::encode(public.fingerprint());
        self.record.staged = Some(ShareBytes::of(share)?);
        self.record.meta.staged = Some(Slot {
            generation,
            public,
            fingerprint,
        });
        self.save()
    }

    /// STAGED becomes CURRENT of `profile_id`; the draft is finished.
    pub(crate) fn promote(&mut self, profile_id: &str) -> Result<(), KeystoreError> {
        let (Some(slot), Some(share)) = (self.record.meta.staged.take(), self.record.staged.take())
        else {
            return Err(KeystoreError::NotActive);
        };
        self.record.current = Some(share);
        self.record.meta.current = Some(slot);
        self.record.meta.profile_id = Some(profile_id.to_owned());
        self.record.meta.suspect_events = 0;
        self.record.meta.draft = None;
        self.save()
    }

    /// The last payment if it is signed and an earlier process may have ended before it told anybody.
    #[must_use]
    pub fn unreported(&self) -> Option<&Payment> {
        self.payment()
            .filter(|payment| !payment.is_open() && !payment.reported && !self.finished_here)
    }

    /// The nonce that the next transaction on `chain_id` must have, because a payment with it was given up after our last
    /// message may have left: if the server signed that one nevertheless, only one of the two can be mined.
    #[must_use]
    pub fn given_up(&self, chain_id: u64) -> Option<u64> {
        self.record.meta.given_up.get(&chain_id).copied()
    }

    /// Allows every nonce on `chain_id` again.
    ///
    /// # Errors
    /// The file errors.
    pub fn forget_given_up(&mut self, chain_id: u64) -> Result<(), KeystoreError> {
        match self.record.meta.given_up.remove(&chain_id) {
            Some(_) => self.save(),
            None => Ok(()),
        }
    }

    /// Replaces the payment record.
    pub(crate) fn set_payment(&mut self, payment: Option<Payment>) -> Result<(), KeystoreError> {
        self.record.meta.payment = payment;
        self.finished_here = false;
        self.save()
    }

    /// Drops the payment; its nonce is remembered if our last message may have left.
    pub(crate) fn give_up_payment(&mut self) -> Result<(), KeystoreError> {
        let released = |payment: &Payment| {
            payment
                .offered
                .as_ref()
                .is_some_and(|offered| offered.released)
        };
        let nonce = self
            .payment()
            .filter(|payment| released(payment))
            .and_then(Payment::account_nonce);
        self.record.meta.given_up.extend(nonce);
        self.set_payment(None)
    }

    /// The payment is signed. Its nonce is taken, so an earlier one given up with the same nonce is settled.
    pub(crate) fn finish_payment(&mut self, tx_hash: &str) -> Result<(), KeystoreError> {
        let meta = &mut self.record.meta;
        if let Some(payment) = &mut meta.payment {
            payment.tx_hash = Some(tx_hash.to_owned());
            if let Some((chain_id, nonce)) = payment.account_nonce() {
                meta.given_up
                    .retain(|&chain, &mut given_up| (chain, given_up) != (chain_id, nonce));
            }
        }
        self.save()?;
        self.finished_here = true;
        Ok(())
    }

    /// Changes the payment record in place.
    pub(crate) fn update_payment(
        &mut self,
        change: impl FnOnce(&mut Payment),
    ) -> Result<(), KeystoreError> {
        if let Some(payment) = &mut self.record.meta.payment {
            change(payment);
        }
        self.save()
    }

    /// Writes this wallet's share, device key and state to a new file under `passphrase`, reads it back and checks it.
    ///
    /// # Errors
    /// [`KeystoreError::NotActive`], [`KeystoreError::Exists`], or that the file could not be written or read back.
    pub fn export(
        &self,
        file: &Path,
        passphrase: &Passphrase,
        cost: KdfParams,
    ) -> Result<Header, KeystoreError> {
        self.current()?;
        let key = FileKey::create(passphrase, cost)?;
        let header = Header {
            kdf: key.kdf(),
            ..self.header()
        };
        disk::write_new(file, &format::seal(&header, &key, self.record.encode()?)?)?;
        let written =
            disk::read(file)?.ok_or(KeystoreError::Damaged("it vanished after writing"))?;
        let (record, _) = super::unlock(&written, passphrase)?;
        record.verify()?;
        Ok(header)
    }

    /// Writes the wallet's state durably.
    pub(super) fn save(&mut self) -> Result<(), KeystoreError> {
        let file = format::seal(&self.header(), &self.key, self.record.encode()?)?;
        disk::write_atomically(&self.path, &file)
    }

    fn count_suspect_event(&mut self, session: &str, reason: &str) {
        let events = self.record.meta.suspect_events.saturating_add(1);
        self.record.meta.suspect_events = events;
        if events >= SUSPECT_LIMIT {
            self.ban(session, reason);
        }
    }

    fn ban(&mut self, session: &str, reason: &str) {
        // The first verdict stays: it is the one to investigate.
        self.record
            .meta
            .quarantine
            .get_or_insert_with(|| Quarantine {
                reason: reason.to_owned(),
                session: session.to_owned(),
                at: clock::now(),
            });
    }
}

impl Slot {
    /// The checksummed address of this key.
    #[must_use]
    pub fn address(&self) -> String {
        alloy_primitives::Address::from(self.public.address).to_string()
    }
}
