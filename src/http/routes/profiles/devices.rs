//! `/api/v1/profiles/{id}/devices`: the devices that speak for the owner of a profile.

pub(in crate::http::routes) mod enrol;
pub(in crate::http::routes) mod list;
pub(in crate::http::routes) mod revoke;

use serde::Serialize;
use utoipa::ToSchema;

use crate::clock;
use crate::http::openapi::text;
use crate::service::devices::Standing;
use crate::store::devices::DeviceRow;

/// A device as answers show it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Device {
    #[schema(value_type = text::DeviceKeyId)]
    key_id: String,
    /// As its owner named it.
    #[schema(min_length = 1, max_length = 64)]
    name: String,
    #[schema(value_type = text::KeyAlgorithm)]
    algorithm: &'static str,
    #[schema(value_type = text::DeviceStatus)]
    status: &'static str,
    #[schema(value_type = text::Time)]
    created_at: String,
    /// From when it may act.
    #[schema(value_type = text::Time)]
    active_at: String,
    /// Only of a revoked one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = text::Time, required = false)]
    revoked_at: Option<String>,
}

impl From<DeviceRow> for Device {
    fn from(row: DeviceRow) -> Self {
        let status = Standing::of(&row, clock::now()).as_str();
        Self {
            key_id: row.device_key_id.to_string(),
            algorithm: row.public_key.algorithm().as_str(),
            name: row.name,
            status,
            created_at: row.created_at.to_rfc3339(),
            active_at: row.active_at.to_rfc3339(),
            revoked_at: row.revoked_at.map(clock::Timestamp::to_rfc3339),
        }
    }
}
