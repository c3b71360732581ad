//! The logs of requests whose number is limited.
//!
//! INVARIANT: a subject's log is read and written only in operations that have the subject's key ([`Key::rate`]), so
//! that nothing is added between the count and what is admitted on its ground.

use super::engine::values;
use super::{Reads, StoreError, Tx, to_i64};
use crate::clock::Timestamp;
use crate::domain::{RateClass, RateSubject};

/// Seconds for which an event is remembered after it counts no more. What is old is deleted by the clock of an
/// instance, which may differ from the database's.
const KEPT: i64 = 3600;

/// How many events of a subject there were after `since`, and when the first of them was.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn count(
    reads: &mut impl Reads,
    class: RateClass,
    subject: RateSubject,
    since: Timestamp,
) -> Result<(u64, Option<Timestamp>), StoreError> {
    let row = reads
        .query_one(
            "SELECT COUNT(*), MIN(at) FROM rate_events WHERE class = $1 AND subject = $2 AND at > $3",
            values![class.as_str(), subject.to_text(), since.as_micros()],
        )
        .await?;
    let mut row = row
        .ok_or(StoreError::Corrupt {
            table: "rate_events",
            column: "count",
        })?
        .of("rate_events");
    let count = row.number("count")?;
    Ok((count, row.int_or_null("at")?.map(super::time)))
}

/// When the event number `nth`, from 1, of a subject was, of those after `since`.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn nth(
    reads: &mut impl Reads,
    class: RateClass,
    subject: RateSubject,
    since: Timestamp,
    nth: u64,
) -> Result<Option<Timestamp>, StoreError> {
    let row = reads
        .query_one(
            "SELECT at FROM rate_events WHERE class = $1 AND subject = $2 AND at > $3 \
             ORDER BY at LIMIT 1 OFFSET $4",
            values![
                class.as_str(),
                subject.to_text(),
                since.as_micros(),
                to_i64(nth.saturating_sub(1))
            ],
        )
        .await?;
    row.map(|row| row.of("rate_events").int("at").map(super::time))
        .transpose()
}

/// Adds `events` events of this time to a subject's log. They count until `until`.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn add(
    tx: &mut Tx<'_>,
    (class, subject): (RateClass, RateSubject),
    at: Timestamp,
    until: Timestamp,
    events: u32,
) -> Result<(), StoreError> {
    let operation = tx.operation_id().to_string();
    for position in 0..events {
        tx.execute(
            "INSERT INTO rate_events (class, subject, at, operation_id, position, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $6)",
            values![
                class.as_str(),
                subject.to_text(),
                at.as_micros(),
                operation.as_str(),
                i64::from(position),
                until.plus_seconds(KEPT).as_micros()
            ],
        )
        .await?;
    }
    Ok(())
}
