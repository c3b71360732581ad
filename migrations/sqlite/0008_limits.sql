-- Why: how many requests of a kind a profile may make in any window of time is exact over all instances, so what is counted is rows.

-- A request that was admitted, in the log of its subject: a profile, an owner or a user. `at` is the time of the database
-- server; `position` tells apart what one operation admits. A row is there for as long as it counts, and longer.
CREATE TABLE rate_events (
    class        TEXT    NOT NULL
        CHECK (class IN ('signing', 'key-operations', 'backup', 'transactions', 'reconcile')),
    subject      TEXT    NOT NULL,
    at           INTEGER NOT NULL,
    operation_id TEXT    NOT NULL,
    position     INTEGER NOT NULL CHECK (position >= 0),
    expires_at   INTEGER NOT NULL,
    PRIMARY KEY (class, subject, at, operation_id, position)
) STRICT;
CREATE INDEX rate_events_by_age ON rate_events (expires_at);
