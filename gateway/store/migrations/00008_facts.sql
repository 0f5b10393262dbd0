-- What was known of a request when it was decided, so that new rules can be tried on it.

-- +goose Up

ALTER TABLE transactions ADD COLUMN facts TEXT; -- gateway.Facts as JSON, NULL for none
