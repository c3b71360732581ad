//! The wallet's side of a key generation.

use dkls23::protocols::signing::TransmitPhase1to2;
use k256::Scalar;
use zeroize::Zeroizing;

use super::steps::{Committed, Opening, fragments};
use crate::binding::KeygenBinding;
use crate::canary::CanaryDigest;
use crate::engine::{Party, Role, contained, random_nonce};
use crate::error::MpcError;
use crate::share::{P1Share, PublicShare};
use crate::sign::{Answered, Opened};
use crate::signature::Signature;
use crate::wire::{
    self, Commitments, Keygen1, Keygen1Reply, Keygen2, Keygen2Reply, Keygen3, Keygen3Reply,
};

/// kg1 travels before a session id exists.
const NO_SESSION: [u8; 32] = [0; 32];

/// P1 after kg1. Single-use, like every state here.
pub struct P1Keygen {
    client_nonce: [u8; 32],
    own_fragment: Zeroizing<Scalar>,
}

/// P1 after kg2.
pub struct P1AfterRound2 {
    opening: Opening,
    their_commitments: Commitments,
    canary_id: [u8; 32],
    canary: CanaryDigest,
}

/// P1's share, complete but unproven: P2 has not shown yet that its half works.
pub struct P1Generated {
    /// The share, to be stored STAGED before `message` is sent.
    pub share: P1Share,
    /// Its public side. Do not show the address as a place for deposits before [`P1Canary::finish`] succeeded.
    pub public: PublicShare,
    /// What completes the canary.
    pub canary: P1Canary,
    /// kg3.
    pub message: Zeroizing<Vec<u8>>,
}

/// P1 after kg3.
pub struct P1Canary {
    canary_id: [u8; 32],
    answered: Answered,
}

impl P1Keygen {
    /// Starts a key generation. Returns the state and kg1.
    ///
    /// # Errors
    /// Recoverable, without randomness.
    pub fn start() -> Result<(Self, Zeroizing<Vec<u8>>), MpcError> {
        contained(|| {
            let client_nonce = random_nonce()?;
            let (own_fragment, fragment) = fragments(Role::P1)?;
            let message = wire::encode(
                Role::P1,
                &NO_SESSION,
                &Keygen1 {
                    client_nonce,
                    fragment: *fragment,
                },
            )?;
            Ok((
                Self {
                    client_nonce,
                    own_fragment,
                },
                message,
            ))
        })
    }

    /// Takes P2's commitments; commits and opens. Returns the state and kg2.
    ///
    /// # Errors
    /// [`MpcError`]; start anew.
    pub fn round_2(
        self,
        binding: &KeygenBinding,
        response: &[u8],
    ) -> Result<(P1AfterRound2, Zeroizing<Vec<u8>>), MpcError> {
        contained(|| {
            let received = wire::decode::<Keygen1Reply>(Role::P1, response)?;
            let server_nonce = received.peek().server_nonce;
            let sid = binding.session_id(&self.client_nonce, &server_nonce);
            let reply = received.in_session(&sid)?;
            let committed = Committed::new(Role::P1, sid, &self.own_fragment, &reply.fragment)?;
            let commitments = committed.commitments();
            let (opening, openings) = committed.open()?;
            let canary_nonce = random_nonce()?;
            let message = wire::encode(
                Role::P1,
                &sid,
                &Keygen2 {
                    commitments,
                    openings,
                    canary_nonce,
                },
            )?;

            let canary = CanaryDigest::new(&binding.profile_id, 1, &binding.keygen_session_id);
            let canary_id = binding
                .canary(server_nonce, *canary.as_bytes())
                .sign_id(&canary_nonce);
            let their_commitments = reply.commitments.clone();
            Ok((
                P1AfterRound2 {
                    opening,
                    their_commitments,
                    canary_id,
                    canary,
                },
                message,
            ))
        })
    }
}

impl P1AfterRound2 {
    /// Checks P2's openings against its commitments and makes the share; starts the canary.
    ///
    /// # Errors
    /// [`MpcError`]; a ban is possible, since the canary's first message of P2 is checked here.
    pub fn round_3(self, response: &[u8]) -> Result<P1Generated, MpcError> {
        contained(|| {
            let Self {
                opening,
                their_commitments,
                canary_id,
                canary,
            } = self;
            let reply: Keygen2Reply =
                wire::decode(Role::P1, response)?.in_session(opening.sid())?;
            let (party, public) = opening.finish(&their_commitments, &reply.openings)?;
            let (canary, message) = P1Canary::start(&party, canary_id, canary, reply.canary)?;
            Ok(P1Generated {
                share: P1Share::new(party, public.clone()),
                public,
                canary,
                message,
            })
        })
    }
}

impl P1Canary {
    /// Checks P2's first message of the canary and answers it with kg3.
    pub(crate) fn start(
        party: &Party,
        canary_id: [u8; 32],
        digest: CanaryDigest,
        theirs: TransmitPhase1to2,
    ) -> Result<(Self, Zeroizing<Vec<u8>>), MpcError> {
        let (opened, first) = Opened::start(party, Role::P1, canary_id, *digest.as_bytes())?;
        let (answered, second) = opened.answer(party, theirs)?;
        let message = wire::encode(Role::P1, &canary_id, &Keygen3 { first, second })?;
        let canary = Self {
            canary_id,
            answered,
        };
        Ok((canary, message))
    }

    /// Completes the canary signature and verifies it against the wallet's address. Only then is the share proven:
    /// promote it from STAGED to CURRENT, and show the address.
    ///
    /// # Errors
    /// [`MpcError`]; the share stays unproven.
    pub fn finish(self, share: &P1Share, response: &[u8]) -> Result<Signature, MpcError> {
        contained(|| {
            let Self {
                canary_id,
                answered,
            } = self;
            let Keygen3Reply { second, last } =
                wire::decode(Role::P1, response)?.in_session(&canary_id)?;
            let (checked, our_last) = answered.check(share.party(), second)?;
            checked.assemble(share.party(), &share.public().address, &[our_last, last])
        })
    }
}
