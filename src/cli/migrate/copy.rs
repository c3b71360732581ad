//! `countersignd migrate --from sqlite:… --to postgres:…`: copies an environment and proves that both databases
//! hold the same.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use url::Url;

use crate::audit::{Verified, verify_through};
use crate::cli::token::{Environment, EnvironmentError};
use crate::cli::{Failure, output};
use crate::config::{Config, PostgresTable, StoreProblem};
use crate::store::Location;
use crate::store::copy::{Copy, CopyError, Proven, Step};

/// Options of `migrate` for copying.
#[derive(clap::Args)]
#[command(
    next_help_heading = "Copy an environment from SQLite to PostgreSQL, while no countersignd serves it"
)]
pub(super) struct CopyOptions {
    /// The SQLite database to copy, "sqlite:/path/to/countersign.db"; it is only read
    #[arg(long, value_name = "SOURCE", value_parser = source, conflicts_with = "config")]
    pub(super) from: Option<PathBuf>,
    /// The empty PostgreSQL database to copy into, "postgres://role@host:5432/database"
    #[arg(
        long,
        value_name = "TARGET",
        requires = "from",
        conflicts_with = "to_config"
    )]
    to: Option<String>,
    /// Instead of --to: the configuration that will serve the copy, with a table [store.postgres]
    #[arg(long, value_name = "FILE", requires = "from")]
    to_config: Option<PathBuf>,
    /// With --to: file with the role's password, mode 600
    #[arg(long, value_name = "FILE", requires = "to")]
    password_file: Option<PathBuf>,
    /// With --to: CA of the server's certificate, PEM
    #[arg(long, value_name = "FILE", requires = "to")]
    ca_file: Option<PathBuf>,
}

/// Pause between two lines about progress.
const EVERY: Duration = Duration::from_secs(2);

/// The chain does not hold, on one of both sides.
#[derive(Debug, thiserror::Error)]
enum ChainError {
    #[error(
        "the source's audit chain breaks at position {0}: find out who changed it; the copy cannot be used"
    )]
    Source(i64),
    #[error(
        "the copy's audit chain is another one than the source's: the copy cannot be used; copy again"
    )]
    Target,
}

/// Copies, or says what would be copied.
pub(super) async fn run(options: &CopyOptions, dry_run: bool) -> Result<(), Failure> {
    let missing = "name the source with --from and the target with --to or --to-config";
    let source = options
        .from
        .as_deref()
        .ok_or_else(|| Failure::usage(missing))?;
    let configured = options.to_config.as_deref().map(Config::load).transpose();
    let configured = configured.map_err(Failure::usage)?;
    let target = match (&configured, &options.to) {
        (Some(config), _) => Arc::clone(&config.store),
        (None, Some(text)) => Arc::new(location(text, options)?),
        (None, None) => return Err(Failure::usage(missing)),
    };
    crate::cli::refuse_driver_settings(&target)?;

    let mut copy = Copy::new(source, Arc::clone(&target))
        .await
        .map_err(failure)?;
    if let Some(config) = &configured {
        let found = Environment {
            id: copy.environment().id,
            kind: copy.environment().kind,
        };
        Environment::configured(config)
            .agrees("source", found)
            .map_err(EnvironmentError::failure)?;
    }
    let environment = copy.environment().id;
    if dry_run {
        for (table, rows) in copy.counts().await.map_err(failure)? {
            output::line(format_args!("would copy {table}: {rows} rows"));
        }
        output::line(format_args!(
            "from {} to {target}: nothing was changed",
            source.display()
        ));
        return Ok(());
    }
    let mut reporter = Reporter::default();
    let mut step = |step: Step<'_>| reporter.report(step);
    let copied = copy.transfer(&mut step).await.map_err(failure)?;
    let mut proven = copied.prove(&mut step).await.map_err(failure)?;
    let links = compare_chains(&mut proven).await?;
    let lines = proof(&proven);
    proven.finish().await.map_err(failure)?;
    for line in lines {
        output::line(line);
    }
    output::line(format_args!(
        "audit chain: {links} links, intact in both databases"
    ));
    output::line(format_args!(
        "environment {environment} is copied from {} to {target}.\n\
         From now on serve only the copy, with [store.postgres] in the configuration. Put the file away: two\n\
         appliances that serve one environment from two databases would use nonces twice.",
        source.display()
    ));
    Ok(())
}

/// The chain was copied like all else; that it holds is another question.
async fn compare_chains(proven: &mut Proven) -> Result<i64, Failure> {
    let (source, target) = proven.both();
    let from = verify_through(source).await?;
    let to = verify_through(target).await?;
    match from {
        Verified::Intact(links) if from == to => Ok(links),
        Verified::Intact(_) => Err(ChainError::Target.into()),
        Verified::Broken(found) => Err(ChainError::Source(found.position).into()),
    }
}

