#![expect(
    unsafe_code,
    reason = "cryptoki's encrypt, decrypt and get_attributes size buffers by the module's answer and \
              drop them unwiped; the C calls below write into the caller's buffer instead"
)]
//! The only unsafe code of the crate: PKCS#11 calls with buffers that we own and size.
//!
//! Why not cryptoki's methods (design `hsm.md`, findings 2 to 4): their two-call shape lets the module
//! size an allocation (an underflowed length panics), leaves unverified plaintext in a dropped `Vec`
//! when a tag is wrong, and cannot do AES-GCM on NSS at all. Here output buffers are the caller's,
//! wiped on every error, and a length that exceeds its buffer is an error.
//!
//! SAFETY, for every block below: the function pointers come from the module's own function list and the
//! library is never unloaded (`Raw` keeps it, and lives in a `Connection` that is leaked once
//! initialised). Handles are plain integers that the module checks. `&Session` is `!Sync`, so no session
//! is used by two threads at once. Pointers are to live locals or slices, with their true lengths, for
//! the duration of the call only; PKCS#11 does not let the module keep them, except the mechanism
//! parameter (IV, AAD) between Init and its operation, and both happen inside one function here.

use std::ffi::c_void;
use std::path::Path;

use cryptoki::context::Function;
use cryptoki::error::{Error as CallError, Rv};
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use cryptoki_sys::{
    CK_ATTRIBUTE, CK_ATTRIBUTE_TYPE, CK_BYTE, CK_FUNCTION_LIST, CK_GCM_PARAMS, CK_MECHANISM,
    CK_MECHANISM_TYPE, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CKR_OK,
};
use zeroize::Zeroize;

use crate::envelope::{IV_LENGTH, TAG_LENGTH, WRAPPED_LENGTH};
use crate::error::HsmError;

type Init = unsafe extern "C" fn(CK_SESSION_HANDLE, *mut CK_MECHANISM, CK_OBJECT_HANDLE) -> CK_RV;
type Operate = unsafe extern "C" fn(
    CK_SESSION_HANDLE,
    *mut CK_BYTE,
    CK_ULONG,
    *mut CK_BYTE,
    *mut CK_ULONG,
) -> CK_RV;
type ReadAttribute =
    unsafe extern "C" fn(CK_SESSION_HANDLE, CK_OBJECT_HANDLE, *mut CK_ATTRIBUTE, CK_ULONG) -> CK_RV;

/// One initialise-and-operate pair, with names for error reports.
#[derive(Clone, Copy)]
struct OneShot {
    init: (Init, Function),
    operate: (Operate, Function),
}

/// The handful of functions called with our own buffers.
pub(crate) struct Raw {
    encrypt: OneShot,
    decrypt: OneShot,
    sign: OneShot,
    read_attribute: ReadAttribute,
    // Keeps the library mapped; declared last so that it is dropped last.
    _library: cryptoki_sys::Pkcs11,
}

/// The AES-GCM parameters of one call. `iv` is written back by modules that choose it themselves.
pub(crate) struct Gcm<'a> {
    pub(crate) mechanism: u32,
    pub(crate) iv: &'a mut [u8; IV_LENGTH],
    /// Never empty (SoftHSM 2.6.1 crashes without AAD, its issue 664).
    pub(crate) aad: &'a [u8],
}

/// Where a call works: with which key, in which session.
struct At<'a> {
    session: &'a Session,
    key: ObjectHandle,
}

