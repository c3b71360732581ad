//! The edge to `dkls23`: type aliases, party indices, the mapping of aborts, and containment of panics.

use std::panic::{AssertUnwindSafe, catch_unwind};

use dkls23::protocols::{
    self, Abort, AbortKind, AbortReason, Parameters, PartiesMessage, PartyIndex,
};
use k256::Secp256k1;

use crate::error::{BanReason, MpcError, RecoverableReason};

pub(crate) type Party = protocols::Party<Secp256k1>;

/// The two parties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The wallet.
    P1,
    /// The appliance.
    P2,
}

impl Role {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::P1 => Self::P2,
            Self::P2 => Self::P1,
        }
    }

    /// The engine's party index, also the wire's `from` and `to`.
    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::P1 => 1,
            Self::P2 => 2,
        }
    }

    #[expect(
        clippy::expect_used,
        reason = "the constructor refuses only zero, and the engine has no other one"
    )]
    pub(crate) fn index(self) -> PartyIndex {
        PartyIndex::new(self.byte()).expect("1 and 2 are not zero")
    }

    /// Whether `parties` is a message from the other party to this one.
    pub(crate) fn receives(self, parties: &PartiesMessage) -> bool {
        parties.sender == self.other().index() && parties.receiver == self.index()
    }
}

/// Two of two, always.
pub(crate) fn parameters() -> Parameters {
    Parameters {
        threshold: 2,
        share_count: 2,
    }
}

/// Runs a step of the engine, turning a panic into [`MpcError::Panicked`].
///
/// The closures own what they mutate, so nothing half-changed survives the unwinding.
pub(crate) fn contained<T>(step: impl FnOnce() -> Result<T, MpcError>) -> Result<T, MpcError> {
    catch_unwind(AssertUnwindSafe(step)).unwrap_or(Err(MpcError::Panicked))
}

/// 32 fresh random bytes of the operating system.
pub(crate) fn random_nonce() -> Result<[u8; 32], MpcError> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce)
        .map_err(|_| MpcError::recoverable(RecoverableReason::Randomness))?;
    Ok(nonce)
}

impl From<Abort> for MpcError {
    /// The engine's `kind` alone decides between ban and recoverable; the reason only names it.
    fn from(abort: Abort) -> Self {
        match abort.kind {
            AbortKind::BanCounterparty(_) => Self::Ban {
                reason: ban_reason(&abort.reason),
            },
            AbortKind::Recoverable => Self::recoverable(recoverable_reason(&abort.reason)),
        }
    }
}

fn ban_reason(reason: &AbortReason) -> BanReason {
    match reason {
        AbortReason::MultiplicationVerificationFailed { .. } => BanReason::Multiplication,
        AbortReason::GammaUInconsistency { .. } => BanReason::NonceConsistency,
        AbortReason::OtConsistencyCheckFailed { .. } => BanReason::KeyConsistency,
        _ => BanReason::Other,
    }
}

fn recoverable_reason(reason: &AbortReason) -> RecoverableReason {
    use RecoverableReason as Reason;
    match reason {
        AbortReason::SessionBindingMismatch { .. } => Reason::SessionBindingMismatch,
        AbortReason::MisroutedMessage { .. }
        | AbortReason::UnexpectedSender { .. }
        | AbortReason::DuplicateSender { .. }
        | AbortReason::WrongMessageCount { .. }
        | AbortReason::MissingMessageFromParty { .. } => Reason::Routing,
        AbortReason::MissingMulState { .. }
        | AbortReason::InvalidLocalState { .. }
        | AbortReason::InvalidPartyIndex { .. }
        | AbortReason::WrongCounterpartyCount { .. }
        | AbortReason::DuplicateCounterparty { .. }
        | AbortReason::SelfInCounterparties => Reason::LocalState,
        AbortReason::ProofVerificationFailed { .. } => Reason::ProofVerification,
        AbortReason::CommitmentMismatch { .. } => Reason::CommitmentMismatch,
        AbortReason::PolynomialInconsistency => Reason::PolynomialInconsistency,
        AbortReason::TrivialInstancePoint { .. } => Reason::TrivialInstancePoint,
        AbortReason::TrivialPublicKey | AbortReason::TrivialKeyShare => Reason::TrivialKey,
        AbortReason::MultiplicationVerificationFailed { .. } => Reason::OtSetup,
        AbortReason::ZeroShareDecommitFailed { .. } => Reason::ZeroShare,
        AbortReason::ChainCodeCommitmentFailed { .. } => Reason::ChainCode,
        AbortReason::SignatureVerificationFailed => Reason::SignatureVerification,
        AbortReason::ZeroDenominator => Reason::ZeroDenominator,
        _ => Reason::Other,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "tests")]
    use super::*;

    #[test]
    fn a03_a_panic_of_the_engine_is_contained_and_suspect() {
        let outcome: Result<(), _> = contained(|| panic!("on purpose"));
        assert_eq!(outcome, Err(MpcError::Panicked));
        assert!(MpcError::Panicked.is_suspect());
    }

    #[test]
    fn a01_the_kind_decides_about_a_ban_not_the_reason() {
        let harmless = AbortReason::SignatureVerificationFailed;
        let ban = Abort::ban(Role::P2.index(), Role::P1.index(), harmless.clone());
        assert!(MpcError::from(ban).is_ban());
        let recoverable = MpcError::from(Abort::recoverable(Role::P2.index(), harmless));
        assert!(recoverable.is_suspect() && !recoverable.is_ban());
    }
}
