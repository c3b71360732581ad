//! The five protocol steps on our side, each from a permit to a verdict.

use std::time::Duration;

use countersign_mpc::binding::{KeygenBinding, Purpose, SignBinding};
use countersign_mpc::canary::CanaryDigest;
use countersign_mpc::envelope::ResponseSealer;
use countersign_mpc::error::MpcError;
use countersign_mpc::share::P2Share;
use countersign_mpc::{keygen, sign};
use zeroize::Zeroizing;

use super::kept::Kept;
use super::{Custody, Failure, Message, Product, Verdict};
use crate::gate::Permit;

/// Longest wait of a ban for the share without its transfer state.
const SEAL_EMPTIED: Duration = Duration::from_secs(2);

impl Custody {
    /// Asks no anchor: there is no share yet, nor anything that a wallet could learn a bit of.
    pub(super) async fn keygen_1(&self, permit: &Permit, message: Message) -> Verdict {
        let Message { plaintext, sealer } = message;
        let binding = self.keygen_binding(permit);
        let nonce = permit.session().server_nonce;
        let (kept, answer) =
            match engine(move || keygen::p2_round_1(&binding, nonce, &plaintext)).await {
                Ok(made) => made,
                Err(error) => return error.into(),
            };
        self.keep(permit, Kept::KeygenRound2(Box::new(kept)));
        sealed(sealer, &answer, Product::Message)
    }

    pub(super) async fn keygen_2(&self, permit: &Permit, message: Message) -> Verdict {
        let Message { plaintext, sealer } = message;
        if let Err(objection) = self.guard.admits(permit.bans()).await {
            return objection.into();
        }
        let Some(Kept::KeygenRound2(kept)) = self.take(permit) else {
            return lost();
        };
        let generated = match engine(move || kept.round_2(&plaintext)).await {
            Ok(generated) => generated,
            Err(error) => return error.into(),
        };
        let row = match self.seal(permit, &generated.share, &generated.public).await {
            Ok(row) => row,
            Err(verdict) => return verdict,
        };
        let address = generated.public.address;
        self.keep(permit, Kept::KeygenRound3(Box::new(generated.canary)));
        sealed(sealer, &generated.message, |message| Product::Share {
            message,
            share: Box::new(row),
            address,
        })
    }

    pub(super) async fn keygen_3(&self, permit: &Permit, message: Message) -> Verdict {
        let Message { plaintext, sealer } = message;
        let share = match self.unwrap(permit).await {
            Ok(share) => share,
            Err(verdict) => return verdict,
        };
        let Some(Kept::KeygenRound3(canary)) = self.take(permit) else {
            return lost();
        };
        let session = permit.session();
        let digest = CanaryDigest::new(
            &session.profile_id.to_string(),
            session.generation.0,
            &session.session_id.to_string(),
        );
        match engine(move || canary.finish(&share, &plaintext, &digest)).await {
            Ok(answer) => sealed(sealer, &answer, Product::Proven),
            Err(error) => error.into(),
        }
    }

    pub(super) async fn sign_1(&self, permit: &Permit, message: Message) -> Verdict {
        let Message { plaintext, sealer } = message;
        let Some(binding) = self.sign_binding(permit) else {
            return Verdict::recoverable(Failure::Failed, "the session has no transaction");
        };
        let share = match self.unwrap(permit).await {
            Ok(share) => share,
            Err(verdict) => return verdict,
        };
        let run = move |share: &P2Share| sign::p2_round_1(share, binding, &plaintext);
        let (kept, answer) = match check(share, run).await {
            Ok(made) => made,
            Err(failed) => return self.verdict(permit, failed).await,
        };
        self.keep(permit, Kept::SignRound2(Box::new(kept)));
        sealed(sealer, &answer, Product::Message)
    }

    pub(super) async fn sign_2(&self, permit: &Permit, message: Message) -> Verdict {
        let plaintext = message.plaintext;
        let share = match self.unwrap(permit).await {
            Ok(share) => share,
            Err(verdict) => return verdict,
        };
        let Some(Kept::SignRound2(kept)) = self.take(permit) else {
            return lost();
        };
        let run = move |share: &P2Share| kept.round_2(share, &plaintext);
        match check(share, run).await {
            Ok(signature) => Verdict::Done(Product::Signature(signature)),
            Err(failed) => self.verdict(permit, failed).await,
        }
    }

