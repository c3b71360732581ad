//! What a key generation and a signature are bound to: the preimages of `sid` and `sign_id`.
//!
//! Both parties compute these ids on their own, from values they know and from nonces of *both* sides
//! (attack A06, protocol.md 2.3 and 2.4). A message of another session, profile, attempt, purpose or digest
//! therefore fails as a session mismatch, without any work on long-lived secrets.

use crate::lp::Lp;

/// The identifiers a key generation is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeygenBinding {
    /// The appliance's random environment id.
    pub environment_id: [u8; 32],
    /// The profile that is being created.
    pub profile_id: String,
    /// The key generation session, unique per try.
    pub keygen_session_id: String,
    /// RFC 7638 thumbprint of the owner's device key.
    pub device_thumbprint: String,
}

impl KeygenBinding {
    /// `H(LP("keygen/1", env, profileId, keygenSessionId, clientNonce, serverNonce, deviceKeyThumbprint))`.
    #[must_use]
    pub fn session_id(&self, client_nonce: &[u8; 32], server_nonce: &[u8; 32]) -> [u8; 32] {
        Lp::new("keygen/1")
            .bytes(&self.environment_id)
            .str(&self.profile_id)
            .str(&self.keygen_session_id)
            .bytes(client_nonce)
            .bytes(server_nonce)
            .str(&self.device_thumbprint)
            .hash()
    }

    /// The binding of the canary signature that closes this key generation: generation 1, attempt 1, index 0, and the
    /// key generation's server nonce. No policy decides about a canary, so its decision id is empty.
    pub(crate) fn canary(&self, server_nonce: [u8; 32], digest: [u8; 32]) -> SignBinding {
        SignBinding {
            environment_id: self.environment_id,
            profile_id: self.profile_id.clone(),
            device_thumbprint: self.device_thumbprint.clone(),
            key_generation: 1,
            session_id: self.keygen_session_id.clone(),
            attempt: 1,
            index: 0,
            server_nonce,
            policy_decision_id: String::new(),
            purpose: Purpose::Canary,
            digest,
        }
    }
}

/// Why a digest is signed; part of `sign_id`, so that bytes valid in one context are worthless in another (A09).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// An Ethereum transaction.
    Transaction,
    /// The proof that a freshly generated pair of shares works; see [`crate::canary`].
    Canary,
}

impl Purpose {
    /// The name that enters `sign_id`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transaction => "transaction",
            Self::Canary => "canary",
        }
    }
}

/// The identifiers a signature is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignBinding {
    /// The appliance's random environment id.
    pub environment_id: [u8; 32],
    /// The profile whose key signs.
    pub profile_id: String,
    /// RFC 7638 thumbprint of the owner's device key.
    pub device_thumbprint: String,
    /// Generation of the key's shares, from 1.
    pub key_generation: u64,
    /// The signing session.
    pub session_id: String,
    /// Attempt within the session, from 1.
    pub attempt: u32,
    /// Position within a batch; 0 for a single signature.
    pub index: u32,
    /// The server's fresh nonce for this attempt.
    pub server_nonce: [u8; 32],
    /// The policy decision that allows this signature; empty for a canary.
    pub policy_decision_id: String,
    /// Why the digest is signed.
    pub purpose: Purpose,
    /// The 32-byte digest that is signed. P2 computes it from the transaction; P1 recomputes it.
    pub digest: [u8; 32],
}

impl SignBinding {
    /// `H(LP("sign/1", env, profileId, deviceThumbprint, keyGeneration, sessionId, attempt, index, clientNonce,
    /// serverNonce, policyDecisionId, purpose, digest))`.
    #[must_use]
    pub fn sign_id(&self, client_nonce: &[u8; 32]) -> [u8; 32] {
        Lp::new("sign/1")
            .bytes(&self.environment_id)
            .str(&self.profile_id)
            .str(&self.device_thumbprint)
            .u64(self.key_generation)
            .str(&self.session_id)
            .u64(u64::from(self.attempt))
            .u64(u64::from(self.index))
            .bytes(client_nonce)
            .bytes(&self.server_nonce)
            .str(&self.policy_decision_id)
            .str(self.purpose.as_str())
            .bytes(&self.digest)
            .hash()
    }
}
