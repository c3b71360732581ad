//! The key that signs every answer: made in this process, signed by the identity key in the HSM.
//!
//! A response key lives 48 hours and is replaced after 24, so that answers that are under way when it changes still
//! verify. It is never written anywhere: each instance has its own, and each answer says which. The HSM signs once a day
//! and not once a request.

use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::encoding::{AsBigEndian, EcPublicKeyUncompressedBin};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use countersign_hsm::{HsmError, SigningKeyId, Token};
use countersign_mpc::identity::{
    IdentityCertificate, MAX_RESPONSE_KEY_LIFETIME, ResponseKeyStatement, encode_chain,
    response_key_id, response_key_statement,
};

use crate::clock::{self, Timestamp};

/// A key is replaced when it has less than this left, in seconds.
const REPLACE_BELOW: i64 = 24 * 3600;

/// The identity key that signs the keys of the day, and what its root says about it.
#[derive(Clone)]
pub struct Identity {
    /// The key in the HSM.
    pub key: SigningKeyId,
    /// Its certificate.
    pub certificate: IdentityCertificate,
}

/// Why there is no response key.
#[derive(Debug, thiserror::Error)]
pub enum ResponseKeyError {
    /// The identity key could not sign it.
    #[error("the HSM could not sign the response key")]
    Hsm(#[source] HsmError),
    /// It could not be made.
    #[error("a response key could not be made")]
    Make,
}

/// A key that signs answers.
pub struct ResponseKey {
    pair: EcdsaKeyPair,
    kid: String,
    chain: String,
    not_after: Timestamp,
}

impl ResponseKey {
    /// Its id.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The value of `MPC-Response-Key`: the statement about it and the identity key's certificate.
    #[must_use]
    pub fn chain(&self) -> &str {
        &self.chain
    }

    /// Signs SHA-256 of `message`: `r ‖ s`; nothing if the system has no random numbers.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Option<impl AsRef<[u8]>> {
        self.pair.sign(&SystemRandom::new(), message).ok()
    }
}

/// The response key of this process.
pub struct ResponseKeys {
    token: Token,
    identity: Identity,
    current: RwLock<Arc<ResponseKey>>,
}

impl ResponseKeys {
    /// Makes the first key.
    ///
    /// # Errors
    /// [`ResponseKeyError`].
    pub async fn open(token: Token, identity: Identity) -> Result<Self, ResponseKeyError> {
        let first = make(&token, &identity, clock::now()).await?;
        Ok(Self {
            token,
            identity,
            current: RwLock::new(Arc::new(first)),
        })
    }

    /// The identity key that signs the response keys.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The key to sign with.
    #[must_use]
    pub fn current(&self) -> Arc<ResponseKey> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current)
    }

    /// Replaces the key when its time comes.
    ///
    /// # Errors
    /// [`ResponseKeyError`]; the key of before stays.
    pub async fn refresh(&self) -> Result<(), ResponseKeyError> {
        let now = clock::now();
        if self.current().not_after >= now.plus_seconds(REPLACE_BELOW) {
            return Ok(());
        }
        let next = Arc::new(make(&self.token, &self.identity, now).await?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }
}

async fn make(
    token: &Token,
    identity: &Identity,
    now: Timestamp,
) -> Result<ResponseKey, ResponseKeyError> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
        .map_err(|_| ResponseKeyError::Make)?;
    let point: EcPublicKeyUncompressedBin<'_> = pair
        .public_key()
        .as_be_bytes()
        .map_err(|_| ResponseKeyError::Make)?;
    let key: [u8; 65] = point
        .as_ref()
        .try_into()
        .map_err(|_| ResponseKeyError::Make)?;
    let seconds = |time: Timestamp| u64::try_from(time.as_seconds()).unwrap_or(0);
    let lifetime = i64::try_from(MAX_RESPONSE_KEY_LIFETIME).unwrap_or(i64::MAX);
    let not_after =
        Timestamp::from_micros(now.as_seconds().saturating_mul(1_000_000)).plus_seconds(lifetime);
    let certificate = &identity.certificate;
    let statement = response_key_statement(
        &certificate.environment_id,
        &key,
        seconds(now),
        seconds(not_after),
    );
    let signature = token
        .sign(identity.key, statement.hash())
        .await
        .map_err(ResponseKeyError::Hsm)?;
    let statement = ResponseKeyStatement {
        key,
        not_before: seconds(now),
        not_after: seconds(not_after),
        signature,
    };
    Ok(ResponseKey {
        pair,
        kid: response_key_id(&key),
        chain: encode_chain(certificate, &statement),
        not_after,
    })
}
