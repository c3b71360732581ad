//! The chain over audit records, and who extends it.
//!
//! A record is chained when a link covers it. What waits is found by the record's own mark, never by
//! comparing ids with the last one chained: ids are not in commit order, so a record that commits late
//! would be missed. The mark and the link change in one transaction.

use super::StoredRecord;
use crate::clock::Timestamp;
use crate::domain::InstanceId;
use crate::store::engine::{Value, values};
use crate::store::leases::{self, Lease};
use crate::store::{Key, Reads, StoreError, Tx, Upkeep, time};

/// The hash of a link: of the link before it and the record it covers.
pub type LinkHash = fn(&[u8; 32], &StoredRecord) -> [u8; 32];

/// The process that extends the chain.
pub(in crate::store) const SEQUENCER: Lease = Lease {
    name: "audit-chain",
    seconds: 5,
};

/// Records chained in one transaction: few enough that operations which share the transaction or wait
/// behind it lose milliseconds only. Also written out in [`take`].
const CHAIN_BATCH: usize = 256;
/// Links inserted by one statement: most of what a larger number saves, and the text stays readable.
const ROWS: usize = 16;
/// Links between two checkpoints: rehashing as many takes a few milliseconds, and a chain of 10^6 links has
/// a thousand checkpoints.
const CHECKPOINT_LINKS: i64 = 1_000;
/// Seconds until links without a checkpoint get one: what a minute left behind can be told from what was
/// added later.
const CHECKPOINT_SECONDS: i64 = 60;
/// Waiting records that are counted; more are as bad.
const COUNTED: i64 = 10_000;

/// How far the chain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Records that wait for the chain, counted up to 10 000.
    pub waiting: i64,
    /// The position of the last link; zero without one.
    pub head: i64,
    /// The position of the last checkpoint; zero without one.
    pub checkpoint: i64,
    /// When that was made.
    pub checkpoint_at: Timestamp,
    /// Whether another process extends the chain.
    pub led_by_another: bool,
}

impl Standing {
    /// Whether there is something to do for the process that extends the chain.
    #[must_use]
    pub const fn is_behind(&self, now: Timestamp) -> bool {
        self.waiting > 0 || checkpoint_due(self.head, self.checkpoint, self.checkpoint_at, now)
    }
}

const fn checkpoint_due(head: i64, checkpoint: i64, at: Timestamp, now: Timestamp) -> bool {
    let links = head.saturating_sub(checkpoint);
    let old = at.plus_seconds(CHECKPOINT_SECONDS).as_micros() <= now.as_micros();
    links >= CHECKPOINT_LINKS || (links > 0 && old)
}

/// How far the chain is, as `holder` sees it. One statement, and cheap however long the chain is.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn standing(
    reads: &mut impl Reads,
    holder: InstanceId,
    now: Timestamp,
) -> Result<Standing, StoreError> {
    let (holder, latest) = (holder.to_string(), SEQUENCER.latest(now));
    let row = reads
        .query_one(
            "SELECT \
             (SELECT COUNT(*) FROM (SELECT operation_id FROM audit_records WHERE chained = 0 LIMIT $1) AS waiting), \
             (SELECT MAX(position) FROM audit_chain), \
             (SELECT MAX(position) FROM audit_checkpoints), \
             (SELECT at FROM audit_checkpoints ORDER BY position DESC LIMIT 1), \
             (SELECT COUNT(*) FROM leases WHERE name = $2 AND holder <> $3 AND until > $4 AND until <= $5)",
            values![COUNTED, SEQUENCER.name, holder, now.as_micros(), latest],
        )
        .await?;
    let mut row = row.ok_or(StoreError::NoEnvironment)?.of("audit_chain");
    Ok(Standing {
        waiting: row.int("waiting")?,
        head: row.int_or_null("position")?.unwrap_or(0),
        checkpoint: row.int_or_null("checkpoint")?.unwrap_or(0),
        checkpoint_at: time(row.int_or_null("at")?.unwrap_or(0)),
        led_by_another: row.int("holder")? > 0,
    })
}

/// The last link: position and hash.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn head(reads: &mut impl Reads) -> Result<Option<(i64, [u8; 32])>, StoreError> {
    let row = reads
        .query_one(
            "SELECT position, hash FROM audit_chain ORDER BY position DESC LIMIT 1",
            &[],
        )
        .await?;
    row.map(|row| {
        let mut row = row.of("audit_chain");
        Ok((row.int("position")?, row.array("hash")?))
    })
    .transpose()
}

/// What one turn at the chain did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extended {
    /// So many links were appended; more records may wait.
    More(usize),
    /// So many links were appended; nothing else waited.
    Done(usize),
    /// Another process extends the chain.
    Led,
}

/// Chains records that are committed already: a change of no state, and a record of every chaining
/// would never end.
///
/// INVARIANT: only one at a time, because all have one key. The lease only decides which process
/// goes to the trouble; without a holder it is not asked.
pub(in crate::store) struct Extend {
    pub(in crate::store) hash: LinkHash,
    pub(in crate::store) holder: Option<InstanceId>,
}

impl Upkeep for Extend {
    type Output = Extended;

