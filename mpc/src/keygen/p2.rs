//! The appliance's side of a key generation.

use dkls23::protocols::signing::TransmitPhase1to2;
use zeroize::Zeroizing;

use super::steps::{Committed, fragments};
use crate::binding::KeygenBinding;
use crate::canary::CanaryDigest;
use crate::engine::{Party, Role, contained};
use crate::error::{MpcError, Refusal};
use crate::share::{P2Share, PublicShare};
use crate::sign::Opened;
use crate::wire::{self, Keygen1, Keygen1Reply, Keygen2, Keygen2Reply, Keygen3, Keygen3Reply};

/// kg1 travels before a session id exists.
const NO_SESSION: [u8; 32] = [0; 32];

/// P2 after kg1: committed, nothing opened. In memory only, single-use.
pub struct P2AfterRound1 {
    committed: Committed,
    binding: KeygenBinding,
    server_nonce: [u8; 32],
}

/// P2's share, complete but unproven.
pub struct P2Generated {
    /// The share, to be committed PENDING before `message` leaves.
    pub share: P2Share,
    /// Its public side.
    pub public: PublicShare,
    /// What completes the canary. In memory only, single-use.
    pub canary: P2Canary,
    /// The answer to kg2.
    pub message: Zeroizing<Vec<u8>>,
}

/// P2 between kg2 and kg3.
pub struct P2Canary {
    canary_id: [u8; 32],
    digest: CanaryDigest,
    opened: Opened,
}

/// Takes kg1 and answers with P2's commitments. `server_nonce` is fresh for every call.
///
/// # Errors
/// [`MpcError`]; nothing was started.
pub fn p2_round_1(
    binding: &KeygenBinding,
    server_nonce: [u8; 32],
    kg1: &[u8],
) -> Result<(P2AfterRound1, Zeroizing<Vec<u8>>), MpcError> {
    contained(|| {
        let request: Keygen1 = wire::decode(Role::P2, kg1)?.in_session(&NO_SESSION)?;
        let sid = binding.session_id(&request.client_nonce, &server_nonce);
        let (own_fragment, fragment) = fragments(Role::P2)?;
        let committed = Committed::new(Role::P2, sid, &own_fragment, &request.fragment)?;
        let commitments = committed.commitments();
        let message = wire::encode(
            Role::P2,
            &sid,
            &Keygen1Reply {
                server_nonce,
                fragment: *fragment,
                commitments,
            },
        )?;
        Ok((
            P2AfterRound1 {
                committed,
                binding: binding.clone(),
                server_nonce,
            },
            message,
        ))
    })
}

impl P2AfterRound1 {
    /// Checks P1's commitments and openings, makes the share, opens, and starts the canary.
    ///
    /// # Errors
    /// [`MpcError`]; no share exists, and nothing of P2 was opened.
    pub fn round_2(self, kg2: &[u8]) -> Result<P2Generated, MpcError> {
        contained(|| {
            let Self {
                committed,
                binding,
                server_nonce,
            } = self;
            let sid = *committed.sid();
            let request: Keygen2 = wire::decode(Role::P2, kg2)?.in_session(&sid)?;
            let (opening, openings) = committed.open()?;
            // INVARIANT: everything of P1 is checked before `openings` is encoded and leaves (A11).
            let (party, public) = opening.finish(&request.commitments, &request.openings)?;

            let digest = CanaryDigest::new(&binding.profile_id, 1, &binding.keygen_session_id);
            let canary_id = binding
                .canary(server_nonce, *digest.as_bytes())
                .sign_id(&request.canary_nonce);
            let (started, canary) = P2Canary::start(&party, canary_id, digest)?;
            let message = wire::encode(Role::P2, &sid, &Keygen2Reply { openings, canary })?;
            Ok(P2Generated {
                share: P2Share::new(party, public.clone()),
                public,
                canary: started,
                message,
            })
        })
    }
}

impl P2Canary {
    /// Commits to a nonce point of the canary.
    pub(crate) fn start(
        party: &Party,
        canary_id: [u8; 32],
        digest: CanaryDigest,
    ) -> Result<(Self, TransmitPhase1to2), MpcError> {
        let (opened, first) = Opened::start(party, Role::P2, canary_id, *digest.as_bytes())?;
        let canary = Self {
            canary_id,
            digest,
            opened,
        };
        Ok((canary, first))
    }

    /// Checks P1's part of the canary, which proves that P1's share works, and releases P2's last signing message.
    ///
    /// SECURITY: this is the only function that releases such a message, and it takes a [`CanaryDigest`]: what the
    /// message completes can only be a canary. The caller makes the digest from stored ids; another one is refused.
    /// The check of A01 runs here. The caller stores the verdict before a byte of the answer leaves.
    ///
    /// # Errors
    /// [`MpcError`]; the profile is not active.
    pub fn finish(
        self,
        share: &P2Share,
        kg3: &[u8],
        digest: &CanaryDigest,
    ) -> Result<Zeroizing<Vec<u8>>, MpcError> {
        if self.digest != *digest {
            return Err(Refusal::WrongCanary.into());
        }
        contained(|| {
            let Self {
                canary_id, opened, ..
            } = self;
            let Keygen3 { first, second } = wire::decode(Role::P2, kg3)?.in_session(&canary_id)?;
            let (answered, our_second) = opened.answer(share.party(), first)?;
            let (_, last) = answered.check(share.party(), second)?;
            wire::encode(
                Role::P2,
                &canary_id,
                &Keygen3Reply {
                    second: our_second,
                    last,
                },
            )
        })
    }
}
