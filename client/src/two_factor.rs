//! What the second factor of a wallet is made of on this side: codes that are typed, and the secret that an authenticator
//! gets. Nothing of it is ever stored here.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::transport::ServerError;

/// Digits of an authenticator's code.
const DIGITS: usize = 6;
/// Characters of a recovery code, without its dashes.
const RECOVERY: usize = 16;
/// Recovery codes that come with a secret.
pub const RECOVERY_CODES: usize = 10;
/// Characters of a 20-byte secret in base32.
const SECRET: usize = 32;
/// The longest lock that time ends, in seconds: it is also said of one that none does.
const DAY: u64 = 24 * 3600;
/// Most characters of an honest `otpauth` URI.
const LONGEST_URI: usize = 512;

/// A code of an authenticator, or a recovery code. Serialized into the request that needs it, and nowhere else.
#[derive(Clone)]
pub struct TwoFactorCode(Zeroizing<String>);

/// Not a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "a code is the six digits that the authenticator shows, or a recovery code such as ABCD-EFGH-JKMN-PQRS"
)]
pub struct NoCode;

impl TwoFactorCode {
    /// Reads a code as people type it: spaces between digits, dashes left out, small letters.
    ///
    /// # Errors
    /// [`NoCode`]; it never repeats what was typed.
    pub fn parse(text: &str) -> Result<Self, NoCode> {
        let mut plain = Zeroizing::new(String::with_capacity(RECOVERY));
        for letter in text.trim().chars().filter(|letter| !" -".contains(*letter)) {
            if plain.len() == RECOVERY {
                return Err(NoCode);
            }
            plain.push(letter.to_ascii_uppercase());
        }
        if plain.len() == DIGITS && plain.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self(plain));
        }
        if plain.len() != RECOVERY || !plain.bytes().all(is_crockford) {
            return Err(NoCode);
        }
        let mut code = Zeroizing::new(String::with_capacity(RECOVERY + 3));
        for (index, letter) in plain.chars().enumerate() {
            if index > 0 && index % 4 == 0 {
                code.push('-');
            }
            code.push(letter);
        }
        Ok(Self(code))
    }
}

/// Digits and capital letters without I, L, O and U.
const fn is_crockford(byte: u8) -> bool {
    byte.is_ascii_digit() || byte.is_ascii_uppercase() && !matches!(byte, b'I' | b'L' | b'O' | b'U')
}

impl fmt::Debug for TwoFactorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TwoFactorCode")
    }
}

impl Serialize for TwoFactorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl std::str::FromStr for TwoFactorCode {
    type Err = NoCode;

    fn from_str(text: &str) -> Result<Self, NoCode> {
        Self::parse(text)
    }
}

/// What an authenticator is set up with, and the codes for when it is lost: shown once.
pub struct Secret {
    /// `otpauth://totp/…`
    pub otpauth: Zeroizing<String>,
    /// Each good for one use.
    pub recovery_codes: Vec<Zeroizing<String>>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Reads what the appliance sealed to us. `None` if it is anything else than a secret and its recovery codes: it is
    /// shown on a terminal and typed into other programs.
    pub(crate) fn read(opened: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Plain {
            otpauth: String,
            recovery_codes: Vec<String>,
        }
        let Plain {
            otpauth,
            recovery_codes,
        } = serde_json::from_slice(opened).ok()?;
        let secret = Self {
            otpauth: Zeroizing::new(otpauth),
            recovery_codes: recovery_codes.into_iter().map(Zeroizing::new).collect(),
        };
        let codes = secret.recovery_codes.len() == RECOVERY_CODES
            && secret.recovery_codes.iter().all(|code| is_recovery(code));
        (codes && is_otpauth(&secret.otpauth)).then_some(secret)
    }
}

/// A recovery code in its one spelling.
fn is_recovery(text: &str) -> bool {
    TwoFactorCode::parse(text).is_ok_and(|code| *code.0 == text && text.len() > DIGITS)
}

