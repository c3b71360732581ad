//! Recognises a secret that a broken client posts in place of an envelope (A23).

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use crate::engine::Party;
use crate::share;

/// Whether `text` is a 32-byte scalar or a key share, in hex, base64 or (for a share) JSON.
pub(super) fn is_secret(text: &str) -> bool {
    let text = text.trim().trim_matches('"');
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let in_hex = hex::decode(digits).ok();
    let in_base64 = [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD]
        .into_iter()
        .filter_map(|engine| engine.decode(text).ok());
    in_hex
        .into_iter()
        .chain(in_base64)
        .map(Zeroizing::new)
        .any(|bytes| bytes.len() == 32 || share::is_share(&bytes))
        || (text.starts_with('{') && serde_json::from_str::<Party>(text).is_ok())
}
