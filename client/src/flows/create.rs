//! Creating a wallet: device key, two-party key generation, proof that both shares work (`protocol.md` section 2.3).
//!
//! INVARIANT: the address is returned only when our share is durably CURRENT, and a share becomes CURRENT only when this
//! process has verified the canary signature with it: what the server says about it is no proof (A17).
//!
//! A creation that was interrupted starts cleanly anew with another key: nobody has seen the address of the one before.

use countersign_mpc::{
    binding::KeygenBinding,
    envelope::{MessageType, ResponseOpener},
    error::MpcError,
    keygen::{P1AfterRound2, P1Generated, P1Keygen},
    owner_proof::Algorithm,
};
use zeroize::Zeroizing;

use super::{Appliance, MessageBinding, Progress, Step, open, seal};
use crate::{
    ClientError, Keystore,
    api::{self, ClientShare, ContinueProfile, CreateProfile, KeygenAnswer},
    identity::Identity,
    keystore::{KeystoreError, Passphrase, Wallet, WalletName, WalletState},
    transport::Request,
};

/// Key generations tried in one run before the user is asked to look at it.
const MAX_TRIES: u32 = 5;

/// Server codes after which this key generation is over but a new one may work.
const LOST: [&str; 4] = [
    "SESSION_LOST",
    "SESSION_EXPIRED",
    "SESSION_STATE_CONFLICT",
    "IDEMPOTENCY_MISMATCH",
];

/// Creates the wallet `name`; a wallet of that name whose creation was interrupted gets a new key. The returned wallet is
/// active.
///
/// # Errors
/// [`ClientError`]. A wallet that is active already gives [`KeystoreError::Exists`].
pub async fn create_wallet(
    keystore: &Keystore,
    appliance: &Appliance,
    name: &WalletName,
    passphrase: &Passphrase,
    progress: Progress<'_>,
) -> Result<Wallet, ClientError> {
    let device = Algorithm::P256;
    create_wallet_for(keystore, appliance, name, (passphrase, device), progress).await
}

/// As [`create_wallet`], with a device key of this kind in a new wallet.
///
/// # Errors
/// As [`create_wallet`].
pub async fn create_wallet_for(
    keystore: &Keystore,
    appliance: &Appliance,
    name: &WalletName,
    (passphrase, device): (&Passphrase, Algorithm),
    progress: Progress<'_>,
) -> Result<Wallet, ClientError> {
    let existed = keystore.contains(name);
    let mut wallet = if existed {
        keystore.open(name, passphrase)?
    } else {
        let environment = &appliance.config().environment_id;
        keystore.create_for(name, environment, device, passphrase)?
    };
    appliance.owns(&wallet)?;
    match wallet.state() {
        WalletState::Active => return Err(KeystoreError::Exists(keystore.path(name)).into()),
        WalletState::Quarantined => wallet.refuse_if_quarantined()?,
        WalletState::Draft | WalletState::Staged if existed => {
            // The messages of the earlier run are gone with it, so neither its share nor its idempotency key is of use.
            progress(Step::Resuming);
            wallet.restart_draft()?;
        }
        WalletState::Draft | WalletState::Staged => {}
    }
    let mut tries = 1;
    loop {
        let Err(error) = generate(appliance, &mut wallet, progress).await else {
            return Ok(wallet);
        };
        let lost = error.server_code().is_some_and(|code| LOST.contains(&code));
        if !lost || tries == MAX_TRIES {
            return Err(error);
        }
        progress(Step::Restarting);
        wallet.restart_draft()?;
        tries += 1;
    }
}

/// The three requests.
async fn generate(
    appliance: &Appliance,
    wallet: &mut Wallet,
    progress: Progress<'_>,
) -> Result<(), ClientError> {
    let identity = appliance.identity().await?;
    let keygen = Keygen {
        appliance,
        identity: &identity,
    };

    progress(Step::Keygen(1));
    let (session, after_round_2, kg2) = keygen.first(wallet).await?;

    progress(Step::Keygen(2));
    let (sealed, opener) = keygen.seal(wallet, MessageType::Keygen2, session.binding(), &kg2)?;
    let answer = keygen.next(wallet, &session, sealed).await?;
    let address = answer.session_wallet_address;
    let message = open(&opener, &answer.mpc_message)?;
    // P2's first canary message is checked with secrets of the new share, so the ban rules hold from here on.
    let P1Generated {
        share,
        public,
        canary,
        message: kg3,
    } = wallet.under_suspicion(&session.keygen_session_id, || {
        after_round_2.round_3(&message)
    })?;
    if address.is_none_or(|theirs| theirs.0 != public.address) {
        return Err(ClientError::Answer(
            "it names another address than the one just generated",
        ));
    }
    wallet.stage(&share, public, 1)?;
    progress(Step::ShareStored);

    progress(Step::Keygen(3));
    let (sealed, opener) = keygen.seal(wallet, MessageType::Keygen3, session.binding(), &kg3)?;
    let answer = keygen.next(wallet, &session, sealed).await?;
    let proven = open(&opener, &answer.mpc_message).and_then(|message| {
        let finish = || canary.finish(&share, &message);
        Ok(wallet.under_suspicion(&session.keygen_session_id, finish)?)
    });
    if let Err(error) = proven {
        if !error.is_quarantined() {
            wallet.restart_draft()?;
        }
        return Err(error);
    }
    if answer.status != "active" {
        return Err(ClientError::Answer(
            "the profile is not active after its last round",
        ));
    }
    progress(Step::CanaryVerified);
    wallet.promote(&session.profile_id)?;
    Ok(())
}

