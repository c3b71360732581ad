//! Reloads the files of the listeners on SIGHUP, and when they change.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::Entrance;

/// How often the files are looked at.
const EVERY: Duration = Duration::from_secs(1);

/// Reloads `entrances` until `stop`.
pub async fn watch(entrances: Vec<Arc<Entrance>>, mut hangup: Signal, stop: CancellationToken) {
    let new = || entrances.iter().cloned().map(Watched::new).collect();
    let mut watched: Vec<_> = new();
    loop {
        let asked = tokio::select! {
            () = stop.cancelled() => return,
            _ = hangup.recv() => true,
            () = tokio::time::sleep(EVERY) => false,
        };
        if asked {
            info!("asked to reload certificates");
        }
        // Files may be on a slow or dead file system: that must not hold up connections.
        let looked = tokio::task::spawn_blocking(move || {
            watched.iter_mut().for_each(|one| one.look(asked));
            watched
        });
        match looked.await {
            Ok(back) => watched = back,
            // Whoever stopped looking would go on letting in whom a later list has revoked.
            Err(error) => {
                error!(%error, "the certificates could not be looked at");
                watched = new();
            }
        }
    }
}

struct Watched {
    entrance: Arc<Entrance>,
    /// The files as they were loaded.
    loaded: Vec<Stamp>,
    /// The files as they were at the last look.
    seen: Vec<Stamp>,
}

/// Changes whenever a file is written or replaced: inode, size, and the nanoseconds of both times. `None` without a file.
type Stamp = Option<(u64, u64, [i64; 4])>;

impl Watched {
    fn new(entrance: Arc<Entrance>) -> Self {
        Self {
            seen: stamps(&entrance),
            // Unknown: they may have changed since they were loaded, so the first look loads them again.
            loaded: Vec::new(),
            entrance,
        }
    }

    /// A signal acts at once. Without one, files that change between two looks are left alone until they
    /// rest: certificate and key are replaced one after the other.
    fn look(&mut self, asked: bool) {
        let now = stamps(&self.entrance);
        let rest = now == self.seen;
        self.seen.clone_from(&now);
        if asked || (rest && now != self.loaded) {
            self.loaded = now;
            self.entrance.reload();
        }
    }
}

fn stamps(entrance: &Entrance) -> Vec<Stamp> {
    let files = &entrance.files;
    [&files.certificate, &files.key, &files.client_ca]
        .into_iter()
        .chain(&files.crls)
        .map(|path| {
            let data = fs::metadata(path).ok()?;
            let times = [
                data.mtime(),
                data.mtime_nsec(),
                data.ctime(),
                data.ctime_nsec(),
            ];
            Some((data.ino(), data.size(), times))
        })
        .collect()
}
