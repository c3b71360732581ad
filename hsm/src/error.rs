//! What can go wrong at the HSM, in the classes a caller acts on (design `hsm.md` 4.7).

use std::path::PathBuf;

use cryptoki::context::Function;
use cryptoki::error::{Error as CallError, RvError};

use crate::names::KekId;

/// What to do about an error. Every [`HsmError`] belongs to exactly one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The stored object is damaged or was swapped: raise an alarm, never retry, change no state.
    Data,
    /// The session broke. It is closed and was retried once on a new one: try again later.
    Session,
    /// A key handle went stale. The key is looked up again: try again later.
    Handle,
    /// The token or its library is away or misbehaves: custody is unavailable until it is back.
    Token,
    /// A person must act (PIN wrong, locked or unreadable). Nothing is retried.
    Operator,
    /// The token is out of sessions or memory: shed load, retry later.
    Capacity,
    /// Module, profile, key or name do not fit together: fix the configuration, then start again.
    Config,
    /// No answer within the deadline. The call may still take effect in the HSM.
    Deadline,
}

impl ErrorClass {
    /// Stable lower-case name, fit for a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Session => "session",
            Self::Handle => "handle",
            Self::Token => "token",
            Self::Operator => "operator",
            Self::Capacity => "capacity",
            Self::Config => "config",
            Self::Deadline => "deadline",
        }
    }
}

/// Which check a sealed object failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DataFault {
    /// Shorter than header and tag, or longer than the largest object ever sealed.
    #[error("its length is impossible")]
    Length,
    /// Magic, version, algorithm, IV mode, reserved byte or IV are not what this version writes.
    #[error("its header is not one we write")]
    Header,
    /// The HSM does not accept the wrapped data key under this identity.
    #[error("its data key does not belong to this identity or was altered")]
    DataKey,
    /// The data key is not the one the header commits to.
    #[error("its data key does not match the commitment")]
    Commitment,
    /// The payload's tag does not verify under this identity.
    #[error("its payload does not belong to this identity or was altered")]
    Payload,
}

/// An error of the HSM boundary. [`HsmError::kind`] tells the class, `Display` says what to do.
#[derive(Debug, thiserror::Error)]
pub enum HsmError {
    /// A sealed object failed a check. Nothing in it was released.
    #[error("sealed object refused: {0}; do not retry, treat the stored row as damaged or swapped")]
    Damaged(DataFault),
    /// The object names a key encryption key that the token does not hold.
    #[error(
        "key encryption key {0} is not on this token: the row is foreign or altered, or the wrong token is connected"
    )]
    UnknownKek(KekId),
    /// A payload to seal exceeds the largest object (1 MiB).
    #[error("payload of {0} bytes is too large to seal")]
    PayloadTooLarge(usize),
    /// A PKCS#11 call failed.
    #[error("hsm call failed ({}): {}", class.as_str(), advice(*class))]
    Call {
        /// The class of code and function together.
        class: ErrorClass,
        /// Return code and function name.
        #[source]
        cause: CallError,
    },
    /// The module could not be loaded.
    #[error(
        "cannot load the PKCS#11 module {path:?}: check the path and the library's dependencies"
    )]
    LoadModule {
        /// Path as configured.
        path: PathBuf,
        /// The loader's answer.
        #[source]
        cause: CallError,
    },
    /// The module lacks a PKCS#11 function that this crate needs.
    #[error("the PKCS#11 module lacks {0}: it cannot be used")]
    MissingFunction(&'static str),
    /// The module lacks a mechanism that the profile promises.
    #[error("the token does not offer {0}: choose the HSM profile that matches the module")]
    MissingMechanism(&'static str),
    /// No slot holds a token with the configured label.
    #[error(
        "no token is labelled {label:?}: check the label, the module's configuration and that the HSM is up"
    )]
    NoToken {
        /// Label searched for.
        label: String,
    },
    /// Several slots hold a token with the configured label.
    #[error("{count} tokens are labelled {label:?}: rename all but one")]
    AmbiguousToken {
        /// Label searched for.
        label: String,
        /// How many matched.
        count: usize,
    },
    /// The PIN was refused, or must not be tried.
    #[error("{0}; it will not be tried again: fix the PIN, then restart")]
    Pin(PinFault),
    /// The PIN file could not be read.
    #[error("cannot read the PIN file {path:?}")]
    ReadPin {
        /// Path as configured.
        path: PathBuf,
        /// The system's answer.
        #[source]
        cause: std::io::Error,
    },
    /// The PIN file's content or permissions are unfit.
    #[error("PIN file {path:?}: {reason}")]
    UnfitPinFile {
        /// Path as configured.
        path: PathBuf,
        /// What to change.
        reason: &'static str,
    },
    /// A profile could not be read or parsed.
    #[error("HSM profile {name:?} is unusable: {reason}")]
    Profile {
        /// Name or path.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tenant, label or data object breaks the naming rules.
    #[error("{0}")]
    Name(&'static str),
    /// A key on the token is weaker than the template demands.
    #[error(
        "key {key} is unsafe: {attribute} is not as required; remove it in a key ceremony, never use it"
    )]
    WeakKey {
        /// Label or id of the key.
        key: String,
        /// The PKCS#11 attribute that failed.
        attribute: &'static str,
    },
    /// Several objects share what must be unique.
    #[error("more than one object on the token is {0}: remove the duplicates in a key ceremony")]
    Duplicate(String),
    /// A signing key is not on the token.
    #[error("no signing key {0} is on this token")]
    NoSigningKey(String),
    /// A data object exists with other content; data objects are written once.
    #[error("data object {0:?} exists with different content and is never overwritten")]
    DataConflict(String),
    /// The HSM answered something a correct one cannot answer.
    #[error("the hsm gave a wrong answer: {0}; take it out of service")]
    Untrustworthy(&'static str),
    /// A KEK that worked earlier in this process is gone, or what is found under its id does not decrypt
    /// what it wrapped then.
    #[error(
        "key encryption key {0} worked before and is gone or does not decrypt its canary: the token is unwell, or the key was removed or exchanged"
    )]
    CanaryFailed(KekId),
    /// The system's random source failed.
    #[error("the system's random source failed; nothing was sealed")]
    Random,
    /// The operation panicked; its session was dropped.
    #[error("the operation was abandoned by its worker; it can be tried again")]
    Abandoned,
    /// No answer in time.
    #[error("no answer from the hsm in time; it may still complete the call")]
    Deadline,
    /// The token was closed by this process.
    #[error("the token is closed")]
    Closed,
    /// The system refused a thread.
    #[error("cannot start an hsm worker thread")]
    StartWorker(#[source] std::io::Error),
}