impl Raw {
    /// Opens the module a second time (the loader hands out the same library) and copies its functions.
    pub(crate) fn load(path: &Path) -> Result<Self, HsmError> {
        let unloadable = |cause| HsmError::LoadModule {
            path: path.to_owned(),
            cause,
        };
        // SAFETY: loading runs the library's initialisers; the operator chose this library to trust.
        let library = unsafe { cryptoki_sys::Pkcs11::new(path) }
            .map_err(|cause| unloadable(CallError::LibraryLoading(cause)))?;
        let Ok(list_functions) = &library.C_GetFunctionList else {
            return Err(HsmError::MissingFunction("C_GetFunctionList"));
        };
        let mut list: *mut CK_FUNCTION_LIST = std::ptr::null_mut();
        // SAFETY: see the module's head; `list` is a live local.
        let code = unsafe { list_functions(&raw mut list) };
        Rv::from(code)
            .into_result(Function::GetFunctionList)
            .map_err(unloadable)?;
        // SAFETY: the module returned OK, so a non-null pointer is its static function list.
        let list = unsafe { list.as_ref() }.ok_or(HsmError::MissingFunction("function list"))?;
        let missing = HsmError::MissingFunction;
        let one_shot =
            |init: Option<Init>, operate: Option<Operate>, names: [Function; 2], name| {
                let [first, second] = names;
                let init = (init.ok_or(missing(name))?, first);
                Ok::<_, HsmError>(OneShot {
                    init,
                    operate: (operate.ok_or(missing(name))?, second),
                })
            };
        Ok(Self {
            encrypt: one_shot(
                list.C_EncryptInit,
                list.C_Encrypt,
                [Function::EncryptInit, Function::Encrypt],
                "C_Encrypt",
            )?,
            decrypt: one_shot(
                list.C_DecryptInit,
                list.C_Decrypt,
                [Function::DecryptInit, Function::Decrypt],
                "C_Decrypt",
            )?,
            sign: one_shot(
                list.C_SignInit,
                list.C_Sign,
                [Function::SignInit, Function::Sign],
                "C_Sign",
            )?,
            read_attribute: list
                .C_GetAttributeValue
                .ok_or(missing("C_GetAttributeValue"))?,
            _library: library,
        })
    }

    /// Wraps a 32-byte data key. Returns exactly ciphertext and tag.
    pub(crate) fn wrap(
        &self,
        session: &Session,
        kek: ObjectHandle,
        gcm: &mut Gcm<'_>,
        dek: &[u8; 32],
    ) -> Result<[u8; WRAPPED_LENGTH], HsmError> {
        let mut out = [0; WRAPPED_LENGTH];
        let length = self.gcm(self.encrypt, At { session, key: kek }, gcm, dek, &mut out)?;
        exactly(length, WRAPPED_LENGTH).map(|()| out)
    }

    /// Unwraps a data key into `dek`, which stays all-zero on error.
    pub(crate) fn unwrap(
        &self,
        session: &Session,
        kek: ObjectHandle,
        gcm: &mut Gcm<'_>,
        wrapped: &[u8; WRAPPED_LENGTH],
        dek: &mut [u8; 32],
    ) -> Result<(), HsmError> {
        // SoftHSM insists on room for the tag as well.
        let mut out = [0; WRAPPED_LENGTH];
        let result = self
            .gcm(
                self.decrypt,
                At { session, key: kek },
                gcm,
                wrapped,
                &mut out,
            )
            .and_then(|length| exactly(length, 32));
        if let (Ok(()), Some((plain, _))) = (&result, out.split_first_chunk()) {
            *dek = *plain;
        }
        out.zeroize();
        result
    }

    /// Signs a SHA-256 digest with an ECDSA P-256 key. Returns r ‖ s.
    pub(crate) fn sign(
        &self,
        session: &Session,
        key: ObjectHandle,
        mechanism: u32,
        digest: &[u8; 32],
    ) -> Result<[u8; 64], HsmError> {
        let mut out = [0; 64];
        let mut mechanism = CK_MECHANISM {
            mechanism: CK_MECHANISM_TYPE::from(mechanism),
            pParameter: std::ptr::null_mut(),
            ulParameterLen: 0,
        };
        let length = self.one_shot(
            self.sign,
            At { session, key },
            &mut mechanism,
            digest,
            &mut out,
        )?;
        exactly(length, 64).map(|()| out)
    }

