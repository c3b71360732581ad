//! `[retention]`: how long rows are kept that have served their purpose.

use std::num::NonZeroU32;

use serde::Deserialize;

use crate::store::retention::Retention;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// `[retention]` as written.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RetentionTable {
    idempotency_hours: Option<NonZeroU32>,
    sessions_days: Option<NonZeroU32>,
    steps_days: Option<NonZeroU32>,
    denials_days: Option<NonZeroU32>,
}

/// What is wrong in `[retention]`: the key, the problem, and what to write instead.
pub(super) type Problem = (&'static str, &'static str, &'static str);

/// Checks `[retention]`.
pub(super) fn retention(table: &RetentionTable) -> Result<Retention, Problem> {
    let times = |value: Option<NonZeroU32>, default: u32, unit: i64| {
        i64::from(value.map_or(default, NonZeroU32::get)).saturating_mul(unit)
    };
    let retention = Retention {
        idempotency: times(table.idempotency_hours, 48, HOUR),
        sessions: times(table.sessions_days, 30, DAY),
        steps: times(table.steps_days, 30, DAY),
        denials: times(table.denials_days, 90, DAY),
    };
    if retention.idempotency < DAY {
        return Err((
            "retention.idempotency_hours",
            "a request that is repeated within a day would be carried out twice",
            "write at least 24",
        ));
    }
    if retention.sessions < retention.idempotency {
        return Err((
            "retention.sessions_days",
            "a repeated request would find its key but no longer its answer",
            "write at least as long as idempotency_hours",
        ));
    }
    Ok(retention)
}
