//! Small data objects on the token, each written once: one by its label, or a set under an application's name whose
//! members come and go. No attribute is ever changed: not every module can.

use std::time::Duration;

use cryptoki::context::Function;
use cryptoki::error::Error as CallError;
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki_sys::{CKA_APPLICATION, CKA_VALUE};

use crate::error::{ErrorClass, HsmError};
use crate::profile::Wanted;
use crate::worker::Lane;

/// Largest data object, bytes.
pub const MAX_DATA: usize = 4096;
const APPLICATION: &[u8] = b"countersign";
/// Times a set is read anew because a member that was found is gone: somebody replaces it right now.
const TRIES: usize = 4;
/// Pause before that.
const PAUSE: Duration = Duration::from_millis(2);

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
    value(lane, handle).map(Some)
}

fn value(lane: &Lane, handle: ObjectHandle) -> Result<Vec<u8>, HsmError> {
    let mut buffer = vec![0; MAX_DATA];
    let raw = &lane.connection.raw;
    match raw.attribute(&lane.session, handle, CKA_VALUE, &mut buffer)? {
        Some(value) => Ok(value.to_vec()),
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
    create(lane, APPLICATION, label, value)?;
    match read(lane, label)? {
        Some(stored) if stored == value => Ok(()),
        _ => Err(unread()),
    }
}

/// The values of all members of a set, beside whoever adds and removes them.
pub(crate) fn read_set(lane: &Lane, set: &str) -> Result<Vec<Vec<u8>>, HsmError> {
    let found = search(lane, set)?;
    Ok(found.into_iter().map(|(_, value)| value).collect())
}

/// As [`read_set`], through the handles of the last search while all of them are still members: a search looks at every
/// object of the token, which takes SoftHSM ten times as long. A member that comes to others that stay is not seen.
pub(crate) fn read_known_set(lane: &mut Lane, set: &str) -> Result<Vec<Vec<u8>>, HsmError> {
    if let Some(known) = lane.sets.get(set) {
        let objects = lane.connection.objects.read();
        let values: Option<Vec<_>> = known.iter().map(|at| member(lane, *at, set)).collect();
        drop(objects);
        match values {
            Some(values) => return Ok(values),
            None => drop(lane.sets.remove(set)),
        }
    }
    let found = search(lane, set)?;
    let (handles, values): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    if !handles.is_empty() {
        lane.sets.insert(set.to_owned(), handles);
    }
    Ok(values)
}

/// The value behind a handle, if that still means a member of this set: handles die, and some modules use them again.
fn member(lane: &Lane, handle: ObjectHandle, set: &str) -> Option<Vec<u8>> {
    let mut application = [0; 128];
    let raw = &lane.connection.raw;
    let found = raw.attribute(&lane.session, handle, CKA_APPLICATION, &mut application);
    if !matches!(found, Ok(Some(found)) if found == set.as_bytes()) {
        return None;
    }
    value(lane, handle).ok().filter(|value| !value.is_empty())
}

/// Every member of a set, with its value.
type Found = Vec<(ObjectHandle, Vec<u8>)>;

fn search(lane: &Lane, set: &str) -> Result<Found, HsmError> {
    let mut tries = 1;
    loop {
        let objects = lane.connection.objects.read();
        let found = members(lane, set);
        drop(objects);
        let whole = matches!(&found, Ok(found) if found.iter().all(|(_, value)| !value.is_empty()));
        if whole || tries == TRIES || !may_be_in_between(&found) {
            // What stays empty was never finished: it says nothing.
            return found.map(|mut found| {
                found.retain(|(_, value)| !value.is_empty());
                found
            });
        }
        tries += 1;
        std::thread::sleep(PAUSE);
    }
}

/// Whether another process may just be making or destroying a member.
fn may_be_in_between(found: &Result<Found, HsmError>) -> bool {
    match found {
        Ok(_) => true,
        Err(HsmError::Call { class, cause }) => {
            let attribute = matches!(cause, CallError::Pkcs11(_, Function::GetAttributeValue));
            *class == ErrorClass::Handle || (attribute && *class == ErrorClass::Token)
        }
        Err(_) => false,
    }
}

fn members(lane: &Lane, set: &str) -> Result<Found, HsmError> {
    let template = [
        Attribute::Class(ObjectClass::DATA),
        Attribute::Token(true),
        Attribute::Application(set.as_bytes().to_vec()),
    ];
    let handles = lane.find_all(&template)?.into_iter();
    handles
        .map(|at| value(lane, at).map(|value| (at, value)))
        .collect()
}

/// Adds a member to a set and reads it back; a member of the same content is enough.
pub(crate) fn add_to_set(
    lane: &Lane,
    set: &str,
    label: &str,
    value: &[u8],
) -> Result<(), HsmError> {
    if value.len() > MAX_DATA {
        return Err(HsmError::Name("a data object is at most 4096 bytes"));
    }
    if members(lane, set)?.iter().any(|(_, other)| other == value) {
        return Ok(());
    }
    let made = create(lane, set.as_bytes(), label, value)?;
    match self::value(lane, made) {
        Ok(stored) if stored == value => Ok(()),
        Ok(_) => Err(unread()),
        // It was there, and whoever has put another in its place has removed it already.
        Err(error) if error.kind() == ErrorClass::Handle => Ok(()),
        Err(error) => Err(error),
    }
}

/// Destroys the members of a set that have this label.
pub(crate) fn remove_from_set(lane: &Lane, set: &str, label: &str) -> Result<(), HsmError> {
    let template = [
        Attribute::Class(ObjectClass::DATA),
        Attribute::Token(true),
        Attribute::Application(set.as_bytes().to_vec()),
        Attribute::Label(label.as_bytes().to_vec()),
    ];
    for handle in lane.find_all(&template)? {
        match lane.session.destroy_object(handle).map_err(HsmError::from) {
            // Another process was faster.
            Err(error) if error.kind() == ErrorClass::Handle => {}
            result => result?,
        }
    }
    Ok(())
}

fn create(
    lane: &Lane,
    application: &[u8],
    label: &str,
    value: &[u8],
) -> Result<ObjectHandle, HsmError> {
    let profile = &lane.connection.profile;
    let mut template = vec![
        Attribute::Class(ObjectClass::DATA),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Application(application.to_vec()),
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Value(value.to_vec()),
    ];
    if !profile.drops(Wanted::Modifiable) {
        template.push(Attribute::Modifiable(false));
    }
    Ok(lane.session.create_object(&template)?)
}

const fn unread() -> HsmError {
    HsmError::Untrustworthy("a data object that does not read back")
}
