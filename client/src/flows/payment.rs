//! What becomes of a payment after the run that started it: continue, give up, wait until mined.

use std::time::Duration;

use super::{
    Appliance, Progress,
    send::{Proposal, Sent, compare, request_offer, restart, usable},
};
use crate::{
    ClientError,
    api::{self, Session},
    keystore::{Payment, Wallet},
    transport::Request,
    two_factor::TwoFactorCode,
    units::format_ether,
};

const POLL_EVERY: Duration = Duration::from_secs(1);
/// Longest look at a session while waiting; the last one may overrun the waiting time by this.
const LONGEST_LOOK: Duration = Duration::from_secs(10);

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

/// What [`abandon`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abandoned {
    /// Our last message never left: nothing can have been signed.
    Unsigned,
    /// Our last message may have left, and the server says that it did not sign. Its account nonce is remembered.
    SaidUnsigned,
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
    resume_with(wallet, appliance, None, progress).await
}

/// As [`resume`], with a code of the wallet's second factor.
///
/// # Errors
/// As [`resume`].
pub async fn resume_with(
    wallet: &mut Wallet,
    appliance: &Appliance,
    code: Option<&TwoFactorCode>,
    progress: Progress<'_>,
) -> Result<Resumed, ClientError> {
    let Some(payment) = wallet.payment().cloned() else {
        return Err(ClientError::NoPayment(wallet.name().clone()));
    };
    usable(wallet, appliance, payment.intent.chain_id)?;
    let Some(offered) = payment.offered.clone() else {
        return request_offer(wallet, appliance, payment, code)
            .await
            .map(Resumed::Proposal);
    };
    let session_id = offered.prepared.session_id.clone();
    let session = session(wallet, appliance, &session_id).await;
    // A hash that is stored here stays what it is, whatever the server says or does not say about it now.
    let stored = payment.tx_hash.clone();
    let session = match (session, stored) {
        (session, Some(tx_hash)) => {
            let status = session.ok().and_then(|session| session.status);
            return Ok(Resumed::Sent(Sent {
                session_id,
                tx_hash,
                status: status.unwrap_or_else(|| "broadcasting".to_owned()),
            }));
        }
        (session, None) => session?,
    };
    if let Some(tx_hash) = session.tx_hash {
        wallet.finish_payment(&tx_hash)?;
        let status = session.status.unwrap_or_else(|| "broadcasting".to_owned());
        return Ok(Resumed::Sent(Sent {
            session_id,
            tx_hash,
            status,
        }));
    }
    // The server has seen no message of this attempt, so it can be used as it is.
    let unused = session.is_waiting() && session.attempt == offered.attempt;
    if !unused {
        restart(wallet, appliance, progress).await?;
    }
    compare(wallet, &payment.intent, &offered.prepared).map(Resumed::Proposal)
}

/// Gives the wallet's last payment up. Refused while the server may still sign it.
///
/// # Errors
/// [`ClientError::NotAbandonable`] if our last message left and the server does not say that the attempt is over.
pub async fn abandon(wallet: &mut Wallet, appliance: &Appliance) -> Result<Abandoned, ClientError> {
    appliance.owns(wallet)?;
    let Some(payment) = wallet.payment().filter(|payment| payment.is_open()) else {
        return Err(ClientError::NoPayment(wallet.name().clone()));
    };
    let released = payment.offered.clone().filter(|offered| offered.released);
    let Some(offered) = released else {
        wallet.give_up_payment()?;
        return Ok(Abandoned::Unsigned);
    };
    match session(wallet, appliance, &offered.prepared.session_id).await {
        Ok(Session {
            tx_hash: Some(_), ..
        }) => return Err(ClientError::NotAbandonable("signed".to_owned())),
        Ok(session) if session.is_open() => {
            return Err(ClientError::NotAbandonable(session.state));
        }
        // A session the server does not know is one it cannot sign in. That answer is given to the proven owner of the
        // whole request only; an altered request gets others.
        Err(error) if error.server_code() != Some("NOT_FOUND") => return Err(error),
        Ok(_) | Err(_) => {}
    }
    wallet.give_up_payment()?;
    Ok(Abandoned::SaidUnsigned)
}

/// Notes that the user was told the hash of the last payment. From then on the same payment again is a second one.
///
/// # Errors
/// The keystore's file errors.
pub fn reported(wallet: &mut Wallet) -> Result<(), ClientError> {
    Ok(wallet.update_payment(|payment| payment.reported = true)?)
}

/// Polls until the transaction is mined and returns the session's last state.
///
/// The payment is signed by now, so no failure to look may appear as a failure to pay: looks that fail are repeated.
///
/// # Errors
/// [`ClientError::Reverted`], [`ClientError::Replaced`], or [`ClientError::NotMinedYet`] after `timeout`; no other.
pub async fn wait_until_mined(
    wallet: &Wallet,
    appliance: &Appliance,
    sent: &Sent,
    timeout: Duration,
    mut progress: impl FnMut(&Session, Duration),
) -> Result<Session, ClientError> {
    let start = tokio::time::Instant::now();
    loop {
        let look = session(wallet, appliance, &sent.session_id);
        if let Ok(Ok(session)) = tokio::time::timeout(LONGEST_LOOK, look).await {
            match session.status.as_deref() {
                Some("mined") => return Ok(session),
                Some("reverted") => return Err(ClientError::Reverted(sent.tx_hash.clone())),
                Some("replaced") => return Err(ClientError::Replaced(sent.tx_hash.clone())),
                _ => progress(&session, start.elapsed()),
            }
        }
        if start.elapsed() >= timeout {
            return Err(ClientError::NotMinedYet(sent.tx_hash.clone()));
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// The server's view of a session.
///
/// # Errors
/// [`ClientError::Call`], [`ClientError::Answer`] if it describes another session.
pub async fn session(
    wallet: &Wallet,
    appliance: &Appliance,
    session_id: &str,
) -> Result<Session, ClientError> {
    let session: Session = appliance
        .call(
            wallet,
            &Request::get(api::session_path(session_id)).of_session(session_id),
        )
        .await?;
    let asked = session.session_id == session_id;
    asked
        .then_some(session)
        .ok_or(ClientError::Answer("it describes another session"))
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