/// Why a PIN is not usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinFault {
    /// The token refused it in this process.
    #[error("the token refused the PIN")]
    Refused,
    /// The token says that the next wrong PIN locks it, so this program does not try.
    #[error(
        "one PIN attempt is left before the token locks (a login by other means resets the count)"
    )]
    FinalTry,
    /// The token is locked.
    #[error("the token's PIN is locked")]
    Locked,
    /// The PIN has expired or was never set.
    #[error("the token's PIN has expired or was never set")]
    Unset,
}

impl HsmError {
    /// The class that decides what the caller does next.
    #[must_use]
    pub const fn kind(&self) -> ErrorClass {
        match self {
            Self::Damaged(_) | Self::UnknownKek(_) | Self::PayloadTooLarge(_) => ErrorClass::Data,
            Self::Call { class, .. } => *class,
            Self::Pin(_) | Self::ReadPin { .. } | Self::UnfitPinFile { .. } => ErrorClass::Operator,
            Self::NoToken { .. }
            | Self::Untrustworthy(_)
            | Self::CanaryFailed(_)
            | Self::Random
            | Self::Closed => ErrorClass::Token,
            Self::LoadModule { .. }
            | Self::MissingFunction(_)
            | Self::MissingMechanism(_)
            | Self::AmbiguousToken { .. }
            | Self::Profile { .. }
            | Self::Name(_)
            | Self::WeakKey { .. }
            | Self::Duplicate(_)
            | Self::NoSigningKey(_)
            | Self::DataConflict(_) => ErrorClass::Config,
            Self::Abandoned => ErrorClass::Session,
            Self::Deadline => ErrorClass::Deadline,
            Self::StartWorker(_) => ErrorClass::Capacity,
        }
    }

    /// Whether the session that produced this error may still hold an active operation.
    ///
    /// Clean refusals are ours or the module's plain "data invalid"; after anything else the session
    /// must never be used again (`hsm.md` finding 5).
    pub(crate) const fn taints_session(&self) -> bool {
        matches!(
            self,
            Self::Call { .. } | Self::Untrustworthy(_) | Self::CanaryFailed(_) | Self::Abandoned
        )
    }

    /// Whether a new session with freshly found handles may help.
    pub(crate) const fn is_worth_a_new_session(&self) -> bool {
        matches!(self.kind(), ErrorClass::Session | ErrorClass::Handle)
            || matches!(self, Self::CanaryFailed(_))
    }
}

impl From<CallError> for HsmError {
    fn from(cause: CallError) -> Self {
        match &cause {
            CallError::Pkcs11(code, function) => match classify(*code, *function) {
                Verdict::Pin(fault) => Self::Pin(fault),
                Verdict::Class(class) => Self::Call { class, cause },
            },
            CallError::NullFunctionPointer | CallError::NotSupported => Self::Call {
                class: ErrorClass::Config,
                cause,
            },
            _ => Self::Call {
                class: ErrorClass::Token,
                cause,
            },
        }
    }
}

enum Verdict {
    Pin(PinFault),
    Class(ErrorClass),
}

