-- What an overview counts, by indexes alone: transactions by time, state and protocol; certificates by their end, without
-- the revoked ones. IDs begin with the time.

-- +goose Up

DROP INDEX transactions_state;
CREATE INDEX transactions_state ON transactions (state, id, protocol);
DROP INDEX certificates_not_after;
CREATE INDEX certificates_not_after ON certificates (not_after, revoked_at);
