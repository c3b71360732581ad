//! The public handle: async operations over worker threads.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex;
use zeroize::Zeroizing;

use crate::connection::{Connection, TokenInfo};
use crate::envelope::{Header, IV_LENGTH, MAX_PAYLOAD, ObjectAad, assemble};
use crate::error::{DataFault, HsmError};
use crate::names::{KekId, KekName, SigningKeyId, check_label};
use crate::pin::Pin;
use crate::pool::Pool;
use crate::profile::Profile;
use crate::worker::{Lane, Retry, Worker};
use crate::{data, keys};

/// Where the token is and how to use it.
pub struct TokenConfig {
    /// Path of the PKCS#11 module.
    pub module: PathBuf,
    /// Label of the token; exactly one token may have it.
    pub token_label: String,
    /// User PIN.
    pub pin: Pin,
    /// What is special about this model of HSM.
    pub profile: Profile,
    /// Worker threads; each holds two sessions (one works, one checks). At least 1; 4 is a good start.
    pub workers: usize,
    /// Places in the queue in front of the workers. At least 1.
    pub queue: usize,
    /// Longest time from the request to its answer, waiting included.
    pub deadline: Duration,
}

/// A token, logged in. Cheap to clone; clones share sessions.
#[derive(Clone)]
pub struct Token {
    inner: Arc<Inner>,
}

struct Inner {
    connection: Arc<Connection>,
    pool: Pool<Worker>,
    // Creating looks for the label first; two at once must not both find nothing.
    creating: Arc<Mutex<()>>,
}

impl Token {
    /// Loads the module, finds the token, checks its mechanisms, logs in and starts the workers.
    /// Blocks; called once at start.
    ///
    /// # Errors
    /// Everything that can be wrong with module, token, PIN and profile, each as its own [`HsmError`].
    pub fn open(config: TokenConfig) -> Result<Self, HsmError> {
        let TokenConfig {
            module,
            token_label,
            pin,
            profile,
            workers,
            queue,
            deadline,
        } = config;
        let connection = Arc::new(Connection::open(&module, token_label, pin, profile)?);
        let for_workers = Arc::clone(&connection);
        let pool = Pool::start(workers, queue, deadline, move || {
            Worker::new(Arc::clone(&for_workers))
        })?;
        let creating = Arc::default();
        Ok(Self {
            inner: Arc::new(Inner {
                connection,
                pool,
                creating,
            }),
        })
    }

    /// What the token says of itself.
    #[must_use]
    pub fn info(&self) -> &TokenInfo {
        &self.inner.connection.info
    }

    /// Creates a key encryption key, or returns the one that has this name already.
    ///
    /// # Errors
    /// [`HsmError::WeakKey`] when the key under this name is weaker than the template.
    pub async fn create_kek(&self, name: &KekName) -> Result<KekId, HsmError> {
        let label = name.label()?;
        self.create(move |lane| keys::create_kek(lane, &label))
            .await
    }

    /// Looks a key encryption key up by its name.
    ///
    /// # Errors
    /// [`HsmError::Duplicate`] for two keys of one name, [`HsmError::WeakKey`] for an unsafe one.
    pub async fn find_kek(&self, name: &KekName) -> Result<Option<KekId>, HsmError> {
        let label = name.label()?;
        self.inspect(move |lane| keys::find_kek(lane, &label)).await
    }

    /// Destroys a key encryption key, and with it all that only it opens; false if there is none of this name.
    ///
    /// # Errors
    /// [`HsmError::Duplicate`] for two keys of one name, [`HsmError::Untrustworthy`] when it is still there afterwards, and
    /// those of the HSM.
    pub async fn destroy_kek(&self, name: &KekName) -> Result<bool, HsmError> {
        let label = name.label()?;
        self.create(move |lane| keys::destroy_kek(lane, &label))
            .await
    }

    /// Seals `payload` (at most 1 MiB) under a fresh data key for exactly the identity `aad`.
    ///
    /// The wrapped data key has been unwrapped and compared on another session before this returns.
    ///
    /// # Errors
    /// [`HsmError::PayloadTooLarge`], [`HsmError::UnknownKek`], and those of the HSM.
    pub async fn seal(
        &self,
        kek: KekId,
        aad: ObjectAad,
        payload: Zeroizing<Vec<u8>>,
    ) -> Result<Vec<u8>, HsmError> {
        if payload.len() > MAX_PAYLOAD {
            return Err(HsmError::PayloadTooLarge(payload.len()));
        }
        let dek_aad = aad.dek_aad(kek);
        let wrap = move |worker: &mut Worker| {
            worker.run(Retry::Once, |sessions| sessions.wrap_new(kek, &dek_aad))
        };
        let (dek, wrapped) = self.inner.pool.run(wrap).await?;
        let mut nonce = [0; IV_LENGTH];
        getrandom::fill(&mut nonce).map_err(|_| HsmError::Random)?;
        assemble(&wrapped, &dek, nonce, &aad, &payload)
    }

