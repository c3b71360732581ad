//! The owner behind a request: proven by the device key's signature over it (RFC 9421, `protocol.md` 4).

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use countersign_mpc::owner_proof::{Claim, OwnerProofError, RequestParts, parse, thumbprint};
use p256::ecdsa::VerifyingKey;

use super::certificate::ClientIdentity;
use crate::clock;
use crate::domain::{DeviceKeyId, OwnerId, TenantId};
use crate::store::{Store, StoreError, devices};

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
    /// It is meant for another appliance.
    #[error("the request names another audience")]
    WrongAudience,
    /// The proof does not hold.
    #[error("the device signature does not hold")]
    Proof(#[source] OwnerProofError),
    /// The device is not enrolled.
    #[error("the device key is not enrolled")]
    UnknownDevice,
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
}

/// Somebody who has proven to hold a device key and wants to become an owner, or is one already.
#[must_use = "an applicant is proven to act for them"]
pub struct Applicant {
    device_key_id: DeviceKeyId,
    public_key: [u8; 65],
    tenant: TenantId,
    certificate_spki: [u8; 32],
}

impl Applicant {
    /// The device that signed.
    #[must_use]
    pub const fn device_key_id(&self) -> &DeviceKeyId {
        &self.device_key_id
    }

    /// Its public key, uncompressed SEC1.
    #[must_use]
    pub const fn public_key(&self) -> &[u8; 65] {
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
}

/// Verifies owner proofs.
pub struct OwnerVerifier {
    store: Store,
    audience: String,
}

impl OwnerVerifier {
    /// A verifier for requests that name `audience`.
    #[must_use]
    pub const fn new(store: Store, audience: String) -> Self {
        Self { store, audience }
    }

    /// The owner whose enrolled device signed the request.
    ///
    /// # Errors
    /// [`OwnerError`] when there is none.
    pub async fn owner(
        &self,
        client: &ClientIdentity,
        request: &SignedRequest<'_>,
    ) -> Result<Owner, OwnerError> {
        let (claim, device_key_id) = self.claim(request)?;
        let mut reader = self.store.reader().await?;
        let device = devices::find(&mut reader, client.tenant(), &device_key_id)
            .await?
            .ok_or(OwnerError::UnknownDevice)?;
        let key = VerifyingKey::from_sec1_bytes(&device.public_key)
            .map_err(|_| OwnerError::Proof(OwnerProofError::InvalidKey))?;
        verify(&claim, &key, request)?;
        Ok(Owner {
            owner_id: device.owner_id,
            device_key_id,
            tenant: client.tenant().clone(),
            certificate_spki: *client.spki_sha256(),
        })
    }

    /// The holder of `key`, proven by a signature with that very key.
    ///
    /// # Errors
    /// [`OwnerError`] when the request is not signed by it.
    pub fn applicant(
        &self,
        client: &ClientIdentity,
        request: &SignedRequest<'_>,
        key: &VerifyingKey,
    ) -> Result<Applicant, OwnerError> {
        let (claim, device_key_id) = self.claim(request)?;
        if thumbprint(key) != device_key_id.as_str() {
            return Err(OwnerError::Proof(OwnerProofError::WrongKey));
        }
        verify(&claim, key, request)?;
        let public_key = key
            .to_sec1_point(false)
            .as_bytes()
            .try_into()
            .map_err(|_| OwnerError::Proof(OwnerProofError::InvalidKey))?;
        Ok(Applicant {
            device_key_id,
            public_key,
            tenant: client.tenant().clone(),
            certificate_spki: *client.spki_sha256(),
        })
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
}

fn verify(
    claim: &Claim,
    key: &VerifyingKey,
    request: &SignedRequest<'_>,
) -> Result<(), OwnerError> {
    claim
        .verify(
            key,
            &request.parts,
            request.content_digest,
            clock::now().as_seconds(),
            |key, message, signature| {
                verify_p256(
                    key.to_sec1_point(false).as_bytes(),
                    message,
                    &signature.to_bytes(),
                )
            },
        )
        .map_err(OwnerError::Proof)
}

/// The same answers as `owner_proof::verify_p256`, in a fraction of its time.
fn verify_p256(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key)
        .verify(message, signature)
        .is_ok()
}

#[cfg(test)]
mod tests;
