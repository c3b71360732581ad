//! The keys that wallets seal their messages to.
//!
//! A KEM key lives 48 hours and is replaced after 24. Its private half rests sealed by the HSM and
//! is held in memory while it is valid, because every request needs it.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use countersign_hsm::{ErrorClass, HsmError, KekId, ObjectAad, Purpose, SigningKeyId, Token};
use countersign_mpc::envelope::{
    EnvelopeError, EnvelopeInfo, KemSecretKey, ResponseSealer, open_request,
};
use countersign_mpc::identity::{KemDocument, MAX_KEM_LIFETIME, kem_statement};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::clock::{self, Timestamp};
use crate::domain::EnvironmentId;
use crate::store::kem_keys::{self, KemKeyRow};
use crate::store::{AuditEvent, AuditRecord, CommitError, Key, Operation, Store, StoreError, Tx};

/// A key is replaced when it has less than this left, in seconds: a wallet that fetched it has
/// always at least a day to use it.
const REPLACE_BELOW: i64 = 24 * 3600;
const ROLE: &str = "kem";
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

struct Held {
    row: KemKeyRow,
    secret: KemSecretKey,
}

/// The valid KEM keys, newest first.
pub struct KemRing {
    token: Token,
    store: Store,
    kek: KekId,
    identity_key: SigningKeyId,
    environment_id: EnvironmentId,
    tenant: String,
    held: RwLock<Vec<Arc<Held>>>,
    looked: Mutex<Instant>,
}

impl KemRing {
    /// Reads the valid keys, and makes one if there is none with a day left.
    ///
    /// # Errors
    /// [`KemError`] when the HSM or the database fails.
    pub async fn open(
        token: Token,
        store: Store,
        kek: KekId,
        identity_key: SigningKeyId,
        tenant: String,
    ) -> Result<Self, KemError> {
        let ring = Self {
            environment_id: store.environment_id(),
            token,
            store,
            kek,
            identity_key,
            tenant,
            held: RwLock::default(),
            looked: Mutex::new(Instant::now()),
        };
        ring.refresh().await?;
        Ok(ring)
    }

    /// Replaces the newest key when its time comes, and forgets keys that are past theirs.
    ///
    /// # Errors
    /// [`KemError`] when the HSM or the database fails; the keys in memory stay.
    pub async fn refresh(&self) -> Result<(), KemError> {
        let now = clock::now();
        let mut reader = self.store.reader().await.map_err(KemError::Store)?;
        let mut rows = kem_keys::valid(&mut reader, now)
            .await
            .map_err(KemError::Store)?;
        drop(reader);
        let fresh_until = now.plus_seconds(REPLACE_BELOW);
        if rows.first().is_none_or(|row| row.not_after < fresh_until) {
            self.create(now, fresh_until).await?;
            let mut reader = self.store.reader().await.map_err(KemError::Store)?;
            rows = kem_keys::valid(&mut reader, now)
                .await
                .map_err(KemError::Store)?;
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
        Ok(())
    }

    /// The current key's part of the identity document.
    ///
    /// # Errors
    /// [`KemError::NoKey`] when no key is valid.
    pub fn document(&self) -> Result<KemDocument, KemError> {
        let now = clock::now();
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let newest = held
            .first()
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
            tracing::error!(?error, "the KEM keys could not be refreshed");
        }
        refreshed.is_ok()
    }

    /// Makes a key, unless another instance was first.
    async fn create(&self, now: Timestamp, fresh_until: Timestamp) -> Result<(), KemError> {
        let secret = KemSecretKey::generate().map_err(KemError::Key)?;
        let public_key = secret.public_key().to_bytes();
        let kid = hex::encode(Sha256::digest(public_key).get(..8).unwrap_or_default());
        let lifetime = i64::try_from(MAX_KEM_LIFETIME).unwrap_or(i64::MAX);
        // Whole seconds: the statement is signed over them.
        let not_before = Timestamp::from_micros(now.as_seconds().saturating_mul(1_000_000));
        let not_after = not_before.plus_seconds(lifetime);
        let statement = kem_statement(
            &self.environment_id.0,
            &kid,
            &public_key,
            seconds(not_before),
            seconds(not_after),
        );
        let signature = self
            .token
            .sign(self.identity_key, statement.hash())
            .await
            .map_err(KemError::Hsm)?;
        let bytes = Zeroizing::new(secret.to_bytes().to_vec());
        let sealed = self
            .token
            .seal(self.kek, self.aad(&kid, &public_key), bytes)
            .await
            .map_err(KemError::Hsm)?;
        let row = KemKeyRow {
            kid,
            public_key,
            sealed,
            signature,
            not_before,
            not_after,
        };
        match self.store.commit(Rotate { row, fresh_until }).await {
            Ok(_) | Err(CommitError::Refused(Fresh)) => Ok(()),
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

/// Another instance has just made a key.
#[derive(Debug)]
struct Fresh;

/// Records a new KEM key, if the newest one does not live until `fresh_until`.
struct Rotate {
    row: KemKeyRow,
    fresh_until: Timestamp,
}

impl Operation for Rotate {
    type Output = ();
    type Refusal = Fresh;

    fn key(&self) -> Key {
        Key::ENVIRONMENT
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<((), AuditRecord), CommitError<Self::Refusal>> {
        let valid = kem_keys::valid(tx, tx.now()).await?;
        if valid.iter().any(|row| row.not_after >= self.fresh_until) {
            return Err(CommitError::Refused(Fresh));
        }
        kem_keys::rotate(tx, &self.row).await?;
        let record = AuditRecord::done(AuditEvent::KemRotated).detail(self.row.kid.as_str());
        Ok(((), record))
    }
}
