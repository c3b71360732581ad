//! What becomes of a payment after the run that started it: continue, give up, wait until mined.

use std::time::Duration;

use super::{
    Appliance, Progress,
    send::{Proposal, Sent, compare, request_offer, restart, usable},
};
use crate::{
    ClientError,
    api::{self, Session},
    clock,
    keystore::{Payment, Wallet},
    transport::{CallError, Request},
    units::format_ether,
};

const POLL_EVERY: Duration = Duration::from_secs(1);

/// What [`resume`] found.
#[derive(Debug, Clone)]
pub enum Resumed {
    /// Signed already.
    Sent(Sent),
    /// To be shown and signed like a new one; it is the same transaction.
    Proposal(Proposal),
}

impl Payment {
    /// Amount and recipient in one line.
    #[must_use]
    pub fn describe(&self) -> String {
        format!(
            "{} to {} on chain {}",
            format_ether(self.intent.value),
            self.intent.to,
            self.intent.chain_id
        )
    }

    /// Whether a protocol message of this payment may have left.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.offered
            .as_ref()
            .is_some_and(|offered| offered.started || offered.released)
    }
}

/// Continues the wallet's last payment: finds out whether it was signed, and prepares the next attempt if it was not.
///
/// # Errors
/// [`ClientError::NoPayment`] if there is none, and the errors of sending.
pub async fn resume(
    wallet: &mut Wallet,
    appliance: &Appliance,
    progress: Progress<'_>,
) -> Result<Resumed, ClientError> {
    let Some(payment) = wallet.payment().cloned() else {
        return Err(ClientError::NoPayment(wallet.name().clone()));
    };
    usable(wallet, appliance, payment.intent.chain_id)?;
    let Some(offered) = payment.offered.clone() else {
        return request_offer(wallet, appliance, payment)
            .await
            .map(Resumed::Proposal);
    };
    let session_id = offered.prepared.session_id.clone();
    let session = session(wallet, appliance, &session_id).await?;
    if let Some(tx_hash) = session.tx_hash {
        wallet.update_payment(|payment| payment.tx_hash = Some(tx_hash.clone()))?;
        let status = session.status.unwrap_or_else(|| "broadcasting".to_owned());
        return Ok(Resumed::Sent(Sent {
            session_id,
            tx_hash,
            status,
        }));
    }
    // The server has seen no message of this attempt, so it can be used as it is.
    let unused = session.is_waiting()
        && session.attempt == offered.attempt
        && clock::now() < offered.prepared.expires_at;
    if !unused {
        restart(wallet, appliance, progress).await?;
    }
    compare(wallet, &payment.intent, &offered.prepared).map(Resumed::Proposal)
}

/// Gives the wallet's last payment up. Refused while the server may still sign it.
///
/// # Errors
/// [`ClientError::NotAbandonable`] if our last message left and the server does not say that the attempt is over.
pub async fn abandon(wallet: &mut Wallet, appliance: &Appliance) -> Result<(), ClientError> {
    let Some(payment) = wallet.payment().filter(|payment| payment.is_open()) else {
        return Err(ClientError::NoPayment(wallet.name().clone()));
    };
    if let Some(offered) = payment.offered.clone().filter(|offered| offered.released) {
        let session = match session(wallet, appliance, &offered.prepared.session_id).await {
            // A session the server does not know is one it cannot sign in.
            Err(ClientError::Call(CallError::Server(error))) if error.status == 404 => {
                return Ok(wallet.set_payment(None)?);
            }
            session => session?,
        };
        if let Some(tx_hash) = session.tx_hash {
            wallet.update_payment(|payment| payment.tx_hash = Some(tx_hash))?;
            return Err(ClientError::NotAbandonable("signed".to_owned()));
        }
        if session.is_open() {
            return Err(ClientError::NotAbandonable(session.state));
        }
    }
    Ok(wallet.set_payment(None)?)
}

/// Polls until the transaction is mined and returns the session's last state.
///
/// # Errors
/// [`ClientError::Reverted`], [`ClientError::Replaced`], or [`ClientError::NotMinedYet`] after `timeout`.
pub async fn wait_until_mined(
    wallet: &Wallet,
    appliance: &Appliance,
    sent: &Sent,
    timeout: Duration,
    mut progress: impl FnMut(&Session, Duration),
) -> Result<Session, ClientError> {
    let start = tokio::time::Instant::now();
    loop {
        let session = session(wallet, appliance, &sent.session_id).await?;
        match session.status.as_deref() {
            Some("mined") => return Ok(session),
            Some("reverted") => return Err(ClientError::Reverted(sent.tx_hash.clone())),
            Some("replaced") => return Err(ClientError::Replaced(sent.tx_hash.clone())),
            _ if start.elapsed() >= timeout => {
                return Err(ClientError::NotMinedYet(sent.tx_hash.clone()));
            }
            _ => {}
        }
        progress(&session, start.elapsed());
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// The server's view of a session.
///
/// # Errors
/// [`ClientError::Call`].
pub async fn session(
    wallet: &Wallet,
    appliance: &Appliance,
    session_id: &str,
) -> Result<Session, ClientError> {
    appliance
        .call(wallet, &Request::get(api::session_path(session_id)))
        .await
}

/// Drops the proposal that the user did not agree to, unless an earlier run may have signed it.
///
/// # Errors
/// The keystore's file errors.
pub fn decline(wallet: &mut Wallet) -> Result<(), ClientError> {
    if wallet
        .payment()
        .is_some_and(|payment| payment.is_open() && !payment.is_started())
    {
        wallet.set_payment(None)?;
    }
    Ok(())
}