    /// Opens a sealed object: one 32-byte decrypt in the HSM, the payload in process.
    ///
    /// # Errors
    /// [`HsmError::Damaged`] for anything but the exact bytes under the exact identity (what is malformed
    /// is refused before the HSM is called), [`HsmError::UnknownKek`], and those of the HSM.
    pub async fn open_sealed(
        &self,
        sealed: Vec<u8>,
        aad: ObjectAad,
    ) -> Result<Zeroizing<Vec<u8>>, HsmError> {
        let header = Header::parse(&sealed).map_err(HsmError::Damaged)?;
        let (wrapped, dek_aad) = (header.wrapped, aad.dek_aad(header.wrapped.kek));
        let unwrap = move |worker: &mut Worker| {
            worker.run(Retry::Once, |sessions| {
                sessions.main.unwrap(&wrapped, &dek_aad)
            })
        };
        let dek = self.inner.pool.run(unwrap).await?;
        header.open(&dek, &aad, sealed).map_err(HsmError::Damaged)
    }

    /// As [`Token::open_sealed`], and reads a set of data objects before, in the same hand-over to a worker: for whoever
    /// must look at both before using the payload. A member is missed that was added while none was removed.
    ///
    /// # Errors
    /// As [`Token::open_sealed`] and [`Token::read_set`].
    pub async fn open_sealed_with_set(
        &self,
        set: &str,
        sealed: Vec<u8>,
        aad: ObjectAad,
    ) -> Result<(Vec<Vec<u8>>, Zeroizing<Vec<u8>>), HsmError> {
        let set = checked(set)?;
        let header = Header::parse(&sealed).map_err(HsmError::Damaged)?;
        let (wrapped, dek_aad) = (header.wrapped, aad.dek_aad(header.wrapped.kek));
        let read = move |worker: &mut Worker| {
            worker.run(Retry::Once, |sessions| {
                let objects = data::read_known_set(&mut sessions.main, &set)?;
                Ok((objects, sessions.main.unwrap(&wrapped, &dek_aad)?))
            })
        };
        let (objects, dek) = self.inner.pool.run(read).await?;
        let payload = header.open(&dek, &aad, sealed).map_err(HsmError::Damaged)?;
        Ok((objects, payload))
    }

    /// Creates a P-256 signing key, or returns the one that has this label already.
    ///
    /// # Errors
    /// [`HsmError::WeakKey`] when the key under this label is weaker than the template.
    pub async fn create_signing_key(&self, label: &str) -> Result<SigningKeyId, HsmError> {
        let label = checked(label)?;
        self.create(move |lane| keys::create_signing_key(lane, &label))
            .await
    }

    /// Looks a P-256 signing key up by its label.
    ///
    /// # Errors
    /// [`HsmError::Duplicate`] for two keys of one label, [`HsmError::WeakKey`] for an unsafe one.
    pub async fn find_signing_key(&self, label: &str) -> Result<Option<SigningKeyId>, HsmError> {
        let label = checked(label)?;
        self.inspect(move |lane| keys::find_signing_key(lane, &label))
            .await
    }

    /// The public half of a signing key: uncompressed SEC1, `04 ‖ x ‖ y`.
    ///
    /// # Errors
    /// [`HsmError::NoSigningKey`], or [`HsmError::Untrustworthy`] for what is no point on P-256.
    pub async fn public_key(&self, id: SigningKeyId) -> Result<[u8; 65], HsmError> {
        let key = self.inspect(move |lane| keys::public_key(lane, id)).await?;
        let encoded = key.to_sec1_point(false);
        encoded
            .as_bytes()
            .try_into()
            .map_err(|_| HsmError::Untrustworthy("a public key at infinity"))
    }

    /// Signs a SHA-256 digest (ECDSA P-256); returns `r ‖ s`, already verified in software.
    ///
    /// # Errors
    /// [`HsmError::NoSigningKey`], [`HsmError::Untrustworthy`] for a signature that does not verify.
    pub async fn sign(&self, id: SigningKeyId, digest: [u8; 32]) -> Result<[u8; 64], HsmError> {
        self.inspect(move |lane| keys::sign(lane, id, &digest))
            .await
    }

