//! The sealed object: byte format, identity (AAD) and the in-process half of its cryptography.
//!
//! No IO and no HSM here. `hsm/README.md` specifies the format byte by byte; the vectors at the end of
//! this file pin it. The identity strings are protocol.md A19, the one definition.

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit, Nonce, Tag};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::error::{DataFault, HsmError};
use crate::lp::{Part, encode};
use crate::names::{KekId, Purpose};
use crate::profile::IvMode;

/// Bytes before the payload's ciphertext.
pub const HEADER_LENGTH: usize = 128;
/// Largest payload that is sealed: 1 MiB.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// Length of the GCM tag, of the payload and of the wrapped data key.
pub(crate) const TAG_LENGTH: usize = 16;
/// A 32-byte data key and its tag.
pub(crate) const WRAPPED_LENGTH: usize = 32 + TAG_LENGTH;
/// 96-bit GCM IV and nonce.
pub(crate) const IV_LENGTH: usize = 12;

const MAGIC: [u8; 4] = *b"CSEO";
const VERSION: u8 = 1;
/// Both layers: AES-256-GCM with a 96-bit IV and a 128-bit tag.
const ALGORITHM: u8 = 1;
const ALGORITHM_NAME: &[u8] = b"AES-256-GCM";
/// First element of the identity strings: names the format version.
const FORMAT: &[u8] = b"envelope/1";
const COMMITMENT_TAG: &[u8] = b"dek-commitment/1";

/// Who and what a sealed object is. An object opens only under exactly the identity it was sealed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectAad {
    /// The environment id, 32 bytes.
    pub environment_id: [u8; 32],
    /// Tenant that owns the object.
    pub tenant: String,
    /// What the object is.
    pub purpose: Purpose,
    /// Profile the object belongs to, or empty for environment-wide objects.
    pub profile_id: String,
    /// Owner's device thumbprint, or empty for environment-wide objects.
    pub owner_id: String,
    /// Key generation, from 1; 0 where there is none.
    pub key_generation: u64,
    /// Counts every re-seal of the same object.
    pub object_version: u64,
    /// `"P2"` for shares, `"kem"` for HPKE keys.
    pub role: &'static str,
    /// Encoded public key that belongs to the object (33 bytes SEC1 for shares).
    pub public_key: Vec<u8>,
}

impl ObjectAad {
    /// Identity of the payload. Without the KEK id, so that a rewrap leaves the payload alone.
    pub(crate) fn payload_aad(&self) -> Vec<u8> {
        encode(&self.parts())
    }

    /// Identity of the wrapped data key: the payload's, then KEK id and algorithm.
    pub(crate) fn dek_aad(&self, kek: KekId) -> Vec<u8> {
        let [a, b, c, d, e, f, g, h, i, j] = self.parts();
        let (kek, algorithm) = (Part::Bytes(&kek.0), Part::Bytes(ALGORITHM_NAME));
        encode(&[a, b, c, d, e, f, g, h, i, j, kek, algorithm])
    }

    fn parts(&self) -> [Part<'_>; 10] {
        [
            Part::Bytes(FORMAT),
            Part::Bytes(&self.environment_id),
            Part::Bytes(self.tenant.as_bytes()),
            Part::Bytes(self.purpose.as_str().as_bytes()),
            Part::Bytes(self.profile_id.as_bytes()),
            Part::Bytes(self.owner_id.as_bytes()),
            Part::U64(self.key_generation),
            Part::U64(self.object_version),
            Part::Bytes(self.role.as_bytes()),
            Part::Bytes(&self.public_key),
        ]
    }
}

/// A data encryption key. On the heap, so that moving it between threads copies a pointer only.
pub(crate) struct Dek(Box<[u8; 32]>);

impl Dek {
    /// An all-zero key to be filled in place.
    pub(crate) fn blank() -> Self {
        Self(Box::new([0; 32]))
    }

    /// The key's bytes, for wrapping and for the payload cipher only.
    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key's bytes, to fill them.
    pub(crate) fn expose_mut(&mut self) -> &mut [u8; 32] {
        &mut self.0
    }

    /// Compares in constant time.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl Drop for Dek {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// A data key wrapped by the HSM, as it stands in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WrappedDek {
    pub(crate) kek: KekId,
    pub(crate) iv_mode: IvMode,
    pub(crate) iv: [u8; IV_LENGTH],
    pub(crate) bytes: [u8; WRAPPED_LENGTH],
}

