//! The appliance's side of a signature.

use zeroize::Zeroizing;

use super::steps::{Answered, Opened};
use crate::binding::{Purpose, SignBinding};
use crate::engine::{Role, contained};
use crate::error::{MpcError, Refusal};
use crate::share::P2Share;
use crate::signature::Signature;
use crate::wire::{self, Sign1, Sign1Reply, Sign2};

/// P2 between its two steps: about 21 kB of single-use secrets, in memory only (A07).
pub struct P2SignKept {
    sign_id: [u8; 32],
    answered: Answered,
}

/// Checks sg1 and answers with P2's commitment and opening.
///
/// SECURITY: this runs the check of A01. The caller has durably entered `R1_CHECKING` before, and stores the verdict
/// before a byte of the answer leaves.
///
/// # Errors
/// [`MpcError`]; a session mismatch (other digest, nonce, attempt, …) is recoverable and not suspect (A08).
#[expect(
    clippy::needless_pass_by_value,
    reason = "a binding is used for one attempt"
)]
pub fn p2_round_1(
    share: &P2Share,
    binding: SignBinding,
    sg1: &[u8],
) -> Result<(P2SignKept, Zeroizing<Vec<u8>>), MpcError> {
    if binding.purpose != Purpose::Transaction {
        return Err(Refusal::WrongPurpose.into());
    }
    contained(|| {
        let received = wire::decode::<Sign1>(Role::P2, sg1)?;
        let sign_id = binding.sign_id(&received.peek().client_nonce);
        let Sign1 { first, .. } = received.in_session(&sign_id)?;
        let (opened, our_first) = Opened::start(share.party(), Role::P2, sign_id, binding.digest)?;
        let (answered, second) = opened.answer(share.party(), first)?;
        let message = wire::encode(
            Role::P2,
            &sign_id,
            &Sign1Reply {
                first: our_first,
                second,
            },
        )?;
        Ok((P2SignKept { sign_id, answered }, message))
    })
}

impl P2SignKept {
    /// Checks sg2 and assembles the signature: low-S, recovering to the share's address by a second implementation.
    ///
    /// # Errors
    /// [`MpcError`]; the session is over in any case.
    pub fn round_2(self, share: &P2Share, sg2: &[u8]) -> Result<Signature, MpcError> {
        contained(|| {
            let Self { sign_id, answered } = self;
            let Sign2 { second, last } = wire::decode(Role::P2, sg2)?.in_session(&sign_id)?;
            let (checked, our_last) = answered.check(share.party(), second)?;
            checked.assemble(share.party(), &share.public().address, &[our_last, last])
        })
    }
}
