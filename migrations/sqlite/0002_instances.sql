-- Why: several processes may serve one database: which of them live, so that what a dead one left behind can be ended.

-- One row per start of a process. A process that renews its lease lives. Who stops renewing is ended by another one,
-- which then ends its checks; `ended_at` is what everybody goes by, the lease only says when it may be set.
CREATE TABLE instances (
    instance_id TEXT    NOT NULL PRIMARY KEY,
    -- What clients and gateways see of it.
    tag         TEXT    NOT NULL UNIQUE CHECK (length(tag) = 10),
    -- The boot of the machine it runs on, or 'hidden'; for people.
    boot_id     TEXT    NOT NULL,
    -- Times of the database server's clock.
    started_at  INTEGER NOT NULL,
    lease_until INTEGER NOT NULL,
    ended_at    INTEGER
) STRICT;
CREATE INDEX instances_alive ON instances (lease_until) WHERE ended_at IS NULL;
