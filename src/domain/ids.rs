//! Every identifier is its own type, so that one can never be passed for another.

use std::fmt;

use uuid::Uuid;

use crate::clock::Timestamp;

/// An identifier that came from outside is not of the form its type requires.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a valid {what}")]
pub struct InvalidId {
    /// The kind of identifier that was expected.
    pub what: &'static str,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// A fresh identifier (UUID version 7, RFC 9562: time-ordered, 74 random bits).
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// Parses the hyphenated lower-case text form, and only that form, so that one
            /// identifier has one spelling in signatures, hashes and keys.
            ///
            /// # Errors
            /// [`InvalidId`] for any other text.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let invalid = InvalidId { what: $what };
                let id = Uuid::try_parse(text).map_err(|_| InvalidId { what: $what })?;
                if id.as_hyphenated().to_string() == text { Ok(Self(id)) } else { Err(invalid) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }
    };
}

uuid_id!(
    /// A wallet profile.
    ProfileId,
    "profile id"
);
uuid_id!(
    /// An MPC session: one key generation or one signature.
    SessionId,
    "session id"
);
uuid_id!(
    /// A rotation of a key, from its first message to the wallet's word that it holds the new share.
    RotationId,
    "rotation id"
);
uuid_id!(
    /// A transaction that was prepared for signing.
    TransactionId,
    "transaction id"
);
uuid_id!(
    /// A policy decision.
    DecisionId,
    "decision id"
);
uuid_id!(
    /// An enrolment of a second factor.
    EnrolmentId,
    "enrolment id"
);
uuid_id!(
    /// The owner of profiles: made by the appliance when the first profile is created.
    OwnerId,
    "owner id"
);
uuid_id!(
    /// A durable operation, which is also the id of its audit record.
    OperationId,
    "operation id"
);
uuid_id!(
    /// One start of one appliance process: MPC state in memory belongs to it and dies with it.
    InstanceId,
    "instance id"
);

impl DecisionId {
    /// The least id of those made at `time` or later.
    #[must_use]
    pub fn first_of(time: Timestamp) -> Self {
        let millis = u64::try_from(time.as_micros().div_euclid(1000)).unwrap_or(0);
        // Version 7 and variant 10 of RFC 9562, and no random bits.
        let bits = (u128::from(millis) << 80) | (0x7 << 76) | (0b10 << 62);
        Self(Uuid::from_u128(bits))
    }
}

impl InstanceId {
    /// What the outside sees of it: random bits of the id, which say nothing about the process.
    #[must_use]
    pub fn tag(self) -> InstanceTag {
        let (_, random) = self.0.as_u64_pair();
        InstanceTag(format!("{:010x}", random & 0xff_ffff_ffff))
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $min:literal, $max:literal, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Checks length and alphabet.
            ///
            /// # Errors
            /// [`InvalidId`] when either is wrong.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let allowed: fn(u8) -> bool = $allowed;
                let fits = ($min..=$max).contains(&text.len()) && text.bytes().all(allowed);
                if fits { Ok(Self(text.to_owned())) } else { Err(InvalidId { what: $what }) }
            }

            /// The text as it came.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// A tenant: 1 to 32 characters of `a-z 0-9 -`, named in the configuration.
    TenantId,
    "tenant name",
    1,
    32,
    |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
);
text_id!(
    /// The RFC 7638 thumbprint of a device key: 43 characters of base64url.
    DeviceKeyId,
    "device key id",
    43,
    43,
    |byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
);
text_id!(
    /// What gateways and clients see of an instance: 10 hexadecimal digits.
    InstanceTag,
    "instance tag",
    10,
    10,
    |byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
);
text_id!(
    /// A client-chosen `Idempotency-Key`: 16 to 64 characters of `A-Z a-z 0-9 - _`.
    IdempotencyKey,
    "Idempotency-Key",
    16,
    64,
    |byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
);

#[cfg(test)]
mod tests {
    use super::{IdempotencyKey, InstanceId, InstanceTag, ProfileId, TenantId};

    #[test]
    fn an_instance_has_one_tag_and_it_is_not_its_time() {
        let id = InstanceId::generate();
        assert_eq!(InstanceTag::parse(id.tag().as_str()), Ok(id.tag()));
        assert!(id.to_string().ends_with(id.tag().as_str()));
        assert_ne!(id.tag(), InstanceId::generate().tag());
    }

    #[test]
    fn an_id_has_exactly_one_spelling() {
        let text = ProfileId::generate().to_string();
        assert!(ProfileId::parse(&text).is_ok());
        assert!(ProfileId::parse(&text.to_uppercase()).is_err());
        assert!(ProfileId::parse(&text.replace('-', "")).is_err());
        assert!(ProfileId::parse(&format!("{{{text}}}")).is_err());
    }

    #[test]
    fn text_ids_refuse_other_alphabets_and_lengths() {
        assert!(TenantId::parse("default").is_ok());
        assert!(TenantId::parse("").is_err());
        assert!(TenantId::parse("a/b").is_err());
        assert!(IdempotencyKey::parse("too-short").is_err());
        assert!(IdempotencyKey::parse(&"k".repeat(65)).is_err());
    }
}
