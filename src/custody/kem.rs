//! The keys that wallets seal their messages to.
//!
//! A KEM key lives 48 hours and is replaced after 24. Its private half rests sealed under a key encryption key of its own
//! in the HSM, and is held in memory while it is valid, because every request needs it.
//!
//! When it ends, its row is deleted and its key encryption key is destroyed. SECURITY: from then on nobody opens recorded
//! traffic, neither with all of the HSM and the database nor with an old copy of the database.

mod life;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use countersign_hsm::{ErrorClass, HsmError, KekName, ObjectAad, Purpose, Token};
use countersign_mpc::envelope::{
    EnvelopeError, EnvelopeInfo, KemSecretKey, ResponseSealer, open_request,
};
use countersign_mpc::identity::{KemDocument, MAX_KEM_LIFETIME, kem_statement};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use zeroize::Zeroizing;

use self::life::{CLAIM, Claim, Destroyed, End, Rotate, Taken};
use super::response_keys::Identity;
use crate::clock::{self, Timestamp};
use crate::domain::EnvironmentId;
use crate::store::kem_keys::{self, KemKeyRow};
use crate::store::{CommitError, Operation, Store, StoreError};

/// A key is replaced when it has less than this left, in seconds: a wallet that fetched it has
/// always at least a day to use it.
const REPLACE_BELOW: i64 = 24 * 3600;
const ROLE: &str = "kem";
/// How often is looked whether another instance has made the key that it claimed.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The key encryption key under which all KEM keys were sealed by versions that destroyed none.
const FIRST_EPOCH: u32 = 1;
/// How often keys that another instance may have made are looked for.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A wallet's message, opened, and what seals the answer to it.
pub struct Message {
    pub(super) plaintext: Zeroizing<Vec<u8>>,
    pub(super) sealer: ResponseSealer,
}

