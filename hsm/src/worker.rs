//! One worker's sessions: opened on demand, dropped at the first doubt, retried once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::context::Function;
use cryptoki::error::{Error as CallError, RvError};
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::{Session, SessionState};
use zeroize::Zeroizing;

use crate::connection::Connection;
use crate::envelope::{Dek, IV_LENGTH, WrappedDek};
use crate::error::{DataFault, ErrorClass, HsmError};
use crate::keys;
use crate::lp::{Part, encode};
use crate::names::{KekId, SigningKeyId};
use crate::profile::IvMode;
use crate::raw::Gcm;

/// What a canary decrypts to. Its AAD differs from every object's, so it opens nothing.
const CANARY: [u8; 32] = *b"countersign canary data key v01.";

/// Whether an operation may run a second time on a new session.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// Encrypt, decrypt, sign and look-ups: no effect in the HSM.
    Once,
    /// Whatever creates an object.
    Never,
}

/// Canaries of every KEK used in this process: wrapped once, decrypted to prove that a handle still
/// means the same key.
#[derive(Default)]
pub(crate) struct Canaries(Mutex<HashMap<KekId, WrappedDek>>);

impl Canaries {
    fn of(&self, kek: KekId) -> Option<WrappedDek> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&kek)
            .copied()
    }

    /// For a key that was destroyed.
    pub(crate) fn forget(&self, kek: KekId) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&kek);
    }

    fn keep(&self, canary: WrappedDek) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(canary.kek)
            .or_insert(canary);
    }
}

/// The state of one worker thread.
pub(crate) struct Worker {
    connection: Arc<Connection>,
    sessions: Option<Sessions>,
}

impl Worker {
    pub(crate) const fn new(connection: Arc<Connection>) -> Self {
        Self {
            connection,
            sessions: None,
        }
    }

    /// Runs an operation on this worker's sessions. Any error that is not a clean refusal closes them;
    /// the next operation opens new ones, so that a transient failure needs no restart.
    pub(crate) fn run<T>(
        &mut self,
        retry: Retry,
        mut operation: impl FnMut(&mut Sessions) -> Result<T, HsmError>,
    ) -> Result<T, HsmError> {
        let mut may_retry = retry == Retry::Once;
        loop {
            let error = match self.sessions().and_then(&mut operation) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if error.taints_session() {
                self.sessions = None;
                if error.kind() == ErrorClass::Token {
                    self.connection.invalidate();
                }
            }
            if !(may_retry && error.is_worth_a_new_session()) {
                return Err(error);
            }
            may_retry = false;
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "hsm operation retried"
            );
        }
    }

    fn sessions(&mut self) -> Result<&mut Sessions, HsmError> {
        let current = self.connection.generation();
        if self
            .sessions
            .as_ref()
            .is_some_and(|sessions| sessions.generation != current)
        {
            self.sessions = None;
        }
        match &mut self.sessions {
            Some(sessions) => Ok(sessions),
            empty => Ok(empty.insert(Sessions::open(&self.connection)?)),
        }
    }
}

/// Two sessions of one generation: `main` works, `second` checks what `main` wrapped.
pub(crate) struct Sessions {
    pub(crate) main: Lane,
    second: Lane,
    generation: u64,
}

impl Sessions {
    fn open(connection: &Arc<Connection>) -> Result<Self, HsmError> {
        let (generation, [main, second]) = connection.open_sessions()?;
        Ok(Self {
            main: Lane::new(connection, main),
            second: Lane::new(connection, second),
            generation,
        })
    }

    /// Makes a data key and wraps it; unwraps it on the other session and compares before it is used.
    pub(crate) fn wrap_new(
        &mut self,
        kek: KekId,
        aad: &[u8],
    ) -> Result<(Dek, WrappedDek), HsmError> {
        let dek = self.main.random_dek()?;
        let wrapped = self.main.wrap(kek, aad, &dek)?;
        match self.second.unwrap(&wrapped, aad) {
            Ok(back) if dek.same_as(&back) => {}
            Ok(_) | Err(HsmError::Damaged(_)) => {
                return Err(HsmError::Untrustworthy(
                    "a wrapped key that does not unwrap to itself",
                ));
            }
            Err(error) => return Err(error),
        }
        // A re-login in between may have re-issued both handles for another key.
        if self.main.connection.generation() != self.generation {
            return Err(HsmError::Abandoned);
        }
        Ok((dek, wrapped))
    }
}

