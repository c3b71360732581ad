//! Key shares: what each party stores, and the public facts that both agree on.
//!
//! SECURITY: the engine's `Party` derives `Debug`, `Clone` and `Serialize` over its secrets. The wrappers here have
//! none of these; [`Share::to_bytes`] is the only way out, into a wiping buffer.

use dkls23::protocols::PublicKeyPackage;
use k256::ecdsa::VerifyingKey;
use k256::elliptic_curve::group::{CurveAffine, GroupEncoding};
use k256::elliptic_curve::sec1::FromSec1Point;
use k256::{AffinePoint, ProjectivePoint, Scalar, Secp256k1};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::engine::{Party, Role, contained};
use crate::error::{MpcError, RecoverableReason};
use crate::lp::Lp;
use crate::signature::address_of;
use crate::wire;

/// Version of a stored share.
const VERSION: u8 = 1;
/// Most bytes of a stored share; an honest one has about 52 600.
const SHARE_MAX: usize = 64_000;

/// The public side of one generation of shares, identical at both parties. Not secret; points are compressed SEC1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PublicShare {
    /// The joint public key `X`.
    #[serde(with = "crate::hexadecimal")]
    pub public_key: [u8; 33],
    /// Ethereum address of `X`.
    #[serde(with = "crate::hexadecimal")]
    pub address: [u8; 20],
    /// P1's public share `X1`.
    #[serde(with = "crate::hexadecimal")]
    pub x1: [u8; 33],
    /// P2's public share `X2`. `X = 2 X1 - X2`.
    #[serde(with = "crate::hexadecimal")]
    pub x2: [u8; 33],
    /// The engine's session id of this generation: the `sid` of its key generation.
    #[serde(with = "crate::hexadecimal")]
    pub session_id: [u8; 32],
}

impl PublicShare {
    /// `H(LP("gen/1", pk, X1, X2, session_id))`: names this generation (protocol.md 2.6).
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        Lp::new("gen/1")
            .bytes(&self.public_key)
            .bytes(&self.x1)
            .bytes(&self.x2)
            .bytes(&self.session_id)
            .hash()
    }

    pub(crate) fn new(
        package: &PublicKeyPackage<Secp256k1>,
        session_id: [u8; 32],
    ) -> Result<Self, MpcError> {
        let incomplete = MpcError::recoverable(RecoverableReason::PolynomialInconsistency);
        let share = |role: Role| {
            package
                .verifying_share(role.index())
                .map(compressed)
                .ok_or(incomplete)
        };
        let key = VerifyingKey::from_affine(*package.verifying_key()).map_err(|_| incomplete)?;
        Ok(Self {
            public_key: compressed(package.verifying_key()),
            address: address_of(&key),
            x1: share(Role::P1)?,
            x2: share(Role::P2)?,
            session_id,
        })
    }

    /// Whether the points exist and fit together, and the address is the key's.
    fn check(&self) -> Result<(), ShareError> {
        let key = VerifyingKey::from_sec1_bytes(&self.public_key)
            .map_err(|_| ShareError::InconsistentPublicShare)?;
        let (x1, x2) = (point(&self.x1)?, point(&self.x2)?);
        let joint = x1 + x1 - x2;
        if joint == ProjectivePoint::from(*key.as_affine()) && address_of(&key) == self.address {
            Ok(())
        } else {
            Err(ShareError::InconsistentPublicShare)
        }
    }
}

/// Why stored share bytes were refused. Says nothing about their content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ShareError {
    /// Not a share of this version.
    #[error("share does not decode")]
    Malformed,
    /// A share of the other party, or not two-of-two.
    #[error("share is of another party")]
    WrongParty,
    /// The share does not belong to the given public share (A19).
    #[error("share does not match its public share")]
    WrongKey,
    /// The public share contradicts itself.
    #[error("public share is inconsistent")]
    InconsistentPublicShare,
    /// The share could not be encoded.
    #[error("share does not encode")]
    Encoding,
}

/// The secret share of party `INDEX`. Wiped on drop; no `Debug`, `Clone` or `Serialize`.
pub struct Share<const INDEX: u8> {
    party: Party,
    public: PublicShare,
}

/// The wallet's share.
pub type P1Share = Share<1>;
/// The appliance's share.
pub type P2Share = Share<2>;

impl<const INDEX: u8> Share<INDEX> {
    pub(crate) fn new(party: Party, public: PublicShare) -> Self {
        Self { party, public }
    }

    pub(crate) fn party(&self) -> &Party {
        &self.party
    }

    /// The public facts this share belongs to.
    #[must_use]
    pub fn public(&self) -> &PublicShare {
        &self.public
    }

    /// The share for storage: a version byte and about 52 600 bytes of postcard. Secret: seal it at once.
    ///
    /// # Errors
    /// [`ShareError::Encoding`].
    pub fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, ShareError> {
        wire::encode_bounded(&(VERSION, &self.party), SHARE_MAX).map_err(|_| ShareError::Encoding)
    }

    /// Reads a stored share and checks that it is this party's half of `public`: index, two-of-two, public key,
    /// session, `share * G` equal to the public share, and the dimensions of its transfer state.
    ///
    /// # Errors
    /// [`ShareError`], by what does not fit.
    pub fn from_bytes(bytes: &[u8], public: &PublicShare) -> Result<Self, ShareError> {
        public.check()?;
        let party = decode(bytes)?;
        check(&party, Self::role(), public)?;
        Ok(Self {
            party,
            public: public.clone(),
        })
    }

