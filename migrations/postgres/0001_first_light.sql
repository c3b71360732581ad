-- Why: the tables of the first release: wallets, their shares, sessions, transactions, and the record of all of it.
-- Portable subset: TEXT, BIGINT, BYTEA; times are microseconds since the Unix epoch, UTC; booleans 0/1.

CREATE TABLE environment (
    only_row       BIGINT NOT NULL PRIMARY KEY CHECK (only_row = 1),
    environment_id BYTEA   NOT NULL CHECK (length(environment_id) = 32),
    kind           TEXT    NOT NULL CHECK (kind IN ('production', 'development')),
    created_at     BIGINT NOT NULL
);

-- A device key proves who the owner is. One owner may hold several profiles.
CREATE TABLE devices (
    tenant        TEXT    NOT NULL,
    device_key_id TEXT    NOT NULL,
    owner_id      TEXT    NOT NULL,
    public_key    BYTEA   NOT NULL CHECK (length(public_key) = 65),
    created_at    BIGINT NOT NULL,
    PRIMARY KEY (tenant, device_key_id)
);

CREATE TABLE profiles (
    profile_id        TEXT    NOT NULL PRIMARY KEY,
    tenant            TEXT    NOT NULL,
    owner_id          TEXT    NOT NULL,
    name              TEXT    NOT NULL,
    state             TEXT    NOT NULL CHECK (state IN ('keygen', 'pending', 'active', 'destroyed')),
    key_state         TEXT    NOT NULL CHECK (key_state IN ('stable', 'refresh_required', 'quarantined')),
    generation        BIGINT NOT NULL CHECK (generation >= 1),
    address           BYTEA   CHECK (address IS NULL OR length(address) = 20),
    checking          TEXT,
    suspect_events    BIGINT NOT NULL DEFAULT 0,
    failed_signatures BIGINT NOT NULL DEFAULT 0,
    created_at        BIGINT NOT NULL,
    updated_at        BIGINT NOT NULL
);
CREATE INDEX profiles_by_owner ON profiles (tenant, owner_id, profile_id);
CREATE INDEX profiles_unfinished ON profiles (updated_at) WHERE state IN ('keygen', 'pending');

CREATE TABLE key_shares (
    profile_id     TEXT    NOT NULL REFERENCES profiles (profile_id),
    generation     BIGINT NOT NULL CHECK (generation >= 1),
    state          TEXT    NOT NULL CHECK (state IN ('pending', 'active')),
    object_version BIGINT NOT NULL,
    kek_id         BYTEA   NOT NULL CHECK (length(kek_id) = 16),
    sealed         BYTEA   NOT NULL,
    public_key     BYTEA   NOT NULL CHECK (length(public_key) = 33),
    x1             BYTEA   NOT NULL CHECK (length(x1) = 33),
    x2             BYTEA   NOT NULL CHECK (length(x2) = 33),
    dkg_session_id BYTEA   NOT NULL,
    created_at     BIGINT NOT NULL,
    PRIMARY KEY (profile_id, generation)
);

CREATE TABLE sessions (
    session_id       TEXT    NOT NULL PRIMARY KEY,
    kind             TEXT    NOT NULL CHECK (kind IN ('keygen', 'sign')),
    profile_id       TEXT    NOT NULL REFERENCES profiles (profile_id),
    device_key_id    TEXT    NOT NULL,
    certificate_spki BYTEA   NOT NULL CHECK (length(certificate_spki) = 32),
    state            TEXT    NOT NULL,
    attempt          BIGINT NOT NULL CHECK (attempt >= 1),
    generation       BIGINT NOT NULL CHECK (generation >= 1),
    server_nonce     BYTEA   NOT NULL CHECK (length(server_nonce) = 32),
    decision_id      TEXT    NOT NULL,
    instance_id      TEXT    NOT NULL,
    request_hash     BYTEA,
    created_at       BIGINT NOT NULL,
    updated_at       BIGINT NOT NULL,
    expires_at       BIGINT NOT NULL
);
CREATE INDEX sessions_by_profile ON sessions (profile_id, state);
CREATE INDEX sessions_open ON sessions (expires_at)
    WHERE state IN ('created', 'r1_done', 'r2_done');
CREATE INDEX sessions_checking ON sessions (instance_id)
    WHERE state IN ('r1_checking', 'r2_checking', 'r3_checking');

