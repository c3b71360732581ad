//! The second factor of a wallet: enrolled, activated by its first code, cancelled while it waits (`protocol.md` 3.4, 5.2).

use countersign_mpc::envelope::MessageType;
use uuid::Uuid;

use super::{Appliance, MessageBinding, open, seal};
use crate::{
    ClientError,
    api::{
        self, ActivateTwoFactor, CancelTwoFactor, EnrolTwoFactor, EnrolmentState, SealedShare,
        TwoFactorBegun, TwoFactorStatus,
    },
    keystore::Wallet,
    transport::Request,
    two_factor::{Secret, TwoFactorCode},
};

/// A second factor that waits for its first code.
#[derive(Debug)]
pub struct Enrolment {
    /// What to activate.
    pub enrolment_id: String,
    /// Until when the first code may come, RFC 3339.
    pub expires_at: String,
    /// To be shown once, and dropped.
    pub secret: Secret,
}

/// Asks for a second factor. `code` is one of the factor that it will replace, if there is one.
///
/// The secret is sealed to this device: nothing between it and the appliance sees it, and it is stored nowhere here.
///
/// # Errors
/// [`ClientError`].
pub async fn enrol(
    wallet: &Wallet,
    appliance: &Appliance,
    code: Option<&TwoFactorCode>,
) -> Result<Enrolment, ClientError> {
    appliance.owns(wallet)?;
    let (profile_id, _) = wallet.current()?;
    let key = Uuid::now_v7().to_string();
    let binding = MessageBinding {
        profile_id,
        session_id: &key,
        key_generation: 0,
        attempt: 1,
    };
    let identity = appliance.identity().await?;
    let of = MessageType::TwoFactorEnrol;
    let (share, opener) = seal(appliance, &identity, wallet, of, binding, &[])?;
    let body = EnrolTwoFactor {
        client_share: SealedShare { share },
        two_factor_code: code,
    };
    let request =
        Request::post(api::two_factor_path(profile_id), &body)?.with_idempotency_key(&key);
    let begun: TwoFactorBegun = appliance.call(wallet, &request).await?;
    let secret = Secret::read(&open(&opener, &begun.sealed)?);
    Ok(Enrolment {
        enrolment_id: begun.enrolment_id,
        expires_at: begun.expires_at,
        secret: secret.ok_or(ClientError::Answer(
            "it sent no secret for an authenticator",
        ))?,
    })
}

/// Shows that the authenticator has the secret: the enrolment becomes the factor, at once or after its cooling-off.
///
/// # Errors
/// [`ClientError`].
pub async fn activate(
    wallet: &Wallet,
    appliance: &Appliance,
    enrolment_id: &str,
    code: &TwoFactorCode,
) -> Result<EnrolmentState, ClientError> {
    appliance.owns(wallet)?;
    let body = ActivateTwoFactor {
        enrolment_id,
        two_factor_code: code,
    };
    let path = format!("{}/activate", api::two_factor_path(wallet.current()?.0));
    let state: EnrolmentState = appliance.call(wallet, &Request::post(path, &body)?).await?;
    if state.enrolment_id != enrolment_id {
        return Err(ClientError::Answer("it activated another enrolment"));
    }
    Ok(state)
}

/// Gives up an enrolment that waits, for its first code or for its time. The factor that counts stays.
///
/// # Errors
/// [`ClientError`].
pub async fn cancel(
    wallet: &Wallet,
    appliance: &Appliance,
    enrolment_id: &str,
) -> Result<(), ClientError> {
    appliance.owns(wallet)?;
    let body = CancelTwoFactor { enrolment_id };
    let path = format!("{}/cancel", api::two_factor_path(wallet.current()?.0));
    let state: EnrolmentState = appliance.call(wallet, &Request::post(path, &body)?).await?;
    if state.enrolment_id != enrolment_id || state.status != "cancelled" {
        return Err(ClientError::Answer("it did not cancel this enrolment"));
    }
    Ok(())
}

/// The second factor as the appliance shows it.
///
/// # Errors
/// [`ClientError`].
pub async fn status(
    wallet: &Wallet,
    appliance: &Appliance,
) -> Result<TwoFactorStatus, ClientError> {
    appliance.owns(wallet)?;
    let path = api::two_factor_path(wallet.current()?.0);
    appliance.call(wallet, &Request::get(path)).await
}
