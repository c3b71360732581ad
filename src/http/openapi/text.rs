//! The forms of texts in requests and answers. Each is a schema of its own, so that it is described once.

use std::borrow::Cow;

use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

macro_rules! texts {
    ($($(#[doc = $doc:literal])+ $name:ident: $min:literal..=$max:literal, $pattern:literal;)+) => {$(
        $(#[doc = $doc])+
        pub enum $name {}

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .description(Some(concat!($($doc),+).trim_start()))
                    .min_length(Some($min))
                    .max_length(Some($max))
                    .pattern(Some($pattern))
                    .into()
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed(stringify!($name))
            }
        }
    )+};
}

texts! {
    /// A profile: a UUID, in lower case.
    ProfileId: 36..=36, "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$";
    /// A session: a UUID, in lower case.
    SessionId: 36..=36, "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$";
    /// A policy decision: a UUID, in lower case.
    DecisionId: 36..=36, "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$";
    /// A device key: the RFC 7638 thumbprint of its public key, base64url.
    DeviceKeyId: 43..=43, "^[A-Za-z0-9_-]{43}$";
    /// An Ethereum address with its EIP-55 checksum.
    Address: 42..=42, "^0x[0-9a-fA-F]{40}$";
    /// 32 bytes in hex: a digest or the hash of a transaction.
    Hash: 66..=66, "^0x[0-9a-f]{64}$";
    /// Bytes in lower-case hex.
    Bytes: 2..=1_048_576, "^0x([0-9a-f]{2})*$";
    /// A number in hex without leading zeros.
    Quantity: 3..=66, "^0x(0|[1-9a-f][0-9a-f]{0,63})$";
    /// An amount of wei: decimal, below 2^256.
    Wei: 1..=78, "^(0|[1-9][0-9]{0,77})$";
    /// A number used once, in hex: 32 bytes.
    Nonce: 64..=64, "^[0-9a-f]{64}$";
    /// A time: RFC 3339, UTC.
    Time: 20..=35, "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?Z$";
}
