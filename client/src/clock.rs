//! The one clock of this crate.

use std::time::UNIX_EPOCH;

/// Unix time in whole seconds; 0 when the system clock stands before 1970, which every validity check then refuses.
#[must_use]
pub fn now() -> i64 {
    UNIX_EPOCH
        .elapsed()
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or(0)
}
