//! JSON of the appliance's API as the client sends and reads it (`protocol.md` sections 2.3, 2.4, 2.9 and 2.10).
//!
//! Answers may grow fields; the client ignores those it does not know and trusts none without checking it. Ids, nonces,
//! hashes and states are short words of plain characters or the answer is refused: they are stored, shown and put into paths.

use alloy_primitives::{Address, Bytes, U256};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::two_factor::TwoFactorCode;

/// Path of profile creation (three requests).
pub const PROFILES: &str = "/api/v2/profiles";
/// Path of the signing rounds.
pub const SIGN: &str = "/api/v1/mpc/sign";
/// Path of the identity document.
pub const IDENTITY: &str = "/api/v1/mpc/identity";

/// Path of one profile.
#[must_use]
pub fn profile_path(profile_id: &str) -> String {
    format!("{PROFILES}/{profile_id}")
}

/// Path that prepares a transaction.
#[must_use]
pub fn transactions_path(profile_id: &str) -> String {
    format!("/api/v1/profiles/{profile_id}/transactions")
}

/// Path that freezes a profile.
#[must_use]
pub fn freeze_path(profile_id: &str) -> String {
    format!("/api/v1/profiles/{profile_id}/freeze")
}

/// Path of a profile's devices.
#[must_use]
pub fn devices_path(profile_id: &str) -> String {
    format!("/api/v1/profiles/{profile_id}/devices")
}

/// Path that revokes a device.
#[must_use]
pub fn revoke_path(profile_id: &str, key_id: &str) -> String {
    format!("{}/{key_id}/revoke", devices_path(profile_id))
}

/// Path of a profile's second factor.
#[must_use]
pub fn two_factor_path(profile_id: &str) -> String {
    format!("/api/v1/profiles/{profile_id}/2fa")
}

/// Path of one session.
#[must_use]
pub fn session_path(session_id: &str) -> String {
    format!("/api/v1/mpc/sessions/{session_id}")
}

/// The `clientShare` object: who we are and one sealed message.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientShare {
    /// RFC 7638 thumbprint of the device key.
    pub key_id: String,
    /// Device public key, a JWK.
    pub public_key: serde_json::Value,
    /// Sealed message `mw1.…`.
    pub share: String,
}

/// Body of keygen request 1.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateProfile {
    /// Name the profile gets on the server.
    pub name: String,
    /// Carries kg1.
    pub client_share: ClientShare,
}

/// Body of keygen requests 2 and 3.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContinueProfile {
    /// From answer 1.
    pub profile_id: String,
    /// From answer 1.
    pub keygen_session_id: String,
    /// Carries kg2 or kg3.
    pub client_share: ClientShare,
}

/// Answer to each of the three keygen requests; fields appear as the protocol advances.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeygenAnswer {
    /// The profile being created.
    #[serde(deserialize_with = "word")]
    pub profile_id: String,
    /// Answers 1 and 2.
    #[serde(default, deserialize_with = "optional_word")]
    pub keygen_session_id: Option<String>,
    /// Answers 2 and 3.
    pub session_wallet_address: Option<Address>,
    /// `keygen_round_1`, `keygen_round_2` or `active`.
    #[serde(deserialize_with = "word")]
    pub status: String,
    /// Sealed answer of P2.
    pub mpc_message: String,
}

/// `GET /api/v2/profiles/:id`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    /// The profile's id.
    #[serde(deserialize_with = "word")]
    pub profile_id: String,
    /// Its name on the server.
    pub name: String,
    /// Its address once there is one.
    pub session_wallet_address: Option<Address>,
    /// `keygen`, `pending`, `active` or `destroyed`.
    #[serde(deserialize_with = "word")]
    pub status: String,
    /// Generation in use.
    pub key_generation: Option<u64>,
    /// State of the key, for instance `STABLE` or `QUARANTINED`.
    #[serde(default, deserialize_with = "optional_word")]
    pub key_state: Option<String>,
    /// Whether a freeze stops all signing.
    #[serde(default)]
    pub frozen: bool,
}

/// `POST /api/v1/profiles/:id/freeze`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Frozen {
    /// The profile's id.
    #[serde(deserialize_with = "word")]
    pub profile_id: String,
    /// The freeze's id: what operators need to lift it.
    #[serde(deserialize_with = "word")]
    pub freeze_id: String,
}

