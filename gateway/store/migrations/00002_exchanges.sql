-- Exchanges of several messages (CMP, SCEP): what resumes one, what its adapter keeps of it, and devices' shared secrets.

-- +goose Up

ALTER TABLE transactions ADD COLUMN resume TEXT NOT NULL DEFAULT '';
ALTER TABLE transactions ADD COLUMN confirm_wait BIGINT NOT NULL DEFAULT 0; -- microseconds
ALTER TABLE transactions ADD COLUMN exchange {blob};

-- A wire ID comes from the network, and PostgreSQL fails an INSERT whose index entry is longer than 2704 bytes.
CREATE INDEX transactions_wire ON transactions (wire_id, endpoint, id) WHERE wire_id <> '' AND length(wire_id) <= 500;

CREATE TABLE secrets (
    endpoint  {id}   NOT NULL,
    reference {blob} NOT NULL,
    device    TEXT   NOT NULL,
    sealed    {blob} NOT NULL,
    created   BIGINT NOT NULL,
    not_after BIGINT NOT NULL,
    PRIMARY KEY (endpoint, reference)
) {clustered};
