//! `countersignd serve` (in preparation).

use super::Failure;
use crate::config::Config;

/// Runs the appliance.
///
/// # Errors
/// Always, for now.
#[expect(
    clippy::unused_async,
    clippy::needless_pass_by_value,
    reason = "in preparation"
)]
pub async fn run(_config: Config) -> Result<(), Failure> {
    Err(Failure::usage("serve is in preparation"))
}
