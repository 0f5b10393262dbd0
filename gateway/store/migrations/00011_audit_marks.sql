-- What the audit trail says of itself: its checkpoints ("checkpoint"), and what was removed ("audit-pruned").

-- +goose Up

CREATE INDEX audit_marks ON audit (stream, seq) WHERE substr(body, 1, 20) IN ('{"kind":"checkpoint"', '{"kind":"audit-prune');