fn is_otpauth(uri: &str) -> bool {
    let Some((_, query)) = uri
        .strip_prefix("otpauth://totp/")
        .and_then(|rest| rest.split_once('?'))
    else {
        return false;
    };
    let base32 = |byte: u8| byte.is_ascii_uppercase() || (b'2'..=b'7').contains(&byte);
    let mut secrets = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("secret="));
    let secret = secrets.next().unwrap_or_default();
    uri.len() <= LONGEST_URI
        && uri.bytes().all(|byte| byte.is_ascii_graphic())
        && secrets.next().is_none()
        && secret.len() == SECRET
        && secret.bytes().all(base32)
}

/// The appliance asks for a second factor, or does not take the one it got. What to do about it stands in the message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}", self.way_out())]
pub struct TwoFactorError {
    /// What is wrong.
    pub why: Why,
    /// The answer.
    pub answer: ServerError,
}

/// What is wrong about a second factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// None was given, and this needs one.
    Required,
    /// The code is not right, not of now, or was used before.
    Invalid,
    /// Too many codes were wrong.
    Locked,
    /// The wallet has no second factor, and this needs one.
    NotEnrolled,
}

impl TwoFactorError {
    /// The error that an answer stands for.
    ///
    /// # Errors
    /// The answer, if it is about something else.
    pub fn of(answer: ServerError) -> Result<Self, ServerError> {
        let why = match answer.code.as_str() {
            "TWO_FACTOR_REQUIRED" => Why::Required,
            "TWO_FACTOR_INVALID" => Why::Invalid,
            "TWO_FACTOR_LOCKED" => Why::Locked,
            "TWO_FACTOR_NOT_ENROLLED" => Why::NotEnrolled,
            _ => return Err(answer),
        };
        Ok(Self { why, answer })
    }

    fn way_out(&self) -> String {
        match self.why {
            Why::Required => "this needs the second factor of the wallet: give a code of the authenticator, or a recovery \
                 code, with --two-factor-code"
                .to_owned(),
            Why::Invalid => "the code is not right, not of this moment, or was used before: wait for the next one, and see \
                 that the clock of the authenticator is right. Five wrong codes in a row lock the second factor"
                .to_owned(),
            Why::Locked => {
                let until = match self.answer.retry_after.map(|wait| wait.as_secs()) {
                    Some(seconds) if seconds >= DAY => {
                        "for a day or, after twenty wrong codes within one, until a recovery code opens it".to_owned()
                    }
                    Some(seconds) => format!("for {}", span(seconds)),
                    None => "for a while".to_owned(),
                };
                format!(
                    "too many codes were wrong: the second factor is locked {until}, and right codes are refused as well; \
                     only a recovery code is taken. If it was not you, somebody else has a device of this wallet: see `countersign device list`"
                )
            }
            Why::NotEnrolled => "this needs a second factor, and the wallet has none that counts: `countersign two-factor \
                 enrol` makes one, `countersign two-factor status` shows whether one is cooling off"
                .to_owned(),
        }
    }
}