impl WrappedDek {
    /// Bytes 0..36 of the header; the commitment covers them, so no header byte is malleable.
    fn prefix(&self) -> [u8; 36] {
        let mut prefix = [0; 36];
        let (fixed, rest) = prefix.split_at_mut(8);
        let (kek, iv) = rest.split_at_mut(16);
        fixed.copy_from_slice(&[
            MAGIC[0],
            MAGIC[1],
            MAGIC[2],
            MAGIC[3],
            VERSION,
            ALGORITHM,
            self.iv_mode.code(),
            0,
        ]);
        kek.copy_from_slice(&self.kek.0);
        iv.copy_from_slice(&self.iv);
        prefix
    }

    /// Binds the data key to the header: GCM alone is not key-committing.
    fn commitment(&self, dek: &Dek) -> [u8; 32] {
        let (prefix, dek) = (self.prefix(), dek.expose());
        let parts = [
            Part::Bytes(COMMITMENT_TAG),
            Part::Bytes(&prefix),
            Part::Bytes(dek),
        ];
        let preimage = Zeroizing::new(encode(&parts));
        Sha256::digest(preimage.as_slice()).into()
    }
}

/// A header that passed every check possible without a key.
pub(crate) struct Header {
    pub(crate) wrapped: WrappedDek,
    commitment: [u8; 32],
    nonce: [u8; IV_LENGTH],
}

impl Header {
    /// Checks lengths first, so that nothing malformed ever reaches the HSM.
    pub(crate) fn parse(sealed: &[u8]) -> Result<Self, DataFault> {
        let body = sealed
            .len()
            .checked_sub(HEADER_LENGTH)
            .ok_or(DataFault::Length)?;
        if !(TAG_LENGTH..=MAX_PAYLOAD + TAG_LENGTH).contains(&body) {
            return Err(DataFault::Length);
        }
        let mut reader = Reader(sealed);
        let [m0, m1, m2, m3, version, algorithm, iv_mode, reserved] = reader.take()?;
        let iv_mode = IvMode::from_code(iv_mode).ok_or(DataFault::Header)?;
        if ([m0, m1, m2, m3], version, algorithm, reserved) != (MAGIC, VERSION, ALGORITHM, 0) {
            return Err(DataFault::Header);
        }
        let wrapped = WrappedDek {
            kek: KekId(reader.take()?),
            iv_mode,
            iv: reader.take()?,
            bytes: reader.take()?,
        };
        if wrapped.iv == [0; IV_LENGTH] {
            return Err(DataFault::Header);
        }
        Ok(Self {
            wrapped,
            commitment: reader.take()?,
            nonce: reader.take()?,
        })
    }

    /// Opens the payload with the unwrapped data key; consumes the sealed bytes and works in place.
    pub(crate) fn open(
        &self,
        dek: &Dek,
        aad: &ObjectAad,
        sealed: Vec<u8>,
    ) -> Result<Zeroizing<Vec<u8>>, DataFault> {
        let expected = self.wrapped.commitment(dek);
        if !bool::from(expected.ct_eq(&self.commitment)) {
            return Err(DataFault::Commitment);
        }
        let mut payload = Zeroizing::new(sealed);
        let header = HEADER_LENGTH.min(payload.len());
        payload.drain(..header);
        let (text, tag) = payload.split_last_chunk_mut().ok_or(DataFault::Length)?;
        let tag: Tag = (*tag).into();
        Aes256Gcm::new(dek.expose().into())
            .decrypt_inout_detached(&self.nonce.into(), &aad.payload_aad(), text.into(), &tag)
            .map_err(|_| DataFault::Payload)?;
        let length = payload.len().saturating_sub(TAG_LENGTH);
        payload.truncate(length);
        Ok(payload)
    }
}

/// Writes the sealed object: header, payload ciphertext, tag. `nonce` is random; the data key is used
/// for this one payload only, so a nonce can never repeat under it.
pub(crate) fn assemble(
    wrapped: &WrappedDek,
    dek: &Dek,
    nonce: [u8; IV_LENGTH],
    aad: &ObjectAad,
    payload: &[u8],
) -> Result<Vec<u8>, HsmError> {
    // Exactly sized: a reallocation would leave plaintext behind.
    let mut out = Zeroizing::new(Vec::with_capacity(
        HEADER_LENGTH + payload.len() + TAG_LENGTH,
    ));
    out.extend_from_slice(&wrapped.prefix());
    out.extend_from_slice(&wrapped.bytes);
    out.extend_from_slice(&wrapped.commitment(dek));
    out.extend_from_slice(&nonce);
    out.extend_from_slice(payload);
    let too_large = || HsmError::PayloadTooLarge(payload.len());
    let text = out.get_mut(HEADER_LENGTH..).ok_or_else(too_large)?;
    let tag = Aes256Gcm::new(dek.expose().into())
        .encrypt_inout_detached(&Nonce::from(nonce), &aad.payload_aad(), text.into())
        .map_err(|_| too_large())?;
    out.extend_from_slice(&tag);
    Ok(std::mem::take(&mut *out))
}

