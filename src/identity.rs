//! Who asks: a client certificate becomes a [`certificate::ClientIdentity`], a device signature an owner.

pub mod certificate;
pub mod jwt;
pub mod owner;
pub mod replay;
