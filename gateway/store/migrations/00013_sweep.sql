-- What can be swept, and what refers to it.

-- +goose Up

CREATE INDEX uses_lapsed ON uses (until) WHERE until > 0; -- of whatever key
CREATE INDEX transactions_replaces ON transactions (replaces) WHERE replaces IS NOT NULL;