    fn key(&self) -> Key {
        Key::CHAIN
    }

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<Extended, StoreError> {
        if let Some(holder) = self.holder
            && !leases::hold(tx, SEQUENCER, holder).await?
        {
            return Ok(Extended::Led);
        }
        let records = take(tx).await?;
        let (mut position, mut previous) = head(tx).await?.unwrap_or((0, [0; 32]));
        let mut links = Vec::with_capacity(records.len());
        for record in &records {
            position += 1;
            let hash = (self.hash)(&previous, record);
            links.push(NewLink {
                position,
                record,
                previous,
                hash,
            });
            previous = hash;
        }
        append(tx, &links).await?;
        checkpoint(tx, position, &previous).await?;
        Ok(if records.len() < CHAIN_BATCH {
            Extended::Done(records.len())
        } else {
            Extended::More(records.len())
        })
    }
}

/// Takes records that wait, in the order of their ids: those between the ids at the ends of a batch, and what
/// the second statement returns counts, because a record may commit between the two. A record that has a
/// link and waits all the same was tampered with: it is left for verification to find, and stops nobody.
///
/// The number is written out because a planner that does not know it may prefer to read whole tables; the
/// count of links, because it cannot be turned into a join of them.
async fn take(tx: &mut Tx<'_>) -> Result<Vec<StoredRecord>, StoreError> {
    let mut after = String::new();
    loop {
        let batch = tx
            .query_one(
                "SELECT MIN(operation_id), MAX(operation_id) FROM (SELECT operation_id FROM audit_records \
                 WHERE chained = 0 AND operation_id > $1 ORDER BY operation_id LIMIT 256) AS batch",
                values![after.as_str()],
            )
            .await?;
        let mut batch = batch.ok_or(StoreError::NoEnvironment)?.of("audit_records");
        let Some(from) = batch.text_or_null("operation_id")? else {
            return Ok(Vec::new());
        };
        let upto = batch.text("operation_id")?;
        let rows = tx
            .query(
                "UPDATE audit_records SET chained = 1 WHERE chained = 0 AND operation_id >= $1 \
                 AND operation_id <= $2 AND (SELECT COUNT(*) FROM audit_chain \
                 WHERE audit_chain.operation_id = audit_records.operation_id) = 0 \
                 RETURNING operation_id, at, event, outcome, profile_id, session_id, detail",
                values![from.as_str(), upto.as_str()],
            )
            .await?;
        after = upto;
        if rows.is_empty() {
            continue;
        }
        let records = rows
            .into_iter()
            .map(|row| StoredRecord::read(&mut row.of("audit_records")));
        let mut records: Vec<StoredRecord> = records.collect::<Result<_, _>>()?;
        records.sort_unstable_by(|one, other| one.operation_id.cmp(&other.operation_id));
        return Ok(records);
    }
}

struct NewLink<'a> {
    position: i64,
    record: &'a StoredRecord,
    previous: [u8; 32],
    hash: [u8; 32],
}

impl NewLink<'_> {
    fn values(&self) -> [Value<'_>; 4] {
        [
            self.position.into(),
            self.record.operation_id.as_str().into(),
            (&self.previous).into(),
            (&self.hash).into(),
        ]
    }
}

async fn append(tx: &mut Tx<'_>, links: &[NewLink<'_>]) -> Result<(), StoreError> {
    for chunk in links.chunks(ROWS) {
        if chunk.len() == ROWS {
            let values: Vec<Value<'_>> = chunk.iter().flat_map(NewLink::values).collect();
            tx.execute(
                "INSERT INTO audit_chain (position, operation_id, previous_hash, hash) VALUES \
                 ($1, $2, $3, $4), ($5, $6, $7, $8), ($9, $10, $11, $12), ($13, $14, $15, $16), \
                 ($17, $18, $19, $20), ($21, $22, $23, $24), ($25, $26, $27, $28), ($29, $30, $31, $32), \
                 ($33, $34, $35, $36), ($37, $38, $39, $40), ($41, $42, $43, $44), ($45, $46, $47, $48), \
                 ($49, $50, $51, $52), ($53, $54, $55, $56), ($57, $58, $59, $60), ($61, $62, $63, $64)",
                &values,
            )
            .await?;
            continue;
        }
        for link in chunk {
            tx.execute(
                "INSERT INTO audit_chain (position, operation_id, previous_hash, hash) \
                 VALUES ($1, $2, $3, $4)",
                &link.values(),
            )
            .await?;
        }
    }
    Ok(())
}

/// Writes a checkpoint at the head if one is due.
async fn checkpoint(tx: &mut Tx<'_>, head: i64, hash: &[u8; 32]) -> Result<(), StoreError> {
    let last = tx
        .query_one(
            "SELECT position, at FROM audit_checkpoints ORDER BY position DESC LIMIT 1",
            &[],
        )
        .await?;
    let (position, at) = match last {
        Some(row) => {
            let mut row = row.of("audit_checkpoints");
            (row.int("position")?, time(row.int("at")?))
        }
        None => (0, time(0)),
    };
    if !checkpoint_due(head, position, at, tx.now()) {
        return Ok(());
    }
    let now = tx.now().as_micros();
    tx.execute(
        "INSERT INTO audit_checkpoints (position, hash, at, links) VALUES ($1, $2, $3, $4)",
        values![head, hash, now, head.saturating_sub(position)],
    )
    .await?;
    Ok(())
}
