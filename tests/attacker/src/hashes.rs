//! Section 1 of `mpc/README.md`.

use sha2::{Digest, Sha256};
use sha3::Keccak256;

/// `LP(parts…)`; integers are given as 8 bytes big-endian.
#[must_use]
pub fn lp(parts: &[&[u8]]) -> Vec<u8> {
    let mut text = Vec::new();
    for part in parts {
        let length = u32::try_from(part.len()).expect("a short part");
        text.extend(length.to_be_bytes());
        text.extend(*part);
    }
    text
}

/// `H(LP(parts…))`.
#[must_use]
pub fn hash(parts: &[&[u8]]) -> [u8; 32] {
    Sha256::digest(lp(parts)).into()
}

/// What a signature is bound to. The purpose is any text: a test may invent one.
#[derive(Clone, Debug)]
pub struct Binding {
    /// Environment id.
    pub environment: [u8; 32],
    /// Profile id.
    pub profile: String,
    /// Thumbprint of the device key.
    pub device: String,
    /// Generation of the key.
    pub generation: u64,
    /// Session id.
    pub session: String,
    /// Attempt, from 1.
    pub attempt: u64,
    /// Position in a batch.
    pub index: u64,
    /// The server's nonce.
    pub server_nonce: [u8; 32],
    /// Policy decision id.
    pub decision: String,
    /// `transaction` or `canary`.
    pub purpose: String,
    /// What is signed.
    pub digest: [u8; 32],
}

impl Binding {
    /// `sign_id`.
    #[must_use]
    pub fn sign_id(&self, client_nonce: &[u8; 32]) -> [u8; 32] {
        hash(&[
            b"sign/1",
            &self.environment,
            self.profile.as_bytes(),
            self.device.as_bytes(),
            &self.generation.to_be_bytes(),
            self.session.as_bytes(),
            &self.attempt.to_be_bytes(),
            &self.index.to_be_bytes(),
            client_nonce,
            &self.server_nonce,
            self.decision.as_bytes(),
            self.purpose.as_bytes(),
            &self.digest,
        ])
    }
}

/// What a key generation is bound to.
#[derive(Clone, Debug)]
pub struct KeygenBinding {
    /// Environment id.
    pub environment: [u8; 32],
    /// Profile id.
    pub profile: String,
    /// Key generation session id.
    pub session: String,
    /// Thumbprint of the device key.
    pub device: String,
}

impl KeygenBinding {
    /// `sid`.
    #[must_use]
    pub fn sid(&self, client_nonce: &[u8; 32], server_nonce: &[u8; 32]) -> [u8; 32] {
        hash(&[
            b"keygen/1",
            &self.environment,
            self.profile.as_bytes(),
            self.session.as_bytes(),
            client_nonce,
            server_nonce,
            self.device.as_bytes(),
        ])
    }

    /// What the canary of this key generation is bound to.
    #[must_use]
    pub fn canary(&self, server_nonce: [u8; 32]) -> Binding {
        Binding {
            environment: self.environment,
            profile: self.profile.clone(),
            device: self.device.clone(),
            generation: 1,
            session: self.session.clone(),
            attempt: 1,
            index: 0,
            server_nonce,
            decision: String::new(),
            purpose: "canary".to_owned(),
            digest: canary_digest(&self.profile, 1, &self.session),
        }
    }
}

/// The digest that a canary signs.
#[must_use]
pub fn canary_digest(profile: &str, generation: u64, session: &str) -> [u8; 32] {
    let bound = lp(&[
        profile.as_bytes(),
        &generation.to_be_bytes(),
        session.as_bytes(),
    ]);
    let preimage = [b"\x19MPC wallet canary v1\n".as_slice(), &bound].concat();
    Keccak256::digest(preimage).into()
}
