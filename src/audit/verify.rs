//! Verification of the chain: every link against its record and the link before it, every checkpoint
//! against its link, every record against the chain.
//!
//! It reads in pages and holds one at a time. It may run beside a process that extends the chain: what is
//! appended meanwhile belongs to the next verification. What it cannot show is a chain that was rewritten as
//! a whole, or a tail that was removed together with its records and checkpoints: that takes an anchor
//! outside the database.

use std::collections::VecDeque;
use std::fmt;

use super::link_hash;
use crate::domain::ChainHead;
use crate::store::audit::StoredRecord;
use crate::store::audit::inspect::{self, Checkpoint, Link, Marked};
use crate::store::{Reads, StoreError};

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verified {
    /// The chain holds; it has this many links.
    Intact(i64),
    /// The chain is broken.
    Broken(Break),
}

/// Where the chain is broken first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit chain is broken at position {position}: {flaw}")]
pub struct Break {
    /// The position of the first link that is wrong or missing.
    pub position: i64,
    /// What is wrong with it.
    pub flaw: Flaw,
}

/// How a chain can be broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// There is no link, but there are later ones.
    Missing,
    /// The record was deleted.
    RecordDeleted(String),
    /// Record and link do not agree: one of them was edited.
    Altered(String),
    /// The link does not follow the one before it: links were reordered, inserted or removed.
    OutOfOrder(String),
    /// The record says that no link covers it.
    MarkReset(String),
    /// The record was covered by a link before.
    Repeated(String),
    /// The record says that a link covers it, and there is none.
    LinkDeleted(String),
    /// The chain ends before this checkpoint.
    Truncated(i64),
    /// The checkpoint at this position says otherwise, or one before it was removed.
    Checkpoint,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("the link is missing"),
            Self::RecordDeleted(id) => write!(f, "record {id} is missing"),
            Self::Altered(id) => write!(f, "record {id} or its link was altered"),
            Self::OutOfOrder(id) => {
                write!(
                    f,
                    "the link of record {id} does not follow the one before it"
                )
            }
            Self::MarkReset(id) => write!(f, "record {id} was marked as not chained"),
            Self::Repeated(id) => write!(f, "record {id} was chained before"),
            Self::LinkDeleted(id) => write!(f, "the link of record {id} is missing"),
            Self::Truncated(checkpoint) => {
                write!(
                    f,
                    "the chain ends here, before its checkpoint at {checkpoint}"
                )
            }
            Self::Checkpoint => f.write_str("the checkpoint does not agree with the chain"),
        }
    }
}

/// Where a verification starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// At the first link: everything is verified.
    Beginning,
    /// At the last checkpoint, which is believed; at the first link if there is none. Records are looked at
    /// that are newer than the one at the checkpoint.
    LastCheckpoint,
}

/// How far a verification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Links that hold.
    pub links: i64,
    /// Links of the chain.
    pub of: i64,
    /// Records whose mark was compared with the chain, after all links held.
    pub records: i64,
}

/// Verifies the chain; `report` hears of every page.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn verify(
    reads: &mut impl Reads,
    from: From,
    mut report: impl FnMut(Progress),
) -> Result<Verified, StoreError> {
    let (head, last) = inspect::ends(reads).await?;
    let start = match from {
        From::Beginning => None,
        From::LastCheckpoint => inspect::last_checkpoint(reads).await?,
    };
    let (mut walk, mut since) = (Walk::default(), String::new());
    if let Some(start) = start {
        let page = inspect::links_after(reads, start.position.saturating_sub(1)).await?;
        match page.into_iter().next() {
            Some((link, _)) if link.position == start.position && link.hash == start.hash => {
                walk = Walk::from(&start);
                since = link.operation_id;
            }
            _ => return Ok(broken(start.position, Flaw::Checkpoint)),
        }
    }
    let mut progress = Progress {
        links: walk.position,
        of: head,
        records: 0,
    };
    if let Some(flaw) = links(reads, &mut walk, &mut progress, &mut report).await? {
        return Ok(broken(walk.position.saturating_add(1), flaw));
    }
    if last > head {
        return Ok(broken(head.saturating_add(1), Flaw::Truncated(last)));
    }
    let found = records(reads, since, &mut progress, &mut report).await?;
    Ok(found.map_or(Verified::Intact(head), Verified::Broken))
}

