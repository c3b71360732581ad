//! Requests that an owner signed, as extractors: size and type first, then the proof, then the content.

use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::extract::{Extension, FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use countersign_mpc::owner_proof::{BodyHash, OwnerProofError, PublicKey, RequestParts};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::code::hash_without_code;
use super::error::ApiError;
use super::tls::Peer;
use crate::domain::IdempotencyKey;
use crate::identity::certificate::{ClientIdentity, Role};
use crate::identity::owner::{Applicant, Owner, OwnerError, OwnerVerifier, SignedRequest};
use crate::identity::replay::RequestProof;

/// The id in a path, as text. What does not even decode names nothing.
pub struct PathId(pub String);

impl<S: Send + Sync> FromRequestParts<S> for PathId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        Path::from_request_parts(parts, state)
            .await
            .map(|Path(id)| Self(id))
            .map_err(|_| ApiError::no_route())
    }
}

/// Several ids in a path, as text, in its order.
pub struct PathIds<const N: usize>(pub [String; N]);

impl<S: Send + Sync, const N: usize> FromRequestParts<S> for PathIds<N> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let ids = Path::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let ids = ids.map_err(|_| ApiError::no_route())?.0;
        let ids: Vec<String> = ids.into_iter().map(|(_, id)| id).collect();
        ids.try_into().map(Self).map_err(|_| ApiError::no_route())
    }
}

/// A request without a body, signed by an enrolled device.
pub struct OwnedQuery(pub Owner);

impl<S: Send + Sync> FromRequestParts<S> for OwnedQuery {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let (client, verifier) = prerequisites(parts, state).await?;
        let request = signed(parts, None, &verifier).map_err(IntoResponse::into_response)?;
        let owner = verifier.owner(&client, &request).await;
        owner
            .map(|(owner, _reads_only)| Self(owner))
            .map_err(|error| ApiError::from(error).into_response())
    }
}

/// A JSON request of at most `LIMIT` bytes, signed by an enrolled device.
pub struct Owned<T, const LIMIT: usize> {
    /// The owner.
    pub owner: Owner,
    /// For the operation that acts for this request.
    pub proof: RequestProof,
    /// The content.
    pub value: T,
    /// SHA-256 of the body, without a code of the second factor.
    pub body_hash: [u8; 32],
    /// The request's key, if it has one.
    pub idempotency_key: Option<IdempotencyKey>,
}

impl<S: Send + Sync, T: DeserializeOwned, const LIMIT: usize> FromRequest<S> for Owned<T, LIMIT> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let (client, verifier) = prerequisites(&mut parts, state).await?;
        let read = async {
            let body = json_body(&parts.headers, body, LIMIT).await?;
            let hash = BodyHash::of(&body);
            let request = signed(&parts, Some(hash), &verifier)?;
            let (owner, proof) = verifier.owner(&client, &request).await?;
            Ok(Self {
                owner,
                proof,
                value: parse(&body)?,
                body_hash: hash_without_code(&body, hash).to_bytes(),
                idempotency_key: idempotency_key(&parts.headers)?,
            })
        };
        read.await.map_err(|error: ApiError| error.into_response())
    }
}

impl<T, const LIMIT: usize> Owned<T, LIMIT> {
    /// The request's key, on a route that wants one.
    ///
    /// # Errors
    /// 400 when there is none.
    pub fn required_key(&self) -> Result<IdempotencyKey, ApiError> {
        let key = self.idempotency_key.clone();
        key.ok_or_else(|| ApiError::invalid("Idempotency-Key is required"))
    }
}

/// A JSON request of at most `LIMIT` bytes of an operator or a security officer: their certificate alone says who asks.
pub struct OfOperator<T, const LIMIT: usize> {
    /// Who.
    pub client: Arc<ClientIdentity>,
    /// The content.
    pub value: T,
}

impl<S: Send + Sync, T: DeserializeOwned, const LIMIT: usize> FromRequest<S>
    for OfOperator<T, LIMIT>
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let Peer(client) = Peer::from_request_parts(&mut parts, state).await?;
        if !matches!(client.role(), Role::Operator | Role::SecurityOfficer) {
            return Err(ApiError::forbidden_role());
        }
        let body = json_body(&parts.headers, body, LIMIT).await?;
        let value = parse(&body)?;
        Ok(Self { client, value })
    }
}

/// Requests that name a device key and are signed by either that very key or an enrolled one.
pub struct Signed<T, const LIMIT: usize> {
    /// The content.
    pub value: T,
    /// SHA-256 of the body.
    pub body_hash: [u8; 32],
    /// The request's key, if it has one.
    pub idempotency_key: Option<IdempotencyKey>,
    parts: Parts,
    hash: BodyHash,
    client: Arc<ClientIdentity>,
    verifier: Arc<OwnerVerifier>,
}

impl<S: Send + Sync, T: DeserializeOwned, const LIMIT: usize> FromRequest<S> for Signed<T, LIMIT> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let (client, verifier) = prerequisites(&mut parts, state).await?;
        let read = async {
            let body = json_body(&parts.headers, body, LIMIT).await?;
            let hash = BodyHash::of(&body);
            // Requests without token or signature end here, before their content is looked at.
            verifier.is_asked(&signed(&parts, Some(hash), &verifier)?)?;
            Ok(Self {
                value: parse(&body)?,
                body_hash: hash.to_bytes(),
                idempotency_key: idempotency_key(&parts.headers)?,
                parts,
                hash,
                client,
                verifier,
            })
        };
        read.await.map_err(|error: ApiError| error.into_response())
    }
}

