//! Length-prefixed encoding: the one unambiguous byte string every hash and AAD is made of.

/// One element of an encoding.
#[derive(Clone, Copy)]
pub(crate) enum Part<'a> {
    /// Raw bytes; text goes in as UTF-8.
    Bytes(&'a [u8]),
    /// An integer, 8 bytes big-endian.
    U64(u64),
}

/// Encodes each part as its length (4 bytes big-endian) followed by its bytes.
///
/// INVARIANT: the same bytes as `countersign_mpc::lp`; `the_shared_vector_is_met` pins them here. A
/// private copy keeps this crate free of the protocol engine.
pub(crate) fn encode(parts: &[Part<'_>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    for part in parts {
        match part {
            Part::Bytes(bytes) => {
                // Every caller is bounded far below 4 GiB; a longer element must never alias a short one.
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(bytes);
            }
            Part::U64(value) => {
                out.extend_from_slice(&8u32.to_be_bytes());
                out.extend_from_slice(&value.to_be_bytes());
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Part, encode};

    #[test]
    fn the_shared_vector_is_met() {
        let encoded = encode(&[Part::Bytes(b"tag"), Part::Bytes(&[1, 2]), Part::U64(5)]);
        assert_eq!(
            hex::encode(encoded),
            "00000003746167000000020102000000080000000000000005"
        );
    }

    #[test]
    fn moving_a_byte_between_elements_changes_the_encoding() {
        let left = encode(&[Part::Bytes(b"ab"), Part::Bytes(b"c")]);
        let right = encode(&[Part::Bytes(b"a"), Part::Bytes(b"bc")]);
        assert_ne!(left, right);
    }
}