    /// Writes a private data object (at most 4096 bytes) once and reads it back. Storing the same content
    /// again succeeds.
    ///
    /// # Errors
    /// [`HsmError::DataConflict`] when the label exists with other content.
    pub async fn store_data(&self, label: &str, value: Vec<u8>) -> Result<(), HsmError> {
        let label = checked(label)?;
        self.create(move |lane| data::store(lane, &label, &value))
            .await
    }

    /// Reads a private data object.
    ///
    /// # Errors
    /// [`HsmError::Duplicate`] for two objects of one label.
    pub async fn read_data(&self, label: &str) -> Result<Option<Vec<u8>>, HsmError> {
        let label = checked(label)?;
        self.inspect(move |lane| data::read(lane, &label)).await
    }

    /// The values of all private data objects of a set, in no order. A set is named by its application.
    ///
    /// # Errors
    /// Those of the HSM.
    pub async fn read_set(&self, set: &str) -> Result<Vec<Vec<u8>>, HsmError> {
        let set = checked(set)?;
        self.inspect(move |lane| data::read_set(lane, &set)).await
    }

    /// Adds a private data object (at most 4096 bytes) to a set and reads it back. Adding the same content again
    /// succeeds; labels need not be unique.
    ///
    /// # Errors
    /// [`HsmError::Untrustworthy`] when it does not read back, and those of the HSM.
    pub async fn add_to_set(&self, set: &str, label: &str, value: Vec<u8>) -> Result<(), HsmError> {
        let (set, label) = (checked(set)?, checked(label)?);
        self.create(move |lane| data::add_to_set(lane, &set, &label, &value))
            .await
    }

    /// Destroys the data objects of a set that have this label; none is fine.
    ///
    /// # Errors
    /// Those of the HSM.
    pub async fn remove_from_set(&self, set: &str, label: &str) -> Result<(), HsmError> {
        let (set, label) = (checked(set)?, checked(label)?);
        self.create(move |lane| data::remove_from_set(lane, &set, &label))
            .await
    }

    /// Proves the token healthy: a canary wraps and unwraps under `kek`, a tampered one is refused, and
    /// `signing_key` (if given) signs.
    ///
    /// # Errors
    /// [`HsmError::Untrustworthy`] when the tampered canary is accepted, and those of the HSM.
    pub async fn check(
        &self,
        kek: KekId,
        signing_key: Option<SigningKeyId>,
    ) -> Result<(), HsmError> {
        let canary = move |worker: &mut Worker| {
            worker.run(Retry::Once, |sessions| {
                let aad = b"health/1";
                let (_, mut wrapped) = sessions.wrap_new(kek, aad)?;
                if let Some(byte) = wrapped.bytes.first_mut() {
                    *byte ^= 1;
                }
                match sessions.main.unwrap(&wrapped, aad) {
                    Err(HsmError::Damaged(DataFault::DataKey)) => Ok(()),
                    Err(error) => Err(error),
                    Ok(_) => Err(HsmError::Untrustworthy("a tampered canary was accepted")),
                }
            })
        };
        self.inner.pool.run(canary).await?;
        if let Some(id) = signing_key {
            self.sign(id, [0x5a; 32]).await?;
        }
        Ok(())
    }

    /// Ends the workers, logs out and finalises the module. Clones answer [`HsmError::Closed`] afterwards.
    ///
    /// # Errors
    /// [`HsmError::Deadline`] when a worker is stuck; the module is then left as it is.
    pub async fn close(&self) -> Result<(), HsmError> {
        self.inner.pool.stop().await?;
        self.inner.connection.close()
    }

    async fn inspect<T: Send + 'static>(
        &self,
        mut operation: impl FnMut(&mut Lane) -> Result<T, HsmError> + Send + 'static,
    ) -> Result<T, HsmError> {
        let job = move |worker: &mut Worker| {
            worker.run(Retry::Once, |sessions| operation(&mut sessions.main))
        };
        self.inner.pool.run(job).await
    }

    async fn create<T: Send + 'static>(
        &self,
        mut operation: impl FnMut(&Lane) -> Result<T, HsmError> + Send + 'static,
    ) -> Result<T, HsmError> {
        let turn = Arc::clone(&self.inner.creating).lock_owned().await;
        let job = move |worker: &mut Worker| {
            let result = worker.run(Retry::Never, |sessions| {
                let lane = &sessions.main;
                let objects = lane.connection.objects.write();
                let _alone = objects.unwrap_or_else(PoisonError::into_inner);
                operation(lane)
            });
            // Kept by the job, not by the caller: a caller that gave up must not let the next one in.
            drop(turn);
            result
        };
        self.inner.pool.run(job).await
    }
}

fn checked(label: &str) -> Result<String, HsmError> {
    check_label(label).map(|()| label.to_owned())
}
