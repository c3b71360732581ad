//! The module, the token and the one login session (design `hsm.md` findings 6 to 9).
//!
//! Login is a property of the application, not of a session, so one session is kept for it and no other
//! code logs in or out. `generation` counts logins: sessions and key handles of an older generation are
//! dropped, because handles die or get re-used.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error as CallError, RvError};
use cryptoki::mechanism::MechanismType;
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Slot, TokenInfo as Facts};

use crate::error::{HsmError, PinFault};
use crate::keys::{PublicKeys, mechanism_type};
use crate::pin::Pin;
use crate::profile::Profile;
use crate::raw::Raw;
use crate::worker::Canaries;

/// What the token says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenInfo {
    /// Token label, as configured.
    pub label: String,
    /// Serial number.
    pub serial: String,
    /// Manufacturer id.
    pub manufacturer: String,
    /// Model.
    pub model: String,
    /// Whether keys live in software: by profile, or because it is SoftHSM whatever the profile says.
    pub software: bool,
}

/// A loaded module with a token, logged in on demand.
pub(crate) struct Connection {
    pub(crate) raw: Raw,
    pub(crate) profile: Profile,
    pub(crate) info: TokenInfo,
    pub(crate) canaries: Canaries,
    pub(crate) public_keys: PublicKeys,
    /// Held for writing by whatever makes or destroys an object, for reading by searches that run beside it: SoftHSM
    /// 2.6.1 shows half an object to a search, and fails to make the other half.
    pub(crate) objects: RwLock<()>,
    pkcs11: Pkcs11,
    label: String,
    pin: Pin,
    login: Mutex<Option<Session>>,
    pin_refused: AtomicBool,
    generation: AtomicU64,
}

impl Connection {
    /// Loads and initialises the module, finds the token, checks its mechanisms and logs in.
    pub(crate) fn open(
        module: &Path,
        label: String,
        pin: Pin,
        profile: Profile,
    ) -> Result<Self, HsmError> {
        let unloadable = |cause| HsmError::LoadModule {
            path: module.to_owned(),
            cause,
        };
        let pkcs11 = Pkcs11::new(module).map_err(unloadable)?;
        let raw = Raw::load(module)?;
        match pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(CallError::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(cause) => return Err(unloadable(cause)),
        }
        // SECURITY: dropping the last clone would unload an initialised library whose threads may still
        // run; one clone is leaked, so the module stays for the life of the process.
        std::mem::forget(pkcs11.clone());
        let (slot, facts) = find_token(&pkcs11, &label)?;
        require_mechanisms(&pkcs11, slot, &profile)?;
        let info = describe(&facts, &label, &profile);
        if !profile.template.drop.is_empty() {
            let dropped = &profile.template.drop;
            tracing::warn!(
                profile = profile.name,
                ?dropped,
                "the profile weakens the key template"
            );
        }
        let connection = Self {
            raw,
            profile,
            info,
            canaries: Canaries::default(),
            public_keys: PublicKeys::default(),
            objects: RwLock::default(),
            pkcs11,
            label,
            pin,
            login: Mutex::new(None),
            pin_refused: AtomicBool::new(false),
            generation: AtomicU64::new(0),
        };
        connection.ensure_login()?;
        Ok(connection)
    }