/// Reads fixed-size fields off the front of a slice.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DataFault> {
        let (field, rest) = self.0.split_first_chunk().ok_or(DataFault::Length)?;
        self.0 = rest;
        Ok(*field)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use std::array::from_fn;

    use super::*;

    // Made by an independent implementation of hsm/README.md (Python, OpenSSL). KEK 00..1f, data key
    // 20..3f, IV 40..4b, nonce 50..5b, KEK id 60..6f, payload "countersign".
    const PAYLOAD_AAD: &str = "0000000a656e76656c6f70652f3100000020e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e50000000764656661756c740000000573686172650000000970726f66696c652d31000000076f776e65722d3100000008000000000000000300000008000000000000000400000002503200000021021111111111111111111111111111111111111111111111111111111111111111";
    const DEK_AAD_SUFFIX: &str =
        "00000010606162636465666768696a6b6c6d6e6f0000000b4145532d3235362d47434d";
    const SEALED: &str = "4353454f01010100606162636465666768696a6b6c6d6e6f404142434445464748494a4bc2988c000219a124e5ed3d1db7493d7449f7606f830039144f7e74deab2ed3e44b2a6d9fba0f9ca3d701dda223d90218eb5f9757516c48a0de1e32b97d1b3e179646916fc67da15c9b197e3b9a907070505152535455565758595a5bd2cfdd7c454a057e5d6864b0ab701da850ee7cdf828a73e647981b";

    fn counting<const N: usize>(first: u8) -> [u8; N] {
        from_fn(|index| first + u8::try_from(index).unwrap())
    }

    fn aad() -> ObjectAad {
        ObjectAad {
            environment_id: [0xe5; 32],
            tenant: "default".to_owned(),
            purpose: Purpose::Share,
            profile_id: "profile-1".to_owned(),
            owner_id: "owner-1".to_owned(),
            key_generation: 3,
            object_version: 4,
            role: "P2",
            public_key: [vec![2], vec![0x11; 32]].concat(),
        }
    }

    fn dek(bytes: [u8; 32]) -> Dek {
        let mut dek = Dek::blank();
        *dek.expose_mut() = bytes;
        dek
    }

    /// What the HSM does, with a KEK that a test may know.
    fn wrapped(dek: &Dek) -> WrappedDek {
        let (kek, iv) = (KekId(counting(0x60)), counting(0x40));
        let mut bytes = [0; WRAPPED_LENGTH];
        let (text, tag) = bytes.split_at_mut(32);
        text.copy_from_slice(dek.expose());
        let made = Aes256Gcm::new(&counting::<32>(0).into())
            .encrypt_inout_detached(&Nonce::from(iv), &aad().dek_aad(kek), text.into())
            .unwrap();
        tag.copy_from_slice(&made);
        WrappedDek {
            kek,
            iv_mode: IvMode::Caller,
            iv,
            bytes,
        }
    }

    #[test]
    fn the_format_is_the_published_vector() {
        assert_eq!(hex::encode(aad().payload_aad()), PAYLOAD_AAD);
        let dek_aad = hex::encode(aad().dek_aad(KekId(counting(0x60))));
        assert_eq!(dek_aad, format!("{PAYLOAD_AAD}{DEK_AAD_SUFFIX}"));
        let dek = dek(counting(0x20));
        let wrapped = wrapped(&dek);
        let sealed = assemble(&wrapped, &dek, counting(0x50), &aad(), b"countersign").unwrap();
        assert_eq!(hex::encode(&sealed), SEALED);
        let header = Header::parse(&sealed).unwrap();
        assert_eq!(header.wrapped, wrapped);
        assert_eq!(
            header.open(&dek, &aad(), sealed).unwrap().as_slice(),
            b"countersign"
        );
    }

    #[test]
    fn another_data_key_fails_the_commitment_before_the_payload_is_touched() {
        let sealed = hex::decode(SEALED).unwrap();
        let header = Header::parse(&sealed).unwrap();
        let result = header.open(&dek([0; 32]), &aad(), sealed).map(|_| ());
        assert_eq!(result, Err(DataFault::Commitment));
    }

    #[test]
    fn a_rewrap_leaves_the_payload_alone() {
        // Only the first 116 bytes depend on the KEK: another KEK id and IV open the same payload.
        let (dek, sealed) = (dek(counting(0x20)), hex::decode(SEALED).unwrap());
        let moved = WrappedDek {
            kek: KekId([9; 16]),
            iv: [8; 12],
            ..wrapped(&dek)
        };
        let again = assemble(&moved, &dek, counting(0x50), &aad(), b"countersign").unwrap();
        assert_ne!(again[..116], sealed[..116]);
        assert_eq!(again[116..], sealed[116..]);
    }
}
