//! The forms of texts in requests and answers. Each is a schema of its own, so that it is described once.

use std::borrow::Cow;

use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::domain::{self, ProfileState, SessionState};
use crate::sessions::Key;
use crate::store::transactions::TransactionState;

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

macro_rules! words {
    ($($(#[doc = $doc:literal])+ $name:ident: $words:expr;)+) => {$(
        $(#[doc = $doc])+
        pub enum $name {}

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .description(Some(concat!($($doc),+).trim_start()))
                    .enum_values(Some($words))
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

/// A wallet without a second factor.
pub const NONE: &str = "none";
/// A second factor whose first code has not come.
pub const PENDING: &str = "pending";
/// A second factor that will count.
pub const COOLING_OFF: &str = "cooling-off";
/// The second factor that counts.
pub const ACTIVE: &str = "active";

words! {
    /// Where a profile stands: only an active one has an address to fund.
    ProfileStatus: ProfileState::ALL.iter().map(|state| state.as_str());
    /// What a key may be used for.
    KeyUse: Key::NAMES;
    /// Where a second factor stands: one that waits for its first code, one that waits for its time, and the one that counts.
    EnrolmentStatus: [PENDING, COOLING_OFF, ACTIVE];
    /// Where the second factor of a wallet stands.
    TwoFactorStatus: [NONE, PENDING, COOLING_OFF, ACTIVE];
    /// Where a device stands: a pending one may act later, a revoked one never again.
    DeviceStatus: ["pending", "active", "revoked"];
    /// How much a freeze stops.
    FreezeScope: domain::FreezeScope::ALL.iter().map(|scope| scope.as_str());
    /// Who placed a freeze.
    PlacedBy: [domain::PlacedBy::Owner.as_str(), domain::PlacedBy::Operator.as_str()];
    /// The kind of a device key.
    KeyAlgorithm: ["ecdsa-p256-sha256", "ed25519"];
    /// Where a session stands.
    SessionStatus: SessionState::ALL.iter().map(|state| state.as_str().to_ascii_uppercase());
    /// Where a transaction stands.
    TransactionStatus: TransactionState::ALL.iter().map(|state| state.as_str());
}

fn coordinate(bytes: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(format!("^[A-Za-z0-9_-]{{{bytes}}}$")))
}

fn word(word: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some([word]))
}

/// A JWK of an Ed25519 key.
pub fn okp() -> ObjectBuilder {
    ObjectBuilder::new()
        .description(Some("A JWK (RFC 8037) of an Ed25519 key."))
        .property("kty", word("OKP"))
        .property("crv", word("Ed25519"))
        .property("x", coordinate("43"))
        .required("kty")
        .required("crv")
        .required("x")
}

/// A device's public key.
pub fn public_key() -> Schema {
    let jwk = ObjectBuilder::new()
        .description(Some("A JWK (RFC 7517) of an EC key on P-256."))
        .property("kty", word("EC"))
        .property("crv", word("P-256"))
        .property("x", coordinate("43"))
        .property("y", coordinate("43"))
        .required("kty")
        .required("crv")
        .required("x")
        .required("y");
    let sec1 = ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some("SEC1 in hex: compressed or uncompressed, on P-256."))
        .pattern(Some("^(0[23][0-9a-fA-F]{64}|04[0-9a-fA-F]{128})$"));
    OneOfBuilder::new().item(jwk).item(okp()).item(sec1).into()
}

/// `true`, and nothing else.
pub fn yes() -> Schema {
    ObjectBuilder::new()
        .schema_type(Type::Boolean)
        .enum_values(Some([true]))
        .into()
}

texts! {
    /// A profile: a UUID, in lower case.
    ProfileId: 36..=36, "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$";
    /// A session: a UUID, in lower case.
    SessionId: 36..=36, "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$";
    /// A freeze: a UUID, in lower case, which is also the id of its audit record.
    FreezeId: 36..=36, "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$";
    /// A policy decision: a UUID, in lower case.
    DecisionId: 36..=36, "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$";
    /// An enrolment of a second factor: a UUID, in lower case.
    EnrolmentId: 36..=36, "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$";
    /// A second factor: the six digits that the authenticator shows, or a recovery code.
    TwoFactorCode: 6..=19, "^([0-9]{6}|[0-9A-Za-z]{4}(-[0-9A-Za-z]{4}){3})$";
    /// Chosen by the client, fresh for each new request; the same request may be sent again with the same key.
    IdempotencyKey: 16..=64, "^[A-Za-z0-9_-]{16,64}$";
    /// A device key: the RFC 7638 thumbprint of its public key, base64url.
    DeviceKeyId: 43..=43, "^[A-Za-z0-9_-]{43}$";
    /// An Ethereum address with its EIP-55 checksum.
    Address: 42..=42, "^0x[0-9a-fA-F]{40}$";
    /// An Ethereum address: in one case, or in mixed case with its EIP-55 checksum.
    Recipient: 42..=42, "^0x([0-9a-f]{40}|[0-9A-F]{40}|[0-9a-fA-F]{40})$";
    /// 32 bytes in hex: a digest or the hash of a transaction.
    Hash: 66..=66, "^0x[0-9a-f]{64}$";
    /// Bytes in lower-case hex.
    Bytes: 2..=65_536, "^0x([0-9a-f]{2})*$";
    /// Call data in hex, at most 24 KiB; the body limit may be reached before.
    CallData: 2..=49_154, "^0x([0-9a-fA-F]{2})*$";
    /// A number without leading zeros: decimal, or in hex after 0x.
    Number: 1..=78, "^(0|[1-9][0-9]*|0x(0|[1-9a-fA-F][0-9a-fA-F]*))$";
    /// A number in hex without leading zeros.
    Quantity: 3..=66, "^0x(0|[1-9a-f][0-9a-f]{0,63})$";
    /// An amount of wei: decimal, below 2^256.
    Wei: 1..=78, "^(0|[1-9][0-9]{0,77})$";
    /// 32 bytes in hex, made for one attempt.
    ServerNonce: 64..=64, "^[0-9a-f]{64}$";
    /// A message of the wallet, sealed to the appliance (`mpc/README.md`): `mw1.<type>.<kid>.<base64url>`.
    SealedRequest: 1..=524_288, "^mw1[.](kg1|kg2|kg3|sg1|sg2|tf1)[.][A-Za-z0-9_-]{1,64}[.][A-Za-z0-9_-]+$";
    /// A message of the appliance, sealed to the wallet: `mw1.<type>.<kid>.<base64url>`.
    SealedAnswer: 1..=524_288, "^mw1[.](kg1|kg2|kg3|sg1|sg2|tf1)[.][A-Za-z0-9_-]{1,64}[.][A-Za-z0-9_-]+$";
    /// A time: RFC 3339, UTC.
    Time: 20..=35, "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?Z$";
}
