-- Why: how much of an asset may leave in any window of time is exact over all profiles and instances, so what is claimed is rows.

-- What a transaction claims of a limit, from its preparation on. `bucket` is what the limit adds up. A claim that is
-- committed counts from its signature; one that is released is taken out of the total by whoever looks at the bucket next.
CREATE TABLE spend_claims (
    bucket     TEXT    NOT NULL,
    session_id TEXT    NOT NULL,
    state      TEXT    NOT NULL CHECK (state IN ('reserved', 'committed', 'released')),
    at         INTEGER NOT NULL,
    -- 32 bytes, big-endian, in base units of the asset.
    amount     BLOB    NOT NULL CHECK (length(amount) = 32),
    PRIMARY KEY (bucket, session_id)
) STRICT;
CREATE INDEX spend_claims_by_age ON spend_claims (bucket, state, at);
CREATE INDEX spend_claims_by_session ON spend_claims (session_id);

-- The sum of the claims that are in a bucket.
CREATE TABLE spend_totals (
    bucket TEXT    NOT NULL PRIMARY KEY,
    -- 32 bytes, big-endian.
    total  BLOB    NOT NULL CHECK (length(total) = 32)
) STRICT;
