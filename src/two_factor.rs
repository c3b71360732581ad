//! The second factor: time-based codes (RFC 6238), recovery codes, and how many wrong ones there may be
//! (`protocol.md` 5.2). Pure: keys, codes and rows in, answers out.
//!
//! A code is six digits of HMAC-SHA-1 over the number of the 30-second step it is shown in. That is what authenticators do;
//! the weakness of SHA-1 against collisions says nothing against its HMAC.

use aws_lc_rs::hmac;
use countersign_mpc::lp::Lp;
use subtle::{ConditionallySelectable, ConstantTimeEq};
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::domain::{EnrolmentId, ProfileId};

/// Seconds for which an authenticator shows a code.
const PERIOD: i64 = 30;
/// Digits of a code.
const DIGITS: usize = 6;
/// Steps before and after the present one whose codes are taken too.
const WINDOW: i64 = 1;
/// Steps on either side that are compared before the time of the operation is known.
const AROUND: i64 = 3;

/// Bytes of the secret that an authenticator holds.
const SECRET: usize = 20;
/// Bytes of the key under which recovery codes are stored.
const RECOVERY_KEY: usize = 32;
/// Bytes of all keys of an enrolment.
pub const KEYS: usize = SECRET + RECOVERY_KEY;

/// Recovery codes of an enrolment.
pub const RECOVERY_CODES: usize = 10;
/// Bytes of a recovery code.
pub const RECOVERY_CODE: usize = 10;

/// Wrong codes in a row after which there is a pause.
const IN_A_ROW: u32 = 5;
/// The first pause, in seconds; each one after it is twice as long.
const FIRST_PAUSE: i64 = 15 * 60;
/// The longest pause, and the time in which wrong codes are counted.
const DAY: i64 = 24 * 3600;
/// Wrong codes in a day after which only a recovery code goes on.
const IN_A_DAY: u64 = 20;
/// A lock that does not end by itself: the year 9999.
const FOR_GOOD: Timestamp = Timestamp::from_micros(253_370_764_800_000_000);

const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// What somebody presents as their second factor.
///
/// SECURITY: neither Debug nor Clone nor Serialize. A code is read where it is checked, and nowhere else.
pub enum Code {
    /// What an authenticator shows, as a number.
    Shown(Zeroizing<u32>),
    /// A recovery code.
    Recovery(Zeroizing<[u8; RECOVERY_CODE]>),
}

/// Neither six digits nor a recovery code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a second factor is 6 digits, or a recovery code such as XXXX-XXXX-XXXX-XXXX")]
pub struct Malformed;

impl Code {
    /// Reads a code. Letters of a recovery code may be small, and those that look like digits are taken for them.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let bytes = text.as_bytes();
        if bytes.len() == DIGITS && bytes.iter().all(u8::is_ascii_digit) {
            let number = bytes
                .iter()
                .fold(0, |number, digit| number * 10 + u32::from(digit - b'0'));
            return Ok(Self::Shown(Zeroizing::new(number)));
        }
        recovery_code(bytes).map(Self::Recovery).ok_or(Malformed)
    }
}

/// Four groups of four characters, with a hyphen between them.
fn recovery_code(text: &[u8]) -> Option<Zeroizing<[u8; RECOVERY_CODE]>> {
    if text.len() != 19 {
        return None;
    }
    let mut bits = Zeroizing::new(0_u128);
    for (at, byte) in text.iter().enumerate() {
        if at % 5 == 4 {
            if *byte != b'-' {
                return None;
            }
            continue;
        }
        let value = CROCKFORD.iter().position(|one| *one == digit_of(*byte))?;
        *bits = (*bits << 5) | u128::try_from(value).ok()?;
    }
    let bytes = Zeroizing::new(bits.to_be_bytes());
    bytes.last_chunk().copied().map(Zeroizing::new)
}

const fn digit_of(byte: u8) -> u8 {
    match byte.to_ascii_uppercase() {
        b'O' => b'0',
        b'I' | b'L' => b'1',
        other => other,
    }
}

/// How a recovery code is written.
#[must_use]
pub fn recovery_text(code: &[u8; RECOVERY_CODE]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(19));
    for (at, digit) in digits(code, CROCKFORD).enumerate() {
        if at > 0 && at % 4 == 0 {
            text.push('-');
        }
        text.push(digit);
    }
    text
}

/// Five bits at a time, from whole groups of five bytes.
fn digits<'a>(bytes: &'a [u8], alphabet: &'static [u8; 32]) -> impl Iterator<Item = char> + 'a {
    bytes.chunks(5).flat_map(move |group| {
        let bits = group
            .iter()
            .fold(0_u64, |bits, byte| (bits << 8) | u64::from(*byte));
        (0..8_u32).rev().map(move |at| {
            let value = usize::try_from((bits >> (at * 5)) & 31).unwrap_or_default();
            char::from(alphabet.get(value).copied().unwrap_or_default())
        })
    })
}

/// The keys of an enrolment: the secret that the authenticator holds, and the key under which recovery codes are stored.
///
/// SECURITY: neither Debug nor Clone nor Serialize, and wiped; on the heap, so that moving it leaves no copy behind.
pub struct Keys(Zeroizing<Vec<u8>>);

