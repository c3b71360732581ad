-- Why: a rotation of a key may be under way, beside the state that its key is in without one; and a key has one active session.

-- How far it has come. `key_state` stays what the key is without the rotation, and what it is again when the rotation
-- comes to nothing: a quarantined key that recovers is quarantined until new shares are proven.
ALTER TABLE profiles ADD COLUMN rotation TEXT
    CHECK (rotation IN ('rotating', 'pending', 'committed', 'recovering')
        AND (rotation = 'recovering') = (key_state = 'quarantined'));
ALTER TABLE profiles ADD COLUMN rotation_id TEXT CHECK ((rotation_id IS NULL) = (rotation IS NULL));

-- A session is active from its first message to its end. Whatever the code does, a key has one at most.
CREATE UNIQUE INDEX sessions_active ON sessions (profile_id)
    WHERE state IN ('r1_checking', 'r1_done', 'r2_checking', 'r2_done', 'r3_checking');
