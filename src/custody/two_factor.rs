//! The keys of second factors: made here, sealed by the HSM, opened for one verification and wiped.
//!
//! INVARIANT: nothing but the wallet's own sealed answer and the sealed row leaves this file with a secret in it.

use std::time::Instant;

use countersign_hsm::{ErrorClass, ObjectAad, Purpose};
use zeroize::Zeroizing;

use super::{Custody, HsmCall, Message};
use crate::clock::{self, Timestamp};
use crate::domain::{DeviceKeyId, EnrolmentId};
use crate::gate::two_factor::Presented;
use crate::store::profiles::ProfileRow;
use crate::store::two_factor::FactorRow;
use crate::two_factor::{Code, KEYS, Keys, RECOVERY_CODE, RECOVERY_CODES, recovery_text};

/// The role of sealed keys in their AAD.
const ROLE: &str = "2FA";

/// A new enrolment.
pub struct NewFactor {
    /// Its row, with the answer for the wallet.
    pub row: FactorRow,
    /// What is stored of its recovery codes.
    pub recovery: Vec<[u8; 32]>,
}

/// Why the keys of a second factor are not at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoKeys {
    /// The message of the wallet says something.
    NotEmpty,
    /// The HSM is away, or the keys do not open.
    Unavailable,
}

impl Custody {
    /// Makes the keys of an enrolment and seals them: for us, and with the recovery codes for the wallet that asked.
    ///
    /// # Errors
    /// [`NoKeys`].
    pub async fn new_factor(
        &self,
        profile: &ProfileRow,
        begun_by: DeviceKeyId,
        (message, issuer): (Message, &str),
        expires_at: Timestamp,
    ) -> Result<NewFactor, NoKeys> {
        let Message { plaintext, sealer } = message;
        if !plaintext.is_empty() {
            return Err(NoKeys::NotEmpty);
        }
        let enrolment_id = EnrolmentId::generate();
        let keys = random(KEYS).and_then(Keys::from_bytes);
        let keys = keys.ok_or(NoKeys::Unavailable)?;
        let codes = random(RECOVERY_CODES * RECOVERY_CODE).ok_or(NoKeys::Unavailable)?;
        let (codes, _) = codes.as_chunks::<RECOVERY_CODE>();
        let answer = sealer.seal(told(&keys, codes, issuer, profile).as_bytes());
        let answer = answer.map_err(|error| {
            tracing::error!(?error, "a second factor could not be sealed to its wallet");
            NoKeys::Unavailable
        })?;
        let recovery = codes
            .iter()
            .map(|code| keys.recovery_mac(enrolment_id, code));
        let recovery = recovery.collect();
        let (kek_id, sealed) = self.seal_factor(profile, enrolment_id, &keys).await?;
        Ok(NewFactor {
            row: FactorRow {
                enrolment_id,
                profile_id: profile.profile_id,
                begun_by,
                sealed,
                kek_id,
                last_step: 0,
                answer: Some(answer),
                expires_at,
                confirmed: None,
            },
            recovery,
        })
    }

    /// Compares what came with a request: the HSM is asked here, and never inside an operation.
    ///
    /// # Errors
    /// [`NoKeys::Unavailable`].
    pub async fn compare(
        &self,
        profile: &ProfileRow,
        factor: &FactorRow,
        code: &Code,
    ) -> Result<Presented, NoKeys> {
        let enrolment = factor.enrolment_id;
        let keys = self.open_factor(profile, factor).await?;
        Ok(match code {
            Code::Shown(shown) => Presented::Shown {
                enrolment,
                matching: keys.matching(**shown, clock::now()),
            },
            Code::Recovery(code) => Presented::Recovery {
                enrolment,
                mac: keys.recovery_mac(enrolment, code),
            },
        })
    }

    async fn seal_factor(
        &self,
        profile: &ProfileRow,
        enrolment: EnrolmentId,
        keys: &Keys,
    ) -> Result<([u8; 16], Vec<u8>), NoKeys> {
        let Some(kek) = self.factor_keks.get(&profile.tenant).copied() else {
            tracing::error!(tenant = %profile.tenant, "the tenant has no KEK for second factors");
            return Err(NoKeys::Unavailable);
        };
        let started = Instant::now();
        let payload = Zeroizing::new(keys.expose().to_vec());
        let aad = self.factor_aad(profile, enrolment);
        let sealed = self.token.seal(kek, aad, payload).await;
        self.hsm_call(HsmCall::Seal, sealed.as_ref().err(), started);
        match sealed {
            Ok(sealed) => Ok((kek.0, sealed)),
            Err(error) => {
                tracing::error!(?error, "a second factor could not be sealed");
                Err(NoKeys::Unavailable)
            }
        }
    }

    async fn open_factor(&self, profile: &ProfileRow, factor: &FactorRow) -> Result<Keys, NoKeys> {
        let started = Instant::now();
        let aad = self.factor_aad(profile, factor.enrolment_id);
        let opened = self.token.open_sealed(factor.sealed.clone(), aad).await;
        self.hsm_call(HsmCall::Open, opened.as_ref().err(), started);
        let keys = opened.map_err(|error| {
            let damaged = error.kind() == ErrorClass::Data;
            tracing::error!(?error, damaged, profile = %profile.profile_id, "a second factor could not be opened");
            NoKeys::Unavailable
        })?;
        Keys::from_bytes(keys).ok_or(NoKeys::Unavailable)
    }

    /// What sealed keys are bound to: the enrolment's id takes the place of a public key.
    fn factor_aad(&self, profile: &ProfileRow, enrolment: EnrolmentId) -> ObjectAad {
        ObjectAad {
            environment_id: self.environment_id.0,
            tenant: profile.tenant.to_string(),
            purpose: Purpose::Totp,
            profile_id: profile.profile_id.to_string(),
            owner_id: profile.owner_id.to_string(),
            key_generation: 0,
            object_version: 1,
            role: ROLE,
            public_key: enrolment.to_string().into_bytes(),
        }
    }
}

fn random(length: usize) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; length]);
    getrandom::fill(&mut bytes).ok().map(|()| bytes)
}

/// What the wallet is told: JSON. Nothing in it needs to be escaped, and nothing grows and leaves a copy behind.
fn told(
    keys: &Keys,
    codes: &[[u8; RECOVERY_CODE]],
    issuer: &str,
    profile: &ProfileRow,
) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(1024));
    text.push_str("{\"otpauth\":\"");
    text.push_str(&keys.otpauth(issuer, profile.profile_id));
    text.push_str("\",\"recoveryCodes\":[");
    for (at, code) in codes.iter().enumerate() {
        text.push_str(if at == 0 { "\"" } else { ",\"" });
        text.push_str(&recovery_text(code));
        text.push('"');
    }
    text.push_str("]}");
    text
}
