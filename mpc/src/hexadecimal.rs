//! Fixed-length byte arrays as lower-case hex, for documents that people and other languages read.
//!
//! Use as `#[serde(with = "countersign_mpc::hexadecimal")]` on a `[u8; N]` field. Decoding wants exactly `2 * N` hex
//! digits, in either case, without prefix.

use serde::{Deserialize, Deserializer, Serializer, de};

/// Writes `bytes` as lower-case hex.
///
/// # Errors
/// Whatever the serializer reports.
pub fn serialize<S: Serializer, const N: usize>(
    bytes: &[u8; N],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex::encode(bytes))
}

/// Reads exactly `N` bytes from hex.
///
/// # Errors
/// Anything but `2 * N` hex digits.
pub fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
    deserializer: D,
) -> Result<[u8; N], D::Error> {
    let text = String::deserialize(deserializer)?;
    let mut bytes = [0; N];
    hex::decode_to_slice(&text, &mut bytes)
        .map_err(|_| de::Error::custom(format!("expected {N} bytes in hex")))?;
    Ok(bytes)
}
