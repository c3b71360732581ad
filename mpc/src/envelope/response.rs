//! The answer's half of the envelope.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
use zeroize::Zeroizing;

use super::{EnvelopeError, EnvelopeInfo, payload};

/// Bytes of the random nonce that starts an answer.
const NONCE: usize = 12;

/// Seals the one answer to a request. Consumed by use, so its key never seals twice.
pub struct ResponseSealer {
    key: Zeroizing<[u8; 32]>,
    info: EnvelopeInfo,
}

/// Opens the answer to a request.
pub struct ResponseOpener {
    key: Zeroizing<[u8; 32]>,
    info: EnvelopeInfo,
}

impl ResponseSealer {
    pub(super) fn new(key: Zeroizing<[u8; 32]>, info: &EnvelopeInfo) -> Self {
        Self {
            key,
            info: info.clone(),
        }
    }

    /// Seals the answer.
    ///
    /// # Errors
    /// [`EnvelopeError::Randomness`] or [`EnvelopeError::Seal`].
    pub fn seal(self, plaintext: &[u8]) -> Result<String, EnvelopeError> {
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).map_err(|_| EnvelopeError::Randomness)?;
        self.seal_with(nonce, plaintext)
    }

    pub(super) fn seal_with(
        self,
        nonce: [u8; NONCE],
        plaintext: &[u8],
    ) -> Result<String, EnvelopeError> {
        let aad = self.info.response_aad();
        let ciphertext = cipher(&self.key)
            .encrypt(
                &nonce.into(),
                Payload {
                    msg: plaintext,
                    aad: &aad,
                },
            )
            .map_err(|_| EnvelopeError::Seal)?;
        let mut sealed = nonce.to_vec();
        sealed.extend(ciphertext);
        Ok(self.info.prefix() + &URL_SAFE_NO_PAD.encode(sealed))
    }
}

impl ResponseOpener {
    pub(super) fn new(key: Zeroizing<[u8; 32]>, info: &EnvelopeInfo) -> Self {
        Self {
            key,
            info: info.clone(),
        }
    }

    /// Opens the answer. Takes `&self`: an altered copy of it must not lose the honest one.
    ///
    /// # Errors
    /// [`EnvelopeError`], by what does not fit.
    pub fn open(&self, envelope: &str) -> Result<Zeroizing<Vec<u8>>, EnvelopeError> {
        let sealed = payload(&self.info, envelope)?;
        let (nonce, ciphertext) = sealed
            .split_first_chunk::<NONCE>()
            .ok_or(EnvelopeError::Malformed)?;
        let aad = self.info.response_aad();
        cipher(&self.key)
            .decrypt(
                &(*nonce).into(),
                Payload {
                    msg: ciphertext,
                    aad: &aad,
                },
            )
            .map(Zeroizing::new)
            .map_err(|_| EnvelopeError::Open)
    }
}

fn cipher(key: &Zeroizing<[u8; 32]>) -> ChaCha20Poly1305 {
    ChaCha20Poly1305::new(&(**key).into())
}
