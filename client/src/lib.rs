//! The wallet side of countersign: party P1 of a two-party ECDSA key.
//!
//! - [`config`]: which appliance, and how to know it
//! - [`keystore`]: the encrypted wallet files; share, device key, ban
//! - [`transport`]: TLS 1.3 with a client certificate, requests signed by the device key
//! - [`identity`]: the appliance's identity document and the sealing of messages to it
//! - [`tx`]: what the user asked for against what the server wants signed
//! - [`flows`]: creating a wallet, sending, showing
//! - [`cli`]: the `countersign` command over all of this
//!
//! The flows run the protocol's computation (up to 0.4 s in key generation, 5 ms in signing) and the keystore's writes on
//! the calling thread, deliberately: there is no `await` between checking a message of the server and storing the verdict,
//! so a flow that is dropped half-way cannot lose a ban.

pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod error;
pub mod flows;
pub mod identity;
pub mod keystore;
mod output;
pub mod transport;
pub mod two_factor;
pub mod tx;
pub mod units;

pub use self::{config::Config, error::ClientError, flows::Appliance, keystore::Keystore};
