//! The PKCS#11 boundary: key encryption keys, sealed objects and P-256 signatures.
//!
//! Everything secret at rest is an envelope: a random data key seals the payload in process, and the
//! HSM wraps that data key under a non-extractable key encryption key. `README.md` of this crate
//! specifies the format byte by byte and lists the error classes.
//!
//! [`Token`] is the one handle. Its operations are async; the blocking PKCS#11 calls run on worker
//! threads behind a bounded queue with a deadline. This is the only crate that names `cryptoki`.

mod connection;
mod data;
mod envelope;
mod error;
mod keys;
mod lp;
mod names;
mod pin;
mod pool;
mod profile;
mod raw;
mod token;
mod worker;

pub use connection::TokenInfo;
pub use data::MAX_DATA;
pub use envelope::{HEADER_LENGTH, MAX_PAYLOAD, ObjectAad};
pub use error::{DataFault, ErrorClass, HsmError, PinFault};
pub use names::{KekId, KekName, Purpose, SigningKeyId};
pub use pin::Pin;
pub use profile::{IvMode, Profile};
pub use token::{Token, TokenConfig};
