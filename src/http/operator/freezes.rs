//! `/freezes` and `/commands`: how operators stop signing, see what is stopped, and lift it together.

pub(super) mod carry_out;
pub(super) mod list;
pub(super) mod place;

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{self, FreezeScope};
use crate::http::openapi::text;

/// Who may stop, and bring what operators have signed. Whoever audits sees what stands.
pub(super) const ACTORS: &[&str] = &["operator", "security-officer"];

/// The largest body of these routes.
pub(super) const SMALL: usize = 32 * 1024;

/// A freeze that stands.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Freeze {
    /// What a command to lift it must name.
    #[schema(value_type = text::FreezeId)]
    freeze_id: String,
    #[schema(value_type = text::FreezeScope)]
    scope: &'static str,
    /// The profile's id or the tenant's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    subject: Option<String>,
    /// Of the two that may place one.
    #[schema(value_type = text::PlacedBy)]
    placed_by: &'static str,
    /// The key id of the owner's device, or the name in the operator's certificate.
    who: String,
    reason: String,
    #[schema(value_type = text::Time)]
    frozen_at: String,
}

impl From<domain::Freeze> for Freeze {
    fn from(freeze: domain::Freeze) -> Self {
        let scope = freeze.target.scope();
        Self {
            freeze_id: freeze.freeze_id.to_string(),
            scope: scope.as_str(),
            subject: (scope != FreezeScope::Global).then(|| freeze.target.subject()),
            placed_by: freeze.placed_by.as_str(),
            who: freeze.who,
            reason: freeze.reason,
            frozen_at: freeze.frozen_at.to_rfc3339(),
        }
    }
}
