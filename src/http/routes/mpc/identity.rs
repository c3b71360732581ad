//! `GET /api/v1/mpc/identity`: what a wallet checks before it seals anything.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use countersign_mpc::identity::IdentityDocument;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::error::{ApiError, Code};
use crate::service::identity_document::ShowIdentity;

// How `IdentityDocument` is described.
/// Whom the wallet talks to.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Identity)]
pub(crate) struct Described {
    /// The random environment id, in hex.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    environment_id: String,
    #[schema(pattern = "^(production|development)$")]
    environment_kind: String,
    /// The value of the `MPC-Audience` header.
    audience: String,
    identity: DescribedCertificate,
    kem: DescribedKem,
}

/// The identity key in the HSM, signed by an offline root.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = IdentityCertificate)]
struct DescribedCertificate {
    /// The environment it is valid in, in hex.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    environment_id: String,
    #[schema(pattern = "^(production|development)$")]
    environment_kind: String,
    /// P-256, uncompressed SEC1, in hex.
    #[schema(pattern = "^04[0-9a-f]{128}$")]
    key: String,
    /// Grows with every certificate.
    serial: u64,
    /// The first second of its validity, since the Unix epoch.
    not_before: u64,
    /// The last second of its validity.
    not_after: u64,
    /// The root's signature, P-256 `r ‖ s` over the statement of `mpc/README.md`, in hex.
    #[schema(pattern = "^[0-9a-f]{128}$")]
    signature: String,
}

/// The key to which messages are sealed, signed by the identity key.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = KemKey)]
struct DescribedKem {
    /// Its name in sealed messages.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    kid: String,
    /// X25519, in hex.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    public_key: String,
    /// The first second of its validity, since the Unix epoch.
    not_before: u64,
    /// The last second of its validity: at most 48 h later.
    not_after: u64,
    /// P-256 `r ‖ s` over the statement of `mpc/README.md`, in hex.
    #[schema(pattern = "^[0-9a-f]{128}$")]
    signature: String,
}

/// Shows the appliance's identity and the key that messages are sealed to.
#[utoipa::path(
    get,
    path = "/api/v1/mpc/identity",
    operation_id = "showIdentity",
    tag = "wallet",
    security(("clientCertificate" = [])),
    responses((status = 200, description = "The identity document.", body = Described)),
    extensions(("x-errors" = json!([Code::DuoNodeUnavailable]))),
)]
pub(crate) async fn handle(
    State(service): State<Arc<ShowIdentity>>,
) -> Result<Json<IdentityDocument>, ApiError> {
    Ok(Json(service.show()?))
}
