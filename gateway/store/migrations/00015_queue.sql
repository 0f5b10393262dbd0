-- Requests that wait until their CA can be asked, in the order in which they came.

-- +goose Up

ALTER TABLE transactions ADD COLUMN queue TEXT NOT NULL DEFAULT ''; -- gateway.QueueRecord, '' for none
CREATE INDEX work_queue ON work (backend, tx) WHERE kind = 'queue';
