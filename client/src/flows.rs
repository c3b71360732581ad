//! What a user does with a wallet, as library functions without a terminal.

pub mod create;
pub mod devices;
pub mod freeze;
pub mod payment;
pub mod send;
pub mod show;
pub mod two_factor;

use std::sync::Arc;

use countersign_mpc::{
    envelope::{EnvelopeInfo, MessageType, ResponseOpener, seal_request},
    identity::IdentityDocument,
};
use zeroize::Zeroizing;

use crate::{
    ClientError, Config, api, clock,
    identity::Identity,
    keystore::Wallet,
    transport::{CallError, Request, Transport},
    two_factor::TwoFactorError,
};

/// Where a flow is, for a progress display.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// An earlier run is continued.
    Resuming,
    /// Key generation request `n` of 3 is being worked on.
    Keygen(u8),
    /// The share is durably stored.
    ShareStored,
    /// The proof that both shares work was verified.
    CanaryVerified,
    /// Signing request `n` of 2 is being worked on, in this attempt.
    Signing(u8, u32),
    /// The server lost the session; it is started anew.
    Restarting,
    /// The server still holds an earlier attempt open; it lapses by itself.
    WaitingForLapse,
}

/// Receives the steps of a flow.
pub type Progress<'a> = &'a mut (dyn FnMut(Step) + Send);

/// One appliance as its configuration describes it.
#[derive(Clone)]
pub struct Appliance {
    config: Arc<Config>,
    transport: Transport,
}

impl Appliance {
    /// Prepares the connection; connects to nothing yet.
    ///
    /// # Errors
    /// [`ClientError::Call`] if certificates or key are not usable.
    pub fn new(config: Config) -> Result<Self, ClientError> {
        let transport = Transport::new(&config)?;
        Ok(Self {
            config: Arc::new(config),
            transport,
        })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The connection, for requests that no flow makes.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Fetches the identity document and checks it against the configuration. Nothing is sealed before.
    ///
    /// # Errors
    /// [`ClientError::Identity`] if this is another appliance, [`ClientError::Call`] if it cannot be reached.
    pub async fn identity(&self) -> Result<Identity, ClientError> {
        let document = self.identity_document().await?;
        Ok(Identity::verify(document, &self.config, clock::now())?)
    }

    /// The identity document as it was answered; only its answer's signature has been verified.
    ///
    /// # Errors
    /// [`ClientError::Call`] if it cannot be had.
    pub async fn identity_document(&self) -> Result<IdentityDocument, ClientError> {
        Ok(self.transport.fetch(api::IDENTITY).await?)
    }

    /// Calls the API as the owner of `wallet`.
    ///
    /// # Errors
    /// [`ClientError::Call`], or [`ClientError::TwoFactor`] if it is about the second factor.
    pub async fn call<T: serde::de::DeserializeOwned>(
        &self,
        wallet: &Wallet,
        request: &Request,
    ) -> Result<T, ClientError> {
        let called = self.transport.call(request, wallet.device()).await;
        called.map_err(|error| match error {
            CallError::Server(answer) => match TwoFactorError::of(answer) {
                Ok(about_a_code) => about_a_code.into(),
                Err(answer) => CallError::Server(answer).into(),
            },
            transport @ CallError::Transport(_) => transport.into(),
        })
    }

    /// Fails if `wallet` was made in another environment.
    pub(crate) fn owns(&self, wallet: &Wallet) -> Result<(), ClientError> {
        let same = wallet.environment_id() == hex::encode(self.config.environment_id);
        same.then_some(())
            .ok_or_else(|| ClientError::OtherEnvironment(wallet.name().clone()))
    }
}

/// What a sealed message is bound to besides environment, tenant and device key.
#[derive(Debug, Clone, Copy)]
pub struct MessageBinding<'a> {
    /// Profile, or the idempotency key in kg1.
    pub profile_id: &'a str,
    /// Session, or the idempotency key in kg1.
    pub session_id: &'a str,
    /// Generation of the key.
    pub key_generation: u64,
    /// Attempt of the session.
    pub attempt: u32,
}

/// Seals `message` of `wallet`'s owner to the appliance; the opener opens the answer to it.
///
/// # Errors
/// [`ClientError::Answer`] if the published key cannot be used.
pub fn seal(
    appliance: &Appliance,
    identity: &Identity,
    wallet: &Wallet,
    message_type: MessageType,
    binding: MessageBinding<'_>,
    message: &[u8],
) -> Result<(String, ResponseOpener), ClientError> {
    let info = EnvelopeInfo {
        environment_id: appliance.config.environment_id,
        tenant: appliance.config.tenant.clone(),
        message_type,
        kem_kid: identity.kid().to_owned(),
        device_thumbprint: wallet.device().thumbprint(),
        profile_id: binding.profile_id.to_owned(),
        session_id: binding.session_id.to_owned(),
        key_generation: binding.key_generation,
        attempt: binding.attempt,
    };
    seal_request(identity.key(), &info, message)
        .map_err(|_| ClientError::Answer("its message key is not usable"))
}

/// Opens the sealed answer to a message.
pub(crate) fn open(
    opener: &ResponseOpener,
    sealed: &str,
) -> Result<Zeroizing<Vec<u8>>, ClientError> {
    opener
        .open(sealed)
        .map_err(|_| ClientError::Answer("its sealed message does not open"))
}

/// The address of one signing attempt in the suspect mark and in a ban.
pub(crate) fn attempt_label(session_id: &str, attempt: u32) -> String {
    format!("{session_id}, attempt {attempt}")
}
