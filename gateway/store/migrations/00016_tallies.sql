-- What an overview counts, by indexes alone: transactions by time, state and protocol; certificates by their end, without
-- the revoked ones. IDs begin with the time.
--
-- Each statement by itself: in one transaction it would hold one table while it waits for the other, and a replica that revokes meanwhile
-- does so the other way round. What broke off is done again.

-- +goose NO TRANSACTION
-- +goose Up

DROP INDEX IF EXISTS transactions_state;
CREATE INDEX transactions_state ON transactions (state, id, protocol);
DROP INDEX IF EXISTS certificates_not_after;
CREATE INDEX certificates_not_after ON certificates (not_after, revoked_at);