CREATE TABLE transactions (
    transaction_id     TEXT    NOT NULL PRIMARY KEY,
    session_id         TEXT    NOT NULL UNIQUE REFERENCES sessions (session_id),
    profile_id         TEXT    NOT NULL REFERENCES profiles (profile_id),
    chain_id           BIGINT NOT NULL,
    sender             BYTEA   NOT NULL CHECK (length(sender) = 20),
    nonce              BIGINT NOT NULL CHECK (nonce >= 0),
    payload            BYTEA   NOT NULL,
    digest             BYTEA   NOT NULL CHECK (length(digest) = 32),
    state              TEXT    NOT NULL CHECK (state IN
        ('prepared', 'released', 'broadcasting', 'submitted', 'mined', 'reverted', 'replaced')),
    raw                BYTEA,
    tx_hash            BYTEA   CHECK (tx_hash IS NULL OR length(tx_hash) = 32),
    block_number       BIGINT,
    broadcast_attempts BIGINT NOT NULL DEFAULT 0,
    due_at             BIGINT NOT NULL,
    created_at         BIGINT NOT NULL,
    updated_at         BIGINT NOT NULL
);
-- One living transaction per nonce: what keeps a retry from paying twice.
CREATE UNIQUE INDEX transactions_nonce ON transactions (chain_id, sender, nonce) WHERE state <> 'released';
CREATE INDEX transactions_due ON transactions (due_at) WHERE state IN ('broadcasting', 'submitted');

CREATE TABLE idempotency (
    tenant        TEXT    NOT NULL,
    device_key_id TEXT    NOT NULL,
    route         TEXT    NOT NULL,
    key           TEXT    NOT NULL,
    body_hash     BYTEA   NOT NULL CHECK (length(body_hash) = 32),
    resource_id   TEXT    NOT NULL,
    created_at    BIGINT NOT NULL,
    PRIMARY KEY (tenant, device_key_id, route, key)
);

CREATE TABLE decisions (
    decision_id TEXT    NOT NULL PRIMARY KEY,
    profile_id  TEXT    NOT NULL,
    action      TEXT    NOT NULL,
    outcome     TEXT    NOT NULL CHECK (outcome IN ('allowed', 'denied')),
    rules       TEXT    NOT NULL,
    bundle_hash BYTEA   NOT NULL CHECK (length(bundle_hash) = 32),
    inputs_hash BYTEA   NOT NULL CHECK (length(inputs_hash) = 32),
    created_at  BIGINT NOT NULL,
    expires_at  BIGINT NOT NULL
);

-- One row per permit: unwraps <= records <= permits, and every record ends.
CREATE TABLE steps (
    permit_id  TEXT    NOT NULL PRIMARY KEY,
    session_id TEXT    NOT NULL REFERENCES sessions (session_id),
    attempt    BIGINT NOT NULL,
    step       BIGINT NOT NULL,
    outcome    TEXT    NOT NULL CHECK (outcome IN ('open', 'done', 'denied', 'failed', 'orphaned')),
    started_at BIGINT NOT NULL,
    ended_at   BIGINT
);
CREATE INDEX steps_open ON steps (session_id) WHERE outcome = 'open';

-- The record of a durable operation; its id is the operation's id, so a lost COMMIT answer can be looked up.
CREATE TABLE audit_records (
    operation_id TEXT    NOT NULL PRIMARY KEY,
    at           BIGINT NOT NULL,
    event        TEXT    NOT NULL,
    outcome      TEXT    NOT NULL CHECK (outcome IN ('done', 'denied', 'failed')),
    profile_id   TEXT,
    session_id   TEXT,
    detail       TEXT    NOT NULL,
    chained      BIGINT NOT NULL DEFAULT 0 CHECK (chained IN (0, 1))
);
CREATE INDEX audit_unchained ON audit_records (operation_id) WHERE chained = 0;

-- The chain stands apart from the records, so that no operation waits for the head.
CREATE TABLE audit_chain (
    position      BIGINT NOT NULL PRIMARY KEY CHECK (position >= 1),
    operation_id  TEXT    NOT NULL UNIQUE REFERENCES audit_records (operation_id),
    previous_hash BYTEA   NOT NULL CHECK (length(previous_hash) = 32),
    hash          BYTEA   NOT NULL CHECK (length(hash) = 32)
);

CREATE TABLE kem_keys (
    kid        TEXT    NOT NULL PRIMARY KEY,
    public_key BYTEA   NOT NULL CHECK (length(public_key) = 32),
    sealed     BYTEA   NOT NULL,
    signature  BYTEA   NOT NULL CHECK (length(signature) = 64),
    not_before BIGINT NOT NULL,
    not_after  BIGINT NOT NULL
);