/// Body of `POST /api/v1/profiles/:id/transactions`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PrepareTransaction {
    /// Recipient.
    pub to: Address,
    /// Wei, decimal.
    pub value: String,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Call data.
    #[serde(skip_serializing_if = "is_empty")]
    pub data: Bytes,
    /// Gas limit the user insists on, 0x-hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gas: Option<String>,
    /// Wei per gas the user insists on, 0x-hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_fee_per_gas: Option<String>,
    /// Wei per gas the user insists on, 0x-hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_priority_fee_per_gas: Option<String>,
    /// Generation of our share: an independent witness against rollback (A18).
    pub key_generation: u64,
    /// Where a rule asks for a second factor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub two_factor_code: Option<TwoFactorCode>,
}

fn is_empty(data: &Bytes) -> bool {
    data.0.is_empty()
}

/// Answer to it: a session that waits for round 1.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Prepared {
    /// The transaction the server wants to sign.
    pub unsigned_tx: UnsignedTx,
    /// The signing session.
    #[serde(deserialize_with = "word")]
    pub session_id: String,
    /// What would be signed, hex. Only compared with our own.
    #[serde(deserialize_with = "word")]
    pub digest: String,
    /// Unix time in seconds after which the session is void.
    pub expires_at: i64,
    /// Generation the server will sign with.
    pub key_generation: u64,
    /// Attempt, from 1.
    pub attempt: u32,
    /// 32 bytes hex.
    #[serde(deserialize_with = "word")]
    pub server_nonce: String,
    /// The policy decision behind the session.
    #[serde(deserialize_with = "word")]
    pub policy_decision_id: String,
}

/// An EIP-1559 transaction in the API's notation.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnsignedTx {
    /// Transaction type, 2.
    #[serde(rename = "type")]
    pub kind: Quantity,
    /// EIP-155 chain id.
    pub chain_id: Quantity,
    /// Account nonce.
    pub nonce: Quantity,
    /// Recipient.
    pub to: Address,
    /// Wei.
    pub value: Quantity,
    /// Call data.
    #[serde(default)]
    pub data: Bytes,
    /// Gas limit.
    pub gas: Quantity,
    /// Wei per gas.
    pub max_fee_per_gas: Quantity,
    /// Wei per gas.
    pub max_priority_fee_per_gas: Quantity,
    /// Must be empty: the client asks for none.
    #[serde(default)]
    pub access_list: Vec<serde_json::Value>,
    /// `0x02 ‖ rlp(fields)`, hex.
    pub raw: Bytes,
}

/// A number as the API writes it: 0x-hex text, decimal text or a JSON number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantity(pub U256);

impl Serialize for Quantity {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_string())
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        let invalid = || D::Error::custom("not a number");
        match Form::deserialize(deserializer)? {
            Form::Number(number) => Ok(Self(U256::from(number))),
            Form::Text(text) => {
                let (digits, radix) = text
                    .strip_prefix("0x")
                    .map_or((text.as_str(), 10), |hex| (hex, 16));
                let plain =
                    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                plain
                    .then(|| U256::from_str_radix(digits, radix).ok())
                    .flatten()
                    .map(Self)
                    .ok_or_else(invalid)
            }
        }
    }
}

/// What a new device asks for: the file that travels to an enrolled one, and the body of the request that enrols it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnrolDevice {
    /// The new device's public key, a JWK.
    pub public_key: serde_json::Value,
    /// What its owner calls it.
    pub name: String,
    /// Its own statement.
    pub proof: EnrolmentProof,
}

/// The new device's signature over its statement.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnrolmentProof {
    /// 16 bytes, base64url.
    pub nonce: String,
    /// Unix time in seconds after which the statement is void.
    pub expires: i64,
    /// 64 bytes, base64url.
    pub signature: String,
}

/// Body of the request that enrols a device.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EnrolDeviceRequest<'a> {
    /// What the device asks for.
    #[serde(flatten)]
    pub asked: &'a EnrolDevice,
    /// Where the wallet has a second factor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub two_factor_code: Option<&'a TwoFactorCode>,
}

/// Body of the request that revokes a device.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RevokeDevice<'a> {
    /// Where the wallet has a second factor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub two_factor_code: Option<&'a TwoFactorCode>,
}

