//! A command as people read and sign it: one text for one meaning.
//!
//! ```text
//! countersign operator command 1
//! environment abab…
//! command unfreeze tenant acme
//! freeze 019aa4ee-…
//! reason the stolen gateway key was replaced
//! nonce 5e0c…
//! expires 2026-11-23T10:00:00Z
//! ```
//!
//! The text ends with the end of its last line. Its first line keeps a signature from ever being good for anything else.

use std::fmt::Write as _;

use crate::clock::Timestamp;
use crate::domain::{EnvironmentId, OperationId, Reason, Target};

/// The first line.
const HEAD: &str = "countersign operator command 1";
/// The longest text that is read: no command comes near.
const LONGEST: usize = 4096;
/// Longest time for which a command is good, in seconds.
pub const MAX_LIFETIME: i64 = 24 * 3600;

/// What is to be done. New deeds are added here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Lift the freeze that was placed by this operation, and no later one.
    Unfreeze {
        /// What it stops.
        target: Target,
        /// The operation that placed it.
        freeze_id: OperationId,
    },
}

/// What operators sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The environment that it is for.
    pub environment: EnvironmentId,
    /// What is to be done.
    pub deed: Deed,
    /// Why.
    pub reason: Reason,
    /// A number that is used once.
    pub nonce: [u8; 16],
    /// Until when it is good; whole seconds.
    pub expires: Timestamp,
}

/// A text that is no command of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the command is not what it must be: {what}")]
pub struct InvalidCommand {
    /// Which line, from 1.
    pub line: usize,
    /// What must stand there.
    pub what: &'static str,
}

impl Command {
    /// The text that is signed.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!(
            "{HEAD}\nenvironment {}\ncommand {}\n",
            self.environment,
            self.deed.name()
        );
        let Deed::Unfreeze { freeze_id, .. } = &self.deed;
        // Writing to a string cannot fail.
        write!(
            text,
            "freeze {freeze_id}\nreason {}\nnonce {}\nexpires {}\n",
            self.reason.as_str(),
            hex::encode(self.nonce),
            self.expires.to_rfc3339(),
        )
        .ok();
        text
    }

    /// Reads the text that [`Command::text`] writes, and no other.
    ///
    /// # Errors
    /// [`InvalidCommand`] names the first line that is wrong.
    pub fn parse(text: &str) -> Result<Self, InvalidCommand> {
        let mut lines = Lines::new(text)?;
        lines.expect("", HEAD, |rest| (rest == HEAD).then_some(()))?;
        let environment = lines.expect(
            "environment ",
            "environment and 64 hex digits",
            EnvironmentId::parse,
        )?;
        let target = lines.expect(
            "command unfreeze ",
            "command unfreeze and profile ID, tenant NAME or global",
            Target::parse,
        )?;
        let freeze_id = lines.expect("freeze ", "freeze and the id of the freeze", |rest| {
            OperationId::parse(rest).ok()
        })?;
        let reason = lines.expect(
            "reason ",
            "reason and 1 to 200 visible characters",
            Reason::parse,
        )?;
        let nonce = lines.expect("nonce ", "nonce and 32 hex digits", |rest| {
            hex::decode(rest).ok()?.try_into().ok()
        })?;
        let expires = lines.expect(
            "expires ",
            "expires and a time like 2026-01-31T23:59:00Z",
            |text| Timestamp::parse_rfc3339(text).filter(|time| time.to_rfc3339() == text),
        )?;
        let deed = Deed::Unfreeze { target, freeze_id };
        let command = Self {
            environment,
            deed,
            reason,
            nonce,
            expires,
        };
        lines.end()?;
        // SECURITY: what is carried out is what was read: no other spelling, nothing between the lines.
        match command.text() == text {
            true => Ok(command),
            false => Err(InvalidCommand {
                line: 1,
                what: "the one spelling that `countersignd approve draft` writes",
            }),
        }
    }
}

impl Deed {
    /// What is to be done, in words.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Unfreeze { target, .. } => format!("unfreeze {target}"),
        }
    }
}

/// The lines of a text, and which one comes next.
struct Lines<'a> {
    rest: std::str::Lines<'a>,
    line: usize,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Result<Self, InvalidCommand> {
        if text.len() > LONGEST {
            let what = "no command is that long";
            return Err(InvalidCommand { line: 1, what });
        }
        Ok(Self {
            rest: text.lines(),
            line: 0,
        })
    }

    fn expect<T>(
        &mut self,
        start: &str,
        what: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, InvalidCommand> {
        self.line += 1;
        let line = self.line;
        let rest = self.rest.next().and_then(|text| text.strip_prefix(start));
        rest.and_then(read).ok_or(InvalidCommand { line, what })
    }

    fn end(&mut self) -> Result<(), InvalidCommand> {
        let (line, what) = (self.line + 1, "nothing");
        match self.rest.next() {
            None => Ok(()),
            Some(_) => Err(InvalidCommand { line, what }),
        }
    }
}
