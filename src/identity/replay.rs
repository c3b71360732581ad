//! A signed request counts once.
//!
//! INVARIANT: a durable operation that acts for a request spends the request's [`RequestProof`] inside its
//! transaction, so the same signed request never acts twice, at whatever instance it arrives. What acts on nothing,
//! a read or a refusal, leaves no row; the instance that saw such a request remembers it until it is too old.
//!
//! ```compile_fail,E0382
//! // A proof goes into one operation. There is none for a second.
//! fn twice(proof: countersign::identity::replay::RequestProof) {
//!     let operations = [Some(proof), Some(proof)];
//! }
//! ```

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use countersign_mpc::owner_proof::{MAX_AGE, MAX_AHEAD};
use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::domain::{DeviceKeyId, TenantId};
use crate::store::replay::{self, Spending};
use crate::store::{CommitError, Tx};

/// Proof that a device signed one request, for the one operation that acts for it.
#[must_use = "an operation that acts for a request spends its proof"]
pub struct RequestProof {
    device: DeviceKeyId,
    nonce: [u8; 16],
    /// The tenant in which the device is enrolled; `None` when it may be enrolled by this very request.
    enrolled_in: Option<TenantId>,
}

/// The request was acted on before, or its device was revoked meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSpent {
    /// It was acted on before.
    Replayed,
    /// Its device may not act any more.
    Revoked,
}

impl RequestProof {
    pub(super) const fn new(
        device: DeviceKeyId,
        nonce: [u8; 16],
        enrolled_in: Option<TenantId>,
    ) -> Self {
        Self {
            device,
            nonce,
            enrolled_in,
        }
    }

    /// Spends the proof inside the operation that acts for its request, which may be run again after a try that left
    /// nothing behind. INVARIANT: that operation has a key. A look-up of a lost COMMIT then waits for its end, and it
    /// never meets its own nonce.
    ///
    /// # Errors
    /// Refuses with [`NotSpent`].
    pub async fn spend<R: From<NotSpent>>(&self, tx: &mut Tx<'_>) -> Result<(), CommitError<R>> {
        let spending = match &self.enrolled_in {
            Some(tenant) => replay::spend_enrolled(tx, tenant, &self.device, &self.nonce).await?,
            None => replay::spend(tx, &self.device, &self.nonce).await?,
        };
        match spending {
            Spending::Spent => Ok(()),
            Spending::Replayed => Err(CommitError::Refused(NotSpent::Replayed.into())),
            Spending::Revoked => Err(CommitError::Refused(NotSpent::Revoked.into())),
        }
    }
}

/// Longest time, in seconds, for which a request that was verified once can be verified again.
const VALID: i64 = MAX_AGE + MAX_AHEAD;
/// Requests that are remembered from one such time: enough for 2000 each second.
const CAPACITY: usize = 1 << 17;
/// Of them by one device: enough for 250 each second.
const OF_A_DEVICE: usize = CAPACITY / 8;

/// Why a verified request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotEntered {
    /// It was here before.
    Replayed,
    /// Too many are remembered. SECURITY: then nobody can say whether it was here before.
    Full,
}

/// The verified requests of the last minute or two at this instance. Only what is verified gets in, so strangers
/// cannot fill it.
pub(super) struct Seen {
    entries: Mutex<Entries>,
    capacity: usize,
    of_a_device: usize,
}

/// Two spans of [`VALID`] seconds: the older one is forgotten as a whole.
#[derive(Default)]
struct Entries {
    since: i64,
    now: Span,
    before: Span,
}

#[derive(Default)]
struct Span {
    requests: HashSet<[u8; 16]>,
    by_device: HashMap<[u8; 16], usize>,
}

impl Default for Seen {
    fn default() -> Self {
        Self::with_capacity(CAPACITY, OF_A_DEVICE)
    }
}

impl Seen {
    fn with_capacity(capacity: usize, of_a_device: usize) -> Self {
        Self {
            entries: Mutex::default(),
            capacity,
            of_a_device,
        }
    }

