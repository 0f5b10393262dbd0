-- How far the sinks have the audit trail.

-- +goose Up

CREATE TABLE audit_sinks (
	stream TEXT   NOT NULL, -- an instance's
	sink   TEXT   NOT NULL, -- what is shipped to, as the log calls it
	seq    BIGINT NOT NULL, -- of the last record that it is known to have; it may have some more
	PRIMARY KEY (stream, sink)
);
