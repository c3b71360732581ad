//! What the encrypted part of a wallet file holds, and its encoding.
//!
//! Plaintext: five elements, each a 4-byte big-endian length and its bytes: the tag `wallet/1`, the metadata (JSON, nothing
//! in it is secret), the device key (32 bytes), the CURRENT share, the STAGED share (empty when absent).

use std::{collections::BTreeMap, fmt};

use countersign_mpc::{
    owner_proof::{Algorithm, DeviceKey},
    share::{P1Share, PublicShare},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{KeystoreError, WalletState};
use crate::{api, clock, tx::Intent};

const TAG: &[u8] = b"wallet/1";

/// Decrypted content of a wallet file.
pub(super) struct Record {
    pub(super) meta: Meta,
    pub(super) device: DeviceKey,
    pub(super) current: Option<ShareBytes>,
    pub(super) staged: Option<ShareBytes>,
}

/// Encoded P1 share. SECURITY: the one secret that matters here; no Debug, no Clone, wiped on drop.
pub(super) struct ShareBytes(Zeroizing<Vec<u8>>);

/// Everything about a wallet that is not secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Meta {
    pub(super) environment_id: String,
    pub(super) created_at: i64,
    pub(super) draft: Option<Draft>,
    pub(super) profile_id: Option<String>,
    pub(super) current: Option<Slot>,
    pub(super) staged: Option<Slot>,
    /// The session whose message is being checked right now; found at open, it means that a check was interrupted.
    pub(super) suspect_open: Option<String>,
    /// Suspect events of the CURRENT generation.
    pub(super) suspect_events: u32,
    pub(super) quarantine: Option<Quarantine>,
    pub(super) payment: Option<Payment>,
    /// Account nonces, by chain, of payments that were given up after our last message may have left.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) given_up: BTreeMap<u64, u64>,
}

/// A key generation that was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Draft {
    /// Idempotency key of request 1.
    pub idempotency_key: String,
    /// Profile the server answered with.
    pub profile_id: Option<String>,
    /// Key generation session the server answered with.
    pub keygen_session_id: Option<String>,
}

/// Public data of a share slot.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Slot {
    /// Generation, from 1.
    pub generation: u64,
    /// Public values of this generation.
    pub public: PublicShare,
    /// Fingerprint of this generation as hex (`protocol.md` section 2.6).
    pub fingerprint: String,
}

/// A ban, as stored and as told to the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Quarantine {
    /// Which check failed.
    pub reason: String,
    /// The session in which it failed.
    pub session: String,
    /// Unix time in seconds.
    pub at: i64,
}

impl fmt::Display for Quarantine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "this wallet is QUARANTINED since Unix time {}: the server failed a security check ({}, session {}). \
             Nothing is signed with this share any more, because every further try could leak part of it. \
             Your funds are still there. Way out: do not delete the file; keep a `countersign wallet export`; tell the operator \
             of the appliance the session above; they can renew both shares under the same address (complete key rotation), \
             or you recover the key from your export and a server backup",
            self.at, self.reason, self.session
        )
    }
}

/// The last payment of a wallet: finished, or waiting to be continued or abandoned.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Payment {
    /// Idempotency key of the transaction request: a retry under it never pays twice.
    pub idempotency_key: String,
    /// What the user asked for.
    pub intent: Intent,
    /// Unix time in seconds.
    pub created_at: i64,
    /// What the server offered to sign, once it did and we agreed.
    pub offered: Option<Offered>,
    /// Transaction hash once the server has signed.
    pub tx_hash: Option<String>,
    /// Whether the user was told that hash. If not, the same payment again may be the attempt to pay once.
    #[serde(default)]
    pub reported: bool,
}

/// The server's session for a payment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Offered {
    /// The answer, already compared with the intent.
    pub prepared: api::Prepared,
    /// Attempt in use, from 1; follows restarts.
    pub attempt: u32,
    /// Server nonce of that attempt, hex.
    pub server_nonce: String,
    /// Whether a message of this attempt may have left: then it is never started a second time.
    pub started: bool,
    /// Whether our last message may have left in some attempt: from then on the server may have signed.
    pub released: bool,
}

impl Draft {
    /// A draft under a fresh idempotency key.
    pub(super) fn new() -> Self {
        Self {
            idempotency_key: uuid::Uuid::now_v7().to_string(),
            profile_id: None,
            keygen_session_id: None,
        }
    }
}

impl Payment {
    /// Chain and account nonce of the offered transaction.
    #[must_use]
    pub fn account_nonce(&self) -> Option<(u64, u64)> {
        let nonce = self.offered.as_ref()?.prepared.unsigned_tx.nonce;
        Some((self.intent.chain_id, u64::try_from(nonce.0).ok()?))
    }

    /// Whether the payment waits to be continued or abandoned.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.tx_hash.is_none()
    }
}

impl ShareBytes {
    pub(super) fn of(share: &P1Share) -> Result<Self, KeystoreError> {
        share
            .to_bytes()
            .map(Self)
            .map_err(|_| KeystoreError::Encode)
    }