impl<T, const LIMIT: usize> Signed<T, LIMIT> {
    /// The holder of the device key that the request names, proven by its signature.
    ///
    /// # Errors
    /// 400 when the key does not have the id the request says; 401 when it did not sign.
    pub async fn applicant(
        &self,
        key: &serde_json::Value,
        key_id: &str,
    ) -> Result<(Applicant, RequestProof), ApiError> {
        let key = named_key(key, key_id)?;
        let request = signed(&self.parts, Some(self.hash), &self.verifier)?;
        Ok(self
            .verifier
            .applicant(&self.client, &request, &key)
            .await?)
    }

    /// The owner whose enrolled device signed, which is the one that the request names.
    ///
    /// # Errors
    /// 400 when the key does not have the id the request says; 401 when it did not sign, or is not enrolled.
    pub async fn owner(
        &self,
        key: &serde_json::Value,
        key_id: &str,
    ) -> Result<(Owner, RequestProof), ApiError> {
        named_key(key, key_id)?;
        let request = signed(&self.parts, Some(self.hash), &self.verifier)?;
        let (owner, proof) = self.verifier.owner(&self.client, &request).await?;
        if owner.device_key_id().as_str() != key_id {
            return Err(OwnerError::Proof(OwnerProofError::WrongKey).into());
        }
        Ok((owner, proof))
    }
}

/// The device key of a request that says its id too.
fn named_key(key: &serde_json::Value, key_id: &str) -> Result<PublicKey, ApiError> {
    let key = PublicKey::parse(key)
        .map_err(|error| ApiError::invalid(format!("clientShare.publicKey: {error}")))?;
    if key.thumbprint() == key_id {
        return Ok(key);
    }
    Err(ApiError::invalid(
        "clientShare.keyId is not the RFC 7638 thumbprint of clientShare.publicKey",
    ))
}

async fn prerequisites<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
) -> Result<(Arc<ClientIdentity>, Arc<OwnerVerifier>), Response> {
    let Peer(client) = Peer::from_request_parts(parts, state)
        .await
        .map_err(IntoResponse::into_response)?;
    let Extension(verifier) = Extension::<Arc<OwnerVerifier>>::from_request_parts(parts, state)
        .await
        .map_err(IntoResponse::into_response)?;
    Ok((client, verifier))
}

/// Reads a body of at most `limit` bytes into memory that is wiped.
async fn json_body(
    headers: &HeaderMap,
    mut body: Body,
    limit: usize,
) -> Result<Zeroizing<Vec<u8>>, ApiError> {
    let content_type = single(headers, "content-type").map_or(None, |value| value);
    if content_type != Some("application/json") {
        return Err(ApiError::invalid("Content-Type must be application/json"));
    }
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(ApiError::too_large(limit));
    }
    // One allocation, so that growing leaves no copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(if announced > 0 {
        announced
    } else {
        limit
    }));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::invalid("The body ended early"))?;
        if let Some(data) = frame.data_ref() {
            if bytes.len().saturating_add(data.len()) > limit {
                return Err(ApiError::too_large(limit));
            }
            bytes.extend_from_slice(data);
        }
    }
    Ok(bytes)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        // The parser's own sentence may quote the input; only the place is safe to tell.
        let what = match error.classify() {
            serde_json::error::Category::Data => "has an unknown, missing or mistyped field",
            _ => "is not JSON",
        };
        ApiError::invalid(format!(
            "The body {what} at line {} column {}",
            error.line(),
            error.column()
        ))
    })
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, ApiError> {
    let invalid =
        || ApiError::invalid("Idempotency-Key must be 16 to 64 characters of A-Z a-z 0-9 - _");
    let key = single(headers, "idempotency-key").map_err(|Ambiguous| invalid())?;
    key.map(|key| IdempotencyKey::parse(key).map_err(|_| invalid()))
        .transpose()
}

/// The parts of a request that its device signed. SECURITY: no signature holds for a request that different readers may
/// read differently.
fn signed<'a>(
    parts: &'a Parts,
    body: Option<BodyHash>,
    verifier: &OwnerVerifier,
) -> Result<SignedRequest<'a>, ApiError> {
    let read = |name: &str| {
        single(&parts.headers, name).map_err(|Ambiguous| {
            ApiError::from(OwnerError::Proof(OwnerProofError::InvalidComponent))
        })
    };
    Ok(SignedRequest {
        parts: RequestParts {
            method: parts.method.as_str(),
            path: parts.uri.path(),
            query: parts.uri.query().unwrap_or_default(),
            content_type: match body {
                Some(_) => read(header::CONTENT_TYPE.as_str())?,
                None => None,
            },
            audience: read("mpc-audience")?.unwrap_or_default(),
            idempotency_key: read("idempotency-key")?,
            authorization: if verifier.asks_for_token() {
                read(header::AUTHORIZATION.as_str())?
            } else {
                None
            },
            body,
        },
        content_digest: read("content-digest")?,
        signature_input: read("signature-input")?,
        signature: read("signature")?,
    })
}

/// A header comes twice, or is not visible ASCII.
struct Ambiguous;

/// The one value of a header. A header that comes twice means different things to different readers.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Ambiguous> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Ambiguous);
    }
    first
        .map(|value| value.to_str().map_err(|_| Ambiguous))
        .transpose()
}
