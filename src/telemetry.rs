//! What operators see: structured logs, metrics, readiness.

pub mod metrics;
pub mod readiness;

use std::io;

use tracing_subscriber::filter::{LevelFilter, ParseError};
use tracing_subscriber::{EnvFilter, fmt};

/// Logging cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `RUST_LOG` is not a filter.
    #[error("RUST_LOG is not a log filter; write a level such as info, or target=level pairs")]
    Filter(#[source] ParseError),
    /// A subscriber is already installed.
    #[error("cannot install the log output")]
    Install(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Sends one JSON object per event to standard error, from level `info` on or as `RUST_LOG` says.
///
/// # Errors
/// [`LogError`]; nothing is installed then.
pub fn init() -> Result<(), LogError> {
    let text = std::env::var("RUST_LOG").unwrap_or_default();
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(text)
        .map_err(LogError::Filter)?;
    fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .try_init()
        .map_err(LogError::Install)
}
