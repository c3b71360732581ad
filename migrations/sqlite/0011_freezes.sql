-- Why: a freeze stops signing at once, for a profile, for a tenant or for all, on every instance, until it is lifted; and what two operators sign is carried out once.

-- What stands. A freeze that is lifted goes; that it stood is in the audit trail.
CREATE TABLE freezes (
    scope     TEXT    NOT NULL CHECK (scope IN ('profile', 'tenant', 'global')),
    -- A profile's id, a tenant's name, or nothing.
    subject   TEXT    NOT NULL CHECK ((subject = '') = (scope = 'global')),
    -- An owner freezes a profile only, and their freeze and the operators' stand apart: lifting one leaves the other.
    placed_by TEXT    NOT NULL CHECK (placed_by = 'operator' OR (placed_by = 'owner' AND scope = 'profile')),
    -- The operation that placed it, which is also the id of its audit record.
    freeze_id TEXT    NOT NULL UNIQUE,
    -- The device's key id, or the name in the operator's certificate.
    who       TEXT    NOT NULL,
    reason    TEXT    NOT NULL,
    frozen_at INTEGER NOT NULL,
    PRIMARY KEY (scope, subject, placed_by)
) STRICT;
CREATE INDEX freezes_by_time ON freezes (scope, frozen_at);

-- Commands that operators signed and that were carried out: each once, for ever. A few in a year.
CREATE TABLE operator_commands (
    nonce          BLOB    NOT NULL PRIMARY KEY CHECK (length(nonce) = 16),
    -- Its operation, which is also the id of its audit record.
    operation_id   TEXT    NOT NULL UNIQUE,
    -- What they signed, and who they were: names, comma-separated.
    command        TEXT    NOT NULL,
    approved_by    TEXT    NOT NULL,
    -- The name in the certificate of whoever brought it.
    brought_by     TEXT    NOT NULL,
    carried_out_at INTEGER NOT NULL
) STRICT;
