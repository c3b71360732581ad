//! Dual control: what one operator alone may not do (`protocol.md` 2.6, "two operators").
//!
//! A [`Command`] is a text that people read and sign with keys of their own, wherever those are; whoever brings it and
//! enough signatures to the appliance has it carried out. [`Operators::check`] makes [`Approved`], and the durable operation
//! that carries the command out spends its nonce. No IO here.
//!
//! INVARIANT: an [`Approved`] is made in one place, from signatures of as many different operators as the configuration
//! asks for; it is neither copied nor taken apart.
//!
//! ```compile_fail,E0451
//! // There is no other way to one.
//! fn forge(command: countersign::operators::Command) -> countersign::operators::Approved {
//!     countersign::operators::Approved { command, text: String::new(), by: Vec::new(), operators: String::new() }
//! }
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use countersign_mpc::owner_proof::{Algorithm, PublicKey};
use sha2::{Digest, Sha256};

use crate::domain::EnvironmentId;

pub mod command;
pub mod paper;

pub use command::{Command, Deed, InvalidCommand, MAX_AHEAD, MAX_LIFETIME, NotNow};
pub use paper::{InvalidPaper, Paper};

/// Operators who must agree, at least: with one it would not be dual control.
pub const LEAST_REQUIRED: usize = 2;
/// Signatures that are looked at.
const MOST_APPROVALS: usize = 32;

/// The name of an operator: 1 to 32 characters of `a-z 0-9 . - _`, as in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OperatorName(String);

impl OperatorName {
    /// Checks length and alphabet; `None` when either is wrong.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        let fits = (1..=32).contains(&text.len()) && text.bytes().all(plain);
        fits.then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for OperatorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One operator's signature over the text of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// Whose.
    pub by: OperatorName,
    /// Ed25519 over the text, as it stands in the file that was read.
    pub signature: [u8; 64],
}

/// The operators of an environment, and how many of them must agree.
#[derive(Debug)]
pub struct Operators {
    required: usize,
    keys: BTreeMap<OperatorName, PublicKey>,
}

/// Why a set of operators makes no dual control.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidOperators {
    /// One alone could act.
    #[error("fewer than two operators would have to agree")]
    TooFewRequired,
    /// They can never agree.
    #[error("{required} operators must agree and only {known} are listed")]
    TooFewKnown {
        /// How many must agree.
        required: usize,
        /// How many there are.
        known: usize,
    },
    /// Not the key of an operator.
    #[error("the key of {0} is no sound Ed25519 public key")]
    Key(OperatorName),
    /// One person would count twice.
    #[error("{0} and {1} have the same key")]
    SameKey(OperatorName, OperatorName),
}

impl Operators {
    /// The operators with these public keys, of whom `required` must agree.
    ///
    /// # Errors
    /// [`InvalidOperators`].
    pub fn new(
        required: usize,
        keys: impl IntoIterator<Item = (OperatorName, [u8; 32])>,
    ) -> Result<Self, InvalidOperators> {
        let mut known: BTreeMap<OperatorName, PublicKey> = BTreeMap::new();
        for (name, key) in keys {
            let Ok(key) = PublicKey::from_bytes(Algorithm::Ed25519, &key) else {
                return Err(InvalidOperators::Key(name));
            };
            let same = known
                .iter()
                .find(|(_, other)| other.as_bytes() == key.as_bytes());
            if let Some((other, _)) = same {
                return Err(InvalidOperators::SameKey(other.clone(), name));
            }
            known.insert(name, key);
        }
        if required < LEAST_REQUIRED {
            return Err(InvalidOperators::TooFewRequired);
        }
        if known.len() < required {
            let known = known.len();
            return Err(InvalidOperators::TooFewKnown { required, known });
        }
        Ok(Self {
            required,
            keys: known,
        })
    }

    /// How many must agree.
    #[must_use]
    pub const fn required(&self) -> usize {
        self.required
    }

    /// How many there are.
    #[must_use]
    pub fn known(&self) -> usize {
        self.keys.len()
    }

    /// What names them: SHA-256, in hex, of how many must agree, and of every operator's name and key. Two instances with
    /// the same operators show the same.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(format!(
            "countersign operators 1\nrequired {}\n",
            self.required
        ));
        for (name, key) in &self.keys {
            hash.update(format!("{name} {}\n", hex::encode(key.as_bytes())));
        }
        hex::encode(hash.finalize())
    }

    /// Whether enough operators have signed `text`, and it is a command for this environment. Whether it is good by now is
    /// for the operation that carries it out, by the clock that all instances share.
    ///
    /// # Errors
    /// [`NotApproved`] says what is missing. One signature that does not hold spoils the whole: somebody tampers.
    pub fn check(
        &self,
        text: &str,
        approvals: &[Approval],
        environment: EnvironmentId,
    ) -> Result<Approved, NotApproved> {
        let command = Command::parse(text)?;
        if command.environment != environment {
            return Err(NotApproved::OtherEnvironment);
        }
        if approvals.len() > MOST_APPROVALS {
            return Err(NotApproved::TooMany);
        }
        let mut by = BTreeSet::new();
        for approval in approvals {
            let name = &approval.by;
            let key = self.keys.get(name);
            let key = key.ok_or_else(|| NotApproved::Unknown(name.clone()))?;
            if !key.verify(text.as_bytes(), &approval.signature) {
                return Err(NotApproved::Signature(name.clone()));
            }
            by.insert(name.clone());
        }
        if by.len() < self.required {
            return Err(NotApproved::TooFew {
                found: by.len(),
                required: self.required,
            });
        }
        Ok(Approved {
            command,
            text: text.to_owned(),
            by: by.into_iter().collect(),
            operators: self.fingerprint(),
        })
    }
}

/// A command that enough operators have signed. For the one operation that carries it out.
#[must_use = "an approved command is carried out"]
#[derive(Debug)]
pub struct Approved {
    command: Command,
    text: String,
    by: Vec<OperatorName>,
    /// Of those who could have.
    operators: String,
}

impl Approved {
    /// What they signed.
    #[must_use]
    pub const fn command(&self) -> &Command {
        &self.command
    }

    /// The text that they signed.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Of which operators they are: [`Operators::fingerprint`].
    #[must_use]
    pub fn operators(&self) -> &str {
        &self.operators
    }

    /// Their names, comma-separated.
    #[must_use]
    pub fn by(&self) -> String {
        let names: Vec<String> = self.by.iter().map(ToString::to_string).collect();
        names.join(",")
    }
}

/// Why a command is not carried out.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NotApproved {
    /// It is none.
    #[error(transparent)]
    Invalid(#[from] InvalidCommand),
    /// It is for another environment.
    #[error("the command is for another environment")]
    OtherEnvironment,
    /// Nobody has that many.
    #[error("there are more signatures than operators")]
    TooMany,
    /// The configuration does not know this name.
    #[error("{0} is no operator in [operators.keys]")]
    Unknown(OperatorName),
    /// A signature is not that operator's over this text.
    #[error("the signature of {0} does not hold for this command")]
    Signature(OperatorName),
    /// Not enough of them agree.
    #[error("{found} different operators have signed, {required} must")]
    TooFew {
        /// How many have.
        found: usize,
        /// How many must.
        required: usize,
    },
}

#[cfg(test)]
mod tests;
