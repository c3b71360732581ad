//! Small write-once data objects on the token: the environment object, later the anti-rollback anchor.

use cryptoki::object::{Attribute, ObjectClass};
use cryptoki_sys::CKA_VALUE;

use crate::error::HsmError;
use crate::profile::Wanted;
use crate::worker::Lane;

/// Largest data object, bytes.
pub const MAX_DATA: usize = 4096;
const APPLICATION: &[u8] = b"countersign";

/// Reads the private data object with this label.
pub(crate) fn read(lane: &Lane, label: &str) -> Result<Option<Vec<u8>>, HsmError> {
    let template = [
        Attribute::Class(ObjectClass::DATA),
        Attribute::Token(true),
        Attribute::Application(APPLICATION.to_vec()),
        Attribute::Label(label.as_bytes().to_vec()),
    ];
    let Some(handle) = lane.find_one(&template, || format!("labelled {label:?}"))? else {
        return Ok(None);
    };
    let mut buffer = vec![0; MAX_DATA];
    let raw = &lane.connection.raw;
    match raw.attribute(&lane.session, handle, CKA_VALUE, &mut buffer)? {
        Some(value) => Ok(Some(value.to_vec())),
        None => Err(HsmError::Name(
            "a data object on the token exceeds 4096 bytes",
        )),
    }
}

/// Creates the object and reads it back. The same content again is fine, other content is refused.
pub(crate) fn store(lane: &Lane, label: &str, value: &[u8]) -> Result<(), HsmError> {
    if value.len() > MAX_DATA {
        return Err(HsmError::Name("a data object is at most 4096 bytes"));
    }
    match read(lane, label)? {
        Some(existing) if existing == value => return Ok(()),
        Some(_) => return Err(HsmError::DataConflict(label.to_owned())),
        None => {}
    }
    let profile = &lane.connection.profile;
    let mut template = vec![
        Attribute::Class(ObjectClass::DATA),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Application(APPLICATION.to_vec()),
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Value(value.to_vec()),
    ];
    if !profile.drops(Wanted::Modifiable) {
        template.push(Attribute::Modifiable(false));
    }
    lane.session.create_object(&template)?;
    match read(lane, label)? {
        Some(stored) if stored == value => Ok(()),
        _ => Err(HsmError::Untrustworthy(
            "a data object that does not read back",
        )),
    }
}
