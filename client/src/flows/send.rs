//! Sending: agree on a transaction, then sign it in two requests (`protocol.md` section 2.4).
//!
//! INVARIANT: the idempotency key is durable before the first request, the session before round 1, and "our last message
//! may have left" before it leaves. So a send that was interrupted anywhere is continued, never repeated.

use std::time::Duration;

use countersign_mpc::{
    binding::{Purpose, SignBinding},
    envelope::MessageType,
    sign::P1Sign,
};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Appliance, MessageBinding, Progress, Step, attempt_label, open, payment::session, seal,
};
use crate::{
    ClientError,
    api::{
        self, PrepareTransaction, Prepared, Restart, Restarted, Retry, RoundOneAnswer,
        RoundTwoAnswer, SignRound,
    },
    clock,
    keystore::{Offered, Payment, Wallet},
    transport::{CallError, Request},
    two_factor::TwoFactorCode,
    tx::{Agreed, Intent},
};

/// Attempts made in one run before the user is asked to look at it.
const MAX_TRIES: u32 = 3;

/// The server refuses a restart while it checks a message, or until it has swept a lapsed session (every 2 s).
const LONGEST_LAPSE: Duration = Duration::from_secs(30);
const LAPSE_POLL: Duration = Duration::from_secs(2);

/// Server codes after which a session may be started anew without asking: nothing was checked, or the session was lost.
const RESTARTABLE: [&str; 2] = ["SESSION_LOST", "SESSION_EXPIRED"];

/// A transaction that the server offered and that is what the user asked for. To be shown, then signed.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// The compared transaction.
    pub agreed: Agreed,
    /// The wallet's checksummed address.
    pub from: String,
    /// Unix time in seconds until which round 1 must have arrived.
    pub expires_at: i64,
}

/// A signed transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The signing session.
    pub session_id: String,
    /// The transaction's hash as the server computed it. P1 never learns the signature in this order of messages, so it
    /// cannot compute the hash itself; the chain is where to look it up.
    pub tx_hash: String,
    /// `submitted` or `broadcasting`.
    pub status: String,
}

/// Asks the server for the transaction and compares its offer with `intent`. Signs nothing.
///
/// A payment of which no protocol message ever left is replaced; if it is the same intent, its idempotency key is used again.
///
/// # Errors
/// [`ClientError::PaymentOpen`], [`ClientError::Unreported`], [`ClientError::Mismatch`], [`ClientError::OtherNonce`], or
/// that the server refused.
pub async fn propose(
    wallet: &mut Wallet,
    appliance: &Appliance,
    intent: Intent,
) -> Result<Proposal, ClientError> {
    propose_with(wallet, appliance, intent, None).await
}

/// As [`propose`], with a code of the wallet's second factor. A proposal that was refused for want of one is asked for under
/// the same idempotency key with one.
///
/// # Errors
/// As [`propose`].
pub async fn propose_with(
    wallet: &mut Wallet,
    appliance: &Appliance,
    intent: Intent,
    code: Option<&TwoFactorCode>,
) -> Result<Proposal, ClientError> {
    usable(wallet, appliance, intent.chain_id)?;
    let mut payment = Payment {
        idempotency_key: Uuid::now_v7().to_string(),
        intent,
        created_at: clock::now(),
        offered: None,
        tx_hash: None,
        reported: false,
    };
    if let Some(signed) = wallet.unreported()
        && signed.intent == payment.intent
    {
        return Err(ClientError::Unreported(
            signed.describe(),
            wallet.name().clone(),
        ));
    }
    match wallet.payment().filter(|earlier| earlier.is_open()) {
        Some(earlier) if earlier.is_started() => {
            return Err(ClientError::PaymentOpen(
                earlier.describe(),
                wallet.name().clone(),
            ));
        }
        Some(earlier) if earlier.offered.is_none() && earlier.intent == payment.intent => {
            payment = earlier.clone();
        }
        _ => wallet.set_payment(Some(payment.clone()))?,
    }
    request_offer(wallet, appliance, payment, code).await
}

