//! The plaintext frames: header, message bodies, and the strict decoding of what the other party sent.
//!
//! A frame is postcard of `{ver, type, sid, from, to, body}`; the first 36 bytes are fixed. Bodies are our own structs
//! (byte by byte in `README.md`). SECURITY: the engine's `ProofCommitment` never travels whole: its commitment is part
//! of [`Commitments`], its proof of [`Openings`], one round later (A11, protocol.md 0.9).

mod bodies;
mod checks;

use postcard::ser_flavors::Flavor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

pub(crate) use bodies::{
    Commitments, Keygen1, Keygen1Reply, Keygen2, Keygen2Reply, Keygen3, Keygen3Reply, Openings,
    Sign1, Sign1Reply, Sign2,
};

use crate::engine::Role;
use crate::error::{MpcError, RecoverableReason, Refusal};

/// Version of frames and bodies. Both parties refuse any other (A38).
pub(crate) const VERSION: u8 = 1;

/// Most bytes of a key generation message to P2: the largest, kg2, has about 147 900.
const KEYGEN_MAX: usize = 160_000;
/// Most bytes of P2's second key generation answer, which also carries the first canary message.
const KEYGEN_REPLY_2_MAX: usize = 192_000;
/// Most bytes of a signing message; the largest has about 82 200.
const SIGN_MAX: usize = 96_000;

/// Message types; an answer has its request's type, direction is in `from` and `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Keygen1,
    Keygen2,
    Keygen3,
    Sign1,
    Sign2,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Self::Keygen1 => 1,
            Self::Keygen2 => 2,
            Self::Keygen3 => 3,
            Self::Sign1 => 4,
            Self::Sign2 => 5,
        }
    }

    fn cap(self, receiver: Role) -> usize {
        match (self, receiver) {
            (Self::Keygen2, Role::P1) => KEYGEN_REPLY_2_MAX,
            (Self::Keygen1 | Self::Keygen2 | Self::Keygen3, _) => KEYGEN_MAX,
            (Self::Sign1 | Self::Sign2, _) => SIGN_MAX,
        }
    }
}

/// Fixed part of a frame: `ver ‖ type ‖ sid ‖ from ‖ to`.
const HEADER: usize = 36;

#[derive(Serialize)]
struct Frame<'a, B> {
    version: u8,
    kind: u8,
    sid: [u8; 32],
    from: u8,
    to: u8,
    body: &'a B,
}

/// A message body: which type it is, and what holds for every honest one beyond its encoding.
pub(crate) trait Body: Serialize + DeserializeOwned {
    /// The type byte.
    const KIND: Kind;

    /// Checks lengths, points and inner routing before the engine sees the message.
    fn check(&self, receiver: Role) -> Result<(), Refusal>;
}

/// Encodes a message of `sender`. The buffer never grows, so no unwiped copy of it stays behind.
pub(crate) fn encode<B: Body>(
    sender: Role,
    sid: &[u8; 32],
    body: &B,
) -> Result<Zeroizing<Vec<u8>>, MpcError> {
    let receiver = sender.other();
    let frame = Frame {
        version: VERSION,
        kind: B::KIND.byte(),
        sid: *sid,
        from: sender.byte(),
        to: receiver.byte(),
        body,
    };
    encode_bounded(&frame, B::KIND.cap(receiver))
        .map_err(|_| MpcError::recoverable(RecoverableReason::Encoding))
}

/// Postcard into a wiping buffer of at most `cap` bytes, allocated once.
pub(crate) fn encode_bounded<T: Serialize>(
    value: &T,
    cap: usize,
) -> Result<Zeroizing<Vec<u8>>, postcard::Error> {
    let mut buffer = Zeroizing::new(vec![0; cap]);
    let used = postcard::to_slice(value, &mut buffer)?.len();
    buffer.truncate(used);
    Ok(buffer)
}

/// A decoded and checked message. Its session id is still to be compared, since some ids depend on the body's nonce.
pub(crate) struct Received<B> {
    sid: [u8; 32],
    body: B,
}

impl<B> Received<B> {
    /// The body, before the session id is known. Use only to read the nonce the id depends on.
    pub(crate) fn peek(&self) -> &B {
        &self.body
    }

    /// The body, if the message belongs to session `sid`.
    pub(crate) fn in_session(self, sid: &[u8; 32]) -> Result<B, MpcError> {
        if self.sid == *sid {
            Ok(self.body)
        } else {
            Err(MpcError::recoverable(
                RecoverableReason::SessionBindingMismatch,
            ))
        }
    }
}

/// Decodes a message to `receiver`: bounded, of this version, type and direction, canonical, and checked.
pub(crate) fn decode<B: Body>(receiver: Role, message: &[u8]) -> Result<Received<B>, MpcError> {
    if message.len() > B::KIND.cap(receiver) {
        return Err(Refusal::TooLarge.into());
    }
    let (header, body) = message
        .split_first_chunk::<HEADER>()
        .ok_or(Refusal::Malformed)?;
    let [version, kind, sid @ .., from, to] = header;
    if *version != VERSION {
        return Err(Refusal::UnsupportedVersion.into());
    }
    if *kind != B::KIND.byte() {
        return Err(Refusal::UnexpectedType.into());
    }
    if *from != receiver.other().byte() || *to != receiver.byte() {
        return Err(Refusal::Misrouted.into());
    }
    let body: B = decode_canonical(body)?;
    body.check(receiver)?;
    Ok(Received { sid: *sid, body })
}

/// Decodes postcard that is the one encoding of its content (A12): nothing left over, and encoding it again gives the
/// same bytes.
pub(crate) fn decode_canonical<T: Serialize + DeserializeOwned>(
    bytes: &[u8],
) -> Result<T, Refusal> {
    let (value, rest) = postcard::take_from_bytes::<T>(bytes).map_err(|_| Refusal::Malformed)?;
    if !rest.is_empty() {
        return Err(Refusal::NotCanonical);
    }
    postcard::serialize_with_flavor(&value, Expected(bytes)).map_err(|_| Refusal::NotCanonical)?;
    Ok(value)
}

/// What an encoding must be, compared as it is made: the content, which may be secret, is not copied once more.
struct Expected<'a>(&'a [u8]);

impl Flavor for Expected<'_> {
    type Output = ();

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.0 = self
            .0
            .strip_prefix(data)
            .ok_or(postcard::Error::SerializeBufferFull)?;
        Ok(())
    }

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn finalize(self) -> postcard::Result<()> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(postcard::Error::SerializeBufferFull)
        }
    }
}
