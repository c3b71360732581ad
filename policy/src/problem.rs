//! Why rules are refused, with file, line and rule.

use std::fmt;

use miette::Diagnostic;

/// One thing that is wrong with a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: String,
    /// The line, from 1; none when it is about the file as a whole.
    pub line: Option<usize>,
    /// The rule's id, once it is known.
    pub rule: Option<String>,
    /// What is wrong, and where possible what to write instead.
    pub message: String,
}

impl Problem {
    /// Something that is wrong with a file as a whole.
    #[must_use]
    pub fn of_file(file: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            line: None,
            rule: None,
            message: message.into(),
        }
    }

    /// What Cedar says of `text`. `line` is used where Cedar names no place.
    pub(crate) fn of_cedar(
        (file, text): (&str, &str),
        (rule, line): (Option<&str>, Option<usize>),
        diagnostic: &dyn Diagnostic,
    ) -> Self {
        let place = diagnostic
            .labels()
            .and_then(|labels| labels.map(|label| label.offset()).min());
        let mut message = diagnostic.to_string();
        // Cedar names the rule in its sentence, where it does not always stand first to be read.
        if let Some(rule) = rule {
            let name = format!("for policy `{rule}`, ");
            message = message.replacen(&name, "", 1);
        }
        if let Some(help) = diagnostic.help() {
            message = format!("{message}: {help}");
        }
        Self {
            file: file.to_owned(),
            line: place.map(|offset| line_of(text, offset)).or(line),
            rule: rule.map(str::to_owned),
            message,
        }
    }
}

/// The line, from 1, of a byte of `text`.
pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(rule) = &self.rule {
            write!(f, ": rule {rule}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// A bundle that is not used, with everything that is wrong with it; never empty.
#[derive(Debug, thiserror::Error)]
#[error("{}", lines(.0))]
pub struct Refused(pub Vec<Problem>);

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}
