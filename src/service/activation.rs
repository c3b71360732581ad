//! Dual control over the rules: where the configuration asks for it, rules take effect only with a command that enough
//! operators have signed, in a file beside them.
//!
//! The command names the hash of the rules. It is good for a day until it takes effect for the first time, at whatever instance;
//! from then on the rules it names are those that every instance may load, until another command takes its place.
//! INVARIANT: what was replaced does not come back without a new command, and nothing takes effect that was not signed: not
//! at a reload, and not at a start.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use super::policy_files::APPROVED;
use crate::domain::EnvironmentId;
use crate::operators::{Approved, Deed, InvalidPaper, NotApproved, NotNow, Operators, Paper};
use crate::policy::Bundle;
use crate::store::operator_commands::{self, CarriedOut};
use crate::store::{
    AuditEvent, AuditRecord, CommitError, Key, Operation, Store, StoreError, Tx, activations,
};

/// Says whether rules take effect.
pub struct Activation {
    store: Store,
    operators: Arc<Operators>,
    directory: PathBuf,
}

/// Why rules do not take effect.
#[derive(Debug, thiserror::Error)]
pub enum NotActivated {
    /// Nobody signed, as it seems.
    #[error(
        "{} is missing or cannot be read: operators sign a command with countersignd approve draft --activate",
        path.display()
    )]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The file is no command with signatures.
    #[error("{} does not hold", path.display())]
    Paper {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        cause: InvalidPaper,
    },
    /// Not enough operators have signed it.
    #[error("the rules are not approved")]
    NotApproved(#[from] NotApproved),
    /// It is a command for something else.
    #[error("the command does not name these rules: it names {0}")]
    Other(String),
    /// It is not good by now.
    #[error("the command is not good by now")]
    NotNow(#[from] NotNow),
    /// It had its time.
    #[error("the command was carried out before, and others took its place: sign a new one")]
    Replaced,
    /// The database failed.
    #[error("the database is unavailable")]
    Store(#[from] StoreError),
}

/// What enough operators have signed for these rules, by the file beside them.
///
/// # Errors
/// [`NotActivated`] says what is missing.
pub fn approved(
    directory: &Path,
    bundle: &Bundle,
    (operators, environment): (&Operators, EnvironmentId),
) -> Result<Approved, NotActivated> {
    let path = directory.join(APPROVED);
    let content = match fs::read_to_string(&path) {
        Ok(content) => content,
        Err(cause) => return Err(NotActivated::File { path, cause }),
    };
    let paper = match Paper::parse(&content) {
        Ok(paper) => paper,
        Err(cause) => return Err(NotActivated::Paper { path, cause }),
    };
    let approved = operators.check(&paper.text, &paper.approvals, environment)?;
    match &approved.command().deed {
        Deed::Activate { rules } if rules == bundle.hash() => Ok(approved),
        Deed::Activate { rules } => Err(NotActivated::Other(hex::encode(rules))),
        Deed::Unfreeze { .. } => Err(NotActivated::Other("a freeze".to_owned())),
    }
}

impl Activation {
    /// Over its parts: who must agree, and the directory of the rules.
    #[must_use]
    pub fn new(store: Store, (operators, directory): (Arc<Operators>, PathBuf)) -> Self {
        Self {
            store,
            operators,
            directory,
        }
    }

    /// Makes these rules those that may be in force, unless they are already. `at` says for the record where that is.
    ///
    /// # Errors
    /// [`NotActivated`] says why they must not take effect.
    pub async fn activate(&self, bundle: &Bundle, at: &str) -> Result<(), NotActivated> {
        let here = (&*self.operators, self.store.environment_id());
        let approved = approved(&self.directory, bundle, here)?;
        let activate = Activate {
            approved,
            rules: *bundle.hash(),
            version: bundle.version().to_owned(),
            at: at.to_owned(),
        };
        match self.store.conclude(activate).await {
            Ok(_) => Ok(()),
            Err(CommitError::Refused(refusal)) => Err(refusal),
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }
}

/// Rules take effect at an instance.
struct Activate {
    approved: Approved,
    rules: [u8; 32],
    version: String,
    at: String,
}

impl Operation for Activate {
    type Output = ();
    type Refusal = NotActivated;

    fn key(&self) -> Key {
        Key::ENVIRONMENT
    }

    async fn apply(
        &mut self,
        tx: &mut Tx<'_>,
    ) -> Result<((), AuditRecord), CommitError<NotActivated>> {
        let command = self.approved.command();
        let approved_by = self.approved.by();
        let record = |what: &str| {
            AuditRecord::done(AuditEvent::RulesActivated).detail(format!(
                "version {} hash {} approved by {approved_by}, {what} at {}: {} (nonce {}, operators {})",
                self.version,
                hex::encode(self.rules),
                self.at,
                command.reason.as_str(),
                hex::encode(command.nonce),
                self.approved.operators()
            ))
        };
        if activations::current(tx).await? == Some(command.nonce) {
            return Ok(((), record("loaded")));
        }
        let carried_out = CarriedOut {
            nonce: &command.nonce,
            command: self.approved.text(),
            approved_by: &approved_by,
            brought_by: &self.at,
        };
        if !operator_commands::spend(tx, &carried_out).await? {
            return Err(CommitError::Refused(NotActivated::Replaced));
        }
        let now = tx.server_clock().await?;
        let good = command.is_good_at(now);
        good.map_err(|error| CommitError::Refused(error.into()))?;
        activations::replace(tx, &command.nonce, &self.rules).await?;
        Ok(((), record("activated")))
    }
}