impl Keys {
    /// These bytes, if there are [`KEYS`] of them.
    #[must_use]
    pub fn from_bytes(bytes: Zeroizing<Vec<u8>>) -> Option<Self> {
        (bytes.len() == KEYS).then_some(Self(bytes))
    }

    /// What is sealed.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    fn parts(&self) -> (&[u8], &[u8]) {
        self.0.split_at_checked(SECRET).unwrap_or_default()
    }

    /// What an authenticator is told; `issuer` is letters, digits, `.`, `-` and `_`.
    #[must_use]
    pub fn otpauth(&self, issuer: &str, profile: ProfileId) -> Zeroizing<String> {
        let profile = profile.to_string();
        let short = profile.get(..8).unwrap_or_default();
        let mut text = Zeroizing::new(String::with_capacity(256));
        text.push_str("otpauth://totp/");
        for part in [issuer, ":", short, "?secret="] {
            text.push_str(part);
        }
        text.extend(digits(self.parts().0, BASE32));
        for part in ["&issuer=", issuer, "&algorithm=SHA1&digits=6&period=30"] {
            text.push_str(part);
        }
        text
    }

    /// Which steps around `now` show this code. SECURITY: every step is compared, whatever the others gave.
    #[must_use]
    pub fn matching(&self, shown: u32, now: Timestamp) -> Matching {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, self.parts().0);
        let first = step_of(now).saturating_sub(AROUND);
        let mut steps = 0_u8;
        for at in 0..=2 * AROUND {
            let equal = code_at(&key, first.saturating_add(at)).ct_eq(&shown);
            let bit = 1_u8 << at;
            steps |= u8::conditional_select(&0, &bit, equal);
        }
        Matching { first, steps }
    }

    /// What is stored of a recovery code.
    #[must_use]
    pub fn recovery_mac(
        &self,
        enrolment: EnrolmentId,
        code: &[u8; RECOVERY_CODE],
    ) -> [u8; RECOVERY_KEY] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.parts().1);
        let text = Lp::new("recovery/1")
            .str(&enrolment.to_string())
            .bytes(code);
        let tag = hmac::sign(&key, &Zeroizing::new(text.finish()));
        let mut mac = [0; RECOVERY_KEY];
        for (to, from) in mac.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        mac
    }
}

/// The step of a time.
const fn step_of(time: Timestamp) -> i64 {
    time.as_seconds().div_euclid(PERIOD)
}

/// RFC 4226, 5.3.
fn code_at(key: &hmac::Key, step: i64) -> u32 {
    let tag = hmac::sign(key, &step.to_be_bytes());
    let tag = tag.as_ref();
    let offset = tag.last().map_or(0, |last| usize::from(last & 0xf));
    let word = tag.get(offset..).and_then(|rest| rest.first_chunk());
    let word = u32::from_be_bytes(word.copied().unwrap_or_default()) & 0x7fff_ffff;
    word % 1_000_000
}

/// Which steps show a code that was presented. Says nothing about the code itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Matching {
    first: i64,
    steps: u8,
}

impl Matching {
    /// The step that the code is of, if it is the present one, the one before or the one after. When chance has given two
    /// of them one code it is the later one, so that no code counts twice.
    #[must_use]
    pub fn step(&self, now: Timestamp) -> Option<i64> {
        let present = step_of(now);
        (present.saturating_sub(WINDOW)..=present.saturating_add(WINDOW))
            .rev()
            .find(|step| {
                let at = u32::try_from(step.saturating_sub(self.first)).ok();
                at.and_then(|at| 1_u8.checked_shl(at))
                    .is_some_and(|bit| self.steps & bit != 0)
            })
    }
}

/// Since when wrong codes count towards a day's.
#[must_use]
pub const fn day_before(now: Timestamp) -> Timestamp {
    now.plus_seconds(-DAY)
}

/// Until when no code is taken after a wrong one: it was the `in_a_row`-th without a right one between, and the
/// `in_a_day`-th in a day.
#[must_use]
pub fn pause(in_a_row: u32, in_a_day: u64, now: Timestamp) -> Option<Timestamp> {
    if in_a_day >= IN_A_DAY {
        return Some(FOR_GOOD);
    }
    if in_a_row == 0 || !in_a_row.is_multiple_of(IN_A_ROW) {
        return None;
    }
    let doubled = (in_a_row / IN_A_ROW).saturating_sub(1).min(16);
    let seconds = FIRST_PAUSE.saturating_mul(1_i64 << doubled).min(DAY);
    Some(now.plus_seconds(seconds))
}

/// Whole seconds until a pause ends, at least one; of one that does not end by itself, a day.
#[must_use]
pub fn wait(until: Timestamp, now: Timestamp) -> u32 {
    let micros = until.as_micros().saturating_sub(now.as_micros());
    let seconds = micros.saturating_add(999_999).div_euclid(1_000_000);
    u32::try_from(seconds.clamp(1, DAY)).unwrap_or(1)
}

#[cfg(test)]
mod tests;