    /// Lets a verified request in, once.
    pub(super) fn enter(
        &self,
        device: &DeviceKeyId,
        nonce: &[u8; 16],
        now: Timestamp,
    ) -> Result<(), NotEntered> {
        let device = digest(&[device.as_str().as_bytes()]);
        let request = digest(&[&device, nonce]);
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.forget_old(now.as_seconds());
        if entries.before.requests.contains(&request) || entries.now.requests.contains(&request) {
            return Err(NotEntered::Replayed);
        }
        let span = &mut entries.now;
        let by_device = span.by_device.get(&device).copied().unwrap_or_default();
        if span.requests.len() >= self.capacity || by_device >= self.of_a_device {
            return Err(NotEntered::Full);
        }
        span.requests.insert(request);
        span.by_device.insert(device, by_device.saturating_add(1));
        Ok(())
    }
}

impl Entries {
    /// A clock that is set back forgets nothing.
    fn forget_old(&mut self, now: i64) {
        let age = now.saturating_sub(self.since);
        if age >= 2 * VALID {
            self.now = Span::default();
        }
        if age >= VALID {
            self.before = std::mem::take(&mut self.now);
            self.since = now;
        }
    }
}

/// Half a SHA-256: nobody can make two requests with one, except of their own.
fn digest(parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    let hash: [u8; 32] = hash.finalize().into();
    let (half, _) = hash.split_first_chunk().unwrap_or((&[0; 16], &[]));
    *half
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::{NotEntered, Seen, VALID};
    use crate::clock::Timestamp;
    use crate::domain::DeviceKeyId;

    const NOW: Timestamp = Timestamp::from_micros(1_795_338_000_000_000);

    fn device(letter: &str) -> DeviceKeyId {
        DeviceKeyId::parse(&letter.repeat(43)).unwrap()
    }

    #[test]
    fn s4_a_verified_request_gets_in_once_for_as_long_as_it_is_valid() {
        let seen = Seen::default();
        let (one, other) = (device("a"), device("b"));
        assert_eq!(seen.enter(&one, &[1; 16], NOW), Ok(()));
        assert_eq!(seen.enter(&one, &[2; 16], NOW), Ok(()));
        assert_eq!(seen.enter(&other, &[1; 16], NOW), Ok(()));
        for late in [0, 1, VALID - 1, VALID, VALID + 1] {
            let at = NOW.plus_seconds(late);
            let again = seen.enter(&one, &[1; 16], at);
            assert_eq!(again, Err(NotEntered::Replayed), "after {late} s");
        }
        // Set back, the clock would make old requests valid again.
        let earlier = NOW.plus_seconds(-3600);
        assert_eq!(
            seen.enter(&one, &[1; 16], earlier),
            Err(NotEntered::Replayed)
        );
        // By then its signature is too old anyway.
        assert_eq!(
            seen.enter(&one, &[1; 16], NOW.plus_seconds(3 * VALID)),
            Ok(())
        );
    }

    #[test]
    fn s4_a_full_memory_lets_nobody_in_and_one_device_cannot_fill_it() {
        let seen = Seen::with_capacity(3, 2);
        let enter = |who: &str, number: u8, at| seen.enter(&device(who), &[number; 16], at);
        assert_eq!(enter("a", 1, NOW), Ok(()));
        assert_eq!(enter("a", 2, NOW), Ok(()));
        assert_eq!(enter("a", 3, NOW), Err(NotEntered::Full));
        assert_eq!(enter("b", 1, NOW), Ok(()));
        assert_eq!(enter("c", 1, NOW), Err(NotEntered::Full));
        // What is known is still told, and time makes room.
        assert_eq!(enter("a", 1, NOW), Err(NotEntered::Replayed));
        assert_eq!(enter("c", 1, NOW.plus_seconds(VALID)), Ok(()));
        assert_eq!(
            enter("a", 1, NOW.plus_seconds(VALID)),
            Err(NotEntered::Replayed)
        );
    }
}
