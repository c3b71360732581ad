//! Keys on the token: strict templates, read back after creation and before first use
//! (design `hsm.md` 4.3).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki_sys::{
    CK_ATTRIBUTE_TYPE, CK_ULONG, CKA_ALLOWED_MECHANISMS, CKA_ALWAYS_SENSITIVE, CKA_COPYABLE,
    CKA_DECRYPT, CKA_DERIVE, CKA_EC_PARAMS, CKA_EC_POINT, CKA_ENCRYPT, CKA_EXTRACTABLE, CKA_ID,
    CKA_KEY_TYPE, CKA_LOCAL, CKA_MODIFIABLE, CKA_NEVER_EXTRACTABLE, CKA_PRIVATE, CKA_SENSITIVE,
    CKA_SIGN, CKA_TOKEN, CKA_UNWRAP, CKA_VALUE_LEN, CKA_VERIFY, CKA_WRAP, CKK_AES, CKK_EC,
};
use p256::ecdsa::signature::hazmat::PrehashVerifier;
use p256::ecdsa::{Signature, VerifyingKey};

use crate::error::HsmError;
use crate::names::{KekId, SigningKeyId};
use crate::profile::{Profile, Wanted};
use crate::worker::Lane;

/// Public halves of signing keys used in this process.
#[derive(Default)]
pub(crate) struct PublicKeys(Mutex<HashMap<SigningKeyId, VerifyingKey>>);

impl PublicKeys {
    fn of(&self, id: SigningKeyId) -> Option<VerifyingKey> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .copied()
    }

    fn keep(&self, id: SigningKeyId, key: VerifyingKey) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, key);
    }
}

/// DER of the object identifier 1.2.840.10045.3.1.7 (P-256).
const P256_OID: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// The id of the KEK with this label, after checking it against the template.
pub(crate) fn find_kek(lane: &Lane, label: &str) -> Result<Option<KekId>, HsmError> {
    let Some((handle, id)) = find_by_label(lane, ObjectClass::SECRET_KEY, label)? else {
        return Ok(None);
    };
    verify_kek(lane, handle, label)?;
    Ok(Some(KekId(id)))
}

/// Generates an AES-256 KEK in the HSM, or finds the one an earlier, unanswered call has made.
pub(crate) fn create_kek(lane: &Lane, label: &str) -> Result<KekId, HsmError> {
    if let Some(existing) = find_kek(lane, label)? {
        return Ok(existing);
    }
    let id = random_id()?;
    let profile = &lane.connection.profile;
    let mut template = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::ValueLen(32.into()),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        // Said outright: some modules default these to true.
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Derive(false),
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Id(id.to_vec()),
    ];
    template.extend(wanted(profile, profile.mechanisms.aes_gcm)?);
    lane.session
        .generate_key(&Mechanism::AesKeyGen, &template)?;
    created(find_kek(lane, label)?, KekId(id))
}

/// Destroys the KEK with this label; false if there is none.
pub(crate) fn destroy_kek(lane: &Lane, label: &str) -> Result<bool, HsmError> {
    let Some((handle, id)) = find_by_label(lane, ObjectClass::SECRET_KEY, label)? else {
        return Ok(false);
    };
    lane.session.destroy_object(handle)?;
    lane.connection.canaries.forget(KekId(id));
    // A module may give its handle to the next key it makes: no session may keep it.
    lane.connection.invalidate();
    match find_by_label(lane, ObjectClass::SECRET_KEY, label)? {
        None => Ok(true),
        Some(_) => Err(HsmError::Untrustworthy(
            "a destroyed key that is still there",
        )),
    }
}

/// Refuses a KEK that is weaker than the template. `key` names it in the error.
pub(crate) fn verify_kek(lane: &Lane, handle: ObjectHandle, key: &str) -> Result<(), HsmError> {
    let check = Check { lane, handle, key };
    check.equals(CKA_KEY_TYPE, "CKA_KEY_TYPE", &CKK_AES.to_ne_bytes())?;
    let length: CK_ULONG = 32;
    check.equals(CKA_VALUE_LEN, "CKA_VALUE_LEN", &length.to_ne_bytes())?;
    check.flags(&[
        (CKA_ENCRYPT, "CKA_ENCRYPT", true),
        (CKA_DECRYPT, "CKA_DECRYPT", true),
        (CKA_WRAP, "CKA_WRAP", false),
        (CKA_UNWRAP, "CKA_UNWRAP", false),
        (CKA_SIGN, "CKA_SIGN", false),
        (CKA_VERIFY, "CKA_VERIFY", false),
        (CKA_DERIVE, "CKA_DERIVE", false),
    ])?;
    check.custody(lane.connection.profile.mechanisms.aes_gcm)
}

/// The id of the P-256 signing key with this label, after checking it against the template.
pub(crate) fn find_signing_key(lane: &Lane, label: &str) -> Result<Option<SigningKeyId>, HsmError> {
    let Some((handle, id)) = find_by_label(lane, ObjectClass::PRIVATE_KEY, label)? else {
        return Ok(None);
    };
    verify_signing_key(lane, handle, label)?;
    Ok(Some(SigningKeyId(id)))
}