/// Follows the chain from a link that is believed to its end, and says how far it holds: what may be anchored. Each
/// link is compared with its record and the link before it; checkpoints and marks are left to [`verify`].
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn onward(
    reads: &mut impl Reads,
    from: ChainHead,
) -> Result<Result<ChainHead, Break>, StoreError> {
    let mut walk = Walk {
        position: from.count,
        hash: from.hash,
        checkpoint: from.count,
    };
    loop {
        let page = inspect::links_after(reads, walk.position).await?;
        if page.is_empty() {
            let Walk { position, hash, .. } = walk;
            let count = position;
            return Ok(Ok(ChainHead { count, hash }));
        }
        for (link, record) in page {
            if let Err(flaw) = walk.step(link, record.as_ref()) {
                let position = walk.position.saturating_add(1);
                return Ok(Err(Break { position, flaw }));
            }
        }
    }
}

const fn broken(position: i64, flaw: Flaw) -> Verified {
    Verified::Broken(Break { position, flaw })
}

/// The part of the chain that holds.
#[derive(Default)]
struct Walk {
    position: i64,
    hash: [u8; 32],
    /// The last checkpoint in it.
    checkpoint: i64,
}

impl Walk {
    const fn from(start: &Checkpoint) -> Self {
        Self {
            position: start.position,
            hash: start.hash,
            checkpoint: start.position,
        }
    }

    /// Goes on by one link, or says why not.
    fn step(&mut self, link: Link, record: Option<&StoredRecord>) -> Result<(), Flaw> {
        let position = self.position.saturating_add(1);
        if link.position != position {
            return Err(Flaw::Missing);
        }
        let Some(record) = record else {
            return Err(Flaw::RecordDeleted(link.operation_id));
        };
        if link.hash != link_hash(&link.previous_hash, record) {
            return Err(Flaw::Altered(link.operation_id));
        }
        if link.previous_hash != self.hash {
            return Err(Flaw::OutOfOrder(link.operation_id));
        }
        if link.marked != Some(true) {
            return Err(Flaw::MarkReset(link.operation_id));
        }
        (self.position, self.hash) = (position, link.hash);
        Ok(())
    }

    /// Whether a checkpoint here agrees. A link that does not is not part of what holds.
    fn meet(&mut self, checkpoint: &Checkpoint) -> Result<(), Flaw> {
        let links = self.position.saturating_sub(self.checkpoint);
        if checkpoint.hash != self.hash || checkpoint.links != links {
            self.position = self.position.saturating_sub(1);
            return Err(Flaw::Checkpoint);
        }
        self.checkpoint = self.position;
        Ok(())
    }
}

/// Follows the links up to the head as it was at the start; the first flaw, which is in the link after
/// those that hold.
async fn links(
    reads: &mut impl Reads,
    walk: &mut Walk,
    progress: &mut Progress,
    report: &mut impl FnMut(Progress),
) -> Result<Option<Flaw>, StoreError> {
    let mut checkpoints = VecDeque::from(inspect::checkpoints_after(reads, walk.position).await?);
    while walk.position < progress.of {
        let page = inspect::links_after(reads, walk.position).await?;
        if page.is_empty() {
            return Ok(Some(Flaw::Missing));
        }
        for (link, record) in page {
            if link.position > progress.of && walk.position >= progress.of {
                break;
            }
            if let Err(flaw) = walk.step(link, record.as_ref()) {
                return Ok(Some(flaw));
            }
            if let Some(checkpoint) =
                checkpoints.pop_front_if(|next| next.position <= walk.position)
            {
                if let Err(flaw) = walk.meet(&checkpoint) {
                    return Ok(Some(flaw));
                }
                if checkpoints.is_empty() {
                    checkpoints.extend(inspect::checkpoints_after(reads, walk.position).await?);
                }
            }
        }
        progress.links = walk.position;
        report(*progress);
    }
    Ok(None)
}

/// Compares each record's mark with the chain; the flaw with the lowest position.
async fn records(
    reads: &mut impl Reads,
    mut since: String,
    progress: &mut Progress,
    report: &mut impl FnMut(Progress),
) -> Result<Option<Break>, StoreError> {
    let mut first: Option<Break> = None;
    loop {
        let page = inspect::records_after(reads, &since).await?;
        let Some(last) = page.last() else {
            return Ok(first);
        };
        let mut before = std::mem::replace(&mut since, last.operation_id.clone());
        let count = i64::try_from(page.len()).unwrap_or(i64::MAX);
        for Marked {
            operation_id,
            chained,
            position,
        } in page
        {
            let repeated = operation_id == before;
            before.clone_from(&operation_id);
            let (position, flaw) = match position {
                Some(position) if repeated => (position, Flaw::Repeated(operation_id)),
                Some(position) if !chained => (position, Flaw::MarkReset(operation_id)),
                None if chained => (
                    progress.of.saturating_add(1),
                    Flaw::LinkDeleted(operation_id),
                ),
                _ => continue,
            };
            if first.as_ref().is_none_or(|first| position < first.position) {
                first = Some(Break { position, flaw });
            }
        }
        progress.records = progress.records.saturating_add(count);
        report(*progress);
    }
}
