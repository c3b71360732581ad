-- Why: one process at a time extends the audit chain, verification can start late in it, and old rows can be found.

-- Who may do a job that one process does at a time, and until when without a word from it.
CREATE TABLE leases (
    name   TEXT    NOT NULL PRIMARY KEY,
    holder TEXT    NOT NULL,
    until  BIGINT NOT NULL
);

-- A point of the chain from which verification may start. `links` counts those since the checkpoint before, so a
-- checkpoint that was removed shows in the next one.
CREATE TABLE audit_checkpoints (
    position BIGINT NOT NULL PRIMARY KEY REFERENCES audit_chain (position),
    hash     BYTEA   NOT NULL CHECK (length(hash) = 32),
    at       BIGINT NOT NULL,
    links    BIGINT NOT NULL CHECK (links >= 1)
);

-- What retention deletes, by its age.
CREATE INDEX idempotency_by_age ON idempotency (created_at);
CREATE INDEX decisions_denied ON decisions (created_at) WHERE outcome = 'denied';
CREATE INDEX sessions_given_up ON sessions (updated_at) WHERE state IN ('aborted', 'expired');

-- The steps of a session, open or not: found when it is orphaned, and when it is deleted.
CREATE INDEX steps_by_session ON steps (session_id);
DROP INDEX steps_open;