fn proof(proven: &Proven) -> Vec<String> {
    let tables = proven.tables();
    let width = tables
        .iter()
        .map(|table| table.table.len())
        .max()
        .unwrap_or_default();
    let mut lines = vec![format!(
        "{:width$}  {:>9}  sha-256 in both databases",
        "table", "rows"
    )];
    lines.extend(tables.iter().map(|table| {
        let hash = hex::encode(table.sha256);
        format!("{:width$}  {:>9}  {hash}", table.table, table.rows)
    }));
    lines
}

fn failure(error: CopyError) -> Failure {
    match error {
        CopyError::Foreign { .. } => Failure::environment(error),
        CopyError::NotPostgres => Failure::usage(error),
        other => other.into(),
    }
}

/// Says how far the work is, now and then.
struct Reporter {
    last: Instant,
}

impl Default for Reporter {
    fn default() -> Self {
        Self {
            last: Instant::now(),
        }
    }
}

impl Reporter {
    fn report(&mut self, step: Step<'_>) {
        if self.last.elapsed() < EVERY {
            return;
        }
        self.last = Instant::now();
        match step {
            Step::Sent { table, rows, of } => {
                output::progress(format_args!("copying {table}: {rows} of {of} rows"));
            }
            Step::Compared { table, rows } => {
                output::progress(format_args!("comparing {table}: {rows} rows"));
            }
        }
    }
}

fn source(text: &str) -> Result<PathBuf, String> {
    let path = text.strip_prefix("sqlite:").filter(|path| !path.is_empty());
    path.map(PathBuf::from)
        .ok_or_else(|| "write sqlite:/path/to/countersign.db".to_owned())
}

/// Host, port, database and role from a URL. Everything else has an option of its own.
fn target(text: &str) -> Result<PostgresTable, String> {
    let instead = "write postgres://role@host:5432/database; for a socket, use --to-config";
    let url = Url::parse(text).map_err(|_| instead.to_owned())?;
    // SECURITY: everybody on the machine can read the arguments of a process.
    if url.password().is_some() {
        return Err(
            "write the password into a file with mode 600 and name it with --password-file"
                .to_owned(),
        );
    }
    let database = url.path().strip_prefix('/').unwrap_or_default();
    let plain = matches!(url.scheme(), "postgres" | "postgresql")
        && url.query().is_none()
        && url.fragment().is_none()
        && !text.contains('%');
    match url.host_str() {
        Some(host) if plain && !url.username().is_empty() && !database.is_empty() => {
            Ok(PostgresTable {
                host: host.trim_matches(['[', ']']).to_owned(),
                port: url.port(),
                database: database.to_owned(),
                user: url.username().to_owned(),
                password_file: None,
                ca_file: None,
                connections: None,
            })
        }
        _ => Err(instead.to_owned()),
    }
}

fn location(text: &str, options: &CopyOptions) -> Result<Location, Failure> {
    let table = target(text).map_err(|problem| Failure::usage(format!("--to: {problem}")))?;
    let table = PostgresTable {
        password_file: options.password_file.clone(),
        ca_file: options.ca_file.clone(),
        ..table
    };
    let named = |key: &str| match key {
        "password_file" | "ca_file" => format!("--{}", key.replace('_', "-")),
        key => format!("--to: {key}"),
    };
    let options = table
        .options(Path::new(""))
        .map_err(|problem| match problem {
            StoreProblem::Invalid {
                key,
                problem,
                instead,
            } => Failure::usage(format!("{}: {problem}; {instead}", named(key))),
            StoreProblem::Unreadable { key, file, cause } => Failure::usage(format!(
                "{}: cannot read {}: {cause}",
                named(key),
                file.display()
            )),
        })?;
    Ok(Location::Postgres(options))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::path::Path;

    use super::{source, target};

    #[test]
    fn source_and_target_are_written_as_urls() {
        assert_eq!(source("sqlite:/a/b.db").unwrap(), Path::new("/a/b.db"));
        assert_eq!(source("sqlite:b.db").unwrap(), Path::new("b.db"));
        for text in ["sqlite:", "/a/b.db", "postgres://r@h/d"] {
            assert!(source(text).is_err(), "{text}");
        }
        let table = target("postgres://signer@db.example:5433/wallets").unwrap();
        assert_eq!(
            (table.host.as_str(), table.port),
            ("db.example", Some(5433))
        );
        assert_eq!(
            (table.user.as_str(), table.database.as_str()),
            ("signer", "wallets")
        );
        assert_eq!(target("postgresql://r@[::1]/d").unwrap().host, "::1");
        for text in [
            "postgres://db.example/wallets",
            "postgres://signer@db.example",
            "postgres://signer@db.example/",
            "postgres://signer@db.example/wallets?sslmode=disable",
            "postgres://signer@%2Frun%2Fpostgresql/wallets",
            "mysql://signer@db.example/wallets",
            "wallets",
        ] {
            assert!(target(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_password_among_the_arguments_is_refused_and_not_repeated() {
        let error = target("postgres://signer:correct-horse@db.example/wallets").unwrap_err();
        assert!(error.contains("--password-file"), "{error}");
        assert!(!error.contains("correct-horse"), "{error}");
    }
}
