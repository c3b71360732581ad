//! The owner behind a request: proven by the device key's signature over it (RFC 9421, `protocol.md` 4).

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey, VerificationAlgorithm,
};
use countersign_mpc::owner_proof::{
    Algorithm, Claim, OwnerProofError, PublicKey, RequestParts, parse,
};

use super::certificate::{ClientIdentity, Role};
use super::jwt::{GatewayJwt, JwtError};
use super::replay::{NotEntered, RequestProof, Seen};
use crate::clock::{self, Timestamp};
use crate::domain::{DeviceKeyId, OwnerId, TenantId};
use crate::store::devices::{self, DeviceRow, Subject};
use crate::store::{Store, StoreError, replay};

/// A request's parts that the device signs, and its proof.
pub struct SignedRequest<'a> {
    /// What is signed.
    pub parts: RequestParts<'a>,
    /// The `Content-Digest` header.
    pub content_digest: Option<&'a str>,
    /// The `Signature-Input` header.
    pub signature_input: Option<&'a str>,
    /// The `Signature` header.
    pub signature: Option<&'a str>,
}

/// Why no owner stands behind a request.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// It carries no proof.
    #[error("the request is not signed by a device key")]
    Unsigned,
    /// The gateway's token does not hold.
    #[error("the gateway's token does not hold")]
    Token(#[source] JwtError),
    /// The device speaks for another user than the gateway's token names.
    #[error("the device speaks for another user than the token names")]
    OtherSubject,
    /// It is meant for another appliance.
    #[error("the request names another audience")]
    WrongAudience,
    /// The proof does not hold.
    #[error("the device signature does not hold")]
    Proof(#[source] OwnerProofError),
    /// The device is not enrolled.
    #[error("the device key is not enrolled")]
    UnknownDevice,
    /// The device was revoked.
    #[error("the device key is revoked")]
    RevokedDevice,
    /// The device was enrolled lately.
    #[error("the device key may not act yet")]
    PendingDevice {
        /// From when it may.
        active_at: Timestamp,
    },
    /// The same signed request came before.
    #[error("the signed request was here before")]
    Replayed,
    /// Too many requests are remembered to tell whether this one came before.
    #[error("too many signed requests are remembered")]
    TooMany,
    /// The devices could not be looked up.
    #[error("the device could not be looked up")]
    Store(#[from] StoreError),
}

/// The owner of profiles, proven for one request.
#[must_use = "an owner is proven to act for them"]
pub struct Owner {
    owner_id: OwnerId,
    device_key_id: DeviceKeyId,
    tenant: TenantId,
    certificate_spki: [u8; 32],
    role: Role,
    enrolled_at: Timestamp,
}

impl Owner {
    /// The owner's id.
    #[must_use]
    pub const fn owner_id(&self) -> OwnerId {
        self.owner_id
    }

    /// The device that signed.
    #[must_use]
    pub const fn device_key_id(&self) -> &DeviceKeyId {
        &self.device_key_id
    }

    /// The tenant of the gateway the request came through.
    #[must_use]
    pub const fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// SHA-256 of the client certificate's public key.
    #[must_use]
    pub const fn certificate_spki(&self) -> &[u8; 32] {
        &self.certificate_spki
    }

    /// The role of the client certificate.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }

    /// When the device was enrolled.
    #[must_use]
    pub const fn enrolled_at(&self) -> Timestamp {
        self.enrolled_at
    }
}

/// Somebody who has proven to hold a device key and wants to become an owner, or is one already.
#[must_use = "an applicant is proven to act for them"]
pub struct Applicant {
    device_key_id: DeviceKeyId,
    public_key: PublicKey,
    tenant: TenantId,
    certificate_spki: [u8; 32],
    subject: Option<Subject>,
    role: Role,
    enrolled_at: Option<Timestamp>,
}

impl Applicant {
    /// The device that signed.
    #[must_use]
    pub const fn device_key_id(&self) -> &DeviceKeyId {
        &self.device_key_id
    }

    /// The user that the gateway's token names, where one is asked for.
    #[must_use]
    pub const fn subject(&self) -> Option<&Subject> {
        self.subject.as_ref()
    }

    /// Its public key.
    #[must_use]
    pub const fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// The tenant of the gateway the request came through.
    #[must_use]
    pub const fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// SHA-256 of the client certificate's public key.
    #[must_use]
    pub const fn certificate_spki(&self) -> &[u8; 32] {
        &self.certificate_spki
    }

    /// The role of the client certificate.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }

    /// When the device was enrolled, if it was.
    #[must_use]
    pub const fn enrolled_at(&self) -> Option<Timestamp> {
        self.enrolled_at
    }
}

/// Verifies owner proofs.
pub struct OwnerVerifier {
    store: Store,
    audience: String,
    jwt: Option<GatewayJwt>,
    seen: Seen,
}

impl OwnerVerifier {
    /// A verifier for requests that name `audience`, and carry a gateway's token if `jwt` says which.
    #[must_use]
    pub fn new(store: Store, audience: String, jwt: Option<GatewayJwt>) -> Self {
        Self {
            store,
            audience,
            jwt,
            seen: Seen::default(),
        }
    }

    /// Whether requests must carry a gateway's token, and sign it.
    #[must_use]
    pub const fn asks_for_token(&self) -> bool {
        self.jwt.is_some()
    }

    /// Whether the request has what a proof takes: the gateway's token, if one is asked for, and a signature.
    ///
    /// # Errors
    /// [`OwnerError::Token`] or [`OwnerError::Unsigned`].
    pub fn is_asked(&self, request: &SignedRequest<'_>) -> Result<Option<Subject>, OwnerError> {
        let now = clock::now().as_seconds();
        let subject = self
            .jwt
            .as_ref()
            .map(|jwt| jwt.subject(request.parts.authorization, now))
            .transpose()
            .map_err(OwnerError::Token)?;
        if request.signature_input.is_none() || request.signature.is_none() {
            return Err(OwnerError::Unsigned);
        }
        Ok(subject)
    }

    /// The owner whose enrolled device signed the request, and the proof of it for the operation that acts for it.
    ///
    /// SECURITY: whose token names another user than the owner of the device is somebody who owns nothing: what they ask
    /// for is found as little as what does not exist, in the same way and time.
    ///
    /// # Errors
    /// [`OwnerError`] when there is none.
    pub async fn owner(
        &self,
        client: &ClientIdentity,
        request: &SignedRequest<'_>,
    ) -> Result<(Owner, RequestProof), OwnerError> {
        let subject = self.is_asked(request)?;
        let (claim, device_key_id) = self.claim(request)?;
        let mut reader = self.store.reader().await?;
        let tenant = client.tenant();
        let signer = devices::signer(&mut reader, tenant, &device_key_id, &claim.nonce).await?;
        drop(reader);
        let signer = signer.ok_or(OwnerError::UnknownDevice)?;
        let device = signer.device;
        verify(&claim, &device.public_key, request)?;
        let now = clock::now();
        may_act(Some(&device), now)?;
        if signer.spent {
            return Err(OwnerError::Replayed);
        }
        self.enter(&device_key_id, &claim, now)?;
        let enrolled_in = Some(tenant.clone());
        let proof = RequestProof::new(device_key_id.clone(), claim.nonce, enrolled_in);
        let same_user = self.jwt.is_none() || subject == signer.subject;
        let owner = Owner {
            owner_id: if same_user {
                device.owner_id
            } else {
                OwnerId::generate()
            },
            device_key_id,
            tenant: tenant.clone(),
            certificate_spki: *client.spki_sha256(),
            role: client.role(),
            enrolled_at: device.created_at,
        };
        Ok((owner, proof))
    }

    /// The holder of `key`, proven by a signature with that very key, and the proof of it for the operation that acts
    /// for it.
    ///
    /// # Errors
    /// [`OwnerError`] when the request is not signed by it.
    pub async fn applicant(
        &self,
        client: &ClientIdentity,
        request: &SignedRequest<'_>,
        key: &PublicKey,
    ) -> Result<(Applicant, RequestProof), OwnerError> {
        let subject = self.is_asked(request)?;
        let (claim, device_key_id) = self.claim(request)?;
        if key.thumbprint() != device_key_id.as_str() {
            return Err(OwnerError::Proof(OwnerProofError::WrongKey));
        }
        verify(&claim, key, request)?;
        let now = clock::now();
        let tenant = client.tenant();
        let mut reader = self.store.reader().await?;
        let known = devices::find(&mut reader, tenant, &device_key_id).await?;
        let spent = replay::is_spent(&mut reader, &device_key_id, &claim.nonce).await?;
        let bound = match (&known, &subject) {
            (Some(known), Some(_)) => devices::subject_of(&mut reader, known.owner_id).await?,
            _ => None,
        };
        drop(reader);
        may_act(known.as_ref(), now)?;
        if spent {
            return Err(OwnerError::Replayed);
        }
        if bound.is_some() && bound != subject {
            return Err(OwnerError::OtherSubject);
        }
        self.enter(&device_key_id, &claim, now)?;
        let enrolled_at = known.map(|device| device.created_at);
        let enrolled_in = enrolled_at.map(|_| tenant.clone());
        let proof = RequestProof::new(device_key_id.clone(), claim.nonce, enrolled_in);
        let applicant = Applicant {
            device_key_id,
            public_key: *key,
            tenant: tenant.clone(),
            certificate_spki: *client.spki_sha256(),
            subject,
            role: client.role(),
            enrolled_at,
        };
        Ok((applicant, proof))
    }

    fn claim(&self, request: &SignedRequest<'_>) -> Result<(Claim, DeviceKeyId), OwnerError> {
        let (Some(input), Some(signature)) = (request.signature_input, request.signature) else {
            return Err(OwnerError::Unsigned);
        };
        if request.parts.audience != self.audience {
            return Err(OwnerError::WrongAudience);
        }
        let claim = parse(input, signature).map_err(OwnerError::Proof)?;
        let device = DeviceKeyId::parse(&claim.key_id)
            .map_err(|_| OwnerError::Proof(OwnerProofError::WrongKey))?;
        Ok((claim, device))
    }

    /// SECURITY: only what is verified is remembered, so nobody can fill the memory for others, nor have a request
    /// refused that was never sent.
    fn enter(&self, key: &DeviceKeyId, claim: &Claim, now: Timestamp) -> Result<(), OwnerError> {
        let entered = self.seen.enter(key, &claim.nonce, now);
        entered.map_err(|reason| match reason {
            NotEntered::Replayed => OwnerError::Replayed,
            NotEntered::Full => OwnerError::TooMany,
        })
    }
}

/// Whether a device that is known may act now.
fn may_act(device: Option<&DeviceRow>, now: Timestamp) -> Result<(), OwnerError> {
    match device {
        Some(device) if device.revoked_at.is_some() => Err(OwnerError::RevokedDevice),
        Some(device) if device.active_at > now => {
            let active_at = device.active_at;
            Err(OwnerError::PendingDevice { active_at })
        }
        _ => Ok(()),
    }
}

fn verify(claim: &Claim, key: &PublicKey, request: &SignedRequest<'_>) -> Result<(), OwnerError> {
    claim
        .verify(
            key,
            &request.parts,
            request.content_digest,
            clock::now().as_seconds(),
            verifies,
        )
        .map_err(OwnerError::Proof)
}

/// The same answers as `PublicKey::verify`, in a fraction of its time.
#[must_use]
pub fn verifies(key: &PublicKey, message: &[u8], signature: &[u8; 64]) -> bool {
    let (algorithm, key): (&dyn VerificationAlgorithm, _) = match key.algorithm() {
        Algorithm::P256 => (&ECDSA_P256_SHA256_FIXED, key.as_bytes()),
        Algorithm::Ed25519 => (&ED25519, key.as_bytes()),
    };
    UnparsedPublicKey::new(algorithm, key)
        .verify(message, signature)
        .is_ok()
}

#[cfg(test)]
mod tests;
