-- Why: each KEM key is sealed under a key encryption key of its own, which is destroyed when it ends, and says which identity key signed it.

-- Key encryption keys of the purpose kem, by epoch. A row is written before the token makes the key and deleted after the
-- token has destroyed it, so that none is ever forgotten on the token, and no two processes make one of the same name.
CREATE TABLE kem_keks (
    epoch      INTEGER NOT NULL PRIMARY KEY CHECK (epoch >= 1),
    claimed_at INTEGER NOT NULL,
    destroy_at INTEGER NOT NULL
) STRICT;

-- Those of before were sealed under one key for ever: wallets get new ones.
DROP TABLE kem_keys;
CREATE TABLE kem_keys (
    kid          TEXT    NOT NULL PRIMARY KEY,
    public_key   BLOB    NOT NULL CHECK (length(public_key) = 32),
    -- The private key, sealed under the key encryption key of this epoch.
    sealed       BLOB    NOT NULL,
    kek_epoch    INTEGER NOT NULL UNIQUE REFERENCES kem_keks (epoch),
    identity_key BLOB    NOT NULL CHECK (length(identity_key) = 65),
    signature    BLOB    NOT NULL CHECK (length(signature) = 64),
    not_before   INTEGER NOT NULL,
    not_after    INTEGER NOT NULL
) STRICT;
