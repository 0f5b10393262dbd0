-- Which certificate succeeds one that is to be renewed again.

-- +goose Up

ALTER TABLE transactions ADD COLUMN confirmed BIGINT NOT NULL DEFAULT 0; -- when the requester said that it holds its certificate; 0: it did not
CREATE INDEX certificates_replaces ON certificates (replaces) WHERE replaces IS NOT NULL;