    /// This share without its transfer state: with that, whatever a cheating wallet has learned of it is worth
    /// nothing, and neither party can sign with the rest. Enough for a complete refresh, which makes new state.
    #[must_use]
    pub fn into_emptied(self) -> EmptiedShare<INDEX> {
        let Self { mut party, public } = self;
        // Each wipes itself when it is dropped.
        party.mul_senders.clear();
        party.mul_receivers.clear();
        EmptiedShare { party, public }
    }

    fn role() -> Role {
        if INDEX == Role::P1.byte() {
            Role::P1
        } else {
            Role::P2
        }
    }
}

/// A share whose transfer state was destroyed. It signs nothing. Wiped on drop; no `Debug`, `Clone` or `Serialize`.
pub struct EmptiedShare<const INDEX: u8> {
    party: Party,
    public: PublicShare,
}

/// The appliance's, of a wallet that was caught.
pub type EmptiedP2Share = EmptiedShare<2>;

impl<const INDEX: u8> EmptiedShare<INDEX> {
    #[cfg(test)]
    pub(crate) fn party(&self) -> &Party {
        &self.party
    }

    /// The public facts this share belongs to.
    #[must_use]
    pub fn public(&self) -> &PublicShare {
        &self.public
    }

    /// The share for storage, about 300 bytes. Secret: seal it at once.
    ///
    /// # Errors
    /// [`ShareError::Encoding`].
    pub fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, ShareError> {
        wire::encode_bounded(&(VERSION, &self.party), SHARE_MAX).map_err(|_| ShareError::Encoding)
    }

    /// As [`Share::from_bytes`], for one that has no transfer state.
    ///
    /// # Errors
    /// [`ShareError`], by what does not fit.
    pub fn from_bytes(bytes: &[u8], public: &PublicShare) -> Result<Self, ShareError> {
        public.check()?;
        let party = decode(bytes)?;
        check_identity(&party, Share::<INDEX>::role(), public)?;
        if !(party.mul_senders.is_empty() && party.mul_receivers.is_empty()) {
            return Err(ShareError::Malformed);
        }
        Ok(Self {
            party,
            public: public.clone(),
        })
    }
}

/// Whether `bytes` are a share: one of ours, or the engine's own encoding. The server uses it to refuse and wipe a
/// share that a broken client sends instead of a message (A23).
pub(crate) fn is_share(bytes: &[u8]) -> bool {
    decode(bytes).is_ok() || postcard::from_bytes::<Party>(bytes).is_ok()
}

fn decode(bytes: &[u8]) -> Result<Party, ShareError> {
    if bytes.len() > SHARE_MAX {
        return Err(ShareError::Malformed);
    }
    let decoded =
        contained(|| wire::decode_canonical::<(u8, Party)>(bytes).map_err(MpcError::from));
    match decoded {
        Ok((VERSION, party)) => Ok(party),
        _ => Err(ShareError::Malformed),
    }
}

fn check(party: &Party, role: Role, public: &PublicShare) -> Result<(), ShareError> {
    check_identity(party, role, public)?;
    let peer = role.other().index();
    let sender = party
        .mul_senders
        .get(&peer)
        .is_some_and(|state| state.check_state().is_ok());
    let receiver = party
        .mul_receivers
        .get(&peer)
        .is_some_and(|state| state.check_state(None).is_ok());
    if sender && receiver && party.mul_senders.len() == 1 && party.mul_receivers.len() == 1 {
        Ok(())
    } else {
        Err(ShareError::Malformed)
    }
}

/// All but the transfer state.
fn check_identity(party: &Party, role: Role, public: &PublicShare) -> Result<(), ShareError> {
    let parameters = &party.parameters;
    if party.party_index != role.index() || parameters.threshold != 2 || parameters.share_count != 2
    {
        return Err(ShareError::WrongParty);
    }
    let own_point = match role {
        Role::P1 => &public.x1,
        Role::P2 => &public.x2,
    };
    let derivation = &party.derivation_data;
    let own = ProjectivePoint::GENERATOR * party.poly_point;
    let matches = compressed(&party.pk) == public.public_key
        && party.session_id == public.session_id
        && own == point(own_point)?
        && derivation.depth == 0
        && derivation.pk == party.pk
        && derivation.poly_point == party.poly_point
        && derivation.chain_code != [0; 32]
        && party.poly_point != Scalar::ZERO;
    if matches {
        Ok(())
    } else {
        Err(ShareError::WrongKey)
    }
}

/// Compressed SEC1; the identity, which no check lets through, becomes zeros.
fn compressed(point: &AffinePoint) -> [u8; 33] {
    let mut bytes = [0; 33];
    bytes.copy_from_slice(GroupEncoding::to_bytes(point).as_slice());
    bytes
}

fn point(bytes: &[u8; 33]) -> Result<ProjectivePoint, ShareError> {
    let encoded =
        k256::Sec1Point::from_bytes(bytes).map_err(|_| ShareError::InconsistentPublicShare)?;
    let point = Option::<AffinePoint>::from(AffinePoint::from_sec1_point(&encoded));
    match point {
        Some(point) if !bool::from(CurveAffine::is_identity(&point)) => {
            Ok(ProjectivePoint::from(point))
        }
        _ => Err(ShareError::InconsistentPublicShare),
    }
}
