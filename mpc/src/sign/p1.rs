//! The wallet's side of a signature.

use zeroize::Zeroizing;

use super::steps::Opened;
use crate::binding::{Purpose, SignBinding};
use crate::engine::{Role, contained, random_nonce};
use crate::error::{MpcError, Refusal};
use crate::share::P1Share;
use crate::wire::{self, Sign1, Sign1Reply, Sign2};

/// P1 between its two messages. Single-use.
pub struct P1Sign {
    sign_id: [u8; 32],
    opened: Opened,
}

impl P1Sign {
    /// Starts a signature over `binding.digest`, which the wallet has computed itself from what its user saw (A08).
    /// Returns the state and sg1.
    ///
    /// # Errors
    /// [`Refusal::WrongPurpose`] for a canary; recoverable ones for unusable local state or no randomness.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a binding is used for one attempt"
    )]
    pub fn start(
        share: &P1Share,
        binding: SignBinding,
    ) -> Result<(Self, Zeroizing<Vec<u8>>), MpcError> {
        if binding.purpose != Purpose::Transaction {
            return Err(Refusal::WrongPurpose.into());
        }
        contained(|| {
            let client_nonce = random_nonce()?;
            let sign_id = binding.sign_id(&client_nonce);
            let (opened, first) = Opened::start(share.party(), Role::P1, sign_id, binding.digest)?;
            let message = wire::encode(
                Role::P1,
                &sign_id,
                &Sign1 {
                    client_nonce,
                    first,
                },
            )?;
            Ok((Self { sign_id, opened }, message))
        })
    }

    /// Checks P2's answer and returns sg2, with which P2 can complete the signature.
    ///
    /// SECURITY: the caller durably marks the key as suspect before this call, and stores a ban before anything else
    /// (A01 binds the client equally: P2's message is checked against P1's long-lived secrets).
    ///
    /// # Errors
    /// [`MpcError`]; the session is over in any case.
    pub fn round_2(self, share: &P1Share, response: &[u8]) -> Result<Zeroizing<Vec<u8>>, MpcError> {
        contained(|| {
            let Self { sign_id, opened } = self;
            let Sign1Reply { first, second } =
                wire::decode(Role::P1, response)?.in_session(&sign_id)?;
            let (answered, our_second) = opened.answer(share.party(), first)?;
            let (_, last) = answered.check(share.party(), second)?;
            wire::encode(
                Role::P1,
                &sign_id,
                &Sign2 {
                    second: our_second,
                    last,
                },
            )
        })
    }
}
