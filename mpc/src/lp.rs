//! Length-prefixed concatenation: the one encoding under every hash, AAD and signed statement of ours.
//!
//! `LP(a, b, …)` is, for each element, its length as 4 bytes big-endian followed by its bytes. Integers are 8-byte
//! big-endian and length-prefixed like anything else; strings are UTF-8. The first element is the domain tag.
//! Different tuples therefore never have the same encoding (attack A14).

use sha2::{Digest, Sha256};

/// An `LP` encoding under construction.
///
/// ```
/// use countersign_mpc::lp::Lp;
/// let encoded = Lp::new("tag/1").u64(7).finish();
/// assert_eq!(encoded, b"\x00\x00\x00\x05tag/1\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x07");
/// ```
#[derive(Clone, Debug)]
pub struct Lp {
    encoded: Vec<u8>,
}

impl Lp {
    /// Starts an encoding whose first element is `tag`.
    #[must_use]
    pub fn new(tag: &str) -> Self {
        Self {
            encoded: Vec::with_capacity(256),
        }
        .str(tag)
    }

    /// Appends raw bytes. Elements longer than 2^32 - 1 bytes do not occur: every caller's input is bounded far below.
    #[must_use]
    pub fn bytes(mut self, element: &[u8]) -> Self {
        debug_assert!(
            u32::try_from(element.len()).is_ok(),
            "elements are bounded by their callers"
        );
        let length = u32::try_from(element.len()).unwrap_or(u32::MAX);
        self.encoded.extend_from_slice(&length.to_be_bytes());
        self.encoded.extend_from_slice(element);
        self
    }

    /// Appends a UTF-8 string.
    #[must_use]
    pub fn str(self, element: &str) -> Self {
        self.bytes(element.as_bytes())
    }

    /// Appends an integer as 8 bytes big-endian.
    #[must_use]
    pub fn u64(self, element: u64) -> Self {
        self.bytes(&element.to_be_bytes())
    }

    /// The encoded bytes.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.encoded
    }

    /// SHA-256 of the encoded bytes.
    #[must_use]
    pub fn hash(self) -> [u8; 32] {
        Sha256::digest(&self.encoded).into()
    }
}