/// Sends the transaction request under the payment's stored idempotency key.
pub(super) async fn request_offer(
    wallet: &mut Wallet,
    appliance: &Appliance,
    payment: Payment,
    code: Option<&TwoFactorCode>,
) -> Result<Proposal, ClientError> {
    let (profile_id, slot) = wallet.current()?;
    let generation = slot.generation;
    let body = PrepareTransaction {
        two_factor_code: code.cloned(),
        ..payment.intent.request(generation)
    };
    let request = Request::post(api::transactions_path(profile_id), &body)?
        .with_idempotency_key(&payment.idempotency_key);
    let offer = match appliance.call::<Prepared>(wallet, &request).await {
        Err(error) => {
            // Refused for good: there is nothing to continue.
            if matches!(&error, ClientError::Call(CallError::Server(refusal)) if refusal.is_of_this_request() && refusal.retry != Retry::Same)
            {
                wallet.set_payment(None)?;
            }
            return Err(error);
        }
        Ok(offer) => offer,
    };
    match compare(wallet, &payment.intent, &offer) {
        Ok(proposal) => {
            let (attempt, server_nonce) = (offer.attempt, offer.server_nonce.clone());
            let offered = Offered {
                prepared: offer,
                attempt,
                server_nonce,
                started: false,
                released: false,
            };
            wallet.update_payment(|payment| payment.offered = Some(offered))?;
            Ok(proposal)
        }
        Err(error) => {
            wallet.set_payment(None)?;
            Err(error)
        }
    }
}

/// The offer as a proposal, if it is what was asked for.
pub(super) fn compare(
    wallet: &Wallet,
    intent: &Intent,
    offer: &Prepared,
) -> Result<Proposal, ClientError> {
    let agreed = intent.check(offer)?;
    let (_, slot) = wallet.current()?;
    if offer.key_generation != slot.generation {
        return Err(ClientError::Answer(
            "it wants to sign with another generation of the key",
        ));
    }
    if offer.attempt == 0 {
        return Err(ClientError::Answer("attempts count from 1"));
    }
    let (chain_id, offered) = (intent.chain_id, agreed.transaction().nonce);
    if let Some(given_up) = wallet
        .given_up(chain_id)
        .filter(|&given_up| given_up != offered)
    {
        return Err(ClientError::OtherNonce {
            chain_id,
            given_up,
            offered,
        });
    }
    Ok(Proposal {
        agreed,
        from: slot.address(),
        expires_at: offer.expires_at,
    })
}

/// Signs the proposed transaction. A session that the server lost is started anew, at most twice.
///
/// # Errors
/// [`ClientError`]; [`super::payment::resume`] continues after every one except a quarantine.
pub async fn sign(
    wallet: &mut Wallet,
    appliance: &Appliance,
    proposal: &Proposal,
    progress: Progress<'_>,
) -> Result<Sent, ClientError> {
    wallet.refuse_if_quarantined()?;
    let mut tries = 1;
    loop {
        match attempt(wallet, appliance, proposal, progress).await {
            Err(error)
                if tries < MAX_TRIES
                    && error
                        .server_code()
                        .is_some_and(|code| RESTARTABLE.contains(&code)) =>
            {
                progress(Step::Restarting);
                restart(wallet, appliance, progress).await?;
                tries += 1;
            }
            outcome => return outcome,
        }
    }
}

/// Asks for a new attempt of the payment's session: same transaction, same nonce, so at most one can be mined. The server
/// forgets the earlier attempt at once, unless it is checking a message of it: then this waits until that has ended.
pub(super) async fn restart(
    wallet: &mut Wallet,
    appliance: &Appliance,
    progress: Progress<'_>,
) -> Result<(), ClientError> {
    let offered = offered(wallet)?;
    let session_id = offered.prepared.session_id.clone();
    let request = Request::post(
        api::SIGN,
        &Restart {
            session_id: session_id.clone(),
            restart: true,
        },
    )?
    // Whose answer is lost is asked for again, and stays one attempt.
    .with_idempotency_key(Uuid::now_v7().to_string())
    .of_session(&session_id);
    let start = Instant::now();
    let Restarted {
        attempt,
        server_nonce,
    } = loop {
        let error = match appliance.call(wallet, &request).await {
            Ok(restarted) => break restarted,
            Err(error) => error,
        };
        if error.server_code() != Some("SESSION_STATE_CONFLICT") {
            return Err(error);
        }
        let seen = session(wallet, appliance, &session_id).await?;
        let held = seen.is_open() && seen.tx_hash.is_none();
        if !held || start.elapsed() > LONGEST_LAPSE {
            return Err(error);
        }
        progress(Step::WaitingForLapse);
        tokio::time::sleep(LAPSE_POLL).await;
    };
    // Equal is fine: an earlier answer was lost, and the server has seen no message of that attempt yet. Our nonce is
    // fresh in every round 1, so even a server that lies about it gains nothing.
    if attempt < offered.attempt {
        return Err(ClientError::Answer(
            "a restarted session counts its attempts backwards",
        ));
    }
    wallet.update_payment(|payment| {
        mark(payment, |offered| {
            (offered.attempt, offered.server_nonce, offered.started) =
                (attempt, server_nonce, false);
        });
    })?;
    Ok(())
}

