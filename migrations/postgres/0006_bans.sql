-- Why: bans are a list that is only ever appended to and is chained by hashes, so that an anchor outside the database shows when one is missing.

CREATE TABLE bans (
    position      BIGINT NOT NULL PRIMARY KEY CHECK (position >= 1),
    profile_id    TEXT    NOT NULL REFERENCES profiles (profile_id),
    generation    BIGINT NOT NULL CHECK (generation >= 1),
    -- What is banned for good: a hash over profile, generation and the session that made this generation.
    ot_setup      BYTEA   NOT NULL CHECK (length(ot_setup) = 32),
    session_id    TEXT    NOT NULL,
    reason        TEXT    NOT NULL,
    at            BIGINT NOT NULL,
    previous_hash BYTEA   NOT NULL CHECK (length(previous_hash) = 32),
    hash          BYTEA   NOT NULL CHECK (length(hash) = 32),
    UNIQUE (profile_id, ot_setup)
);

-- A ban destroys the oblivious-transfer state in our share: at once (emptied), or as soon as the token can (due).
ALTER TABLE key_shares ADD COLUMN transfer_state TEXT NOT NULL DEFAULT 'whole'
    CHECK (transfer_state IN ('whole', 'due', 'emptied'));
CREATE INDEX key_shares_due ON key_shares (profile_id) WHERE transfer_state = 'due';
