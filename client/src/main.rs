//! The `countersign` command; see the library's `cli` module.

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    countersign_client::cli::main().await
}
