-- Why: a stolen device alone must not change devices, unfreeze or pay much: a second factor, its recovery codes and its lock are rows.

-- A second factor of a profile: waiting for its first code (confirmed_at is null, until expires_at), waiting for active_at,
-- or active: that is the one with the latest active_at that has come. since: from when the profile has had one without a
-- break.
CREATE TABLE two_factors (
    enrolment_id TEXT    NOT NULL PRIMARY KEY,
    profile_id   TEXT    NOT NULL REFERENCES profiles (profile_id),
    -- The device that asked for it: it goes with that device as long as it is not active.
    begun_by     TEXT    NOT NULL,
    -- The secret of the authenticator (20 bytes) and the key of the recovery codes (32), sealed under a KEK of purpose totp.
    sealed       BYTEA   NOT NULL,
    kek_id       BYTEA   NOT NULL CHECK (length(kek_id) = 16),
    -- The last 30-second step whose code was used: no code of it or of an earlier one counts again.
    last_step    BIGINT  NOT NULL CHECK (last_step >= 0),
    -- Wrong first codes: the secret is known to who asked for it, so they lock nothing, but end the enrolment.
    wrong_first  BIGINT  NOT NULL DEFAULT 0 CHECK (wrong_first >= 0),
    -- The answer to the enrolment, sealed to the wallet, until the first code has come.
    answer       TEXT,
    created_at   BIGINT  NOT NULL,
    expires_at   BIGINT  NOT NULL,
    confirmed_at BIGINT,
    active_at    BIGINT,
    since        BIGINT,
    CHECK ((confirmed_at IS NULL) = (active_at IS NULL) AND (active_at IS NULL) = (since IS NULL))
);
CREATE INDEX two_factors_by_profile ON two_factors (profile_id);
-- One that waits for its first code.
CREATE UNIQUE INDEX two_factors_pending ON two_factors (profile_id) WHERE confirmed_at IS NULL;

-- What is stored of a recovery code: HMAC-SHA-256, 32 bytes.
CREATE TABLE two_factor_recovery (
    enrolment_id TEXT    NOT NULL REFERENCES two_factors (enrolment_id),
    mac          BYTEA   NOT NULL CHECK (length(mac) = 32),
    used_at      BIGINT,
    PRIMARY KEY (enrolment_id, mac)
);

-- How many codes were presented for a profile, how many wrong ones in a row, and until when none is taken.
CREATE TABLE two_factor_locks (
    profile_id   TEXT    NOT NULL PRIMARY KEY REFERENCES profiles (profile_id),
    attempts     BIGINT  NOT NULL CHECK (attempts >= 0),
    in_a_row     BIGINT  NOT NULL CHECK (in_a_row >= 0),
    locked_until BIGINT
);

-- The wrong codes of a day.
CREATE TABLE two_factor_failures (
    profile_id   TEXT    NOT NULL REFERENCES profiles (profile_id),
    at           BIGINT  NOT NULL,
    operation_id TEXT    NOT NULL,
    PRIMARY KEY (profile_id, at, operation_id)
);