/// A session and the handles found on it.
pub(crate) struct Lane {
    pub(crate) connection: Arc<Connection>,
    pub(crate) session: Session,
    keks: HashMap<KekId, ObjectHandle>,
    pub(crate) signing_keys: HashMap<SigningKeyId, ObjectHandle>,
    /// The members of sets of data objects, as the last search found them.
    pub(crate) sets: HashMap<String, Vec<ObjectHandle>>,
}

impl Lane {
    fn new(connection: &Arc<Connection>, session: Session) -> Self {
        let connection = Arc::clone(connection);
        Self {
            connection,
            session,
            keks: HashMap::new(),
            signing_keys: HashMap::new(),
            sets: HashMap::new(),
        }
    }

    /// Unwraps a data key: one 32-byte decrypt in the HSM.
    pub(crate) fn unwrap(&mut self, wrapped: &WrappedDek, aad: &[u8]) -> Result<Dek, HsmError> {
        let kek = self.kek(wrapped.kek)?;
        match self.decrypt(kek, wrapped, aad) {
            Err(error) if error.kind() == ErrorClass::Data => {
                Err(HsmError::Damaged(DataFault::DataKey))
            }
            // The code alone does not tell bad data from a bad device (SoftHSM 2.6.1 says
            // GENERAL_ERROR); a canary on the same session does.
            Err(error) if may_mean_bad_data(&error) => {
                self.prove(kek, wrapped.kek)?;
                Err(HsmError::Damaged(DataFault::DataKey))
            }
            result => result,
        }
    }

    /// The only object that matches, if any.
    pub(crate) fn find_one(
        &self,
        template: &[Attribute],
        what: impl Fn() -> String,
    ) -> Result<Option<ObjectHandle>, HsmError> {
        let mut found = self.session.iter_objects(template)?;
        let first = found.next().transpose()?;
        if found.next().transpose()?.is_some() {
            return Err(HsmError::Duplicate(what()));
        }
        drop(found);
        // Without a login private objects are invisible, not forbidden: nothing found proves nothing.
        if first.is_none() && !self.is_logged_in()? {
            return Err(CallError::Pkcs11(RvError::UserNotLoggedIn, Function::FindObjects).into());
        }
        Ok(first)
    }

    /// All objects that match.
    pub(crate) fn find_all(&self, template: &[Attribute]) -> Result<Vec<ObjectHandle>, HsmError> {
        let found: Result<Vec<_>, _> = self.session.iter_objects(template)?.collect();
        let found = found?;
        if found.is_empty() && !self.is_logged_in()? {
            return Err(CallError::Pkcs11(RvError::UserNotLoggedIn, Function::FindObjects).into());
        }
        Ok(found)
    }

    fn is_logged_in(&self) -> Result<bool, HsmError> {
        let state = self.session.get_session_info()?.session_state();
        Ok(matches!(state, SessionState::RwUser))
    }

    /// OS random xor HSM random: good when either is.
    fn random_dek(&self) -> Result<Dek, HsmError> {
        let mut dek = Dek::blank();
        getrandom::fill(dek.expose_mut()).map_err(|_| HsmError::Random)?;
        let mut from_hsm = Zeroizing::new([0; 32]);
        self.session
            .generate_random_slice(from_hsm.as_mut_slice())?;
        for (byte, other) in dek.expose_mut().iter_mut().zip(from_hsm.iter()) {
            *byte ^= other;
        }
        Ok(dek)
    }

    fn wrap(&mut self, kek: KekId, aad: &[u8], dek: &Dek) -> Result<WrappedDek, HsmError> {
        let handle = self.kek(kek)?;
        self.encrypt(handle, kek, aad, dek.expose())
    }

