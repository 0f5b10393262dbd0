-- How fast each CA may be asked to issue, over all replicas.

-- +goose Up

CREATE TABLE paces (
	backend TEXT   PRIMARY KEY,
	turn    BIGINT NOT NULL -- when the last who was let through may ask, microseconds; past where nobody waits
);
