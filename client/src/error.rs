//! The error of every flow, and what a user or a program should do about it.

use countersign_mpc::error::MpcError;
use thiserror::Error;

use crate::{
    config::ConfigError,
    identity::IdentityError,
    keystore::{KeystoreError, WalletName},
    transport::{CallError, TransportError},
    two_factor::TwoFactorError,
    tx::Mismatch,
    units::UnitError,
};

/// Why a flow stopped.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The configuration is not usable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The keystore refused or failed.
    #[error(transparent)]
    Keystore(#[from] KeystoreError),
    /// The server could not be reached or refused.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The server asks for a second factor, or did not take the one it got.
    #[error(transparent)]
    TwoFactor(#[from] TwoFactorError),
    /// The server is not the appliance this client belongs to.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The server wants to sign something else than the user asked for.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// Not an amount.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// A protocol step of ours failed before any message of the server was checked.
    #[error("cannot prepare a protocol message")]
    Protocol(#[source] MpcError),
    /// A sealed message of the server does not open, or an answer contradicts what we know.
    #[error("the server's answer is not credible: {0}")]
    Answer(&'static str),
    /// The wallet belongs to another environment than the configuration.
    #[error("wallet {0} belongs to another environment than this configuration")]
    OtherEnvironment(WalletName),
    /// The chain is not in the configuration.
    #[error("chain {0} is not in the configuration")]
    UnknownChain(u64),
    /// A payment was started and is neither finished nor abandoned.
    #[error(
        "an earlier payment of this wallet is not finished ({0}): run `countersign send {1} --resume` to finish it, \
         or `countersign send {1} --abandon` to give it up"
    )]
    PaymentOpen(String, WalletName),
    /// The same payment is signed already, and the run that signed it ended before it said so.
    #[error(
        "this payment is signed already, by a run that ended before it said so ({0}): run `countersign send {1} --resume` \
         to see it; after that the same command is a second payment"
    )]
    Unreported(String, WalletName),
    /// The server offers another account nonce than that of a payment that was given up but may have been signed.
    #[error(
        "the server offers account nonce {offered}, but the payment given up on chain {chain_id} had nonce {given_up}: if it \
         was signed after all, both would be paid. Look at the chain first; --other-nonce pays nevertheless"
    )]
    OtherNonce {
        /// EIP-155 chain id.
        chain_id: u64,
        /// Nonce of the payment that was given up.
        given_up: u64,
        /// Nonce the server offers now.
        offered: u64,
    },
    /// There is no payment to continue.
    #[error("wallet {0} has no unfinished payment")]
    NoPayment(WalletName),
    /// The payment may have been signed, so it is not given up.
    #[error(
        "the payment may have been signed (session state {0}): run `countersign send … --resume` instead"
    )]
    NotAbandonable(String),
    /// The user said no.
    #[error("not sent: you did not agree")]
    Declined,
    /// The chain executed the transaction and it failed.
    #[error("transaction {0} was mined but reverted: the fee is spent, the value is not")]
    Reverted(String),
    /// Another transaction with the same nonce was mined instead.
    #[error("transaction {0} was replaced by another one with the same nonce")]
    Replaced(String),
    /// The transaction was not seen mined within the waiting time, or the server could not be asked.
    #[error(
        "transaction {0} is signed but was not seen mined yet: the appliance keeps broadcasting it; do not pay again, \
         `--resume --wait` goes on waiting"
    )]
    NotMinedYet(String),
    /// The command line asks for something impossible.
    #[error("{0}")]
    Usage(String),
}

impl From<TransportError> for ClientError {
    fn from(error: TransportError) -> Self {
        Self::Call(error.into())
    }
}

impl ClientError {
    /// The server's stable code, if the error is an answer of the server.
    #[must_use]
    pub fn server_code(&self) -> Option<&str> {
        match self {
            Self::Call(error) => error.code(),
            Self::TwoFactor(error) => Some(&error.answer.code),
            _ => None,
        }
    }

    /// Whether the wallet is banned.
    #[must_use]
    pub fn is_quarantined(&self) -> bool {
        matches!(self, Self::Keystore(KeystoreError::Quarantined(_)))
    }

    /// The exit code of the command line; [`EXIT_CODES`] explains them.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_)
            | Self::Unit(_)
            | Self::Usage(_)
            | Self::UnknownChain(_)
            | Self::OtherEnvironment(_)
            | Self::Call(CallError::Transport(
                TransportError::Credentials { .. } | TransportError::Token { .. },
            )) => 2,
            Self::Keystore(error) => match error {
                KeystoreError::WrongPassphrase => 3,
                KeystoreError::Quarantined(_) => 7,
                KeystoreError::Protocol(_) => 8,
                KeystoreError::NotFound(_)
                | KeystoreError::Exists(_)
                | KeystoreError::Busy
                | KeystoreError::NotActive => 2,
                _ => 4,
            },
            Self::Call(CallError::Transport(TransportError::Unbelievable(_))) => 13,
            Self::Call(CallError::Transport(_)) => 5,
            Self::Call(CallError::Server(_)) => 6,
            Self::Identity(_) | Self::Mismatch(_) | Self::Answer(_) | Self::Protocol(_) => 8,
            Self::Declined => 9,
            Self::PaymentOpen(..)
            | Self::Unreported(..)
            | Self::OtherNonce { .. }
            | Self::NoPayment(_)
            | Self::NotAbandonable(_) => 10,
            Self::Reverted(_) | Self::Replaced(_) => 11,
            Self::NotMinedYet(_) => 12,
            Self::TwoFactor(_) => 14,
        }
    }
}

/// Exit codes of the command line and their meaning, as `--help` shows them.
pub const EXIT_CODES: &str = "\
Exit codes:
  0   done
  2   usage or configuration: wrong option, unknown wallet or chain, name taken, wallet in use
  3   wrong passphrase
  4   the wallet file is damaged or cannot be read or written
  5   the appliance cannot be reached; the same command again pays at most once, or ends with 10
  6   the appliance refused; its message and code say why; a payment that was started stays open (see 10)
  7   the wallet is QUARANTINED; nothing is signed with it any more
  8   the appliance is not credible: wrong identity, another transaction than asked for, failed protocol step
  9   you did not agree
  10  an earlier payment is unfinished or was not reported (--resume, --abandon), or there is none
  11  the transaction was mined but reverted, or was replaced
  12  the transaction is signed but was not seen mined within the waiting time; the same command again
      would be a second payment: use --resume --wait
  13  an answer came that the appliance did not sign: the gateway, or whatever else stands between, answers in its
      name or alters answers; nothing of it was believed, and the same command again continues as after 5
  14  a second factor is needed and was not given (--two-factor-code), or its code was not right, or it is locked, or the
      wallet has none; nothing was done";
