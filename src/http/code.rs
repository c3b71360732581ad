//! `twoFactorCode` in the bodies of requests: never printed, wiped, and no part of what an `Idempotency-Key` is bound to.

use std::fmt;

use countersign_mpc::owner_proof::BodyHash;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::error::ApiError;
use crate::two_factor::Code;

/// The name of the field.
const FIELD: &str = "twoFactorCode";

/// The text of a second factor. SECURITY: neither Debug nor Serialize.
pub struct SecretCode(Zeroizing<String>);

impl<'de> Deserialize<'de> for SecretCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

impl SecretCode {
    /// The code.
    ///
    /// # Errors
    /// 400 when it is none. It is not counted as wrong.
    pub fn code(&self) -> Result<Code, ApiError> {
        Code::parse(&self.0).map_err(|error| ApiError::invalid(format!("{FIELD}: {error}")))
    }

    /// The code, if there is one.
    ///
    /// # Errors
    /// As [`SecretCode::code`].
    #[expect(clippy::needless_pass_by_value, reason = "it ends here")]
    pub fn read(field: Option<Self>) -> Result<Option<Code>, ApiError> {
        field.as_ref().map(Self::code).transpose()
    }
}

/// What an `Idempotency-Key` is bound to: the body without its code, so that the same request may come again with another
/// one. Of a body that is written without spaces, that is the body as it is without the field.
pub fn hash_without_code(body: &[u8], hash: BodyHash) -> BodyHash {
    let named = body
        .windows(FIELD.len())
        .any(|window| window == FIELD.as_bytes());
    let members = named.then(|| serde_json::from_slice(body).ok()).flatten();
    let Some(Members(members)) = members else {
        return hash;
    };
    let mut text = String::with_capacity(body.len());
    for (name, value) in &members {
        if name == FIELD {
            continue;
        }
        text.push(if text.is_empty() { '{' } else { ',' });
        text.push_str(&serde_json::Value::from(name.as_str()).to_string());
        text.push(':');
        text.push_str(value.get());
    }
    if text.is_empty() {
        text.push('{');
    }
    text.push('}');
    BodyHash::of(text.as_bytes())
}

/// The members of an object, in their order.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::{BodyHash, hash_without_code};

    fn hash(body: &str) -> [u8; 32] {
        hash_without_code(body.as_bytes(), BodyHash::of(body.as_bytes())).to_bytes()
    }

    fn plain(body: &str) -> [u8; 32] {
        BodyHash::of(body.as_bytes()).to_bytes()
    }

    #[test]
    fn an_idempotency_key_is_bound_to_the_body_without_its_code() {
        let without =
            r#"{"to":"0x1","value":"2","nested":{"twoFactorCode":"kept"},"text":"a\"b ü"}"#;
        assert_eq!(hash(without), plain(without));
        for code in ["123456", "654321", "ABCD-ABCD-ABCD-ABCD"] {
            let field = format!(r#""twoFactorCode":"{code}""#);
            let first = without.replacen('{', &format!("{{{field},"), 1);
            let middle = without.replacen(",\"value\"", &format!(",{field},\"value\""), 1);
            assert_eq!(hash(&first), plain(without), "{first}");
            assert_eq!(hash(&middle), plain(without), "{middle}");
            assert_eq!(hash(&format!("{{{field}}}")), plain("{}"));
        }
        // Another request is another one, with a code as without.
        let other = without.replace("0x1", "0x2");
        assert_ne!(hash(&other), hash(without));
        assert_ne!(
            hash(&other.replacen('{', r#"{"twoFactorCode":"1","#, 1)),
            hash(without)
        );
    }

    #[test]
    fn what_is_no_object_is_hashed_as_it_is() {
        for body in [
            "",
            "[]",
            "\"twoFactorCode\"",
            "{\"twoFactorCode\":",
            "[{\"twoFactorCode\":\"1\"}]",
        ] {
            assert_eq!(hash(body), plain(body), "{body}");
        }
    }
}