/// Both rounds of one attempt.
async fn attempt(
    wallet: &mut Wallet,
    appliance: &Appliance,
    proposal: &Proposal,
    progress: Progress<'_>,
) -> Result<Sent, ClientError> {
    let offered = offered(wallet)?;
    let identity = appliance.identity().await?;
    let share = wallet.current_share()?;
    let binding = binding(wallet, appliance, &offered, proposal.agreed.digest())?;
    let (profile_id, session_id) = (
        binding.profile_id.clone(),
        offered.prepared.session_id.clone(),
    );
    let sealed_to = MessageBinding {
        profile_id: &profile_id,
        session_id: &session_id,
        key_generation: binding.key_generation,
        attempt: offered.attempt,
    };

    progress(Step::Signing(1, offered.attempt));
    let (state, sg1) = P1Sign::start(&share, binding).map_err(ClientError::Protocol)?;
    let (sealed, opener) = seal(
        appliance,
        &identity,
        wallet,
        MessageType::Sign1,
        sealed_to,
        &sg1,
    )?;
    wallet.update_payment(|payment| mark(payment, |offered| offered.started = true))?;
    let round = SignRound {
        session_id: session_id.clone(),
        p1_signature_share: sealed,
    };
    let request = Request::post(api::SIGN, &round)?.of_session(&session_id);
    let answer: RoundOneAnswer = appliance.call(wallet, &request).await?;
    let message = open(&opener, &answer.mpc_message)?;
    let sg2 = wallet.under_suspicion(&attempt_label(&session_id, offered.attempt), || {
        state.round_2(&share, &message)
    })?;

    progress(Step::Signing(2, offered.attempt));
    let (sealed, _) = seal(
        appliance,
        &identity,
        wallet,
        MessageType::Sign2,
        sealed_to,
        &sg2,
    )?;
    wallet.update_payment(|payment| mark(payment, |offered| offered.released = true))?;
    let round = SignRound {
        session_id: session_id.clone(),
        p1_signature_share: sealed,
    };
    let request = Request::post(api::SIGN, &round)?.of_session(&session_id);
    let answer: RoundTwoAnswer = appliance.call(wallet, &request).await?;
    wallet.finish_payment(&answer.tx_hash)?;
    Ok(Sent {
        session_id,
        tx_hash: answer.tx_hash,
        status: answer.status,
    })
}

fn binding(
    wallet: &Wallet,
    appliance: &Appliance,
    offered: &Offered,
    digest: [u8; 32],
) -> Result<SignBinding, ClientError> {
    let (profile_id, slot) = wallet.current()?;
    let mut server_nonce = [0; 32];
    hex::decode_to_slice(
        offered.server_nonce.trim_start_matches("0x"),
        &mut server_nonce,
    )
    .map_err(|_| ClientError::Answer("its nonce is not 32 bytes"))?;
    Ok(SignBinding {
        environment_id: appliance.config().environment_id,
        profile_id: profile_id.to_owned(),
        device_thumbprint: wallet.device().thumbprint(),
        key_generation: slot.generation,
        session_id: offered.prepared.session_id.clone(),
        attempt: offered.attempt,
        index: 0,
        server_nonce,
        policy_decision_id: offered.prepared.policy_decision_id.clone(),
        purpose: Purpose::Transaction,
        digest,
    })
}

/// Whether this wallet may send on this chain through this appliance.
pub(super) fn usable(
    wallet: &Wallet,
    appliance: &Appliance,
    chain_id: u64,
) -> Result<(), ClientError> {
    wallet.refuse_if_quarantined()?;
    wallet.current()?;
    appliance.owns(wallet)?;
    let known = appliance
        .config()
        .chains
        .iter()
        .any(|chain| chain.id == chain_id);
    known
        .then_some(())
        .ok_or(ClientError::UnknownChain(chain_id))
}

fn offered(wallet: &Wallet) -> Result<Offered, ClientError> {
    let offered = wallet
        .payment()
        .filter(|payment| payment.is_open())
        .and_then(|payment| payment.offered.clone());
    offered.ok_or_else(|| ClientError::NoPayment(wallet.name().clone()))
}

fn mark(payment: &mut Payment, change: impl FnOnce(&mut Offered)) {
    if let Some(offered) = &mut payment.offered {
        change(offered);
    }
}