    /// The current login generation.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Makes every session re-open and every handle be looked up again.
    pub(crate) fn invalidate(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Opens `N` logged-in read-write sessions and says which generation they belong to.
    pub(crate) fn open_sessions<const N: usize>(&self) -> Result<(u64, [Session; N]), HsmError> {
        let slot = self.ensure_login()?;
        let generation = self.generation();
        let mut opened = Vec::with_capacity(N);
        for _ in 0..N {
            opened.push(self.pkcs11.open_rw_session(slot)?);
        }
        match opened.try_into() {
            Ok(sessions) => Ok((generation, sessions)),
            Err(_) => Err(HsmError::Untrustworthy("a wrong number of sessions")),
        }
    }

    /// Logs out, closes the login session and finalises the module.
    pub(crate) fn close(&self) -> Result<(), HsmError> {
        if let Some(session) = self.lock_login().take() {
            session.logout()?;
            session.close()?;
        }
        Ok(self.pkcs11.clone().finalize()?)
    }

    /// Single flight: whoever finds the login gone repairs it while the others wait at the lock.
    fn ensure_login(&self) -> Result<Slot, HsmError> {
        let mut login = self.lock_login();
        if let Some(info) = login
            .as_ref()
            .and_then(|session| session.get_session_info().ok())
            && matches!(info.session_state(), SessionState::RwUser)
        {
            return Ok(info.slot_id());
        }
        *login = None;
        if self.pin_refused.load(Ordering::Acquire) {
            return Err(HsmError::Pin(PinFault::Refused));
        }
        let (slot, facts) = find_token(&self.pkcs11, &self.label)?;
        if facts.user_pin_locked() {
            return Err(HsmError::Pin(PinFault::Locked));
        }
        // Guards against a supervisor that restarts us with a wrong PIN until the token locks.
        if facts.user_pin_final_try() {
            return Err(HsmError::Pin(PinFault::FinalTry));
        }
        let session = self.pkcs11.open_rw_session(slot)?;
        match session.login(UserType::User, Some(self.pin.expose())) {
            Ok(()) | Err(CallError::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(cause) => {
                let error = HsmError::from(cause);
                if matches!(error, HsmError::Pin(_)) {
                    self.pin_refused.store(true, Ordering::Release);
                }
                return Err(error);
            }
        }
        *login = Some(session);
        self.invalidate();
        tracing::info!(slot = slot.id(), "logged in to the token");
        Ok(slot)
    }

    fn lock_login(&self) -> MutexGuard<'_, Option<Session>> {
        self.login.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find_token(pkcs11: &Pkcs11, label: &str) -> Result<(Slot, Facts), HsmError> {
    let mut found = Vec::new();
    for slot in pkcs11.get_slots_with_token()? {
        // Another slot's token may be unreadable; that must not hide ours.
        match pkcs11.get_token_info(slot) {
            Ok(facts) if facts.token_initialized() && facts.label() == label => {
                found.push((slot, facts));
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(slot = slot.id(), %error, "slot skipped"),
        }
    }
    let count = found.len();
    match (found.pop(), count) {
        (Some(token), 1) => Ok(token),
        (None, _) => Err(HsmError::NoToken {
            label: label.to_owned(),
        }),
        _ => Err(HsmError::AmbiguousToken {
            label: label.to_owned(),
            count,
        }),
    }
}

fn require_mechanisms(pkcs11: &Pkcs11, slot: Slot, profile: &Profile) -> Result<(), HsmError> {
    let wanted = [
        (mechanism_type(profile.mechanisms.aes_gcm)?, "AES-GCM"),
        (MechanismType::AES_KEY_GEN, "AES key generation"),
        (mechanism_type(profile.mechanisms.ecdsa)?, "ECDSA"),
        (MechanismType::ECC_KEY_PAIR_GEN, "EC key pair generation"),
    ];
    for (kind, name) in wanted {
        match pkcs11.get_mechanism_info(slot, kind) {
            Ok(_) => {}
            Err(CallError::Pkcs11(RvError::MechanismInvalid, _)) => {
                return Err(HsmError::MissingMechanism(name));
            }
            Err(cause) => return Err(cause.into()),
        }
    }
    Ok(())
}

fn describe(facts: &Facts, label: &str, profile: &Profile) -> TokenInfo {
    let manufacturer = facts.manufacturer_id().to_owned();
    TokenInfo {
        label: label.to_owned(),
        serial: facts.serial_number().to_owned(),
        model: facts.model().to_owned(),
        software: profile.software() || manufacturer.starts_with("SoftHSM"),
        manufacturer,
    }
}
