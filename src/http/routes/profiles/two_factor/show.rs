//! `GET /api/v1/profiles/{id}/2fa`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Enrolment;
use crate::clock::Timestamp;
use crate::domain::ProfileId;
use crate::http::error::{ApiError, Code};
use crate::http::extract::{OwnedQuery, PathId};
use crate::http::openapi::text;
use crate::service::Error;
use crate::service::two_factor::{TwoFactor, View};

/// The second factor of a wallet: the one that counts, or else the one that waits.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TwoFactor)]
pub(crate) struct Response {
    #[schema(value_type = text::TwoFactorStatus)]
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = text::EnrolmentId, required = false)]
    enrolment_id: Option<String>,
    /// From when it is the factor.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = text::Time, required = false)]
    active_at: Option<String>,
    /// Until when the first code may come.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = text::Time, required = false)]
    expires_at: Option<String>,
    /// Of the factor that counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, nullable = false)]
    recovery_codes_left: Option<u32>,
    /// Until when no code is taken, after too many wrong ones; in the year 9999 when only a recovery code ends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = text::Time, required = false)]
    locked_until: Option<String>,
    /// The one that waits to take the place of the one that counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next: Option<Enrolment>,
    /// Those that wait on other wallets of the owner. Cancel what you do not know, through any wallet: once active, the one that
    /// is active longest speaks for the devices of all.
    elsewhere: Vec<Elsewhere>,
}

/// An enrolment that waits on another wallet of the owner.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TwoFactorElsewhere)]
pub(crate) struct Elsewhere {
    #[schema(value_type = text::ProfileId)]
    profile_id: String,
    #[serde(flatten)]
    enrolment: Enrolment,
}

impl From<View> for Response {
    fn from(view: View) -> Self {
        let View {
            active,
            next,
            recovery_left,
            locked_until,
            elsewhere,
        } = view;
        let (first, next) = match (active, next) {
            (Some(active), next) => (Some(active), next),
            (None, next) => (next, None),
        };
        let first = first.map(Enrolment::from);
        Self {
            status: first.as_ref().map_or(text::NONE, |first| first.status),
            active_at: first.as_ref().and_then(|first| first.active_at.clone()),
            expires_at: first.as_ref().and_then(|first| first.expires_at.clone()),
            enrolment_id: first.map(|first| first.enrolment_id),
            recovery_codes_left: recovery_left,
            locked_until: locked_until.map(Timestamp::to_rfc3339),
            next: next.map(Enrolment::from),
            elsewhere: elsewhere
                .into_iter()
                .map(|(profile, shown)| Elsewhere {
                    profile_id: profile.to_string(),
                    enrolment: shown.into(),
                })
                .collect(),
        }
    }
}

/// Shows the second factor of a wallet, and nothing that is secret of it.
#[utoipa::path(
    get,
    path = "/api/v1/profiles/{id}/2fa",
    operation_id = "showTwoFactor",
    tag = "wallet",
    security(("clientCertificate" = [], "deviceSignature" = [])),
    params(("id" = text::ProfileId, Path, description = "The profile.")),
    responses((status = 200, description = "The second factor.", body = Response)),
    extensions(("x-errors" = json!([Code::ProfileNotFound]))),
)]
pub(crate) async fn handle(
    State(service): State<Arc<TwoFactor>>,
    PathId(id): PathId,
    OwnedQuery(owner): OwnedQuery,
) -> Result<Json<Response>, ApiError> {
    let id = ProfileId::parse(&id).map_err(|_| Error::ProfileNotFound)?;
    let view = service.show(&owner, id).await?;
    Ok(Json(view.into()))
}