/// Why KEM keys are not available.
#[derive(Debug, thiserror::Error)]
pub enum KemError {
    /// The HSM failed.
    #[error("the HSM could not serve the KEM key")]
    Hsm(#[source] HsmError),
    /// The database failed.
    #[error("the KEM keys could not be read or written")]
    Store(#[source] StoreError),
    /// A key could not be made or read.
    #[error("the KEM key is unusable")]
    Key(#[source] EnvelopeError),
    /// No key is valid now.
    #[error("no KEM key is valid")]
    NoKey,
}

impl KemError {
    /// Logs what failed because of this, but for an outage of the database, which the store tells by itself.
    pub fn log(&self, what: &'static str) {
        match self {
            Self::Store(error) => error.log(what),
            other => tracing::error!(error = ?other, "{what}"),
        }
    }
}

struct Held {
    row: KemKeyRow,
    secret: KemSecretKey,
}

/// The valid KEM keys, newest first.
pub struct KemRing {
    token: Token,
    store: Store,
    identity: Identity,
    environment_id: EnvironmentId,
    tenant: String,
    held: RwLock<Vec<Arc<Held>>>,
    looked: Mutex<Instant>,
    /// The last epoch whose destruction was tried. What fails for ever waits for its next turn behind all others.
    tried: AtomicU32,
}

impl KemRing {
    /// Reads the valid keys, and makes one if there is none with a day left.
    ///
    /// # Errors
    /// [`KemError`] when the HSM or the database fails.
    pub async fn open(
        token: Token,
        store: Store,
        identity: Identity,
        tenant: String,
    ) -> Result<Self, KemError> {
        let ring = Self {
            environment_id: store.environment_id(),
            token,
            store,
            identity,
            tenant,
            held: RwLock::default(),
            looked: Mutex::new(Instant::now()),
            tried: AtomicU32::new(0),
        };
        ring.destroy(FIRST_EPOCH).await?;
        ring.sweep().await?;
        let patience = Instant::now() + Duration::from_secs(CLAIM.unsigned_abs() + 5);
        while ring.refresh().await? == Made::Elsewhere && Instant::now() < patience {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(ring)
    }

    /// Replaces the newest key when its time comes, and forgets keys that are past theirs.
    ///
    /// # Errors
    /// [`KemError`] when the HSM or the database fails; the keys in memory stay.
    pub async fn refresh(&self) -> Result<Made, KemError> {
        let now = clock::now();
        let mut rows = self.valid(now).await?;
        // SECURITY: before anything that can fail. A key that has ended does not stay until there is another one.
        self.forget_ended(&rows);
        let mut made = Made::Here;
        if !rows.iter().any(|row| self.is_fresh(row, now)) {
            made = self.create(now).await?;
            rows = self.valid(now).await?;
        }
        let mut held = Vec::with_capacity(rows.len());
        for row in rows {
            if let Some(known) = self.find(&row.kid) {
                held.push(known);
                continue;
            }
            let kid = row.kid.clone();
            match self.unseal(row).await {
                Ok(key) => held.push(Arc::new(key)),
                // A damaged row must not take the other keys with it.
                Err(KemError::Hsm(error)) if error.kind() == ErrorClass::Data => {
                    tracing::error!(?error, kid, "a KEM key is damaged and is skipped");
                }
                Err(error) => return Err(error),
            }
        }
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = held;
        Ok(made)
    }

    fn forget_ended(&self, valid: &[KemKeyRow]) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        held.retain(|held| valid.iter().any(|row| row.kid == held.row.kid));
    }

    /// Deletes what has ended, here, in the database and in the HSM.
    ///
    /// # Errors
    /// [`KemError`] when the HSM or the database fails; the rest is tried again by the next call.
    pub async fn sweep(&self) -> Result<(), KemError> {
        let now = clock::now();
        let mut reader = self.store.reader().await.map_err(KemError::Store)?;
        let ended = kem_keys::any_ended(&mut reader, now).await;
        let tried = self.tried.load(Ordering::Relaxed);
        let overdue = kem_keys::overdue(&mut reader, now, tried).await;
        drop(reader);
        let valid = self.valid(now).await?;
        let ended = ended.map_err(KemError::Store)?;
        if ended {
            self.commit(End).await?;
        }
        // The new one first: its epoch follows those that are still known.
        let mut done = Ok(());
        if ended || !self.holds(&valid, now) {
            done = self.refresh().await.map(drop);
        }
        // What fails for one keeps no other alive.
        let overdue = overdue.map_err(KemError::Store)?;
        let tried = overdue.last().copied().unwrap_or(0);
        self.tried.store(tried, Ordering::Relaxed);
        for epoch in overdue {
            done = self.destroy(epoch).await.and(done);
        }
        done
    }

    async fn destroy(&self, epoch: u32) -> Result<(), KemError> {
        let destroyed = self.token.destroy_kek(&self.kek_name(epoch)).await;
        if destroyed.map_err(KemError::Hsm)? {
            tracing::info!(epoch, "the key encryption key of a KEM key was destroyed");
        }
        self.commit(Destroyed { epoch }).await
    }

    /// For operations that are never refused.
    async fn commit<O>(&self, operation: O) -> Result<(), KemError>
    where
        O: Operation<Output = (), Refusal = std::convert::Infallible>,
    {
        match self.store.commit(operation).await {
            Ok(_) => Ok(()),
            Err(CommitError::Store(error)) => Err(KemError::Store(error)),
            Err(CommitError::Refused(never)) => match never {},
        }
    }

    async fn valid(&self, now: Timestamp) -> Result<Vec<KemKeyRow>, KemError> {
        let mut reader = self.store.reader().await.map_err(KemError::Store)?;
        kem_keys::valid(&mut reader, now)
            .await
            .map_err(KemError::Store)
    }

    /// Whether wallets that fetch this key now may use it for a day. Another identity key's is only for those who have it.
    fn is_fresh(&self, row: &KemKeyRow, now: Timestamp) -> bool {
        row.identity_key == self.identity.certificate.key
            && row.not_after >= now.plus_seconds(REPLACE_BELOW)
    }

    /// Whether memory holds a fresh key and none that another instance has deleted.
    fn holds(&self, valid: &[KemKeyRow], now: Timestamp) -> bool {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let known = |kid: &str| valid.iter().any(|row| row.kid == kid);
        held.iter().any(|held| self.is_fresh(&held.row, now))
            && held.iter().all(|held| known(&held.row.kid))
    }

    fn kek_name(&self, epoch: u32) -> KekName {
        KekName {
            environment_id: self.environment_id.0,
            tenant: self.tenant.clone(),
            purpose: Purpose::Kem,
            epoch,
        }
    }

    /// The current key's part of the identity document.
    ///
    /// # Errors
    /// [`KemError::NoKey`] when no key is valid.
    pub fn document(&self) -> Result<KemDocument, KemError> {
        let now = clock::now();
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let newest = held
            .iter()
            .find(|held| held.row.identity_key == self.identity.certificate.key)
            .filter(|held| held.row.not_after > now)
            .ok_or(KemError::NoKey)?;
        Ok(KemDocument {
            kid: newest.row.kid.clone(),
            public_key: newest.row.public_key,
            not_before: seconds(newest.row.not_before),
            not_after: seconds(newest.row.not_after),
            signature: newest.row.signature,
        })
    }

    /// Opens a wallet's sealed message. `info` says what it must be bound to; the key id in it is
    /// taken from the envelope.
    ///
    /// # Errors
    /// [`EnvelopeError`] when it is not a message for us, or not this one.
    pub fn open_message(
        &self,
        mut info: EnvelopeInfo,
        envelope: &str,
    ) -> Result<Message, EnvelopeError> {
        let now = clock::now();
        let kid = countersign_mpc::envelope::kid_of(envelope).unwrap_or_default();
        let found = self.find(kid).filter(|held| held.row.not_after > now);
        // Without a key, the newest one is tried all the same: it is the envelope code that tells a
        // bare secret and another version from an unknown key.
        let held = match found {
            Some(held) => held,
            None => self.newest().ok_or(EnvelopeError::WrongKey)?,
        };
        info.kem_kid.clone_from(&held.row.kid);
        let (plaintext, sealer) = open_request(&held.secret, &info, envelope)?;
        Ok(Message { plaintext, sealer })
    }

    fn newest(&self) -> Option<Arc<Held>> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.first().cloned()
    }

    fn find(&self, kid: &str) -> Option<Arc<Held>> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.iter().find(|held| held.row.kid == kid).cloned()
    }

    /// Looks for keys that another instance made, for a message that is sealed to none of ours; false if
    /// that was just done. Anybody may name keys that do not exist.
    pub async fn look_again(&self) -> bool {
        {
            let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
            if looked.elapsed() < LOOK_AGAIN_AFTER {
                return false;
            }
            *looked = Instant::now();
        }
        let refreshed = self.refresh().await;
        if let Err(error) = &refreshed {
            error.log("the KEM keys could not be refreshed");
        }
        refreshed.is_ok()
    }

    /// Makes a key, unless another instance does.
    async fn create(&self, now: Timestamp) -> Result<Made, KemError> {
        let lifetime = i64::try_from(MAX_KEM_LIFETIME).unwrap_or(i64::MAX);
        // Whole seconds: the statement is signed over them.
        let not_before = Timestamp::from_micros(now.as_seconds().saturating_mul(1_000_000));
        let not_after = not_before.plus_seconds(lifetime);
        let identity_key = self.identity.certificate.key;
        let fresh_until = now.plus_seconds(REPLACE_BELOW);
        let (secret, kid) = generate().map_err(KemError::Key)?;
        let public_key = secret.public_key().to_bytes();
        let statement = kem_statement(
            &self.environment_id.0,
            &kid,
            &public_key,
            seconds(not_before),
            seconds(not_after),
        );
        // Before the claim: an HSM that is away shall not leave one behind at every try.
        let signature = self.token.sign(self.identity.key, statement.hash()).await;
        let signature = signature.map_err(KemError::Hsm)?;
        let claim = Claim {
            identity_key,
            fresh_until,
            destroy_at: not_after,
        };
        let kek_epoch = match self.store.commit(claim).await {
            Ok(claimed) => claimed.into_inner(),
            Err(CommitError::Refused(taken)) => return Ok(taken.into()),
            Err(CommitError::Store(error)) => return Err(KemError::Store(error)),
        };
        let sealed = async {
            let kek = self.token.create_kek(&self.kek_name(kek_epoch)).await?;
            let bytes = Zeroizing::new(secret.to_bytes().to_vec());
            let aad = self.aad(&kid, &public_key);
            self.token.seal(kek, aad, bytes).await
        };
        let sealed = sealed.await.map_err(KemError::Hsm)?;
        let row = KemKeyRow {
            kid,
            public_key,
            sealed,
            kek_epoch,
            identity_key,
            signature,
            not_before,
            not_after,
        };
        match self.store.commit(Rotate { row, fresh_until }).await {
            Ok(_) => Ok(Made::Here),
            Err(CommitError::Refused(taken)) => Ok(taken.into()),
            Err(CommitError::Store(error)) => Err(KemError::Store(error)),
        }
    }

    async fn unseal(&self, row: KemKeyRow) -> Result<Held, KemError> {
        let aad = self.aad(&row.kid, &row.public_key);
        let bytes = self
            .token
            .open_sealed(row.sealed.clone(), aad)
            .await
            .map_err(KemError::Hsm)?;
        let secret = KemSecretKey::from_bytes(&bytes).map_err(KemError::Key)?;
        Ok(Held { row, secret })
    }

    fn aad(&self, kid: &str, public_key: &[u8; 32]) -> ObjectAad {
        ObjectAad {
            environment_id: self.environment_id.0,
            tenant: self.tenant.clone(),
            purpose: Purpose::Kem,
            profile_id: kid.to_owned(),
            owner_id: String::new(),
            key_generation: 1,
            object_version: 1,
            role: ROLE,
            public_key: public_key.to_vec(),
        }
    }
}

fn seconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_seconds()).unwrap_or(0)
}

fn generate() -> Result<(KemSecretKey, String), EnvelopeError> {
    let secret = KemSecretKey::generate()?;
    let hash = Sha256::digest(secret.public_key().to_bytes());
    let kid = hex::encode(hash.get(..8).unwrap_or_default());
    Ok((secret, kid))
}

/// Who made the key that is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// It is here: this instance made it, or found it made.
    Here,
    /// Another instance is making it.
    Elsewhere,
}

impl From<Taken> for Made {
    fn from(taken: Taken) -> Self {
        match taken {
            Taken::Fresh => Self::Here,
            Taken::Claimed => Self::Elsewhere,
        }
    }
}
