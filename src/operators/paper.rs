//! A command with its signatures, in a file: the text that was signed, and a line for each signature after it.

use super::{Approval, Command, InvalidCommand, OperatorName};

/// What stands before a signature.
const APPROVED_BY: &str = "approved by ";

/// A command and what are said to be its signatures: nothing of them is checked here.
#[derive(Debug, PartialEq, Eq)]
pub struct Paper {
    /// What the text says.
    pub command: Command,
    /// The text.
    pub text: String,
    /// The signatures.
    pub approvals: Vec<Approval>,
}

/// A file that is no command with signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPaper {
    /// Its text.
    #[error(transparent)]
    Command(#[from] InvalidCommand),
    /// A line after it.
    #[error("line {0} is no signature of an operator")]
    Approval(usize),
}

impl Paper {
    /// Reads what [`Paper::content`] writes.
    ///
    /// # Errors
    /// [`InvalidPaper`] names the line.
    pub fn parse(content: &str) -> Result<Self, InvalidPaper> {
        let is_signature = |line: &&str| line.starts_with(APPROVED_BY);
        let lines: Vec<&str> = content.split_inclusive('\n').collect();
        let length = lines.iter().take_while(|line| !is_signature(line)).count();
        let (text, signatures) = lines.split_at_checked(length).unwrap_or_default();
        let text = text.concat();
        let command = Command::parse(&text)?;
        let mut approvals = Vec::new();
        for (line, number) in signatures.iter().zip(length + 1..) {
            let approval = approval(line);
            approvals.push(approval.ok_or(InvalidPaper::Approval(number))?);
        }
        Ok(Self {
            command,
            text,
            approvals,
        })
    }

    /// What stands in the file.
    #[must_use]
    pub fn content(&self) -> String {
        let signatures = self.approvals.iter().map(|Approval { by, signature }| {
            format!("{APPROVED_BY}{by} {}\n", hex::encode(signature))
        });
        std::iter::once(self.text.clone())
            .chain(signatures)
            .collect()
    }
}

fn approval(line: &str) -> Option<Approval> {
    let rest = line.strip_prefix(APPROVED_BY)?;
    let (name, signature) = rest.trim_end().split_once(' ')?;
    Some(Approval {
        by: OperatorName::parse(name)?,
        signature: hex::decode(signature).ok()?.try_into().ok()?,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::{Approval, Command, OperatorName, Paper};
    use crate::clock::Timestamp;
    use crate::domain::{EnvironmentId, OperationId, Reason, Target};
    use crate::operators::Deed;

    fn paper() -> Paper {
        let command = Command {
            environment: EnvironmentId([1; 32]),
            deed: Deed::Unfreeze {
                target: Target::Global,
                freeze_id: OperationId::generate(),
            },
            reason: Reason::parse("approved by nobody").unwrap(),
            nonce: [2; 16],
            issued: Timestamp::from_micros(1_800_000_000_000_000),
            expires: Timestamp::from_micros(1_800_003_600_000_000),
        };
        let approval = |name, byte| Approval {
            by: OperatorName::parse(name).unwrap(),
            signature: [byte; 64],
        };
        Paper {
            text: command.text(),
            command,
            approvals: vec![approval("alice", 3), approval("bob", 4)],
        }
    }

    #[test]
    fn a_command_in_a_file_grows_by_signatures_and_by_nothing_else() {
        let mut paper = paper();
        let content = paper.content();
        assert_eq!(Paper::parse(&content).unwrap(), paper);
        for (altered, expected) in [
            (
                content.replace("alice ", "Alice "),
                "line 9 is no signature",
            ),
            (
                content.replace(&"03".repeat(64), "03"),
                "line 9 is no signature",
            ),
            (format!("{content}\n"), "line 11 is no signature"),
            (format!("{content}more\n"), "line 11 is no signature"),
            (content.replace("global", "glob"), "line 3 of the command"),
        ] {
            let error = Paper::parse(&altered).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        paper.approvals.clear();
        assert_eq!(Paper::parse(&paper.text).unwrap(), paper);
    }
}
