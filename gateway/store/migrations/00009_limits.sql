-- Uses that lapse: of a number per time, and of one at a time, which a certificate has for as long as it is valid.

-- +goose Up

ALTER TABLE uses ADD COLUMN until BIGINT NOT NULL DEFAULT 0;   -- when the use lapses; 0: never
ALTER TABLE uses ADD COLUMN active BIGINT NOT NULL DEFAULT 0;  -- 1: a certificate's, which ends with it
ALTER TABLE uses ADD COLUMN took_over {id} NOT NULL DEFAULT ''; -- the transaction whose use it took over, which has n = 0 meanwhile
CREATE INDEX uses_lapse ON uses (key, until) WHERE until > 0;