    /// The handle of a KEK: found once by class and id, checked against the template the first time in
    /// this process, and by its canary every time it is found again.
    fn kek(&mut self, kek: KekId) -> Result<ObjectHandle, HsmError> {
        if let Some(handle) = self.keks.get(&kek) {
            return Ok(*handle);
        }
        let template = [
            Attribute::Class(cryptoki::object::ObjectClass::SECRET_KEY),
            Attribute::Id(kek.0.to_vec()),
        ];
        let handle = self
            .find_one(&template, || format!("key encryption key {kek}"))?
            .ok_or_else(|| match self.connection.canaries.of(kek) {
                // It was here before: the token lost it, and the row that names it is as good as ever.
                Some(_) => HsmError::CanaryFailed(kek),
                None => HsmError::UnknownKek(kek),
            })?;
        if self.connection.canaries.of(kek).is_some() {
            self.prove(handle, kek)?;
        } else {
            keys::verify_kek(self, handle, &kek.to_string())?;
            let canary = self.encrypt(handle, kek, &canary_aad(kek), &CANARY)?;
            self.connection.canaries.keep(canary);
            self.prove(handle, kek)?;
        }
        self.keks.insert(kek, handle);
        Ok(handle)
    }

    /// Proves that the session works and that `handle` is the key behind `kek`.
    fn prove(&self, handle: ObjectHandle, kek: KekId) -> Result<(), HsmError> {
        let canary = self
            .connection
            .canaries
            .of(kek)
            .ok_or(HsmError::CanaryFailed(kek))?;
        match self.decrypt(handle, &canary, &canary_aad(kek)) {
            Ok(plain) if plain.expose() == &CANARY => Ok(()),
            Ok(_) => Err(HsmError::CanaryFailed(kek)),
            Err(error) if error.kind() == ErrorClass::Data || may_mean_bad_data(&error) => {
                Err(HsmError::CanaryFailed(kek))
            }
            Err(error) => Err(error),
        }
    }

    fn encrypt(
        &self,
        handle: ObjectHandle,
        kek: KekId,
        aad: &[u8],
        dek: &[u8; 32],
    ) -> Result<WrappedDek, HsmError> {
        let profile = &self.connection.profile;
        let mut iv = [0; IV_LENGTH];
        if profile.iv_mode == IvMode::Caller {
            getrandom::fill(&mut iv).map_err(|_| HsmError::Random)?;
        }
        let mut gcm = Gcm {
            mechanism: profile.mechanisms.aes_gcm,
            iv: &mut iv,
            aad,
        };
        let bytes = self
            .connection
            .raw
            .wrap(&self.session, handle, &mut gcm, dek)?;
        // Stored is what stands in the buffer afterwards: the HSM may have chosen it.
        if iv == [0; IV_LENGTH] {
            return Err(HsmError::Untrustworthy("an all-zero IV"));
        }
        Ok(WrappedDek {
            kek,
            iv_mode: profile.iv_mode,
            iv,
            bytes,
        })
    }

    fn decrypt(
        &self,
        handle: ObjectHandle,
        wrapped: &WrappedDek,
        aad: &[u8],
    ) -> Result<Dek, HsmError> {
        let (mut iv, mut dek) = (wrapped.iv, Dek::blank());
        let mechanism = self.connection.profile.mechanisms.aes_gcm;
        let mut gcm = Gcm {
            mechanism,
            iv: &mut iv,
            aad,
        };
        let raw = &self.connection.raw;
        raw.unwrap(
            &self.session,
            handle,
            &mut gcm,
            &wrapped.bytes,
            dek.expose_mut(),
        )?;
        Ok(dek)
    }
}

fn canary_aad(kek: KekId) -> Vec<u8> {
    encode(&[Part::Bytes(b"canary/1"), Part::Bytes(&kek.0)])
}

const fn may_mean_bad_data(error: &HsmError) -> bool {
    matches!(
        error,
        HsmError::Call {
            cause: CallError::Pkcs11(
                RvError::GeneralError | RvError::FunctionFailed | RvError::DeviceError,
                Function::Decrypt,
            ),
            ..
        }
    )
}