/// A time to wait, rounded up.
fn span(seconds: u64) -> String {
    match seconds {
        0..=120 => format!("{seconds} seconds"),
        121..=7200 => format!("{} minutes", seconds.div_ceil(60)),
        _ => format!("{} hours", seconds.div_ceil(3600)),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::api::Retry;

    fn sent(text: &str) -> Option<String> {
        let code = TwoFactorCode::parse(text).ok()?;
        Some(serde_json::to_value(code).unwrap().as_str()?.to_owned())
    }

    #[test]
    fn codes_are_read_as_people_type_them_and_sent_in_one_spelling() {
        for (typed, expected) in [
            ("123456", "123456"),
            (" 123 456\n", "123456"),
            ("ABCD-EFGH-JKMN-PQRS", "ABCD-EFGH-JKMN-PQRS"),
            ("abcdefghjkmnpqrs", "ABCD-EFGH-JKMN-PQRS"),
            ("0123 4567 89ab cdef", "0123-4567-89AB-CDEF"),
        ] {
            assert_eq!(sent(typed).as_deref(), Some(expected), "{typed}");
        }
        for wrong in [
            "",
            "12345",
            "1234567",
            "12345a",
            "１２３４５６",
            "ABCD-EFGH-JKMN-PQR",
            "ABCD-EFGH-JKMN-PQRST",
            "ABCD-EFGH-JKMN-PQRU",
            "IBCD-EFGH-JKMN-PQRS",
            "ABCD_EFGH_JKMN_PQRS",
        ] {
            assert_eq!(TwoFactorCode::parse(wrong).err(), Some(NoCode), "{wrong}");
        }
        let code = TwoFactorCode::parse("123456").unwrap();
        assert_eq!(format!("{code:?}"), "TwoFactorCode");
    }

    fn opened(otpauth: &str, codes: &[String]) -> Option<Secret> {
        let text = json!({"otpauth": otpauth, "recoveryCodes": codes}).to_string();
        Secret::read(text.as_bytes())
    }

    #[test]
    fn only_a_secret_and_its_recovery_codes_are_shown() {
        let uri = format!(
            "otpauth://totp/countersign:0190aaaa?secret={}&issuer=countersign&algorithm=SHA1&digits=6&period=30",
            "ABCDEFGHIJKLMNOP".repeat(2)
        );
        let codes = vec!["ABCD-EFGH-JKMN-PQRS".to_owned(); 10];
        let secret = opened(&uri, &codes).unwrap();
        assert_eq!(*secret.otpauth, uri);
        assert_eq!(format!("{secret:?}"), "Secret");
        for hostile in [
            uri.replace("otpauth", "https"),
            uri.replace("totp/", "hotp/"),
            uri.replace("secret=", "secret=A"),
            uri.replace("issuer=", "secret=B&issuer="),
            uri.replace("issuer=", "issuer=\u{1b}[2J"),
            uri.replace("issuer=", "issuer= "),
            uri.replace("IJKL", "IJK1"),
            format!("{uri}{}", "x".repeat(512)),
        ] {
            assert!(opened(&hostile, &codes).is_none(), "{hostile}");
        }
        let but = |index: usize, code: &str| {
            let mut codes = codes.clone();
            code.clone_into(&mut codes[index]);
            codes
        };
        for hostile in [
            codes[..9].to_vec(),
            but(3, "123456"),
            but(3, "abcd-efgh-jkmn-pqrs"),
            but(3, "ABCD-EFGH-JKMN-PQRS\n"),
            but(3, ""),
        ] {
            assert!(opened(&uri, &hostile).is_none(), "{hostile:?}");
        }
        assert!(Secret::read(b"{}").is_none());
    }

    #[test]
    fn every_refusal_of_a_code_says_the_way_out() {
        let refused = |code: &str, wait: Option<u64>| {
            TwoFactorError::of(ServerError {
                status: 401,
                code: code.to_owned(),
                message: String::new(),
                details: None,
                retry: Retry::Never,
                retry_after: wait.map(Duration::from_secs),
            })
        };
        for (code, wait, says) in [
            ("TWO_FACTOR_REQUIRED", None, "--two-factor-code"),
            ("TWO_FACTOR_INVALID", None, "wait for the next one"),
            ("TWO_FACTOR_LOCKED", Some(900), "for 15 minutes"),
            (
                "TWO_FACTOR_LOCKED",
                Some(86_400),
                "until a recovery code opens it",
            ),
            ("TWO_FACTOR_NOT_ENROLLED", None, "two-factor enrol"),
        ] {
            let said = refused(code, wait).unwrap().to_string();
            assert!(said.contains(says), "{said}");
        }
        assert!(refused("POLICY_DENIED", None).is_err());
    }
}