    /// What a failed check of a signing session means. A wallet that was caught costs our share its transfer state; if
    /// that cannot be sealed soon, the ban does not wait for it.
    async fn verdict(&self, permit: &Permit, failed: Failed) -> Verdict {
        let Failed { error, emptied } = failed;
        let verdict = Verdict::from(error);
        let (Verdict::Ban { reason, .. }, Some(bytes)) = (&verdict, emptied) else {
            return verdict;
        };
        // First: nothing that happens from here on takes it back.
        self.condemn(permit);
        let reason = reason.clone();
        let sealing = self.seal_emptied(permit.profile(), permit.share(), bytes);
        let emptied = tokio::time::timeout(SEAL_EMPTIED, sealing).await;
        Verdict::Ban {
            reason,
            emptied: emptied.ok().flatten().map(Box::new),
        }
    }

    fn keep(&self, permit: &Permit, kept: Kept) {
        let session = permit.session();
        let until = self.keep_until();
        self.kept
            .put(session.session_id, session.attempt, until, kept);
    }

    fn take(&self, permit: &Permit) -> Option<Kept> {
        let session = permit.session();
        self.kept.take(session.session_id, session.attempt)
    }

    fn keygen_binding(&self, permit: &Permit) -> KeygenBinding {
        let session = permit.session();
        KeygenBinding {
            environment_id: self.environment_id.0,
            profile_id: session.profile_id.to_string(),
            keygen_session_id: session.session_id.to_string(),
            device_thumbprint: session.device_key_id.to_string(),
        }
    }

    /// Binds a signature to everything that was decided about it. The digest is the one this
    /// appliance computed; no request carries one (A08).
    fn sign_binding(&self, permit: &Permit) -> Option<SignBinding> {
        let session = permit.session();
        Some(SignBinding {
            environment_id: self.environment_id.0,
            profile_id: session.profile_id.to_string(),
            device_thumbprint: session.device_key_id.to_string(),
            key_generation: session.generation.0,
            session_id: session.session_id.to_string(),
            attempt: session.attempt,
            index: 0,
            server_nonce: session.server_nonce,
            policy_decision_id: session.decision_id.to_string(),
            purpose: Purpose::Transaction,
            digest: permit.transaction()?.digest,
        })
    }
}

/// Runs protocol arithmetic away from the threads that serve requests. What the closure owns, a
/// share among it, is dropped and so wiped on that thread.
async fn engine<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, MpcError> + Send + 'static,
) -> Result<T, MpcError> {
    tokio::task::spawn_blocking(run)
        .await
        .unwrap_or(Err(MpcError::Panicked))
}

/// A check that did not pass.
struct Failed {
    error: MpcError,
    /// The share without its transfer state, if the counterparty was caught.
    emptied: Option<Zeroizing<Vec<u8>>>,
}

/// Runs a check with a share, as [`engine`].
async fn check<T: Send + 'static>(
    share: P2Share,
    run: impl FnOnce(&P2Share) -> Result<T, MpcError> + Send + 'static,
) -> Result<T, Failed> {
    let checked = tokio::task::spawn_blocking(move || {
        run(&share).map_err(|error| Failed {
            emptied: if error.is_ban() {
                share.into_emptied().to_bytes().ok()
            } else {
                None
            },
            error,
        })
    });
    checked.await.unwrap_or(Err(Failed {
        error: MpcError::Panicked,
        emptied: None,
    }))
}

fn sealed(
    sealer: ResponseSealer,
    plaintext: &[u8],
    product: impl FnOnce(String) -> Product,
) -> Verdict {
    match sealer.seal(plaintext) {
        Ok(message) => Verdict::Done(product(message)),
        Err(error) => Verdict::recoverable(Failure::Failed, error.to_string()),
    }
}

fn lost() -> Verdict {
    Verdict::recoverable(Failure::Lost, "the kept state is gone")
}
