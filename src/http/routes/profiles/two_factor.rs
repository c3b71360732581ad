//! `/api/v1/profiles/{id}/2fa`: the second factor of a wallet.

pub(in crate::http::routes) mod activate;
pub(in crate::http::routes) mod cancel;
pub(in crate::http::routes) mod enrol;
pub(in crate::http::routes) mod show;

use serde::Serialize;
use utoipa::ToSchema;

use crate::clock::Timestamp;
use crate::http::openapi::text;
use crate::service::two_factor::{Shown, Stage};

/// An enrolment as answers show it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Enrolment {
    #[schema(value_type = text::EnrolmentId)]
    enrolment_id: String,
    #[schema(value_type = text::EnrolmentStatus)]
    status: &'static str,
    /// From when it is the factor; not of one that waits for its first code.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = text::Time, required = false)]
    active_at: Option<String>,
    /// Until when its first code may come; only of one that waits for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = text::Time, required = false)]
    expires_at: Option<String>,
}

impl From<Shown> for Enrolment {
    fn from(shown: Shown) -> Self {
        let (status, active_at, expires_at) = match shown.stage {
            Stage::Pending { until } => (text::PENDING, None, Some(until)),
            Stage::CoolingOff { active_at } => (text::COOLING_OFF, Some(active_at), None),
            Stage::Active { active_at } => (text::ACTIVE, Some(active_at), None),
        };
        Self {
            enrolment_id: shown.enrolment_id.to_string(),
            status,
            active_at: active_at.map(Timestamp::to_rfc3339),
            expires_at: expires_at.map(Timestamp::to_rfc3339),
        }
    }
}
