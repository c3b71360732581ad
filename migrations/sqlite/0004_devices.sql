-- Why: a signed request is accepted once; owners have several devices of two kinds, enrolled and revoked; spends are idempotent for ever.

-- Requests that were acted on, by the nonce that their device signed. A row is there for as long as its request could
-- come again, and longer.
CREATE TABLE request_nonces (
    device_key_id TEXT    NOT NULL,
    nonce         BLOB    NOT NULL CHECK (length(nonce) = 16),
    expires_at    INTEGER NOT NULL,
    PRIMARY KEY (device_key_id, nonce)
) STRICT;
CREATE INDEX request_nonces_by_age ON request_nonces (expires_at);

-- Whom devices speak for. Where gateways vouch for their users, an owner is also the one user of one issuer.
CREATE TABLE owners (
    owner_id   TEXT    NOT NULL PRIMARY KEY,
    tenant     TEXT    NOT NULL,
    issuer     TEXT,
    subject    TEXT,
    created_at INTEGER NOT NULL,
    CHECK ((issuer IS NULL) = (subject IS NULL))
) STRICT;
INSERT INTO owners (owner_id, tenant, issuer, subject, created_at)
    SELECT owner_id, MIN(tenant), NULL, NULL, MIN(created_at) FROM devices GROUP BY owner_id;

-- A device may act from `active_at` until it is revoked. A revoked one stays, so that its key never comes back.
CREATE TABLE enrolled_devices (
    tenant        TEXT    NOT NULL,
    device_key_id TEXT    NOT NULL,
    owner_id      TEXT    NOT NULL REFERENCES owners (owner_id),
    algorithm     TEXT    NOT NULL CHECK (algorithm IN ('ecdsa-p256-sha256', 'ed25519')),
    -- Uncompressed SEC1 point, or the 32 bytes of RFC 8032.
    public_key    BLOB    NOT NULL CHECK (length(public_key) = CASE algorithm WHEN 'ed25519' THEN 32 ELSE 65 END),
    name          TEXT    NOT NULL,
    created_at    INTEGER NOT NULL,
    active_at     INTEGER NOT NULL,
    revoked_at    INTEGER,
    PRIMARY KEY (tenant, device_key_id)
) STRICT;
INSERT INTO enrolled_devices
    SELECT tenant, device_key_id, owner_id, 'ecdsa-p256-sha256', public_key, 'first device', created_at, created_at, NULL
    FROM devices;
DROP TABLE devices;
ALTER TABLE enrolled_devices RENAME TO devices;
CREATE INDEX devices_by_owner ON devices (owner_id);

-- `scope` is the owner, or the device of somebody who is none yet. The key of a spend is kept for ever.
CREATE TABLE idempotency_keys (
    tenant      TEXT    NOT NULL,
    scope       TEXT    NOT NULL,
    route       TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    body_hash   BLOB    NOT NULL CHECK (length(body_hash) = 32),
    resource_id TEXT    NOT NULL,
    spend       INTEGER NOT NULL CHECK (spend IN (0, 1)),
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (tenant, scope, route, key)
) STRICT;
INSERT INTO idempotency_keys
    SELECT idempotency.tenant,
        CASE WHEN route = 'POST /api/v2/profiles' THEN idempotency.device_key_id ELSE devices.owner_id END,
        route, key, body_hash, resource_id,
        CASE WHEN route = 'POST /api/v2/profiles' THEN 0 ELSE 1 END, idempotency.created_at
    FROM idempotency JOIN devices
        ON devices.tenant = idempotency.tenant AND devices.device_key_id = idempotency.device_key_id;
DROP TABLE idempotency;
ALTER TABLE idempotency_keys RENAME TO idempotency;
CREATE INDEX idempotency_by_age ON idempotency (created_at) WHERE spend = 0;

-- What a device has open is given up with it.
CREATE INDEX sessions_open_by_device ON sessions (device_key_id) WHERE state IN ('created', 'r1_done', 'r2_done');