    /// Reads one attribute into `out` and returns the filled part; `None` when the module does not
    /// return this attribute (unknown, sensitive, or longer than `out`).
    pub(crate) fn attribute<'a>(
        &self,
        session: &Session,
        object: ObjectHandle,
        attribute: CK_ATTRIBUTE_TYPE,
        out: &'a mut [u8],
    ) -> Result<Option<&'a [u8]>, HsmError> {
        let mut query = CK_ATTRIBUTE {
            type_: attribute,
            pValue: out.as_mut_ptr().cast::<c_void>(),
            ulValueLen: ulong(out.len()),
        };
        // SAFETY: see the module's head; `query` describes `out` with its true length.
        let code =
            unsafe { (self.read_attribute)(session.handle(), object.handle(), &raw mut query, 1) };
        match code {
            CKR_OK => Ok(usize::try_from(query.ulValueLen)
                .ok()
                .and_then(|length| out.get(..length))),
            cryptoki_sys::CKR_ATTRIBUTE_TYPE_INVALID
            | cryptoki_sys::CKR_ATTRIBUTE_SENSITIVE
            | cryptoki_sys::CKR_BUFFER_TOO_SMALL => Ok(None),
            code => Err(call_error(code, Function::GetAttributeValue)),
        }
    }

    fn gcm(
        &self,
        call: OneShot,
        at: At<'_>,
        gcm: &mut Gcm<'_>,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<usize, HsmError> {
        let mut parameters = CK_GCM_PARAMS {
            pIv: gcm.iv.as_mut_ptr(),
            ulIvLen: ulong(IV_LENGTH),
            ulIvBits: ulong(IV_LENGTH * 8),
            pAAD: gcm.aad.as_ptr().cast_mut(),
            ulAADLen: ulong(gcm.aad.len()),
            ulTagBits: ulong(TAG_LENGTH * 8),
        };
        let mut mechanism = CK_MECHANISM {
            mechanism: CK_MECHANISM_TYPE::from(gcm.mechanism),
            pParameter: (&raw mut parameters).cast::<c_void>(),
            ulParameterLen: ulong(size_of::<CK_GCM_PARAMS>()),
        };
        self.one_shot(call, at, &mut mechanism, input, output)
    }

    /// Init and one call; wipes `output` on every error.
    fn one_shot(
        &self,
        call: OneShot,
        At { session, key }: At<'_>,
        mechanism: &mut CK_MECHANISM,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<usize, HsmError> {
        let (init, init_name) = call.init;
        // SAFETY: see the module's head; the parameters behind `mechanism` outlive both calls.
        let code = unsafe { init(session.handle(), mechanism, key.handle()) };
        if code != CKR_OK {
            return Err(call_error(code, init_name));
        }
        let (operate, name) = call.operate;
        let mut length = ulong(output.len());
        // SAFETY: see the module's head; PKCS#11 forbids the module to write to its input.
        let code = unsafe {
            operate(
                session.handle(),
                input.as_ptr().cast_mut(),
                ulong(input.len()),
                output.as_mut_ptr(),
                &raw mut length,
            )
        };
        if code != CKR_OK {
            // Some modules have written unverified plaintext by now (finding 2).
            output.zeroize();
            return Err(call_error(code, name));
        }
        Ok(usize::try_from(length).unwrap_or(usize::MAX))
    }
}

fn exactly(length: usize, expected: usize) -> Result<(), HsmError> {
    if length == expected {
        Ok(())
    } else {
        Err(HsmError::Untrustworthy("an output of the wrong length"))
    }
}

/// Lengths here are below 2 MiB; `CK_ULONG` has at least 32 bits.
fn ulong(length: usize) -> CK_ULONG {
    CK_ULONG::try_from(length).unwrap_or(0)
}

fn call_error(code: CK_RV, function: Function) -> HsmError {
    match Rv::from(code).into_result(function) {
        Err(cause) => HsmError::from(cause),
        Ok(()) => HsmError::Untrustworthy("a failure without a code"),
    }
}
