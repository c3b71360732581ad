//! The only place that prints: answers on standard output, errors with their causes on standard error.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the output module of the command line"
)]

use std::error::Error;
use std::process::ExitCode;

/// A line for the person at the terminal.
pub(crate) fn line(text: impl std::fmt::Display) {
    println!("{text}");
}

/// How far long work is; no answer, so not on standard output.
pub(crate) fn progress(text: impl std::fmt::Display) {
    eprintln!("{text}");
}

/// An error and every cause below it, one sentence.
pub(crate) fn failure(error: &(dyn Error + Send + Sync)) {
    eprintln!("countersignd: {}", chain(error));
}

/// Help and version go to standard output with code 0, wrong usage to standard error with code 2.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    match error.print() {
        Ok(()) => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)),
        Err(_) => ExitCode::from(2),
    }
}

/// An error and its causes, joined by colons.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
