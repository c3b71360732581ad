//! Section 2 of `mpc/README.md`: the wallet's side of the envelope.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
use hpke::{Deserializable, Kem, OpModeS, Serializable};

use crate::hashes::lp;

type X25519 = hpke::kem::X25519HkdfSha256;

/// What an envelope is bound to. All of it is as a test says.
#[derive(Clone, Debug)]
pub struct Info {
    /// Environment id.
    pub environment: [u8; 32],
    /// Tenant.
    pub tenant: String,
    /// `kg1`, `kg2`, `kg3`, `sg1` or `sg2`.
    pub kind: String,
    /// Id of the message key.
    pub kid: String,
    /// Thumbprint of the device key.
    pub device: String,
    /// Profile id.
    pub profile: String,
    /// Session id.
    pub session: String,
    /// Generation of the key.
    pub generation: u64,
    /// Attempt, from 1.
    pub attempt: u64,
}

impl Info {
    /// `info`.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        lp(&[
            b"mpc-wallet/1",
            &self.environment,
            self.tenant.as_bytes(),
            b"request",
            self.kind.as_bytes(),
            self.kid.as_bytes(),
            self.device.as_bytes(),
            self.profile.as_bytes(),
            self.session.as_bytes(),
            &self.generation.to_be_bytes(),
            &self.attempt.to_be_bytes(),
        ])
    }
}

/// Opens the answer to one envelope.
pub struct Opener {
    key: [u8; 32],
    aad: Vec<u8>,
    head: String,
}

/// Seals `plaintext` to the message key `key`.
#[must_use]
pub fn seal(key: &[u8; 32], info: &Info, plaintext: &[u8]) -> (String, Opener) {
    let key = <X25519 as Kem>::PublicKey::from_bytes(key).expect("a message key");
    let text = info.text();
    let (encapped, mut context) = hpke::setup_sender::<
        hpke::aead::ChaCha20Poly1305,
        hpke::kdf::HkdfSha256,
        X25519,
    >(&OpModeS::Base, &key, &text)
    .expect("it can be sealed");
    let mut sealed = encapped.to_bytes().to_vec();
    sealed.extend(context.seal(plaintext, &[]).expect("it can be sealed"));
    let mut answer = [0; 32];
    context
        .export(b"response", &mut answer)
        .expect("a key can be exported");
    let head = format!("mw1.{}.{}.", info.kind, info.kid);
    let envelope = head.clone() + &URL_SAFE_NO_PAD.encode(sealed);
    let opener = Opener {
        key: answer,
        aad: lp(&[b"resp/1", &text]),
        head,
    };
    (envelope, opener)
}

impl Opener {
    /// The answer's plaintext; nothing, if it does not open.
    #[must_use]
    pub fn open(&self, envelope: &str) -> Option<Vec<u8>> {
        let sealed = URL_SAFE_NO_PAD
            .decode(envelope.strip_prefix(&self.head)?)
            .ok()?;
        let (nonce, ciphertext) = sealed.split_first_chunk::<12>()?;
        let cipher = ChaCha20Poly1305::new(&self.key.into());
        let payload = Payload {
            msg: ciphertext,
            aad: &self.aad,
        };
        cipher.decrypt(&(*nonce).into(), payload).ok()
    }
}
