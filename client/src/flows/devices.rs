//! The devices that sign for a wallet: a new one asks, an enrolled one vouches for it, any of them revokes.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_mpc::owner_proof::{Enrolment, MAX_ENROLMENT, PublicKey};

use super::Appliance;
use crate::{
    ClientError,
    api::{self, Device, Devices, EnrolDevice, EnrolDeviceRequest, EnrolmentProof, RevokeDevice},
    clock,
    keystore::{KeystoreError, Wallet},
    transport::Request,
    two_factor::TwoFactorCode,
};

/// What the device of this wallet, which is not enrolled yet, asks for under `name`.
///
/// # Errors
/// [`ClientError`]; the wallet is active.
pub fn ask(wallet: &Wallet, appliance: &Appliance, name: &str) -> Result<EnrolDevice, ClientError> {
    appliance.owns(wallet)?;
    let (profile_id, _) = wallet.current()?;
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(|_| KeystoreError::Random)?;
    // A little less than allowed: clocks differ.
    let expires = clock::now().saturating_add(MAX_ENROLMENT - 300);
    let enrolment = Enrolment {
        environment_id: &appliance.config().environment_id,
        tenant: &appliance.config().tenant,
        profile_id,
        name,
        nonce: &nonce,
        expires: u64::try_from(expires).unwrap_or_default(),
    };
    Ok(EnrolDevice {
        public_key: wallet.device().public_key().jwk(),
        name: name.to_owned(),
        proof: EnrolmentProof {
            nonce: URL_SAFE_NO_PAD.encode(nonce),
            expires,
            signature: URL_SAFE_NO_PAD.encode(enrolment.sign(wallet.device())),
        },
    })
}

/// Enrols the device that asks, with this wallet's device vouching for it.
///
/// # Errors
/// [`ClientError`].
pub async fn add(
    wallet: &Wallet,
    appliance: &Appliance,
    asked: &EnrolDevice,
) -> Result<Device, ClientError> {
    add_with(wallet, appliance, asked, None).await
}

/// As [`add`], with a code of the wallet's second factor.
///
/// # Errors
/// [`ClientError`].
pub async fn add_with(
    wallet: &Wallet,
    appliance: &Appliance,
    asked: &EnrolDevice,
    two_factor_code: Option<&TwoFactorCode>,
) -> Result<Device, ClientError> {
    appliance.owns(wallet)?;
    let thumbprint = PublicKey::parse(&asked.public_key)
        .map_err(|error| ClientError::Usage(format!("the device's key: {error}")))?
        .thumbprint();
    let path = api::devices_path(wallet.current()?.0);
    let body = EnrolDeviceRequest {
        asked,
        two_factor_code,
    };
    let request = Request::post(path, &body)?.with_idempotency_key(fresh_key()?);
    let device: Device = appliance.call(wallet, &request).await?;
    if device.key_id != thumbprint {
        return Err(ClientError::Answer("it enrolled another device"));
    }
    Ok(device)
}

/// The devices of the wallet's owner.
///
/// # Errors
/// [`ClientError`].
pub async fn list(wallet: &Wallet, appliance: &Appliance) -> Result<Vec<Device>, ClientError> {
    appliance.owns(wallet)?;
    let path = api::devices_path(wallet.current()?.0);
    let answer: Devices = appliance.call(wallet, &Request::get(path)).await?;
    Ok(answer.devices)
}

/// Revokes a device for good.
///
/// # Errors
/// [`ClientError`].
pub async fn revoke(
    wallet: &Wallet,
    appliance: &Appliance,
    key_id: &str,
) -> Result<Device, ClientError> {
    revoke_with(wallet, appliance, key_id, None).await
}

/// As [`revoke`], with a code of the wallet's second factor.
///
/// # Errors
/// [`ClientError`].
pub async fn revoke_with(
    wallet: &Wallet,
    appliance: &Appliance,
    key_id: &str,
    two_factor_code: Option<&TwoFactorCode>,
) -> Result<Device, ClientError> {
    appliance.owns(wallet)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if key_id.len() != 43 || !key_id.bytes().all(plain) {
        return Err(ClientError::Usage(format!(
            "{key_id:?} is no device key id: see `countersign device list`"
        )));
    }
    let path = api::revoke_path(wallet.current()?.0, key_id);
    let body = RevokeDevice { two_factor_code };
    let request = Request::post(path, &body)?.with_idempotency_key(fresh_key()?);
    let device: Device = appliance.call(wallet, &request).await?;
    if device.key_id != key_id || device.status != "revoked" {
        return Err(ClientError::Answer("it did not revoke this device"));
    }
    Ok(device)
}

fn fresh_key() -> Result<String, ClientError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| KeystoreError::Random)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}
