-- Why: a decision can be explained, and judged again under other rules: what was judged, why it was denied, which rules.

-- Of decisions from before, nobody knows: all three are empty there.
-- The reason for a denial, by its stable name; empty for what was allowed.
ALTER TABLE decisions ADD COLUMN reason TEXT NOT NULL DEFAULT '';
-- What the authors of the rules call them.
ALTER TABLE decisions ADD COLUMN bundle_version TEXT NOT NULL DEFAULT '';
-- The facts that were judged: JSON, whose hash is inputs_hash.
ALTER TABLE decisions ADD COLUMN inputs TEXT NOT NULL DEFAULT '';