/// A device as answers show it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Thumbprint of its key.
    #[serde(deserialize_with = "word")]
    pub key_id: String,
    /// What its owner calls it.
    pub name: String,
    /// `ecdsa-p256-sha256` or `ed25519`.
    #[serde(deserialize_with = "word")]
    pub algorithm: String,
    /// `pending`, `active` or `revoked`.
    #[serde(deserialize_with = "word")]
    pub status: String,
    /// From when it may act, RFC 3339.
    pub active_at: String,
}

/// `GET /api/v1/profiles/:id/devices`.
#[derive(Debug, Clone, Deserialize)]
pub struct Devices {
    /// In the order in which they were enrolled.
    pub devices: Vec<Device>,
}

/// A message to which the answer is a secret.
#[derive(Debug, Clone, Serialize)]
pub struct SealedShare {
    /// Sealed message `mw1.tf1.…`.
    pub share: String,
}

/// Body of `POST /api/v1/profiles/:id/2fa`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EnrolTwoFactor<'a> {
    /// Carries the message.
    pub client_share: SealedShare,
    /// Of the factor that is replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub two_factor_code: Option<&'a TwoFactorCode>,
}

/// Answer to it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TwoFactorBegun {
    /// The enrolment.
    #[serde(deserialize_with = "word")]
    pub enrolment_id: String,
    /// The sealed secret and recovery codes.
    pub sealed: String,
    /// Until when the first code may come, RFC 3339.
    #[serde(deserialize_with = "time")]
    pub expires_at: String,
}

/// Body of `POST /api/v1/profiles/:id/2fa/activate`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ActivateTwoFactor<'a> {
    /// The enrolment.
    pub enrolment_id: &'a str,
    /// Its first code.
    pub two_factor_code: &'a TwoFactorCode,
}

/// Body of `POST /api/v1/profiles/:id/2fa/cancel`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CancelTwoFactor<'a> {
    /// The enrolment.
    pub enrolment_id: &'a str,
}

/// How far an enrolment is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnrolmentState {
    /// The enrolment.
    #[serde(deserialize_with = "word")]
    pub enrolment_id: String,
    /// `pending`, `cooling-off`, `active` or `cancelled`.
    #[serde(deserialize_with = "word")]
    pub status: String,
    /// From when it is the factor, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default, deserialize_with = "optional_time")]
    pub active_at: Option<String>,
    /// Until when its first code may come, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default, deserialize_with = "optional_time")]
    pub expires_at: Option<String>,
}

/// `GET /api/v1/profiles/:id/2fa`: the factor that counts, or else the one that waits.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TwoFactorStatus {
    /// `none`, `pending`, `cooling-off` or `active`.
    #[serde(deserialize_with = "word")]
    pub status: String,
    /// The enrolment.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default, deserialize_with = "optional_word")]
    pub enrolment_id: Option<String>,
    /// From when it is the factor, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default, deserialize_with = "optional_time")]
    pub active_at: Option<String>,
    /// Until when its first code may come, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default, deserialize_with = "optional_time")]
    pub expires_at: Option<String>,
    /// Recovery codes that are left of the factor that counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_codes_left: Option<u32>,
    /// Until when no code is taken, RFC 3339; far away when only a recovery code ends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default, deserialize_with = "optional_time")]
    pub locked_until: Option<String>,
    /// The one that waits to take its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<EnrolmentState>,
}

impl TwoFactorStatus {
    /// The enrolment that waits, for its first code or for its time.
    #[must_use]
    pub fn waiting(&self) -> Option<EnrolmentState> {
        if self.next.is_some() || self.status == "active" {
            return self.next.clone();
        }
        Some(EnrolmentState {
            enrolment_id: self.enrolment_id.clone()?,
            status: self.status.clone(),
            active_at: self.active_at.clone(),
            expires_at: self.expires_at.clone(),
        })
    }
}

/// Body of a signing round.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SignRound {
    /// The session.
    pub session_id: String,
    /// Sealed sg1 or sg2.
    pub p1_signature_share: String,
}

/// Answer to round 1.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoundOneAnswer {
    /// Sealed answer of P2.
    pub mpc_message: String,
}

/// Answer to round 2.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoundTwoAnswer {
    /// Hash of the signed transaction.
    #[serde(deserialize_with = "word")]
    pub tx_hash: String,
    /// `submitted` or `broadcasting`.
    #[serde(deserialize_with = "word")]
    pub status: String,
}

/// Body that starts a new attempt in a session.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Restart {
    /// The session.
    pub session_id: String,
    /// Always true.
    pub restart: bool,
}