/// Generates a P-256 key pair in the HSM, or finds the one an earlier, unanswered call has made.
pub(crate) fn create_signing_key(lane: &Lane, label: &str) -> Result<SigningKeyId, HsmError> {
    if let Some(existing) = find_signing_key(lane, label)? {
        return Ok(existing);
    }
    let id = random_id()?;
    let profile = &lane.connection.profile;
    let public = [
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Verify(true),
        Attribute::Encrypt(false),
        Attribute::Wrap(false),
        Attribute::EcParams(P256_OID.to_vec()),
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Id(id.to_vec()),
    ];
    let mut private = vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Id(id.to_vec()),
    ];
    private.extend(wanted(profile, profile.mechanisms.ecdsa)?);
    lane.session
        .generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)?;
    created(find_signing_key(lane, label)?, SigningKeyId(id))
}

/// The public half, checked to be a point on P-256. Uncompressed SEC1, 65 bytes.
pub(crate) fn public_key(lane: &Lane, id: SigningKeyId) -> Result<VerifyingKey, HsmError> {
    if let Some(known) = lane.connection.public_keys.of(id) {
        return Ok(known);
    }
    let handle = find_by_id(lane, ObjectClass::PUBLIC_KEY, id)?;
    let mut buffer = [0; 128];
    let raw = &lane.connection.raw;
    let point = raw
        .attribute(&lane.session, handle, CKA_EC_POINT, &mut buffer)?
        .ok_or(HsmError::Untrustworthy("a public key without a point"))?;
    // The standard says a DER OCTET STRING; some modules return the bare point.
    let sec1 = match point {
        [0x04, 0x41, sec1 @ ..] if sec1.len() == 65 => sec1,
        bare => bare,
    };
    let key = VerifyingKey::from_sec1_bytes(sec1)
        .map_err(|_| HsmError::Untrustworthy("a public key that is no point on P-256"))?;
    lane.connection.public_keys.keep(id, key);
    Ok(key)
}

/// Signs a SHA-256 digest and verifies the signature in software before handing it out.
pub(crate) fn sign(
    lane: &mut Lane,
    id: SigningKeyId,
    digest: &[u8; 32],
) -> Result<[u8; 64], HsmError> {
    let public = public_key(lane, id)?;
    let handle = match lane.signing_keys.get(&id) {
        Some(handle) => *handle,
        None => {
            let handle = find_by_id(lane, ObjectClass::PRIVATE_KEY, id)?;
            verify_signing_key(lane, handle, &id.to_string())?;
            lane.signing_keys.insert(id, handle);
            handle
        }
    };
    let connection = &lane.connection;
    let mechanism = connection.profile.mechanisms.ecdsa;
    let bytes = connection
        .raw
        .sign(&lane.session, handle, mechanism, digest)?;
    Signature::from_slice(&bytes)
        .and_then(|signature| public.verify_prehash(digest, &signature))
        .map_err(|_| HsmError::Untrustworthy("a signature that does not verify"))?;
    Ok(bytes)
}

fn verify_signing_key(lane: &Lane, handle: ObjectHandle, key: &str) -> Result<(), HsmError> {
    let check = Check { lane, handle, key };
    check.equals(CKA_KEY_TYPE, "CKA_KEY_TYPE", &CKK_EC.to_ne_bytes())?;
    check.equals(CKA_EC_PARAMS, "CKA_EC_PARAMS", &P256_OID)?;
    check.flags(&[
        (CKA_SIGN, "CKA_SIGN", true),
        (CKA_DECRYPT, "CKA_DECRYPT", false),
        (CKA_UNWRAP, "CKA_UNWRAP", false),
        (CKA_DERIVE, "CKA_DERIVE", false),
    ])?;
    check.custody(lane.connection.profile.mechanisms.ecdsa)
}

/// Attributes that a module may reject; its profile then leaves them out.
fn wanted(profile: &Profile, mechanism: u32) -> Result<Vec<Attribute>, HsmError> {
    let mechanism = mechanism_type(mechanism)?;
    let all = [
        (Wanted::Modifiable, Attribute::Modifiable(false)),
        (Wanted::Copyable, Attribute::Copyable(false)),
        (Wanted::Destroyable, Attribute::Destroyable(true)),
        (
            Wanted::AllowedMechanisms,
            Attribute::AllowedMechanisms(vec![mechanism]),
        ),
    ];
    let kept = all.into_iter().filter(|(name, _)| !profile.drops(*name));
    Ok(kept.map(|(_, attribute)| attribute).collect())
}

/// Accepts standard and vendor mechanism numbers.
pub(crate) fn mechanism_type(number: u32) -> Result<MechanismType, HsmError> {
    MechanismType::try_from(CK_ULONG::from(number))
        .or_else(|_| MechanismType::new_vendor_defined(CK_ULONG::from(number)))
        .map_err(|_| HsmError::MissingMechanism("a mechanism number of the profile"))
}

