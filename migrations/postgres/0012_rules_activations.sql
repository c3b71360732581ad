-- Why: where operators must agree, the rules in force are those of the last command that they signed: one that was replaced does not come back.

CREATE TABLE rules_activations (
    -- One row at most.
    one          BIGINT  NOT NULL PRIMARY KEY CHECK (one = 1),
    nonce        BYTEA   NOT NULL UNIQUE REFERENCES operator_commands (nonce),
    rules        BYTEA   NOT NULL CHECK (length(rules) = 32),
    activated_at BIGINT  NOT NULL
);
