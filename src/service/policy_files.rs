//! The rules files of an operator: read at the start, and again on SIGHUP.
//!
//! INVARIANT: rules that do not hold never take the place of rules that do.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;

use super::activation::Activation;
use crate::policy::{Bundle, Policy, Problem, Refused, Source};
use crate::telemetry::metrics::{Metrics, Reload};

/// The file that names the rules.
const MANIFEST: &str = "bundle.toml";
/// The command of operators that puts the rules into force, with its signatures; where the configuration asks for one.
pub const APPROVED: &str = "bundle.approved";
/// The folder of their tests; `countersignd policy test` reads it.
const TESTS: &str = "tests";
const MAX_VERSION: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    version: String,
}

/// Reads and checks the rules in a directory, or the built-in ones without one.
///
/// # Errors
/// [`Refused`] names file, line and rule of everything that is wrong.
pub fn load(directory: Option<&Path>) -> Result<Bundle, Refused> {
    let Some(directory) = directory else {
        return Bundle::builtin();
    };
    let mut files = read(directory)?;
    let manifest = directory.join(MANIFEST).display().to_string();
    let Some(text) = files.remove(MANIFEST) else {
        return Err(refused(
            manifest,
            "is missing: write one line into it, such as version = \"2026-11-22\"",
        ));
    };
    let version = version(&text).map_err(|(line, message)| {
        Refused(vec![Problem {
            file: manifest,
            line,
            rule: None,
            message,
        }])
    })?;
    if files.is_empty() {
        let message = "holds no rules: copy policies/default.cedar there and change it";
        return Err(refused(directory.display().to_string(), message));
    }
    let sources: Vec<Source> = files
        .into_iter()
        .map(|(name, text)| Source { name, text })
        .collect();
    let shown = |problem: Problem| Problem {
        file: match sources.iter().any(|source| source.name == problem.file) {
            true => directory.join(&problem.file).display().to_string(),
            false => problem.file,
        },
        ..problem
    };
    Bundle::compile(&version, &sources)
        .map_err(|Refused(problems)| Refused(problems.into_iter().map(shown).collect()))
}

/// Rules and manifest, by name. Other files are refused: a rule in a file that nobody reads would be believed to hold.
fn read(directory: &Path) -> Result<BTreeMap<String, String>, Refused> {
    let cannot = |path: &Path, error: std::io::Error| {
        refused(
            path.display().to_string(),
            format!("cannot be read: {error}"),
        )
    };
    let entries = fs::read_dir(directory).map_err(|error| cannot(directory, error))?;
    let mut files = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(|error| cannot(directory, error))?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let hidden = name.starts_with('.') || name.ends_with('~');
        let document = path.extension() == Some(OsStr::new("md")) || name == APPROVED;
        if hidden || document || (name == TESTS && path.is_dir()) {
            continue;
        }
        if name != MANIFEST && path.extension() != Some(OsStr::new("cedar")) {
            let message = "is neither *.cedar nor bundle.toml nor *.md nor the folder tests: \
                           rename it or take it away";
            return Err(refused(path.display().to_string(), message));
        }
        let text = fs::read_to_string(&path).map_err(|error| cannot(&path, error))?;
        files.insert(name, text);
    }
    Ok(files)
}

fn version(text: &str) -> Result<String, (Option<usize>, String)> {
    let manifest: Manifest = toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let before = text.as_bytes().get(..start).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        (Some(line), error.message().to_owned())
    })?;
    let version = manifest.version;
    let good = |c: char| c.is_ascii_alphanumeric() || ".-_+".contains(c);
    if version.is_empty() || version.len() > MAX_VERSION || !version.chars().all(good) {
        let message = format!("a version is 1 to {MAX_VERSION} letters, digits, and . - _ +");
        return Err((None, message));
    }
    Ok(version)
}

fn refused(file: String, message: impl Into<String>) -> Refused {
    Refused(vec![Problem::of_file(file, message)])
}

/// Loads the rules again on SIGHUP, until `stop`. `activation`, at this instance, says whether they take
/// effect.
pub async fn watch(
    policy: Policy,
    (directory, activation): (Option<PathBuf>, Option<(Activation, String)>),
    metrics: Arc<Metrics>,
    mut hangup: Signal,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = hangup.recv() => {}
        }
        // Files may be on a slow file system, and checking many rules takes a while: no request waits for either.
        let from = directory.clone();
        let loaded = tokio::task::spawn_blocking(move || load(from.as_deref())).await;
        match loaded {
            Ok(Ok(bundle)) => {
                if let Some((activation, instance)) = &activation
                    && let Err(error) = activation.activate(&bundle, instance).await
                {
                    metrics.policy_loaded(Reload::Failed);
                    let (version, hash) = (bundle.version(), hex::encode(bundle.hash()));
                    tracing::error!(
                        why = %error,
                        error = ?error,
                        version,
                        hash,
                        "the rules are not activated: those before stay in force"
                    );
                    continue;
                }
                let (version, hash) = (bundle.version().to_owned(), hex::encode(bundle.hash()));
                let changed = policy.current().hash() != bundle.hash();
                policy.replace(bundle);
                metrics.policy_loaded(Reload::Done);
                tracing::info!(version, hash, changed, "policy loaded");
            }
            Ok(Err(Refused(problems))) => {
                metrics.policy_loaded(Reload::Failed);
                for problem in problems {
                    tracing::error!(%problem, "the rules do not hold: those before stay in force");
                }
            }
            Err(error) => {
                metrics.policy_loaded(Reload::Failed);
                tracing::error!(%error, "the rules could not be loaded: those before stay in force");
            }
        }
    }
}

#[cfg(test)]
mod tests;