/// A just created key must be the only one with its label.
fn created<Id: Copy + PartialEq>(found: Option<Id>, expected: Id) -> Result<Id, HsmError> {
    match found {
        Some(id) if id == expected => Ok(id),
        _ => Err(HsmError::Untrustworthy(
            "a generated key that cannot be found again",
        )),
    }
}

fn find_by_label(
    lane: &Lane,
    class: ObjectClass,
    label: &str,
) -> Result<Option<(ObjectHandle, [u8; 16])>, HsmError> {
    let template = [
        Attribute::Class(class),
        Attribute::Token(true),
        Attribute::Label(label.as_bytes().to_vec()),
    ];
    let Some(handle) = lane.find_one(&template, || format!("labelled {label:?}"))? else {
        return Ok(None);
    };
    let mut buffer = [0; 64];
    let id = lane
        .connection
        .raw
        .attribute(&lane.session, handle, CKA_ID, &mut buffer)?;
    let id = id
        .and_then(|id| id.try_into().ok())
        .ok_or(HsmError::WeakKey {
            key: label.to_owned(),
            attribute: "CKA_ID",
        })?;
    Ok(Some((handle, id)))
}

fn find_by_id(lane: &Lane, class: ObjectClass, id: SigningKeyId) -> Result<ObjectHandle, HsmError> {
    let template = [Attribute::Class(class), Attribute::Id(id.0.to_vec())];
    lane.find_one(&template, || format!("signing key {id}"))?
        .ok_or_else(|| HsmError::NoSigningKey(id.to_string()))
}

fn random_id() -> Result<[u8; 16], HsmError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|_| HsmError::Random)?;
    Ok(id)
}

/// Reads attributes back and compares.
struct Check<'a> {
    lane: &'a Lane,
    handle: ObjectHandle,
    key: &'a str,
}

impl Check<'_> {
    /// What every key of ours must be: on the token, private, and never readable.
    fn custody(&self, mechanism: u32) -> Result<(), HsmError> {
        self.flags(&[
            (CKA_TOKEN, "CKA_TOKEN", true),
            (CKA_PRIVATE, "CKA_PRIVATE", true),
            (CKA_SENSITIVE, "CKA_SENSITIVE", true),
            (CKA_EXTRACTABLE, "CKA_EXTRACTABLE", false),
        ])?;
        // Not every module returns these; one that does must say the right thing.
        self.equals_if_returned(CKA_ALWAYS_SENSITIVE, "CKA_ALWAYS_SENSITIVE", &[1])?;
        self.equals_if_returned(CKA_NEVER_EXTRACTABLE, "CKA_NEVER_EXTRACTABLE", &[1])?;
        self.equals_if_returned(CKA_LOCAL, "CKA_LOCAL", &[1])?;
        let allowed = CK_ULONG::from(mechanism).to_ne_bytes();
        let optional: [(Wanted, CK_ATTRIBUTE_TYPE, _, &[u8]); 3] = [
            (Wanted::Modifiable, CKA_MODIFIABLE, "CKA_MODIFIABLE", &[0]),
            (Wanted::Copyable, CKA_COPYABLE, "CKA_COPYABLE", &[0]),
            (
                Wanted::AllowedMechanisms,
                CKA_ALLOWED_MECHANISMS,
                "CKA_ALLOWED_MECHANISMS",
                &allowed,
            ),
        ];
        for (wanted, attribute, name, expected) in optional {
            if !self.lane.connection.profile.drops(wanted) {
                self.equals_if_returned(attribute, name, expected)?;
            }
        }
        Ok(())
    }

    fn flags(&self, flags: &[(CK_ATTRIBUTE_TYPE, &'static str, bool)]) -> Result<(), HsmError> {
        flags.iter().try_for_each(|(attribute, name, expected)| {
            self.equals(*attribute, name, &[u8::from(*expected)])
        })
    }

    fn equals(
        &self,
        attribute: CK_ATTRIBUTE_TYPE,
        name: &'static str,
        expected: &[u8],
    ) -> Result<(), HsmError> {
        self.compare(attribute, name, |value| value == Some(expected))
    }

    fn equals_if_returned(
        &self,
        attribute: CK_ATTRIBUTE_TYPE,
        name: &'static str,
        expected: &[u8],
    ) -> Result<(), HsmError> {
        self.compare(attribute, name, |value| {
            value.is_none_or(|value| value == expected)
        })
    }

    fn compare(
        &self,
        attribute: CK_ATTRIBUTE_TYPE,
        name: &'static str,
        acceptable: impl FnOnce(Option<&[u8]>) -> bool,
    ) -> Result<(), HsmError> {
        let mut buffer = [0; 128];
        let (session, raw) = (&self.lane.session, &self.lane.connection.raw);
        let value = raw.attribute(session, self.handle, attribute, &mut buffer)?;
        if acceptable(value) {
            return Ok(());
        }
        Err(HsmError::WeakKey {
            key: self.key.to_owned(),
            attribute: name,
        })
    }
}
