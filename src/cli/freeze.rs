//! `countersignd freeze …`: an operator stops signing at once, or sees what is stopped.

use serde::Deserialize;
use serde_json::json;

use super::connect::{ConnectError, ConnectOption, Remote};
use super::{Failure, output};
use crate::domain::{FreezeScope, Target};

/// The verbs of `freeze`.
#[derive(clap::Subcommand)]
pub(super) enum Verb {
    /// Stop all signing for one profile
    Profile {
        /// Its id
        id: String,
        #[command(flatten)]
        how: How,
    },
    /// Stop all signing for a tenant
    Tenant {
        /// Its name in the configuration
        name: String,
        #[command(flatten)]
        how: How,
    },
    /// Stop all signing
    Global(How),
    /// List the freezes that stand, with the ids that `countersignd approve` wants
    List(ConnectOption),
}

/// Options of each freeze.
#[derive(clap::Args)]
pub(super) struct How {
    #[command(flatten)]
    connect: ConnectOption,
    /// Why, in one line: for the audit trail
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// A freeze, as the appliance shows it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Freeze {
    pub(super) freeze_id: String,
    scope: String,
    subject: Option<String>,
    pub(super) placed_by: String,
    who: String,
    reason: String,
    frozen_at: String,
}

/// The freezes that stand.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Freezes {
    pub(super) environment_id: String,
    pub(super) freezes: Vec<Freeze>,
}

impl Freeze {
    /// What it stops, if that is anything this program knows.
    pub(super) fn target(&self) -> Option<Target> {
        let subject = self.subject.as_deref().unwrap_or_default();
        Target::of(FreezeScope::parse(&self.scope)?, subject)
    }
}

/// What stands, of a profile or of all.
pub(super) async fn standing(
    remote: &Remote,
    of: Option<&Target>,
) -> Result<Freezes, ConnectError> {
    match of {
        Some(Target::Profile(id)) => remote.get(&format!("/freezes?profile={id}")).await,
        _ => remote.get("/freezes").await,
    }
}

/// Runs a verb.
pub(super) async fn run(verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::Profile { id, how } => place(FreezeScope::Profile, Some(id), how).await,
        Verb::Tenant { name, how } => place(FreezeScope::Tenant, Some(name), how).await,
        Verb::Global(how) => place(FreezeScope::Global, None, how).await,
        Verb::List(connect) => list(&connect.open()?).await,
    }
}

async fn place(scope: FreezeScope, subject: Option<&String>, how: &How) -> Result<(), Failure> {
    let remote = how.connect.open()?;
    let mut body = json!({"scope": scope.as_str(), "reason": how.reason});
    if let (Some(subject), Some(body)) = (subject, body.as_object_mut()) {
        body.insert("subject".to_owned(), json!(subject));
    }
    let freeze: Freeze = remote.post("/freezes", &body).await?;
    output::line(line(&freeze));
    output::line("Nothing is signed for it any more. To lift it: countersignd approve draft");
    Ok(())
}

async fn list(remote: &Remote) -> Result<(), Failure> {
    let Freezes { freezes, .. } = standing(remote, None).await?;
    if freezes.is_empty() {
        output::line("nothing is frozen");
    }
    for freeze in &freezes {
        output::line(line(freeze));
    }
    Ok(())
}

/// SECURITY: what came over the network must not drive the terminal.
pub(super) fn line(freeze: &Freeze) -> String {
    let target = freeze.target().map(|target| target.to_string());
    let text = format!(
        "{}  {}  {}  by {} {}: {}",
        freeze.frozen_at,
        freeze.freeze_id,
        target.unwrap_or_else(|| "something this version does not know".to_owned()),
        freeze.placed_by,
        freeze.who,
        freeze.reason
    );
    text.chars().filter(|letter| !letter.is_control()).collect()
}
