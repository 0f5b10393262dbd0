-- The CA that a row of work asks: of one that hangs no more rows are leased than may be done at once.

-- +goose Up

-- '' where no CA is asked, and in rows of releases that do not know of it.
ALTER TABLE work ADD COLUMN backend {id} NOT NULL DEFAULT '';
UPDATE work SET backend = COALESCE((SELECT t.backend FROM transactions t WHERE t.id = work.tx), '') WHERE kind IN ('settle', 'poll', 'revoke');
CREATE INDEX work_backend ON work (backend, due);
DROP INDEX work_due;
