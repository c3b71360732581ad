-- Why: what was allowed only because a code of the second factor came is done within ten minutes of that code, or with another one.

-- When the code was used up on whose ground a decision allowed something; null for what takes none.
ALTER TABLE decisions ADD COLUMN second_factor_at BIGINT;
