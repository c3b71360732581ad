//! The only place that writes to the terminal: results on standard output, everything else on standard error.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the command line's output module"
)]

use std::{
    error::Error,
    io::{self, BufRead, IsTerminal, Write},
};

use serde_json::{Value, json};

use crate::{ClientError, flows::Step};

/// How to talk to whoever runs the command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// Results and errors as one JSON object each.
    pub(crate) json: bool,
}

impl Output {
    /// The command's result: `value` for programs, `lines` for people.
    pub(crate) fn result(self, value: &Value, lines: &[String]) {
        if self.json {
            println!("{value}");
        } else {
            lines.iter().for_each(|line| println!("{line}"));
        }
    }

    /// Something to know while waiting.
    pub(crate) fn note(self, text: &str) {
        eprintln!("{text}");
    }

    /// A step of a flow.
    pub(crate) fn step(self, step: &Step) {
        self.note(&match step {
            Step::Resuming => "continuing what an earlier run started".to_owned(),
            Step::Keygen(request) => {
                format!("[{request}/3] generating the key together with the appliance")
            }
            Step::ShareStored => "      our share is stored".to_owned(),
            Step::CanaryVerified => {
                "      a test signature by both shares verifies against the address".to_owned()
            }
            Step::Signing(request, 1) => {
                format!("[{request}/2] signing together with the appliance")
            }
            Step::Signing(request, attempt) => {
                format!("[{request}/2] signing together with the appliance (attempt {attempt})")
            }
            Step::Restarting => "      the appliance lost the session: starting it anew".to_owned(),
            Step::WaitingForLapse => {
                "      waiting until the appliance gives the earlier attempt up".to_owned()
            }
        });
    }

    /// Asks and waits for `y`. Without a terminal the answer is no.
    pub(crate) fn confirm(self, question: &str) -> bool {
        if !io::stdin().is_terminal() {
            self.note("no terminal to ask on: use --yes to agree in advance");
            return false;
        }
        eprint!("{question} [y/N] ");
        let mut answer = String::new();
        let asked = io::stderr()
            .flush()
            .and_then(|()| io::stdin().lock().read_line(&mut answer));
        asked.is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
    }

    /// The error that ends the command, with its causes.
    pub(crate) fn error(self, error: &ClientError) {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        if self.json {
            eprintln!(
                "{}",
                json!({"error": message, "code": error.server_code(), "exitCode": error.exit_code()})
            );
        } else {
            eprintln!("error: {message}");
        }
    }
}
