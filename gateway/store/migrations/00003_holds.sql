-- Approval, and what a requester sends while it waits.

-- +goose Up

ALTER TABLE transactions ADD COLUMN hold TEXT NOT NULL DEFAULT '';    -- gateway.HoldRecord, '' for none
ALTER TABLE transactions ADD COLUMN changes TEXT NOT NULL DEFAULT ''; -- a list of lines, '' for none

-- Later messages of a transaction's requester; equal ones are counted in one row.
CREATE TABLE messages (
    tx       {id}   NOT NULL,
    kind     {id}   NOT NULL,
    note     {id}   NOT NULL,
    source   TEXT   NOT NULL,
    heard    BIGINT NOT NULL,
    first_at BIGINT NOT NULL,
    last_at  BIGINT NOT NULL,
    PRIMARY KEY (tx, kind, note)
) {clustered};