struct Keygen<'a> {
    appliance: &'a Appliance,
    identity: &'a Identity,
}

struct Session {
    profile_id: String,
    keygen_session_id: String,
    /// What the three requests are routed by: the first one, which meets the instance that holds the session, is sent
    /// before the session has its id.
    route: String,
}

impl Session {
    fn binding(&self) -> MessageBinding<'_> {
        let (profile_id, session_id) = (&self.profile_id, &self.keygen_session_id);
        MessageBinding {
            profile_id,
            session_id,
            key_generation: 1,
            attempt: 1,
        }
    }
}

impl Keygen<'_> {
    /// Request 1: kg1 against the server's commitments.
    async fn first(
        &self,
        wallet: &mut Wallet,
    ) -> Result<(Session, P1AfterRound2, Zeroizing<Vec<u8>>), ClientError> {
        let key = wallet.begin_generation()?;
        let (state, kg1) = P1Keygen::start().map_err(ClientError::Protocol)?;
        let before_ids = MessageBinding {
            profile_id: &key,
            session_id: &key,
            key_generation: 1,
            attempt: 1,
        };
        let (sealed, opener) = self.seal(wallet, MessageType::Keygen1, before_ids, &kg1)?;
        let body = CreateProfile {
            name: wallet.name().to_string(),
            client_share: client_share(wallet, sealed),
        };
        let request = Request::post(api::PROFILES, &body)?
            .with_idempotency_key(&key)
            .of_session(&key);
        let answer: KeygenAnswer = self.appliance.call(wallet, &request).await?;
        let keygen_session_id = answer
            .keygen_session_id
            .ok_or(ClientError::Answer("it names no key generation session"))?;
        let session = Session {
            profile_id: answer.profile_id,
            keygen_session_id,
            route: key,
        };
        wallet.set_draft_session(&session.profile_id, &session.keygen_session_id)?;

        let binding = KeygenBinding {
            environment_id: self.appliance.config().environment_id,
            profile_id: session.profile_id.clone(),
            keygen_session_id: session.keygen_session_id.clone(),
            device_thumbprint: wallet.device().thumbprint(),
        };
        let message = open(&opener, &answer.mpc_message)?;
        // No long-lived secret exists yet: what fails here is recoverable.
        let round_2 = |error: MpcError| ClientError::from(KeystoreError::Protocol(error));
        let (state, kg2) = state.round_2(&binding, &message).map_err(round_2)?;
        Ok((session, state, kg2))
    }

    /// Requests 2 and 3.
    async fn next(
        &self,
        wallet: &Wallet,
        session: &Session,
        sealed: String,
    ) -> Result<KeygenAnswer, ClientError> {
        let body = ContinueProfile {
            profile_id: session.profile_id.clone(),
            keygen_session_id: session.keygen_session_id.clone(),
            client_share: client_share(wallet, sealed),
        };
        let request = Request::post(api::PROFILES, &body)?.of_session(&session.route);
        self.appliance.call(wallet, &request).await
    }

    fn seal(
        &self,
        wallet: &Wallet,
        message_type: MessageType,
        binding: MessageBinding<'_>,
        message: &[u8],
    ) -> Result<(String, ResponseOpener), ClientError> {
        seal(
            self.appliance,
            self.identity,
            wallet,
            message_type,
            binding,
            message,
        )
    }
}

/// The `clientShare` object around a sealed message.
#[must_use]
pub fn client_share(wallet: &Wallet, sealed: String) -> ClientShare {
    let device = wallet.device();
    let public_key = device.public_key().jwk();
    ClientShare {
        key_id: device.thumbprint(),
        public_key,
        share: sealed,
    }
}
