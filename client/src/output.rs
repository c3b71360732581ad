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
            lines.iter().for_each(|line| println!("{}", clean(line)));
        }
    }

    /// A drawing of dark and light, the same in every terminal whatever its colours; only where somebody sees it.
    pub(crate) fn qr(self, rows: &[String]) {
        if self.json || !io::stdout().is_terminal() {
            return;
        }
        for row in rows {
            println!("\u{1b}[38;5;16m\u{1b}[48;5;231m{}\u{1b}[0m", clean(row));
        }
    }

    /// Something to know while waiting.
    pub(crate) fn note(self, text: &str) {
        eprintln!("{}", clean(text));
    }

    /// A step of a flow.
    pub(crate) fn step(self, step: &Step) {
        self.note(&match step {
            Step::Resuming => {
                "an earlier run was interrupted: starting anew with another key".to_owned()
            }
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
        eprint!("{} [y/N] ", clean(question));
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
        } else if matches!(error, ClientError::Config(_)) {
            // Our own file, and the parser's message shows the line in question below itself.
            let lines: Vec<_> = message.lines().map(clean).collect();
            eprintln!("error: {}", lines.join("\n"));
        } else {
            eprintln!("error: {}", clean(&message));
        }
    }
}

/// `line` without anything that moves the cursor, ends the line or reorders what is shown.
///
/// SECURITY: the server writes parts of what is printed; it must not be able to overwrite the rest, least of all an address.
fn clean(line: &str) -> String {
    let harmless = |character: char| match character {
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => false,
        other => !other.is_control(),
    };
    line.chars()
        .map(|character| {
            if harmless(character) {
                character
            } else {
                char::REPLACEMENT_CHARACTER
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_drives_a_terminal_is_printed() {
        let hostile =
            "a\u{1b}[2A\r\n\u{9b}2K\u{7f}\u{200b}\u{200f}\u{202a}\u{202e}\u{2066}\u{2069}b";
        let shown = clean(hostile);
        assert_eq!(
            shown,
            "a\u{fffd}[2A\u{fffd}\u{fffd}\u{fffd}2K".to_owned() + &"\u{fffd}".repeat(7) + "b"
        );
        let harmless = "  address       0xAb \u{2014} \u{e4}\u{4e2d}";
        assert_eq!(clean(harmless), harmless);
    }
}