    /// The share, checked against its public values.
    pub(super) fn open(&self, slot: &Slot) -> Result<P1Share, KeystoreError> {
        P1Share::from_bytes(&self.0, &slot.public)
            .map_err(|_| KeystoreError::Damaged("its share does not belong to its address"))
    }
}

impl Record {
    pub(super) fn draft(
        environment_id: &[u8; 32],
        device: Algorithm,
    ) -> Result<Self, KeystoreError> {
        let meta = Meta {
            environment_id: hex::encode(environment_id),
            created_at: clock::now(),
            draft: Some(Draft::new()),
            profile_id: None,
            current: None,
            staged: None,
            suspect_open: None,
            suspect_events: 0,
            quarantine: None,
            payment: None,
            given_up: BTreeMap::new(),
        };
        let device = DeviceKey::generate(device).map_err(|_| KeystoreError::Random)?;
        Ok(Self {
            meta,
            device,
            current: None,
            staged: None,
        })
    }

    pub(super) fn state(&self) -> WalletState {
        match self.meta {
            Meta {
                quarantine: Some(_),
                ..
            } => WalletState::Quarantined,
            Meta {
                current: Some(_), ..
            } => WalletState::Active,
            Meta {
                staged: Some(_), ..
            } => WalletState::Staged,
            _ => WalletState::Draft,
        }
    }

    /// Whether the shares belong to their slots and the fingerprints to the public values.
    pub(super) fn verify(&self) -> Result<(), KeystoreError> {
        for (slot, share) in [
            (&self.meta.current, &self.current),
            (&self.meta.staged, &self.staged),
        ] {
            match (slot, share) {
                (None, None) => {}
                (Some(slot), Some(share)) => {
                    share.open(slot)?;
                    if slot.fingerprint != hex::encode(slot.public.fingerprint()) {
                        return Err(KeystoreError::Damaged(
                            "its fingerprint does not match its share",
                        ));
                    }
                }
                _ => return Err(KeystoreError::Damaged("a share is missing")),
            }
        }
        Ok(())
    }

    pub(super) fn encode(&self) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
        let meta = serde_json::to_vec(&self.meta).map_err(|_| KeystoreError::Encode)?;
        let device = stored(&self.device);
        let share = |share: &Option<ShareBytes>| share.as_ref().map_or(0, |share| share.0.len());
        // Reserved once: a growing vector would leave copies of the shares behind.
        let length = 5 * 4
            + TAG.len()
            + meta.len()
            + device.len()
            + share(&self.current)
            + share(&self.staged);
        let mut out = Zeroizing::new(Vec::with_capacity(length));
        put(&mut out, TAG)?;
        put(&mut out, &meta)?;
        put(&mut out, device.as_slice())?;
        for share in [&self.current, &self.staged] {
            put(
                &mut out,
                share.as_ref().map_or(&[], |share| share.0.as_slice()),
            )?;
        }
        Ok(out)
    }

    pub(super) fn decode(plaintext: &[u8]) -> Result<Self, KeystoreError> {
        let fields =
            split(plaintext).ok_or(KeystoreError::Damaged("its content is not readable"))?;
        let [tag, meta, device, current, staged] = fields;
        if tag != TAG {
            return Err(KeystoreError::Damaged("its content is of another kind"));
        }
        let meta = serde_json::from_slice(meta)
            .map_err(|_| KeystoreError::Damaged("its metadata is not readable"))?;
        let device =
            read_device(device).ok_or(KeystoreError::Damaged("its device key is not a key"))?;
        let share =
            |bytes: &[u8]| (!bytes.is_empty()).then(|| ShareBytes(Zeroizing::new(bytes.to_vec())));
        Ok(Self {
            meta,
            device,
            current: share(current),
            staged: share(staged),
        })
    }
}

/// Before the bytes of an Ed25519 device key; those of a P-256 key stand alone, as they always did.
const ED25519: &[u8] = b"ed25519:";

fn stored(device: &DeviceKey) -> Zeroizing<Vec<u8>> {
    let (mark, key): (&[u8], _) = match device.algorithm() {
        Algorithm::P256 => (&[], device.to_bytes()),
        Algorithm::Ed25519 => (ED25519, device.to_bytes()),
    };
    let mut bytes = Zeroizing::new(Vec::with_capacity(mark.len() + key.len()));
    bytes.extend_from_slice(mark);
    bytes.extend_from_slice(key.as_slice());
    bytes
}

fn read_device(bytes: &[u8]) -> Option<DeviceKey> {
    let (algorithm, key) = match bytes.strip_prefix(ED25519) {
        Some(key) => (Algorithm::Ed25519, key),
        None => (Algorithm::P256, bytes),
    };
    DeviceKey::from_bytes(algorithm, key).ok()
}

fn put(out: &mut Vec<u8>, element: &[u8]) -> Result<(), KeystoreError> {
    let length = u32::try_from(element.len()).map_err(|_| KeystoreError::Encode)?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(element);
    Ok(())
}

fn split(mut rest: &[u8]) -> Option<[&[u8]; 5]> {
    let mut fields = [<&[u8]>::default(); 5];
    for field in &mut fields {
        let (length, tail) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        (*field, rest) = tail.split_at_checked(length)?;
    }
    rest.is_empty().then_some(fields)
}