/// Answer to it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Restarted {
    /// The new attempt.
    pub attempt: u32,
    /// Its 32-byte nonce, hex.
    #[serde(deserialize_with = "word")]
    pub server_nonce: String,
}

/// `GET /api/v1/mpc/sessions/:id`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// The session.
    #[serde(deserialize_with = "word")]
    pub session_id: String,
    /// Its state, for instance `created` or `signed`.
    #[serde(deserialize_with = "word")]
    pub state: String,
    /// Attempt in progress.
    pub attempt: u32,
    /// Hash of the signed transaction, once there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default, deserialize_with = "optional_word")]
    pub tx_hash: Option<String>,
    /// `broadcasting`, `submitted`, `mined`, `reverted` or `replaced`, once signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default, deserialize_with = "optional_word")]
    pub status: Option<String>,
    /// Block it was mined in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_number: Option<Quantity>,
}

/// Longest word of an answer: a digest takes 66 characters, an id 36.
const LONGEST_WORD: usize = 128;

/// Longest time in RFC 3339, with nanoseconds and an offset.
const LONGEST_TIME: usize = 40;

/// SECURITY: everything of an answer that is kept passes here. Other characters could forge a path (`../`, `?`) or drive a
/// terminal, and a longer text could make the wallet file too large to be read again.
fn word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b':');
    let valid = (1..=LONGEST_WORD).contains(&text.len()) && text.bytes().all(plain);
    valid
        .then_some(text)
        .ok_or_else(|| D::Error::custom("not an identifier"))
}

/// A time in RFC 3339, by the same rule.
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    let plain = |byte: u8| byte.is_ascii_digit() || b"TZ:+-.".contains(&byte);
    let valid = (1..=LONGEST_TIME).contains(&text.len()) && text.bytes().all(plain);
    valid
        .then_some(text)
        .ok_or_else(|| D::Error::custom("not a time"))
}

/// [`time`], or nothing.
fn optional_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    struct Time(#[serde(deserialize_with = "time")] String);
    Ok(Option::<Time>::deserialize(deserializer)?.map(|Time(text)| text))
}

/// [`word`], or nothing.
fn optional_word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    struct Word(#[serde(deserialize_with = "word")] String);
    Ok(Option::<Word>::deserialize(deserializer)?.map(|Word(text)| text))
}

impl Session {
    /// Whether the server waits for round 1 of the attempt in progress.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.state.eq_ignore_ascii_case("created")
    }

    /// Whether the attempt in progress may still be answered or signed.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !["aborted", "expired", "banned"]
            .iter()
            .any(|over| self.state.eq_ignore_ascii_case(over))
    }
}

/// Error body of every route.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    /// Stable code.
    pub error: String,
    /// A sentence for people.
    pub message: String,
    /// More, where it helps.
    pub details: Option<String>,
    /// What a program may do about it.
    pub retry: Option<Retry>,
}

/// What a program may do after an error (`protocol.md` section 2.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Retry {
    /// The identical request again.
    Same,
    /// From the first message.
    Restart,
    /// Nothing.
    Never,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    fn session(field: &str, value: &str) -> Result<Session, serde_json::Error> {
        let mut answer = json!({"sessionId": "0190-a:1_b", "state": "R1_DONE", "attempt": 1});
        answer
            .as_object_mut()
            .unwrap()
            .insert(field.to_owned(), value.into());
        serde_json::from_value(answer)
    }

    #[test]
    fn words_of_an_answer_are_short_and_plain() {
        let hash = format!("0x{}", "aB".repeat(32));
        assert_eq!(session("txHash", &hash).unwrap().tx_hash, Some(hash));
        assert!(session("status", &"x".repeat(128)).is_ok());
        for field in ["sessionId", "state", "txHash", "status"] {
            for hostile in [
                "",
                "a/../b",
                "a?b",
                "a#b",
                "a b",
                "a.b",
                "\u{1b}[2J",
                "\u{202e}x",
                &"x".repeat(129),
            ] {
                assert!(session(field, hostile).is_err(), "{field} {hostile:?}");
            }
        }
    }

    #[test]
    fn optional_words_may_be_null_or_missing() {
        let answer = json!({"sessionId": "s", "state": "created", "attempt": 1, "txHash": null});
        let session: Session = serde_json::from_value(answer).unwrap();
        assert!(session.tx_hash.is_none() && session.status.is_none());
    }
}