/// The table of `hsm.md` 4.7. An error of `C_Decrypt` that only *may* mean bad data is classed by what
/// the code says; the caller settles it with a canary on the same session (`worker.rs`).
const fn classify(code: RvError, function: Function) -> Verdict {
    Verdict::Class(match code {
        RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange => {
            return Verdict::Pin(PinFault::Refused);
        }
        RvError::PinLocked => return Verdict::Pin(PinFault::Locked),
        RvError::PinExpired | RvError::UserPinNotInitialized => {
            return Verdict::Pin(PinFault::Unset);
        }
        RvError::EncryptedDataInvalid | RvError::EncryptedDataLenRange => ErrorClass::Data,
        RvError::SessionHandleInvalid
        | RvError::SessionClosed
        | RvError::OperationActive
        | RvError::OperationNotInitialized
        | RvError::BufferTooSmall
        | RvError::UserNotLoggedIn => ErrorClass::Session,
        RvError::ObjectHandleInvalid | RvError::KeyHandleInvalid => ErrorClass::Handle,
        RvError::SessionCount
        | RvError::DeviceMemory
        | RvError::HostMemory
        | RvError::FunctionRejected => ErrorClass::Capacity,
        RvError::MechanismInvalid
        | RvError::MechanismParamInvalid
        | RvError::KeyTypeInconsistent
        | RvError::KeySizeRange
        | RvError::KeyFunctionNotPermitted
        | RvError::TemplateIncomplete
        | RvError::TemplateInconsistent
        | RvError::AttributeTypeInvalid
        | RvError::AttributeValueInvalid
        | RvError::AttributeReadOnly
        | RvError::AttributeSensitive
        | RvError::FunctionNotSupported => ErrorClass::Config,
        // A logged-out kryoptic answers like this instead of USER_NOT_LOGGED_IN.
        RvError::GeneralError if is_init(function) => ErrorClass::Session,
        _ => ErrorClass::Token,
    })
}

const fn is_init(function: Function) -> bool {
    matches!(
        function,
        Function::EncryptInit
            | Function::DecryptInit
            | Function::SignInit
            | Function::FindObjectsInit
    )
}

const fn advice(class: ErrorClass) -> &'static str {
    match class {
        ErrorClass::Data => "the object is damaged, do not retry",
        ErrorClass::Session | ErrorClass::Handle => "a new session was opened, retry later",
        ErrorClass::Token => "the token or its library is unavailable, check it and retry later",
        ErrorClass::Operator => "an operator must act",
        ErrorClass::Capacity => "the token is out of resources, retry later",
        ErrorClass::Config => "module, profile and keys do not fit together, fix the configuration",
        ErrorClass::Deadline => "no answer in time",
    }
}

#[cfg(test)]
mod tests {
    use super::{CallError, ErrorClass, Function, HsmError, RvError};

    fn class_of(code: RvError, function: Function) -> ErrorClass {
        HsmError::from(CallError::Pkcs11(code, function)).kind()
    }

    #[test]
    fn each_class_of_the_design_is_reached_by_its_codes() {
        use ErrorClass::{Capacity, Config, Data, Handle, Operator, Session, Token};
        let table = [
            (RvError::EncryptedDataInvalid, Function::Decrypt, Data),
            (RvError::EncryptedDataLenRange, Function::Decrypt, Data),
            (RvError::GeneralError, Function::Decrypt, Token),
            (RvError::GeneralError, Function::EncryptInit, Session),
            (RvError::OperationActive, Function::DecryptInit, Session),
            (RvError::UserNotLoggedIn, Function::EncryptInit, Session),
            (RvError::SessionHandleInvalid, Function::SignInit, Session),
            (RvError::BufferTooSmall, Function::Encrypt, Session),
            (RvError::KeyHandleInvalid, Function::DecryptInit, Handle),
            (RvError::DeviceError, Function::Decrypt, Token),
            (RvError::DeviceRemoved, Function::OpenSession, Token),
            (RvError::TokenNotPresent, Function::OpenSession, Token),
            (RvError::SlotIdInvalid, Function::OpenSession, Token),
            (
                RvError::CryptokiNotInitialized,
                Function::OpenSession,
                Token,
            ),
            (RvError::PinIncorrect, Function::Login, Operator),
            (RvError::PinLocked, Function::Login, Operator),
            (RvError::PinExpired, Function::Login, Operator),
            (RvError::UserPinNotInitialized, Function::Login, Operator),
            (RvError::SessionCount, Function::OpenSession, Capacity),
            (RvError::DeviceMemory, Function::GenerateKey, Capacity),
            (RvError::MechanismInvalid, Function::EncryptInit, Config),
            (RvError::TemplateInconsistent, Function::GenerateKey, Config),
        ];
        for (code, function, class) in table {
            assert_eq!(
                class_of(code, function),
                class,
                "{code:?} from {function:?}"
            );
        }
    }
}
