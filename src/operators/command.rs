//! A command as people read and sign it: one text for one meaning.
//!
//! ```text
//! countersign operator command 1
//! environment abab…
//! command unfreeze tenant acme
//! freeze 019aa4ee-…
//! reason the stolen gateway key was replaced
//! nonce 5e0c…
//! issued 2026-11-23T02:00:00Z
//! expires 2026-11-23T10:00:00Z
//! ```
//!
//! A command that puts rules into force has instead of its third and fourth line
//!
//! ```text
//! command activate rules
//! rules 3f9c…
//! ```
//!
//! The text ends with the end of its last line. Its first line keeps a signature from ever being good for anything else.
//! INVARIANT: no command is good for longer than a day, also for those who keep it back: both ends are signed.

use std::fmt::Write as _;

use crate::clock::Timestamp;
use crate::domain::{EnvironmentId, OperationId, Reason, Target};

/// The first line.
const HEAD: &str = "countersign operator command 1";
/// The longest text that is read: no command comes near.
const LONGEST: usize = 4096;
/// Longest time for which a command is good, in seconds.
pub const MAX_LIFETIME: i64 = 24 * 3600;
/// How far the clock of whoever drafted a command may be ahead, in seconds.
pub const MAX_AHEAD: i64 = 5;

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
    /// Put these rules into force.
    Activate {
        /// The hash that names them, and stands in every decision by them.
        rules: [u8; 32],
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
    /// Since when it is good; whole seconds.
    pub issued: Timestamp,
    /// Until when it is good; whole seconds.
    pub expires: Timestamp,
}

/// A command that is not good at this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotNow {
    /// It is too old.
    #[error("the command has expired")]
    Expired,
    /// It is from a time that is still to come.
    #[error("the command was issued in the future: set the clock where it was drafted, or wait")]
    Early,
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
        let subject = match &self.deed {
            Deed::Unfreeze { freeze_id, .. } => format!("freeze {freeze_id}"),
            Deed::Activate { rules } => format!("rules {}", hex::encode(rules)),
        };
        // Writing to a string cannot fail.
        write!(
            text,
            "{subject}\nreason {}\nnonce {}\nissued {}\nexpires {}\n",
            self.reason.as_str(),
            hex::encode(self.nonce),
            self.issued.to_rfc3339(),
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
        let named = lines.expect(
            "command ",
            "command unfreeze and profile ID, tenant NAME or global; or command activate rules",
            Named::parse,
        )?;
        let deed = match named {
            Named::Unfreeze(target) => {
                let freeze_id =
                    lines.expect("freeze ", "freeze and the id of the freeze", |id| {
                        OperationId::parse(id).ok()
                    })?;
                Deed::Unfreeze { target, freeze_id }
            }
            Named::Activate => {
                let rules = lines.expect("rules ", "rules and 64 hex digits", |rest| {
                    hex::decode(rest).ok()?.try_into().ok()
                })?;
                Deed::Activate { rules }
            }
        };
        let reason = lines.expect(
            "reason ",
            "reason and 1 to 200 visible characters",
            Reason::parse,
        )?;
        let nonce = lines.expect("nonce ", "nonce and 32 hex digits", |rest| {
            hex::decode(rest).ok()?.try_into().ok()
        })?;
        let issued = lines.expect(
            "issued ",
            "issued and a time like 2026-01-31T15:59:00Z",
            time,
        )?;
        let latest = issued.plus_seconds(MAX_LIFETIME);
        let expires = lines.expect(
            "expires ",
            "expires and a time like 2026-01-31T23:59:00Z, after issued and by 24 hours at most",
            |text| time(text).filter(|expires| issued < *expires && *expires <= latest),
        )?;
        let command = Self {
            environment,
            deed,
            reason,
            nonce,
            issued,
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

    /// Whether it is good at this time.
    ///
    /// # Errors
    /// [`NotNow`].
    pub fn is_good_at(&self, now: Timestamp) -> Result<(), NotNow> {
        if self.issued > now.plus_seconds(MAX_AHEAD) {
            return Err(NotNow::Early);
        }
        if self.expires <= now {
            return Err(NotNow::Expired);
        }
        Ok(())
    }
}

/// A time in its one spelling.
fn time(text: &str) -> Option<Timestamp> {
    Timestamp::parse_rfc3339(text).filter(|time| time.to_rfc3339() == text)
}

impl Deed {
    /// What is to be done, in words.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Unfreeze { target, .. } => format!("unfreeze {target}"),
            Self::Activate { .. } => "activate rules".to_owned(),
        }
    }
}

/// What the third line says.
enum Named {
    Unfreeze(Target),
    Activate,
}

impl Named {
    fn parse(text: &str) -> Option<Self> {
        if text == "activate rules" {
            return Some(Self::Activate);
        }
        let target = text.strip_prefix("unfreeze ")?;
        Target::parse(target).map(Self::Unfreeze)
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
